"""Colours of pasted patches: CSI's jitter, and paint."""

import math

import torch
from kornia.color import rgb_to_grayscale, rgb_to_ycbcr, ycbcr_to_rgb
from kornia.enhance import adjust_brightness_accumulative, adjust_contrast_with_mean_subtraction
from torch import Tensor

from anomalib_anoseg.utils.shapes import Images


def jitter_colours(images: Images, jitter: Tensor) -> Images:
    """Change brightness, contrast, saturation and hue, in this order.

    Args:
        images: In [0, 1]. Of one channel they have neither saturation nor hue.
        jitter: Factors of brightness, contrast and saturation; the hue's shift in turns; (b, 4).
    """
    brightness, contrast, saturation, hue = jitter.unbind(-1)
    images = adjust_brightness_accumulative(images, brightness)
    images = adjust_contrast_with_mean_subtraction(images, contrast)
    return images if images.shape[1] == 1 else _turn_chroma(images, saturation, hue)


def _turn_chroma(images: Images, saturation: Tensor, hue: Tensor) -> Images:
    """Scale and turn the chroma. It keeps the luma and leaves grey grey.

    Without a turn it is kornia's adjust_saturation_with_gray_subtraction. The way of adjust_hue
    through HSV takes 70 ms for 8 images of 256 x 256 on one core, of 2300 of a training step with
    the light network; both together take 20 through kornia's YCbCr. Its YUV waits for a GPU.
    """
    luma, blue, red = rgb_to_ycbcr(images).unbind(1)
    blue, red = blue - 0.5, red - 0.5
    angle = 2 * math.pi * hue
    cos, sin = ((saturation * part)[:, None, None] for part in (angle.cos(), angle.sin()))
    turned = [blue * cos - red * sin + 0.5, blue * sin + red * cos + 0.5]
    return ycbcr_to_rgb(torch.stack([luma, *turned], 1)).clamp(0, 1)


def paint_colours(colour: Tensor, images: Images) -> Tensor:
    """Return the colours that suit the images; a grey image takes their brightness.

    Colour on a grey image would be too easy to find.

    Args:
        colour: Any colours, (b, p, 3) in [0, 1].
        images: Of c channels.

    Returns:
        Colours, (b, p, c).
    """
    luma = rgb_to_grayscale(colour[..., None, None]).flatten(-3)
    if images.shape[1] == 1:
        return luma
    part = images[..., ::4, ::4]  # all of them took a tenth of the generator's time
    grey = (part == part[:, :1]).flatten(1).all(1)
    return torch.where(grey[:, None, None], luma, colour)


def paint(patches: Images, owner: Tensor, painted: Tensor, colour: Tensor) -> Images:
    """Return the patches, of which the painted ones have one colour each.

    Args:
        patches: What is painted on.
        owner: Which patch each pixel belongs to, (b, h, w), -1 for none.
        painted: Which patches are painted, (b, p).
        colour: Their colours, (b, p, c).
    """
    index = owner.clamp(min=0).flatten(1)
    here = painted.gather(1, index).view_as(owner)[:, None]
    fill = colour.transpose(1, 2).gather(2, index[:, None].expand(-1, colour.shape[2], -1))
    return torch.where(here, fill.view_as(patches), patches)
