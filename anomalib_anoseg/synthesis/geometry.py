"""Where the pixels of a changed image come from.

Rotation, permutation, cutting, turning and pasting are all moves of pixels. They are composed into
one look-up that is read once, instead of producing an image each. Positions are (x, y) in pixels;
the centre of the first pixel is at (0.5, 0.5).
"""

import math
from typing import NamedTuple

import torch
from kornia.geometry.transform import get_affine_matrix2d, remap
from torch import Tensor

from anomalib_anoseg.utils.shapes import Images, Points, sides

Params = dict[str, Tensor]


class Patches(NamedTuple):
    """The patches of a batch as they lie on its images."""

    position: Tensor  # (b, 2, h, w) where a pixel comes from, in the hard-augmented copy's sides
    owner: Tensor  # (b, h, w) which patch covers the pixel, -1 for none
    opacity: Tensor  # (b, h, w) of that patch here, 0 for none


def look_up(matrix: Tensor, height: int, width: int) -> Tensor:
    """Return what an affine map makes of the centre of each pixel, (..., h, w).

    kornia's transform_points does the same by a product of matrices: 11 ms for 8 images of 256 x
    256 on one core, this 1. A training step of the light network, which takes 2300, needs 15 of
    them. And a GPU that may round products of matrices to ten bits does not round this.

    Args:
        matrix: Rows of affine maps, (..., 3).
        height: Of the images.
        width: Of the images.
    """
    columns = torch.arange(width, device=matrix.device) + 0.5
    rows = torch.arange(height, device=matrix.device)[:, None] + 0.5
    by_column, by_row, constant = matrix[..., None, None].unbind(-3)
    return by_column * columns + (by_row * rows + constant)


def read(images: Images, position: Tensor) -> Images:
    """Return the images at positions from -1 to 1, (b, 2, h, w); beyond is the border again."""
    x, y = position.unbind(1)
    return remap(
        images, x, y, padding_mode="border", align_corners=False, normalized_coordinates=True
    )


def lay_patches(params: Params, target: Points, height: int, width: int) -> Patches:
    """Lay the patches on each other at their targets, in pixels."""
    batch, most = params["present"].shape
    back, inner, ellipses = _maps(params, target, height, width)
    position = torch.zeros((batch, 2, height, width), device=target.device)
    opacity = torch.zeros((batch, height, width), device=target.device)
    owner = torch.full((batch, height, width), -1, device=target.device)
    # From its outline on a patch fades in, over its border; one of no width is sharp.
    steepness = params["half_size"].amin(-1) / params["border"].clamp(min=1e-6)
    for patch in range(most):
        # 0 in the middle of the patch, 1 on its outline.
        rectangle = look_up(inner[:, patch], height, width).abs_().amax(1)
        right, down = look_up(ellipses[:, patch], height, width).unbind(2)
        blob = right.square_().addcmul_(down, down).amin(1).sqrt_()
        radius = torch.where(_of(params["blob"], patch), blob, rectangle)
        inside = (radius < 1) & _of(params["present"], patch)
        faded = (1 - radius).mul_(_of(steepness, patch)).clamp_(max=1)
        faded *= _of(params["opacity"], patch)
        source = look_up(back[:, patch], height, width)
        position = torch.where(inside[:, None], source, position)
        opacity = torch.where(inside, faded, opacity)
        owner.masked_fill_(inside, patch)
    return Patches(position, owner, opacity)


def _of(values: Tensor, patch: int) -> Tensor:
    return values[:, patch, None, None]


def _maps(params: Params, target: Points, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the affine maps of pixels that describe each patch, in rows of x and y.

    Returns:
        To where it was cut out, in sides, (b, p, 2, 3); into the patch, which reaches from -1 to 1,
        likewise; into each of its ellipses, whose radius is 1, (b, p, e, 2, 3).
    """
    source, scale = params["source"], params["scale"][..., None]
    # From a pixel back to its source: turned and scaled about the target, then moved.
    moves = source - target, target, (1 / scale).expand_as(target), -params["angle"]
    matrix = get_affine_matrix2d(*(move.flatten(0, 1) for move in moves))
    back = matrix[:, :2].reshape(*target.shape[:2], 2, 3)
    inner = _relative(back, source, params["half_size"] / scale)
    centre, radii = params["ellipses"][..., :2], params["ellipses"][..., 2:]
    size = sides(height, width, target.device).flip(0)
    return (
        _relative(back, torch.zeros_like(source), size),
        inner,
        _relative(inner[:, :, None], centre, radii),
    )


def _relative(matrix: Tensor, origin: Tensor, unit: Tensor) -> Tensor:
    """Return the map to positions as seen from an origin, in another unit."""
    constant = matrix[..., 2:] - origin[..., None]
    linear = matrix[..., :2].expand(*constant.shape[:-1], 2)
    return torch.cat([linear, constant], -1) / unit[..., None]


def through_hard_augmentation(position: Tensor, params: Params, height: int, width: int) -> Tensor:
    """Translate positions in the rotated, then permuted copy into positions in the image.

    A quarter turn of an image that is not square is stretched to its shape. What lies outside comes
    in at the other side.

    Args:
        position: In sides, (b, 2, h, w), between -1 and 2.
        params: The draws.
        height: Of the images.
        width: Of the images.

    Returns:
        From -1 to 1, (b, 2, h, w).
    """
    size = sides(height, width, position.device).flip(0)
    shift = params["swap"] * (size // 2) / size
    # The fraction is the remainder, four times as fast.
    unrolled = (position + (2 - shift)[..., None, None]).frac_().mul_(2).sub_(1)
    angle = (params["quarter_turns"] * (math.pi / 2))[:, None, None]
    cos, sin = angle.cos().round(), angle.sin().round()
    right, down = unrolled.unbind(1)
    return torch.stack([right * cos - down * sin, down * cos + right * sin], 1)
