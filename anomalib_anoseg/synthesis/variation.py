"""Good images that stay good: by our laws, or by a user's own augmentations of kornia."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from kornia.enhance import adjust_brightness_accumulative, adjust_contrast_with_mean_subtraction
from kornia.geometry.transform import get_affine_matrix2d
from torch import Tensor, nn

from anomalib_anoseg.synthesis.geometry import look_up, read
from anomalib_anoseg.synthesis.laws import Variation, laws_from
from anomalib_anoseg.utils.checks import require_images
from anomalib_anoseg.utils.shapes import Images, sides


class RandomVariation(nn.Module):
    """Turn, shift, zoom and relight each image a little, all at random.

    Args:
        variation: The laws.
    """

    def __init__(self, variation: Variation = Variation()) -> None:  # noqa: B008  # frozen
        super().__init__()
        self.laws = variation

    @torch.no_grad()
    def forward(self, images: Images) -> Images:
        """Return the images in [0, 1] changed; what comes in from outside repeats the border.

        Raises:
            ValueError: If the images are not floating-point numbers (b, 1 or 3, h, w).
        """
        require_images(images)
        laws, changed = self.laws, images
        # In mixed precision's bfloat16 a position would be half a pixel off at 256.
        with torch.autocast(images.device.type, enabled=False):
            if laws.turn or laws.shift or laws.zoom:
                changed = self._move(changed.float())
            if laws.lighting or laws.white_balance:
                changed = self._relight(changed.float())
        return changed.to(images.dtype)

    def _move(self, images: Images) -> Images:
        """Look pixels up where they come from.

        kornia's warp_affine inverts its matrix, for which a GPU is waited for. This one is built
        the other way round: it is as random.
        """
        laws, (batch, _, height, width) = self.laws, images.shape
        size = sides(height, width, images.device).flip(0)
        centre = (size / 2).expand(batch, -1)
        angle = _around(0, laws.turn, images, batch)
        scale = 1 / _around(1, laws.zoom, images, batch, 1).expand(-1, 2)
        shift = size * _around(0, laws.shift, images, batch, 2)
        matrix = get_affine_matrix2d(shift, centre, scale, angle)
        position = look_up(matrix[:, :2], height, width) / centre[..., None, None] - 1
        return read(images, position)

    def _relight(self, images: Images) -> Images:
        laws, (batch, channels) = self.laws, images.shape[:2]
        images = adjust_contrast_with_mean_subtraction(
            images, _around(1, laws.lighting, images, batch)
        )
        images = adjust_brightness_accumulative(images, _around(1, laws.lighting, images, batch))
        if channels == 1 or not laws.white_balance:
            return images
        gains = _around(1, laws.white_balance, images, batch, channels, 1, 1)
        part = images[..., ::4, ::4]  # tells grey images as well
        grey = (part == part[:, :1]).flatten(1).all(1)[:, None, None, None]
        return (images * torch.where(grey, 1, gains)).clamp(0, 1)


class Augmentations(nn.Module):
    """A user's own list, applied in order; the result is cut to [0, 1].

    Not registered as submodules, because they are no part of a checkpoint: inference needs none.
    """

    laws = None

    def __init__(self, augmentations: Sequence[nn.Module]) -> None:
        super().__init__()
        self.augmentations = tuple(augmentations)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "Augmentations":
        """Move them along to another device."""
        for augmentation in self.augmentations:
            augmentation._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]  # noqa: SLF001
        super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def forward(self, images: Images) -> Images:
        """Return the images changed."""
        for augmentation in self.augmentations:
            images = augmentation(images)
        return images.clamp(0, 1)


def variation_from(given: Any) -> RandomVariation | Augmentations:
    """Return what varies good images: by laws, also as plain data, or by a list of modules.

    Raises:
        ValueError: If it is neither, or a law is outside its range.
    """
    if not isinstance(given, Sequence):
        return RandomVariation(laws_from(Variation, given))
    if isinstance(given, str) or not all(isinstance(module, nn.Module) for module in given):
        msg = f"variation must be Variation(...) or a list of augmentations, got {given!r}"
        raise ValueError(msg)
    return Augmentations(given)


def _around(middle: float, most: float, like: Tensor, *shape: int) -> Tensor:
    """Return uniform numbers no farther than most from the middle."""
    return middle + most * (2 * torch.rand(shape, device=like.device) - 1)
