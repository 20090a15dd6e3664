"""What networks say of an image that is too large for one pass: tile by tile."""

from collections.abc import Callable

import torch
from torch import Tensor

from anomalib_anoseg.utils.shapes import Images, Places
from anomalib_anoseg.utils.tiles import MULTIPLE, Span, tiles_of

ONE_PASS = 2048 * 2048  # pixels at most
SIDE = 1024


def too_large(images: Images) -> bool:
    """Return whether images are judged in tiles; an exported graph has no such choice."""
    return not torch.compiler.is_exporting() and images[0, 0].numel() > ONE_PASS


@torch.compiler.disable  # type: ignore[untyped-decorator]  # each number of tiles: a graph
def in_tiles(
    look: Callable[[Images, Places], list[Tensor]],
    images: Images,
    strides: list[int],
    place: Places | None = None,
) -> list[Tensor]:
    """Return the maps that a function makes of images, from tiles that overlap.

    Args:
        look: From tiles and where they lie to a list of maps, (b, c, h, w) at each stride; those
            at a stride of 1 may end with the image, others are of the padded tile.
        images: (b, c, h, w).
        strides: Of the maps.
        place: Where the images lie, if they are crops themselves.

    Returns:
        Maps of the size of the images at a stride of 1, of the padded images at others.
    """
    height, width = images.shape[-2:]
    whole: list[Tensor] = []
    size = torch.tensor([0, 0, height, width], dtype=torch.float32, device=images.device)
    outer = size.expand(len(images), -1) if place is None else place
    for rows, columns in tiles_of(height, width, SIDE):
        tile = images[..., rows.start : rows.start + SIDE, columns.start : columns.start + SIDE]
        start = torch.tensor([rows.start, columns.start, 0, 0], dtype=torch.float32)
        maps = look(tile, outer + start.to(images.device))
        if not whole:
            whole = [
                one.new_empty(*one.shape[:2], *(_cells(side, stride) for side in (height, width)))
                for one, stride in zip(maps, strides, strict=True)
            ]
        for stride, one, all_of_it in zip(strides, maps, whole, strict=True):
            (from_row, to_row), (from_column, to_column) = (
                _kept(span, length, stride) for span, length in ((rows, height), (columns, width))
            )
            all_of_it[..., to_row, to_column] = one[..., from_row, from_column]
    return whole


def _cells(length: int, stride: int) -> int:
    """Return how many cells a map has along a side of so many pixels."""
    return length if stride == 1 else -(-length // MULTIPLE) * MULTIPLE // stride


def _kept(span: Span, length: int, stride: int) -> tuple[slice, slice]:
    """Return which cells of a tile's map are kept, and which ones of the whole map they are."""
    start, first = span.start // stride, span.first // stride
    last = _cells(length, stride) if span.last == length else span.last // stride
    return slice(first - start, last - start), slice(first, last)
