"""Apply what was drawn: hard augmentation, then CutPaste, as pure functions of images and draws."""

import torch
from torch import Tensor, nn

from anomalib_anoseg.synthesis.colours import jitter_colours, jitter_matrix, paint, paint_colours
from anomalib_anoseg.synthesis.geometry import (
    AnomalyParameters,
    Pixels,
    Window,
    hard_augmentation_lookup,
    one_by_one,
    patch_lookup,
    patch_maps,
    windows,
)
from anomalib_anoseg.utils.shapes import Images, Indices, Masks

SMOOTHED = 2  # pixels on either side, over which a change is averaged


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
    colour = paint_colours(parameters.colour, images, parameters.chosen)
    parameters = parameters._replace(colour=colour)
    mean = images.float().mean((2, 3))[parameters.source_image]
    jitter = jitter_matrix(mean, parameters.jitter)
    maps = patch_maps(parameters, *images.shape[-2:])
    for window in windows(parameters, *images.shape[-2:]):
        part = AnomalyParameters(*(values[window.images] for values in parameters))
        pixels = patch_lookup(part, maps[window.images], window)
        patches = _patches(images, part, pixels, jitter[window.images], window)
        area = (..., window.rows, window.columns)
        normal = _take(images[area], part.chosen)
        pasted, changed = _blend(normal, patches, pixels, min_difference)
        result[area].index_copy_(0, part.chosen, pasted)
        masks[area].index_copy_(0, part.chosen, changed)
    return result, masks


def _patches(
    images: Images, parameters: AnomalyParameters, pixels: Pixels, jitter: Tensor, window: Window
) -> Images:
    """Return the colours of the patches in the window, in float32."""
    grid = hard_augmentation_lookup(pixels.position, parameters, *images.shape[-2:])
    # grid_sample wants one dtype; positions need float32 also for bfloat16 images.
    source = _take(images, parameters.source_image).float()
    patches = nn.functional.grid_sample(source, grid, padding_mode="border", align_corners=False)
    patches = jitter_colours(patches, jitter)
    paint(patches, pixels.owner, parameters.painted, parameters.colour, window.patches)
    return patches


def _blend(
    normal: Images, patches: Images, pixels: Pixels, min_difference: float
) -> tuple[Images, Masks]:
    """Return the images with patches where they change enough, and where; nowhere is no answer.

    Args:
        normal: The images as they were.
        patches: Colours of the patches.
        pixels: Where they are, and how opaque.
        min_difference: Smoothed change above which a pixel counts.
    """
    pasted = torch.lerp(normal.float(), patches, pixels.opacity[:, None]).to(normal.dtype)
    difference = (pasted.float() - normal.float()).abs_().amax(1, keepdim=True)
    region, changed = pixels.owner[:, None] >= 0, difference > 0
    if min_difference > 0:
        # Over the patches' own pixels only: their neighbours are not pasted.
        changed &= _sums(torch.where(region, difference - min_difference, 0)) > 0
    # White on white changes nothing. Such an image gets its region in another brightness, so that
    # no image is called synthetic with an empty mask. A half more or less always changes it.
    nothing = ~changed.flatten(1).any(1)[:, None, None, None]
    if not one_by_one(nothing) or nothing.any():
        pasted = torch.where(nothing, normal + torch.where(normal < 0.5, 0.5, -0.5), pasted)
        changed = torch.where(nothing, region, changed)
    return torch.where(changed, pasted, normal), changed.to(normal.dtype)


def _take(images: Images, indices: Indices) -> Images:
    """Return images[indices], of a single one on a CPU without a copy."""
    if one_by_one(indices) and len(indices) == 1:
        return images.narrow(0, int(indices), 1)
    return images[indices]


def _sums(values: Tensor) -> Tensor:
    """Return the sum over the 5 x 5 pixels around each pixel.

    Not by convolution: oneDNN compiles one for each size, and windows have many sizes.
    """
    padded = nn.functional.pad(values, 4 * [SMOOTHED])
    size = 2 * SMOOTHED + 1
    return padded.unfold(2, size, 1).sum(-1).unfold(3, size, 1).sum(-1)
