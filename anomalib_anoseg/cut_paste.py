"""Apply what was drawn: hard augmentation, then CutPaste, as pure functions of images and draws."""

import torch
from torch import Tensor, nn

from anomalib_anoseg.colours import jitter_colours, jitter_matrix, paint, paint_colours
from anomalib_anoseg.lookup import (
    AnomalyParameters,
    Window,
    hard_augmentation_lookup,
    one_by_one,
    patch_lookup,
    windows,
)
from anomalib_anoseg.shapes import Images, Indices, Masks

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
    # Enough to see whether an image is grey; all of it took a tenth of the generator's time.
    sketch = images[..., ::4, ::4][parameters.chosen]
    parameters = parameters._replace(colour=paint_colours(parameters.colour, sketch))
    mean = images.float().mean((2, 3))[parameters.source_image]
    jitter = jitter_matrix(mean, parameters.jitter)
    for window in windows(parameters, *images.shape[-2:]):
        part = AnomalyParameters(*(values[window.images] for values in parameters))
        pasted, changed = _paste(images, part, jitter[window.images], min_difference, window)
        area = (..., window.rows, window.columns)
        result[area].index_copy_(0, part.chosen, pasted)
        masks[area].index_copy_(0, part.chosen, changed)
    return result, masks


def _paste(
    images: Images,
    parameters: AnomalyParameters,
    jitter: Tensor,
    min_difference: float,
    window: Window,
) -> tuple[Images, Masks]:
    """Return the window of the synthetic images, and what changed in it."""
    normal = _take(images[..., window.rows, window.columns], parameters.chosen)
    pixels = patch_lookup(images, parameters, window)
    rows, columns = hard_augmentation_lookup(pixels.row, pixels.column, images, parameters)
    height, width = images.shape[-2:]
    grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], dim=-1)
    # grid_sample wants one dtype; positions need float32 also for bfloat16 images.
    source = _take(images, parameters.source_image).float()
    pasted = nn.functional.grid_sample(source, grid, padding_mode="border", align_corners=False)
    pasted = jitter_colours(pasted, jitter)
    paint(pasted, pixels.owner, parameters.painted, parameters.colour, window.patches)
    pasted = torch.lerp(normal.float(), pasted, pixels.opacity[:, None]).to(normal.dtype)

    region = pixels.owner[:, None] >= 0
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
