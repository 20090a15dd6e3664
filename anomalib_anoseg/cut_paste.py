"""Apply what was drawn: hard augmentation, then CutPaste, as pure functions of images and draws.

Rotation, permutation, cutting, turning and pasting are all moves of pixels. They are composed into
one look-up table that is read once, instead of producing an image each.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomalib_anoseg.colours import jitter_colours, jitter_matrix, paint, paint_colours
from anomalib_anoseg.shapes import Flags, Images, Indices, Masks, Points, Scalars

SMOOTHED = 2  # pixels on either side, over which a change is averaged
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
    patches: int  # the first so many of each image may be present


def cut_paste(
    images: Images, parameters: AnomalyParameters, min_difference: float
) -> tuple[Images, Masks]:
    """Paste patches of hard-augmented images into the images chosen; the mask is what changed.

    Args:
        images: The whole batch of normal images.
        parameters: The draws.
        min_difference: Smoothed change above which a pixel is pasted and marked.

    Returns:
        The batch with the synthetic images in their places, and its masks.
    """
    result, masks = images.clone(), torch.zeros_like(images[:, :1])
    # Enough to see whether an image is grey; all of it took a tenth of the generator's time.
    sketch = images[..., ::4, ::4][parameters.chosen]
    parameters = parameters._replace(colour=paint_colours(parameters.colour, sketch))
    mean = images.float().mean((2, 3))[parameters.source_image]
    jitter = jitter_matrix(mean, parameters.jitter)
    for window in windows(parameters, *images.shape[-2:]):
        part = AnomalyParameters(*(values[window.images] for values in parameters))
        area = (..., window.rows, window.columns)
        normal = images[area][part.chosen]
        pasted, changed = _paste(
            normal, images, part, jitter[window.images], min_difference, window
        )
        result[area].index_copy_(0, part.chosen, pasted)
        masks[area].index_copy_(0, part.chosen, changed)
    return result, masks


def windows(parameters: AnomalyParameters, height: int, width: int) -> list[Window]:
    """Return where patches can be.

    A CPU works on one image at a time, and on the rectangle around its patches: with the default
    laws three tenths of the pixels, which then fit into its caches. A GPU works on everything at
    once: it would have to wait for the rectangles, and a compiler could not follow.
    """
    n, p = parameters.present.shape
    if parameters.target.device.type != "cpu" or torch.compiler.is_compiling():
        return [Window(slice(0, n), slice(0, height), slice(0, width), p)]
    half_height, half_width = parameters.half_size.unbind(-1)
    cos, sin = parameters.angle.cos().abs(), parameters.angle.sin().abs()
    reach = MARGIN + torch.stack(
        [half_height * cos + half_width * sin, half_height * sin + half_width * cos], -1
    )
    present = parameters.present[..., None]
    low = torch.where(present, parameters.target - reach, math.inf).amin(1).clamp(min=0)
    high = torch.where(present, parameters.target + reach, -math.inf).amax(1)
    high = high.ceil().minimum(high.new_tensor([height, width]))
    corners = torch.cat([low.floor(), high], 1).int().tolist()
    return [
        Window(slice(i, i + 1), slice(top, bottom), slice(left, right), count)
        for i, ((top, left, bottom, right), count) in enumerate(
            zip(corners, parameters.present.sum(1).tolist(), strict=True)
        )
    ]


def _paste(
    normal: Images,
    images: Images,
    parameters: AnomalyParameters,
    jitter: Tensor,
    min_difference: float,
    window: Window,
) -> tuple[Images, Masks]:
    rows, columns, owner, opacity = patch_lookup(images, parameters, window)
    rows, columns = hard_augmentation_lookup(rows, columns, images, parameters)
    height, width = images.shape[-2:]
    grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], dim=-1)
    # grid_sample wants one dtype; positions need float32 also for bfloat16 images.
    source = images[parameters.source_image].float()
    pixels = nn.functional.grid_sample(source, grid, padding_mode="border", align_corners=False)
    pasted = paint(jitter_colours(pixels, jitter), owner, parameters.painted, parameters.colour)
    pasted = torch.lerp(normal.float(), pasted, opacity[:, None]).to(normal.dtype)

    region = owner[:, None] >= 0
    difference = (pasted.float() - normal.float()).abs().amax(1, keepdim=True)
    changed = region & (difference > 0)
    if min_difference > 0:
        # The mean over the patch's own pixels only: its neighbours are not pasted.
        inside = region.float()
        changed &= _sums(difference * inside) > min_difference * _sums(inside)
    # White on white changes nothing. Such an image gets its region in another brightness, so that
    # no image is called synthetic with an empty mask. Adding a half modulo 1 always changes it.
    nothing = ~changed.flatten(1).any(1)[:, None, None, None]
    pasted = torch.where(nothing, (normal + 0.5) % 1, pasted)
    changed = torch.where(nothing, region, changed)
    return torch.where(changed, pasted, normal), changed.to(normal.dtype)


def _sums(values: Tensor) -> Tensor:
    """Return the sum over the 5 x 5 pixels around each pixel.

    Not by convolution: oneDNN compiles one for each size, and windows have many sizes.
    """
    padded = nn.functional.pad(values, 4 * [SMOOTHED])
    size = 2 * SMOOTHED + 1
    return padded.unfold(2, size, 1).sum(-1).unfold(3, size, 1).sum(-1)


def patch_lookup(
    images: Images, parameters: AnomalyParameters, window: Window
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each pixel's origin as row and column, which patch covers it (-1: none), how much."""
    height, width = images.shape[-2:]
    # Centres of the pixels. What is linear in rows and columns is computed for them apart and added
    # at the end: one pass over the pixels.
    rows = torch.arange(height, device=images.device)[window.rows, None] + 0.5
    columns = torch.arange(width, device=images.device)[None, window.columns] + 0.5
    from_row, from_column = rows.expand(1, -1, columns.shape[1]), columns.expand(1, len(rows), -1)
    owner = torch.full_like(from_row, -1, dtype=torch.int8)
    opacity = torch.ones_like(from_row)
    for patch in range(window.patches):

        def of(values: Tensor, patch: int = patch) -> Tensor:
            return values[:, patch, ..., None, None]

        target_row, target_column = of(parameters.target).unbind(1)
        source_row, source_column = of(parameters.source).unbind(1)
        half_height, half_width = of(parameters.half_size).unbind(1)
        angle, scale, border = map(of, (parameters.angle, parameters.scale, parameters.border))
        # The pasted patch is turned by angle, so its pixels are looked up turned back.
        row, column = rows - target_row, columns - target_column
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
        from_row = torch.where(inside, _scaled(along, scale, source_row), from_row)
        from_column = torch.where(inside, _scaled(across, scale, source_column), from_column)
        owner = torch.where(inside, patch, owner)
        opacity = torch.where(inside, of(parameters.opacity) * fade, opacity)
    return from_row, from_column, owner, opacity


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
    vertical = 2 * torch.remainder(rows - shift[:, 0], height) / height - 1
    horizontal = 2 * torch.remainder(columns - shift[:, 1], width) / width - 1
    turn = (parameters.quarter_turns * (math.pi / 2))[:, None, None]
    cos, sin = turn.cos().round(), turn.sin().round()
    vertical, horizontal = (
        vertical * cos + horizontal * sin,
        horizontal * cos - vertical * sin,
    )
    return (vertical + 1) * (height / 2), (horizontal + 1) * (width / 2)
