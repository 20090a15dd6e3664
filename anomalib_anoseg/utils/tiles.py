"""How an image that is too large for one pass is cut into tiles that overlap."""

from collections.abc import Iterator
from itertools import pairwise, product
from typing import NamedTuple

MULTIPLE = 32  # of where tiles start: networks halve an image five times
# Pixels of a tile's side that are seen and not kept: the default's map there is that of one pass to
# 1e-5. With 128 pixels it was another one by 5e-3, with 64 by 0.08.
MARGIN = 192


class Span(NamedTuple):
    """A tile along one side of an image, in pixels.

    Attributes:
        start: Where the tile begins.
        first: Where the part of it begins that is kept.
        last: Where that part ends; the kept parts of all tiles make up the side.
    """

    start: int
    first: int
    last: int


class Tile(NamedTuple):
    """A tile of an image, by its rows and by its columns."""

    rows: Span
    columns: Span


def tiles_of(height: int, width: int, side: int, margin: int = MARGIN) -> Iterator[Tile]:
    """Yield the tiles of an image, row by row.

    Args:
        height: Of the image.
        width: Likewise.
        side: Of the square tiles, a multiple of 32. The last of a row or column may reach beyond
            the image, up to the next multiple of 32.
        margin: Pixels of a tile that are seen but not kept, but at the border of the image.
    """
    across = (_spans(length, side, margin) for length in (height, width))
    for rows, columns in product(*across):
        yield Tile(rows, columns)


def _spans(length: int, side: int, margin: int) -> list[Span]:
    cells = -(-length // MULTIPLE)  # the network repeats the last row and column up to full ones
    beyond = cells - side // MULTIPLE
    if beyond <= 0:
        return [Span(0, 0, length)]
    steps = -(-beyond * MULTIPLE // (side - 2 * margin))
    starts = [step * beyond // steps * MULTIPLE for step in range(steps + 1)]
    edges = [0, *(start + margin for start in starts[1:]), length]
    return [Span(start, *kept) for start, kept in zip(starts, pairwise(edges), strict=True)]
