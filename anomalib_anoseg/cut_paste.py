"""Apply what was drawn: hard augmentation, then CutPaste, as pure functions of images and draws.

Rotation, permutation, cutting, turning and pasting are all moves of pixels. They are composed into
one look-up table that is read once, instead of producing an image each.
"""

import math
from typing import NamedTuple

import torch
from kornia.color import rgb_to_grayscale
from kornia.filters import box_blur
from torch import Tensor, nn

from anomalib_anoseg.shapes import Flags, Images, Indices, Masks, Points, Scalars


class AnomalyParameters(NamedTuple):
    """The random draws of one batch: n of its images become synthetic, with p patches at most.

    Lengths and positions are in pixels as (row, column), angles in radians.
    """

    chosen: Indices
    quarter_turns: Tensor  # (n,) hard augmentation: 0..3 turns by 90 degrees
    shift: Tensor  # (n, 2) hard augmentation: roll by half the height, half the width, or 0
    jitter: Tensor  # (n, 4) factors of brightness, contrast, saturation; hue shift in turns
    present: Flags
    source: Points
    target: Points
    half_size: Points
    angle: Scalars
    painted: Flags
    colour: Tensor  # (n, p, 3) of the painted patches


def cut_paste(
    normal: Images, parameters: AnomalyParameters, min_difference: float
) -> tuple[Images, Masks]:
    """Paste patches of each hard-augmented image into the image; the mask is what changed."""
    rows, columns, owner = patch_lookup(normal, parameters)
    region = owner[:, None] >= 0
    rows, columns = hard_augmentation_lookup(rows, columns, normal, parameters)
    height, width = normal.shape[-2:]
    grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], dim=-1)
    # grid_sample wants one dtype; positions need float32 also for bfloat16 images.
    pixels = nn.functional.grid_sample(
        normal.float(), grid, padding_mode="border", align_corners=False
    )
    pasted = jitter_colours(pixels, normal.float(), parameters.jitter)
    pasted = paint(pasted, owner, parameters).to(normal.dtype)

    difference = (pasted.float() - normal.float()).abs().amax(1, keepdim=True)
    changed = region & (difference > 0)
    if min_difference > 0:
        changed &= box_blur(difference, 5) > min_difference
    # White on white changes nothing. Such an image gets its region in another brightness, so that
    # no image is called synthetic with an empty mask. Adding a half modulo 1 always changes it.
    nothing = ~changed.flatten(1).any(1)[:, None, None, None]
    pasted = torch.where(nothing, (normal + 0.5) % 1, pasted)
    changed = torch.where(nothing, region, changed)
    return torch.where(changed, pasted, normal), changed.to(normal.dtype)


def patch_lookup(images: Images, parameters: AnomalyParameters) -> tuple[Tensor, Tensor, Tensor]:
    """Return each pixel's origin as row and column, and which patch covers it (-1: none)."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)[:, None] + 0.5  # centres of the pixels
    columns = torch.arange(width, device=images.device)[None, :] + 0.5
    from_row, from_column = rows.expand(1, -1, width), columns.expand(1, height, -1)
    owner = torch.full_like(from_row, -1, dtype=torch.long)
    for patch in range(parameters.present.shape[1]):
        present, angle = (v[:, patch, None, None] for v in (parameters.present, parameters.angle))
        target_row, target_column = parameters.target[:, patch, :, None, None].unbind(1)
        source_row, source_column = parameters.source[:, patch, :, None, None].unbind(1)
        half_height, half_width = parameters.half_size[:, patch, :, None, None].unbind(1)
        row, column = rows - target_row, columns - target_column
        # The pasted patch is turned by angle, so its pixels are looked up turned back.
        row, column = (
            row * angle.cos() - column * angle.sin(),
            row * angle.sin() + column * angle.cos(),
        )
        inside = present & (row.abs() <= half_height) & (column.abs() <= half_width)
        from_row = torch.where(inside, source_row + row, from_row)
        from_column = torch.where(inside, source_column + column, from_column)
        owner = torch.where(inside, patch, owner)
    return from_row, from_column, owner


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


def paint(pixels: Images, owner: Tensor, parameters: AnomalyParameters) -> Images:
    """Give the painted patches their colour; owner is the patch of each pixel, (n, h, w)."""
    batch = torch.arange(len(owner), device=owner.device)[:, None, None]
    painted = parameters.painted[batch, owner] & (owner >= 0)
    colour = parameters.colour[batch, owner].movedim(-1, 1)[:, : pixels.shape[1]]
    return torch.where(painted[:, None], colour, pixels)


_TO_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]
)
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)
# What a colour map keeps of the luma, of the chroma, and of the chroma turned by 90 degrees.
_COLOUR_BASIS = torch.stack(
    [
        _FROM_YIQ[:, :1] @ _TO_YIQ[:1],
        _FROM_YIQ[:, 1:] @ _TO_YIQ[1:],
        _FROM_YIQ[:, 1:] @ torch.tensor([[0.0, -1.0], [1.0, 0.0]]) @ _TO_YIQ[1:],
    ]
)


def jitter_colours(pixels: Images, images: Images, jitter: Tensor) -> Images:
    """Apply brightness, contrast, saturation and hue, in this order, as one matrix per image.

    Contrast is taken about the mean luma of the images, not of the pixels that were cut out.
    Composed this way the four cost one multiplication by a 3 x 3 matrix; kornia's ColorJitter takes
    30 to 110 ms per 256 x 256 image on a CPU, most of it for the hue's way through HSV.
    """
    brightness, contrast, saturation, hue = jitter[:, :, None, None].unbind(1)
    channels = pixels.shape[1]
    luma = images if channels == 1 else rgb_to_grayscale(images)
    offset = (1 - contrast) * brightness * luma.mean((2, 3))[:, :, None]
    matrix = brightness * contrast
    if channels == 3:
        keep, chroma, turned = _COLOUR_BASIS.to(pixels.device, non_blocking=True)
        angle = 2 * math.pi * hue
        matrix = matrix * (keep + saturation * (angle.cos() * chroma + angle.sin() * turned))
    jittered = torch.baddbmm(offset.expand(-1, channels, 1), matrix, pixels.flatten(2))
    return jittered.clamp(0, 1).view_as(pixels)
