"""Good images turned about their middle: of parts that lie in any direction they are good too."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_anoseg.utils.shapes import Images, Indices

BEYOND = -1


def turned(images: Images, degrees: float) -> Images:
    """Return images of the same size turned counterclockwise; beyond them their border is repeated.

    Quarter turns of squares move pixels and mix none.
    """
    if degrees == 0:
        return images
    maps = _map_back(degrees, *images.shape[-2:]).to(images).expand(len(images), -1, -1)
    grid = F.affine_grid(maps, [*images.shape], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def sources(degrees: float, height: int, width: int) -> Indices:
    """Return which cell of a map lies at each place of the turned one, (h w,), or BEYOND it."""
    maps = _map_back(degrees, height, width)[None]
    x, y = F.affine_grid(maps, [1, 1, height, width], align_corners=False)[0].unbind(-1)
    row, column = ((y + 1) / 2 * height).floor().long(), ((x + 1) / 2 * width).floor().long()
    inside = (x.abs() < 1) & (y.abs() < 1)
    return torch.where(inside, row * width + column, BEYOND).flatten()


def _map_back(degrees: float, height: int, width: int) -> Tensor:
    """Return what takes a place of the turned image to its source, (2, 3), both from -1 to 1."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
