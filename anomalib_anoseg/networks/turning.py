"""Good images turned about their middle: of parts that lie in any direction they are good too."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.utils.shapes import Images

OUTSIDE = -1
BLURRED = 2  # cells beside what comes in from beyond an image that see too much of it


def turned(images: Images, degrees: float) -> Images:
    """Return images turned counterclockwise about their middle.

    Quarter turns move pixels and mix none, and a wide image becomes a tall one. What remains of
    another angle keeps the size: what comes in from beyond the image repeats its border.
    """
    images = images.rot90(int(degrees // 90), (-2, -1))
    if degrees % 90 == 0:
        return images
    maps = _map_back(degrees % 90, *images.shape[-2:]).to(images.device)
    grid = F.affine_grid(maps.expand(len(images), -1, -1), [*images.shape], align_corners=False)
    # In float32: bfloat16 has no positions between pixels.
    moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return moved.to(images.dtype)


def places(degrees: float, height: int, width: int) -> Tensor:
    """Return what each cell of a turned image's feature map shows: row and column, (h w, 2).

    OUTSIDE where that lies beyond the image, or so near that the repeated border is seen.

    Args:
        degrees: As in ``turned``.
        height: Of the map of the image as it lies.
        width: Likewise.
    """
    rows_and_columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack(rows_and_columns, 2).rot90(int(degrees // 90))
    if degrees % 90 == 0:
        return cells.flatten(0, 1)
    height, width = cells.shape[:2]
    maps = _map_back(degrees % 90, height, width)[None]
    x, y = F.affine_grid(maps, [1, 1, height, width], align_corners=False)[0].unbind(-1)
    beyond = ((x.abs() >= 1) | (y.abs() >= 1)).float()[None]
    near = F.max_pool2d(beyond, 2 * BLURRED + 1, stride=1, padding=BLURRED)[0] > 0
    row, column = ((y + 1) / 2 * height).floor().long(), ((x + 1) / 2 * width).floor().long()
    from_here = cells[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return torch.where(near[..., None], OUTSIDE, from_here).flatten(0, 1)


def _map_back(degrees: float, height: int, width: int) -> Tensor:
    """Return what takes a place of the turned image to its source, (2, 3), both from -1 to 1."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
