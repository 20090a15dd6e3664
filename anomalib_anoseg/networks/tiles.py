"""What networks say of an image that is too large for one pass: tile by tile."""

from collections.abc import Callable

import torch
from torch import Tensor

from anomalib_anoseg.utils.shapes import Images, Places
from anomalib_anoseg.utils.tiles import MULTIPLE, Span, tiles_of

ONE_PASS = 2048 * 2048  # pixels at most
SIDE = 1024


def in_tiles(
    look: Callable[[Images, Places], list[Tensor]], images: Images, strides: list[int]
) -> list[Tensor]:
    """Return the maps that a function makes of images, from tiles that overlap.

    Args:
        look: From tiles and where they lie to a list of maps, (b, c, h, w) of the padded tile at
            each stride.
        images: (b, c, h, w).
        strides: Of the maps.
    """
    height, width = images.shape[-2:]
    padded = [-(-side // MULTIPLE) * MULTIPLE for side in (height, width)]
    whole: list[Tensor] = []
    for rows, columns in tiles_of(height, width, SIDE):
        tile = images[..., rows.start : rows.start + SIDE, columns.start : columns.start + SIDE]
        place = torch.tensor([rows.start, columns.start, height, width], dtype=torch.float32)
        maps = look(tile, place.to(images.device).expand(len(images), -1))
        if not whole:
            sizes = [[side // stride for side in padded] for stride in strides]
            whole = [one.new_empty(*one.shape[:2], *s) for one, s in zip(maps, sizes, strict=True)]
        for stride, one, all_of_it in zip(strides, maps, whole, strict=True):
            kept = _kept(rows, height, stride), _kept(columns, width, stride)
            at = [slice(part.start + span.start // stride, part.stop + span.start // stride)
                  for part, span in zip(kept, (rows, columns), strict=True)]  # fmt: skip
            all_of_it[..., at[0], at[1]] = one[..., kept[0], kept[1]]
    return whole


def _kept(span: Span, length: int, stride: int) -> slice:
    """Return which part of a tile's map is kept; at the image's border what was padded as well."""
    last = -(-span.last // MULTIPLE) * MULTIPLE if span.last == length else span.last
    return slice((span.first - span.start) // stride, (last - span.start) // stride)
