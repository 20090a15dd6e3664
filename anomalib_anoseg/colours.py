"""Colours of pasted patches: CSI's jitter, and paint."""

import math

import torch
from kornia.color import rgb_to_grayscale
from torch import Tensor

from anomalib_anoseg.shapes import Flags, Images


def paint(pixels: Images, images: Images, owner: Tensor, painted: Flags, colour: Tensor) -> Images:
    """Give the painted patches their colour; in a grey image only its brightness.

    Args:
        pixels: What is painted on.
        images: The normal images: colour on a grey one would be too easy to find.
        owner: Which patch each pixel belongs to, (n, h, w), -1 for none.
        painted: Which patches are painted.
        colour: Their colours, (n, p, 3) in [0, 1].
    """
    if images.shape[1] == 3:
        grey = (images == images[:, :1]).flatten(1).all(1)[:, None, None]
        luma = rgb_to_grayscale(colour.movedim(-1, 1)[..., None]).squeeze(-1).movedim(1, -1)
        colour = torch.where(grey, luma, colour)
    batch = torch.arange(len(owner), device=owner.device)[:, None, None]
    covered = painted[batch, owner] & (owner >= 0)
    chosen = colour[batch, owner].movedim(-1, 1)[:, : pixels.shape[1]]
    return torch.where(covered[:, None], chosen, pixels)


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
