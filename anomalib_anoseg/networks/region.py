"""The part of an image that is inspected: the rest is hidden from all networks."""

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.networks.encoder import pad
from anomalib_anoseg.networks.pretrained import weights_are_wanted
from anomalib_anoseg.utils.masks import read_region
from anomalib_anoseg.utils.shapes import Images, Insides, Places

Polygons = list[list[tuple[float, float]]]  # as given; kept as lists of lists
DRAWN = 1024  # pixels of each side that polygons are drawn with, whatever size images have
GREY = 0.5  # of what is hidden


class Region(nn.Module):
    """A mask that lies over images of every size; the nearest of its pixels counts.

    Args:
        given: What :func:`plain_region` returns, and not None. A file is not read where a
            checkpoint follows, which holds the mask.

    Attributes:
        inside: The mask, (h, w): True is inspected.

    Raises:
        OSError: If there is no such file.
        ValueError: If it cannot be read or be meant, or nothing is inspected.
    """

    inside: Tensor

    def __init__(self, given: str | Polygons) -> None:
        super().__init__()
        if not isinstance(given, str):
            inside = fill(given, DRAWN)
        elif weights_are_wanted():
            inside = torch.from_numpy(read_region(Path(given)))
        else:
            inside = torch.ones(1, 1, dtype=torch.bool)
        if not inside.any():
            what = "has no pixel above 0" if isinstance(given, str) else "covers nothing"
            msg = f"region must cover some of the image, and {given} {what}"
            raise ValueError(msg)
        self.register_buffer("inside", inside)

    @property
    def share(self) -> float:
        """How much of an image is inspected, (0, 1]."""
        return float(self.inside.float().mean())

    def forward(self, images: Images, place: Places | None = None) -> Insides:
        """Return which pixels are inspected.

        Args:
            images: Of any size, of which no value is looked at.
            place: Where they lie, if they are crops of larger ones. Beyond the image its border is
                repeated.
        """
        height, width = images.shape[-2:]
        return self.at(height, width, place).to(images.device)

    def at(self, height: int, width: int, place: Places | None = None) -> Insides:
        """Return the same for images of a size."""
        rows, columns = (torch.arange(side, device=self.inside.device) for side in (height, width))
        tall, wide = self.inside.shape
        if place is None:
            rows, columns = _nearest(rows, height, tall), _nearest(columns, width, wide)
            return self.inside.index_select(0, rows).index_select(1, columns)[None, None]
        top, left, whole_height, whole_width = place.to(rows)[:, :, None].unbind(1)
        rows = _nearest(rows + top, whole_height, tall)[:, :, None]
        columns = _nearest(columns + left, whole_width, wide)[:, None]
        found = self.inside.flatten().index_select(0, (rows * wide + columns).flatten())
        return found.view(-1, 1, height, width)

    def hide_outside(self, images: Images, place: Places | None = None) -> Images:
        """Return the images, grey wherever they are not inspected."""
        return torch.where(self(images, place), images, GREY)

    def cells(self, images: Images, stride: int) -> Tensor:
        """Return which cells of a feature map hold a pixel that is inspected, (n,)."""
        return F.max_pool2d(pad(self(images).float()), stride).flatten() > 0

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take a mask of any size."""
        saved = state_dict.get(prefix + "inside")
        if isinstance(saved, Tensor) and saved.ndim == 2:
            self.inside = self.inside.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _nearest(positions: Tensor, of: Any, among: int) -> Tensor:
    """Return which of so many pixels of the mask lies below each pixel of a side.

    In whole numbers: a runtime that rounds otherwise than torch would take a neighbour.
    """
    return ((2 * positions + 1) * among // (2 * of)).clamp(max=among - 1)


def plain_region(given: Any) -> Any:
    """Return a region as plain data: a file's name, polygons, or None.

    Raises:
        ValueError: If it is neither, or a polygon has fewer than three points, or one that lies
            outside [0, 1].
    """
    if given is None:
        return None
    if isinstance(given, str | PathLike):
        return str(fspath(given))
    if not _is_list(given) or not all(_is_list(polygon) for polygon in given) or not given:
        return _refuse(given)
    polygons = [[_point(point) for point in polygon] for polygon in given]
    for polygon in polygons:
        if len(polygon) < 3:
            msg = f"a polygon of region must have at least 3 points, got {polygon}"
            raise ValueError(msg)
    return polygons


def _point(point: Any) -> list[float]:
    numbers = _is_list(point) and all(type(one) in (int, float) for one in point)
    if not numbers or len(point) != 2:
        return _refuse(point)
    if not all(0 <= one <= 1 for one in point):
        msg = (
            "points of region must be shares (x, y) of width and height in [0, 1], "
            f"got {[*point]}: divide pixels by the size of the image"
        )
        raise ValueError(msg)
    return [float(one) for one in point]


def _refuse(given: Any) -> Any:
    msg = (
        "region must be a mask image or a list of polygons, each a list of points (x, y) in "
        f"[0, 1], got {given!r}"
    )
    raise ValueError(msg)


def _is_list(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str)


def fill(polygons: Sequence[Sequence[Sequence[float]]], side: int) -> Tensor:
    """Return which pixels of a square lie in polygons, by the even-odd rule, (side, side).

    A pixel does if its centre does; a polygon within another is a hole.
    """
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    crossings = torch.zeros(side, side + 1, dtype=torch.int32)
    for polygon in polygons:
        for (x, y), (to_x, to_y) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
            rows = ((centres < y) != (centres < to_y)).nonzero().flatten()
            if len(rows):
                crossed = x + (centres[rows] - y) / (to_y - y) * (to_x - x)
                crossings[rows, (crossed * side - 0.5).ceil().long().clamp(0, side)] += 1
    return crossings.cumsum(1)[:, :side] % 2 == 1
