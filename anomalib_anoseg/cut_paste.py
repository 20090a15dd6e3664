"""Apply what was drawn: hard augmentation, then CutPaste, as pure functions of images and draws.

Rotation, permutation, cutting, turning and pasting are all moves of pixels. They are composed into
one look-up table that is read once, instead of producing an image each.
"""

import math
from typing import NamedTuple

import torch
from kornia.filters import box_blur
from torch import Tensor, nn

from anomalib_anoseg.colours import jitter_colours, paint
from anomalib_anoseg.shapes import Flags, Images, Indices, Masks, Points, Scalars


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


def cut_paste(
    images: Images, parameters: AnomalyParameters, min_difference: float
) -> tuple[Images, Masks]:
    """Paste patches of hard-augmented images into those chosen; the mask is what changed.

    Args:
        images: The whole batch of normal images.
        parameters: The draws.
        min_difference: Smoothed change above which a pixel is pasted and marked.

    Returns:
        The n synthetic images and their masks.
    """
    normal = images[parameters.chosen]
    source = images[parameters.source_image].float()
    rows, columns, owner, opacity = patch_lookup(normal, parameters)
    rows, columns = hard_augmentation_lookup(rows, columns, normal, parameters)
    height, width = normal.shape[-2:]
    grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], dim=-1)
    # grid_sample wants one dtype; positions need float32 also for bfloat16 images.
    pixels = nn.functional.grid_sample(source, grid, padding_mode="border", align_corners=False)
    pasted = jitter_colours(pixels, source, parameters.jitter)
    pasted = paint(pasted, normal, owner, parameters.painted, parameters.colour)
    pasted = torch.lerp(normal.float(), pasted, opacity[:, None]).to(normal.dtype)

    region = owner[:, None] >= 0
    difference = (pasted.float() - normal.float()).abs().amax(1, keepdim=True)
    changed = region & (difference > 0)
    if min_difference > 0:
        # The mean over the patch's own pixels only: its neighbours are not pasted.
        inside = region.float()
        changed &= box_blur(difference * inside, 5) > min_difference * box_blur(inside, 5)
    # White on white changes nothing. Such an image gets its region in another brightness, so that
    # no image is called synthetic with an empty mask. Adding a half modulo 1 always changes it.
    nothing = ~changed.flatten(1).any(1)[:, None, None, None]
    pasted = torch.where(nothing, (normal + 0.5) % 1, pasted)
    changed = torch.where(nothing, region, changed)
    return torch.where(changed, pasted, normal), changed.to(normal.dtype)


def patch_lookup(
    images: Images, parameters: AnomalyParameters
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each pixel's origin as row and column, which patch covers it (-1: none), how much."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)[:, None] + 0.5  # centres of the pixels
    columns = torch.arange(width, device=images.device)[None, :] + 0.5
    from_row, from_column = rows.expand(1, -1, width), columns.expand(1, height, -1)
    owner = torch.full_like(from_row, -1, dtype=torch.long)
    opacity = torch.ones_like(from_row)
    for patch in range(parameters.present.shape[1]):

        def of(values: Tensor, patch: int = patch) -> Tensor:
            return values[:, patch, ..., None, None]

        target_row, target_column = of(parameters.target).unbind(1)
        source_row, source_column = of(parameters.source).unbind(1)
        half_height, half_width = of(parameters.half_size).unbind(1)
        angle, scale, border = map(of, (parameters.angle, parameters.scale, parameters.border))
        row, column = rows - target_row, columns - target_column
        # The pasted patch is turned by angle, so its pixels are looked up turned back.
        row, column = (
            row * angle.cos() - column * angle.sin(),
            row * angle.sin() + column * angle.cos(),
        )
        # 0 in the middle of the patch, 1 on its outline.
        radius = torch.maximum((row / half_height).abs(), (column / half_width).abs())
        if parameters.ellipses.numel():
            blob = blob_radius(row / half_height, column / half_width, of(parameters.ellipses))
            radius = torch.where(of(parameters.blob), blob, radius)
        inside = of(parameters.present) & (radius <= 1)
        depth = (1 - radius) * torch.minimum(half_height, half_width)
        fade = torch.where(depth < border, depth / border, 1.0)
        from_row = torch.where(inside, source_row + row / scale, from_row)
        from_column = torch.where(inside, source_column + column / scale, from_column)
        owner = torch.where(inside, patch, owner)
        opacity = torch.where(inside, of(parameters.opacity) * fade, opacity)
    return from_row, from_column, owner, opacity


def blob_radius(vertical: Tensor, horizontal: Tensor, ellipses: Tensor) -> Tensor:
    """Return the distance from a union of ellipses: 1 on its outline, less inside."""
    centre_row, centre_column, height, width = ellipses.unbind(2)
    radii = torch.stack(
        [
            ((vertical - centre_row[:, e]) / height[:, e]).square()
            + ((horizontal - centre_column[:, e]) / width[:, e]).square()
            for e in range(ellipses.shape[1])
        ]
    )
    return radii.amin(0).sqrt()


def hard_augmentation_lookup(
    rows: Tensor, columns: Tensor, images: Images, parameters: AnomalyParameters
) -> tuple[Tensor, Tensor]:
    """Translate positions in the rotated, then permuted copy into positions in the image.

    A quarter turn of an image that is not square is stretched to its shape.
    """
    height, width = images.shape[-2:]
    shift = parameters.shift[:, :, None, None]
    vertical = 2 * torch.remainder(rows - shift[:, 0], height) / height - 1
    horizontal = 2 * torch.remainder(columns - shift[:, 1], width) / width - 1
    turn = (parameters.quarter_turns * (math.pi / 2))[:, None, None]
    cos, sin = turn.cos().round(), turn.sin().round()
    vertical, horizontal = (
        vertical * cos + horizontal * sin,
        horizontal * cos - vertical * sin,
    )
    return (vertical + 1) * (height / 2), (horizontal + 1) * (width / 2)
