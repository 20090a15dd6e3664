"""Where the pixels of synthetic images come from.

Rotation, permutation, cutting, turning and pasting are all moves of pixels. They are composed into
one look-up table that is read once, instead of producing an image each.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_anoseg.utils.shapes import Flags, Indices, Points, Scalars, sides

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

    position: Tensor  # (n, 2, h, w) in the hard-augmented copy: row and column as shares of a side
    owner: Tensor  # (n, h, w) which patch covers it, -1 for none
    opacity: Tensor  # (n, h, w) of that patch here, 0 for none


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
    low = (parameters.target - reach).clamp(min=0).floor()
    high = (parameters.target + reach).ceil().minimum(sides(height, width, reach.device))
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


def patch_maps(parameters: AnomalyParameters, height: int, width: int) -> Tensor:
    """Return the affine maps of pixels that describe each patch, (n, p, 2 + e, 2, 3).

    The first leads into the patch, where it reaches from -1 to 1; the second to where it comes
    from, in shares of a side; the others into each ellipse, whose radius is 1. Each has two rows,
    for what becomes of the row and of the column: the factors of a pixel's row and column, and a
    constant. A window's pixels are then one sum per patch.
    """
    cos, sin = parameters.angle.cos(), parameters.angle.sin()
    # The pasted patch is turned by angle, so its pixels are looked up turned back.
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    size = sides(height, width, cos.device)
    half_size, source = parameters.half_size[:, :, None], parameters.source[:, :, None] / size
    centre, radii = parameters.ellipses[..., :2], parameters.ellipses[..., 2:]
    divisor = torch.cat([half_size, parameters.scale[..., None, None] * size, half_size * radii], 2)
    offset = torch.cat([torch.zeros_like(source), source, -centre / radii], 2)
    factors = turn[:, :, None] / divisor[..., None]
    # Not by a product of matrices, which a GPU may be told to round to ten bits.
    constant = offset - (factors * parameters.target[:, :, None, None]).sum(-1)
    return torch.cat([factors, constant[..., None]], -1)


def patch_lookup(parameters: AnomalyParameters, maps: Tensor, window: Window) -> Pixels:
    """Return where each pixel of the window comes from; later patches lie on earlier ones.

    Args:
        parameters: The draws of the window's images.
        maps: Their :func:`patch_maps`.
        window: Where to look.
    """
    n, device = len(maps), maps.device
    # Centres of the pixels.
    rows, columns = (
        torch.arange(part.start, part.stop, device=device) + 0.5
        for part in (window.rows, window.columns)
    )
    shape = (len(rows), len(columns))
    pixels = Pixels(
        torch.zeros((n, 2, *shape), device=device),
        torch.full((n, *shape), -1, dtype=torch.int8, device=device),
        torch.zeros((n, *shape), device=device),
    )
    for patch, area in enumerate(window.patches):
        here = Pixels(*(values[(..., *area)] for values in pixels))
        _lay(here, rows[area[0]], columns[area[1]], patch, maps[:, patch], parameters)
    return pixels


def _lay(
    here: Pixels,
    rows: Tensor,
    columns: Tensor,
    patch: int,
    maps: Tensor,
    parameters: AnomalyParameters,
) -> None:
    """Lay one patch over what is there, in place; rows and columns are the centres of pixels."""

    def of(values: Tensor) -> Tensor:
        return values[:, patch, None, None]

    by_row, by_column, constant = maps[..., None].unbind(-2)
    mapped = (by_row * rows + constant)[..., None] + (by_column * columns)[..., None, :]
    # 0 in the middle of the patch, 1 on its outline.
    radius = mapped[:, 0].abs_().amax(1)
    if parameters.ellipses.numel():
        down, right = mapped[:, 2:].unbind(2)
        blob = down.square_().addcmul_(right, right).amin(1).sqrt_()
        radius = torch.where(of(parameters.blob), blob, radius)
    inside = of(parameters.present) & (radius < 1)
    # From the outline on it fades in, over its border; one of no width is sharp.
    steepness = parameters.half_size[:, patch].amin(-1) / parameters.border[:, patch].clamp(1e-6)
    opacity = of(parameters.opacity)
    faded = torch.minimum((1 - radius) * (opacity * steepness[:, None, None]), opacity)
    here.position.copy_(torch.where(inside[:, None], mapped[:, 1], here.position))
    here.owner.masked_fill_(inside, patch)
    here.opacity.copy_(torch.where(inside, faded, here.opacity))


def hard_augmentation_lookup(
    position: Tensor, parameters: AnomalyParameters, height: int, width: int
) -> Tensor:
    """Translate positions in the rotated, then permuted copy into positions in the image.

    A quarter turn of an image that is not square is stretched to its shape.

    Args:
        position: Rows and columns as shares of a side, (n, 2, h, w), between -1 and 2.
        parameters: The draws.
        height: Of the images.
        width: Of the images.

    Returns:
        Columns and rows as ``grid_sample`` takes them, (n, h, w, 2) in [-1, 1].
    """
    shift = parameters.shift / sides(height, width, position.device)
    unrolled = position + (2 - shift)[..., None, None]
    # The fraction is the remainder, four times as fast.
    row, column = unrolled.frac_().mul_(2).sub_(1).unbind(1)
    turn = (parameters.quarter_turns * (math.pi / 2))[:, None, None]
    cos, sin = turn.cos().round(), turn.sin().round()
    turned = torch.stack([column * cos - row * sin, row * cos + column * sin], 1)
    return turned.permute(0, 2, 3, 1)
