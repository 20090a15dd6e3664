"""Where the pixels of synthetic images come from.

Rotation, permutation, cutting, turning and pasting are all moves of pixels. They are composed into
one look-up table that is read once, instead of producing an image each.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_anoseg.shapes import Flags, Images, Indices, Points, Scalars

MARGIN = 1  # pixels around the patches, for the rounding of their corners


class AnomalyParameters(NamedTuple):
    """The random draws of one batch: n of its images become synthetic, with p patches at most.

    Lengths and positions are in pixels as (row, column), angles in radians.
    """

    chosen: Indices
    source_image: Indices  # which image of the batch each is pasted from
    quarter_turns: Tensor  # (n,) hard augmentation: 0..3 turns by 90 degrees
    shift: Tensor  # (n, 2) hard augmentation: roll by half the height, half the width, or 0
    jitter: Tensor  # (n, 4) factors of brightness, contrast, saturation; hue shift in turns
    present: Flags
    source: Points
    target: Points
    half_size: Points
    angle: Scalars
    scale: Scalars  # factor by which a patch is enlarged
    blob: Flags
    ellipses: Tensor  # (n, p, e, 4) of the blobs: centre and radii, as shares of half_size
    opacity: Scalars
    border: Scalars  # width over which a patch fades in
    painted: Flags
    colour: Tensor  # (n, p, 3) of the painted patches


class Window(NamedTuple):
    """A part of the synthetic images that is worked on at once."""

    images: slice
    rows: slice
    columns: slice
    patches: list[tuple[slice, slice]]  # rows and columns of each, within the window


class Pixels(NamedTuple):
    """Where the pixels of a window come from."""

    row: Tensor  # (n, h, w) in pixels of the source, as long as the hard augmentation is left out
    column: Tensor
    owner: Tensor  # which patch covers it, -1 for none
    opacity: Tensor


def one_by_one(values: Tensor) -> bool:
    """Return whether images are worked on singly, which takes looking at values.

    A GPU would have to wait for them, and a compiler could not follow.
    """
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def windows(parameters: AnomalyParameters, height: int, width: int) -> list[Window]:
    """Return where patches can be.

    A CPU works on one image at a time, and on the rectangle around its patches: with the default
    laws a good third of the pixels, which then fit into its caches. A GPU works on everything.
    """
    n, p = parameters.present.shape
    if not one_by_one(parameters.target):
        everywhere = (slice(0, height), slice(0, width))
        return [Window(slice(0, n), *everywhere, p * [everywhere])]
    half_height, half_width = parameters.half_size.unbind(-1)
    cos, sin = parameters.angle.cos().abs(), parameters.angle.sin().abs()
    reach = MARGIN + torch.stack(
        [half_height * cos + half_width * sin, half_height * sin + half_width * cos], -1
    )
    sides = reach.new_tensor([height, width])
    low = (parameters.target - reach).clamp(min=0).floor()
    high = (parameters.target + reach).ceil().minimum(sides)
    corners = torch.cat([low, high], -1).int().tolist()
    counts = parameters.present.sum(1).tolist()
    return [_around(i, corners[i][: counts[i]]) for i in range(n)]


def _around(image: int, patches: list[list[int]]) -> Window:
    top, left = (min(patch[k] for patch in patches) for k in (0, 1))
    bottom, right = (max(patch[k] for patch in patches) for k in (2, 3))
    return Window(
        slice(image, image + 1),
        slice(top, bottom),
        slice(left, right),
        [(slice(a - top, c - top), slice(b - left, d - left)) for a, b, c, d in patches],
    )


def patch_lookup(images: Images, parameters: AnomalyParameters, window: Window) -> Pixels:
    """Return where each pixel of the window comes from; later patches lie on earlier ones."""
    height, width = images.shape[-2:]
    # Centres of the pixels. What is linear in rows and columns is computed for them apart and added
    # at the end: one pass over the pixels.
    rows = torch.arange(height, device=images.device)[window.rows, None] + 0.5
    columns = torch.arange(width, device=images.device)[None, window.columns] + 0.5
    shape = (len(parameters.angle), rows.shape[0], columns.shape[1])
    pixels = Pixels(
        rows.expand(shape).clone(),
        columns.expand(shape).clone(),
        torch.full(shape, -1, dtype=torch.int8, device=images.device),
        rows.new_ones(shape),
    )
    for patch, area in enumerate(window.patches):

        def of(values: Tensor, patch: int = patch) -> Tensor:
            return values[:, patch, ..., None, None]

        target_row, target_column = of(parameters.target).unbind(1)
        source_row, source_column = of(parameters.source).unbind(1)
        half_height, half_width = of(parameters.half_size).unbind(1)
        angle, scale, border = map(of, (parameters.angle, parameters.scale, parameters.border))
        # The pasted patch is turned by angle, so its pixels are looked up turned back.
        row, column = rows[area[0]] - target_row, columns[:, area[1]] - target_column
        along = (row * angle.cos(), -column * angle.sin())
        across = (row * angle.sin(), column * angle.cos())
        # 0 in the middle of the patch, 1 on its outline.
        radius = torch.maximum(
            _scaled(along, half_height).abs_(), _scaled(across, half_width).abs_()
        )
        if parameters.ellipses.numel():
            blob = blob_radius(along, across, of(parameters.half_size), of(parameters.ellipses))
            radius = torch.where(of(parameters.blob), blob, radius)
        inside = of(parameters.present) & (radius <= 1)
        depth = (1 - radius) * torch.minimum(half_height, half_width)
        fade = torch.where(depth < border, depth / border, 1.0)
        found = Pixels(
            _scaled(along, scale, source_row),
            _scaled(across, scale, source_column),
            torch.full_like(fade, patch, dtype=torch.int8),
            of(parameters.opacity) * fade,
        )
        for values, new in zip(pixels, found, strict=True):
            here = values[(..., *area)]
            here.copy_(torch.where(inside, new, here))
    return pixels


def _scaled(parts: tuple[Tensor, Tensor], divisor: Tensor, offset: Tensor | float = 0.0) -> Tensor:
    """Return the sum of a row's and a column's part over the divisor, plus the offset."""
    return (parts[0] / divisor + offset) + parts[1] / divisor


def blob_radius(
    along: tuple[Tensor, Tensor], across: tuple[Tensor, Tensor], half_size: Points, ellipses: Tensor
) -> Tensor:
    """Return the distance from a union of ellipses: 1 on its outline, less inside."""
    half_height, half_width = half_size.unbind(1)
    nearest = None
    for centre_row, centre_column, height, width in (e.unbind(1) for e in ellipses.unbind(1)):
        down = _scaled(along, half_height * height, -centre_row / height)
        right = _scaled(across, half_width * width, -centre_column / width)
        square = down.square_().addcmul_(right, right)
        nearest = square if nearest is None else torch.minimum(nearest, square)
    assert nearest is not None  # there is at least one ellipse
    return nearest.sqrt_()


def hard_augmentation_lookup(
    rows: Tensor, columns: Tensor, images: Images, parameters: AnomalyParameters
) -> tuple[Tensor, Tensor]:
    """Translate positions in the rotated, then permuted copy into positions in the image.

    A quarter turn of an image that is not square is stretched to its shape.
    """
    height, width = images.shape[-2:]
    shift = parameters.shift[:, :, None, None]
    # The fraction is the remainder, four times as fast; positions are between -1 and 2 sides.
    vertical = 2 * (rows / height + (2 - shift[:, 0] / height)).frac_() - 1
    horizontal = 2 * (columns / width + (2 - shift[:, 1] / width)).frac_() - 1
    turn = (parameters.quarter_turns * (math.pi / 2))[:, None, None]
    cos, sin = turn.cos().round(), turn.sin().round()
    vertical, horizontal = (
        vertical * cos + horizontal * sin,
        horizontal * cos - vertical * sin,
    )
    return (vertical + 1) * (height / 2), (horizontal + 1) * (width / 2)
