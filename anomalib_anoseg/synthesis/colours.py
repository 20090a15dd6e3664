"""Colours of pasted patches: CSI's jitter, and paint."""

import math

import torch
from kornia.color import rgb_to_grayscale
from torch import Tensor

from anomalib_anoseg.synthesis.geometry import one_by_one
from anomalib_anoseg.utils.shapes import Flags, Images, Indices


def paint_colours(colour: Tensor, images: Images, chosen: Indices) -> Tensor:
    """Return the colours that suit the chosen images; a grey image takes their brightness.

    Colour on a grey image would be too easy to find.

    Args:
        colour: Any colours, (n, p, 3) in [0, 1].
        images: The whole batch of normal images, with c channels.
        chosen: Which of them they are for.

    Returns:
        Colours, (n, p, c).
    """
    # kornia 0.8 makes its own weights in a way that waits for a GPU.
    weights = _TO_YIQ[0].to(colour.device, non_blocking=True)
    luma = rgb_to_grayscale(colour[..., None, None], weights).flatten(-3)
    if images.shape[1] == 1:
        return luma
    part = images[..., ::4, ::4]  # all of them took a tenth of the generator's time
    grey = (part == part[:, :1]).flatten(1).all(1)[chosen]
    return torch.where(grey[:, None, None], luma, colour)


def paint(
    pixels: Images, owner: Tensor, painted: Flags, colour: Tensor, areas: list[tuple[slice, slice]]
) -> None:
    """Give the painted patches their colour, in place.

    Args:
        pixels: What is painted on.
        owner: Which patch each pixel belongs to, (n, h, w), -1 for none.
        painted: Which patches are painted.
        colour: Their colours, (n, p, c).
        areas: Rows and columns that patches are in, as many as there can be.
    """
    for patch, area in enumerate(areas):
        if one_by_one(painted) and not painted[:, patch].any():
            continue
        here = pixels[(..., *area)]
        own = (owner[(..., *area)] == patch) & painted[:, patch, None, None]
        here.copy_(torch.where(own[:, None], colour[:, patch, :, None, None], here))


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


def jitter_matrix(mean: Tensor, jitter: Tensor) -> Tensor:
    """Return brightness, contrast, saturation and hue, in this order, as one matrix per image.

    Composed this way the four cost one multiplication by a matrix; kornia's ColorJitter takes
    30 to 110 ms per 256 x 256 image on a CPU, most of it for the hue's way through HSV.

    Args:
        mean: Mean colours of the images, (n, c). Contrast is taken about their luma.
        jitter: Factors of brightness, contrast, saturation; the hue's shift in turns; (n, 4).

    Returns:
        Matrices whose last column is added, (n, c, c + 1).
    """
    brightness, contrast, saturation, hue = jitter[:, :, None, None].unbind(1)
    channels = mean.shape[1]
    luma = mean[..., None]
    if channels == 3:
        luma = _TO_YIQ[:1].to(mean.device, non_blocking=True) @ luma
    offset = (1 - contrast) * brightness * luma
    matrix = brightness * contrast
    if channels == 3:
        keep, chroma, turned = _COLOUR_BASIS.to(mean.device, non_blocking=True)
        angle = 2 * math.pi * hue
        matrix = matrix * (keep + saturation * (angle.cos() * chroma + angle.sin() * turned))
    return torch.cat([matrix, offset.expand(-1, channels, 1)], -1)


def jitter_colours(pixels: Images, matrix: Tensor) -> Images:
    """Apply the matrices to the colours, and clamp them to [0, 1]."""
    jittered = torch.baddbmm(matrix[..., -1:], matrix[..., :-1], pixels.flatten(2))
    return jittered.clamp_(0, 1).view_as(pixels)
