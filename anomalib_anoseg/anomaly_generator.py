"""Synthetic anomalies as an augmentation of kornia: hard augmentation, then CutPaste.

AnoSeg (Song et al. 2021, section 3.1) cuts a region out of a hard-augmented copy of a good image
and pastes it at another place of that image. Here the random numbers of a batch are drawn once and
then applied to all of its images at once, on their device and without waiting for it.
"""

from typing import Any

import torch
from kornia.augmentation import MixAugmentationBaseV2
from kornia.constants import DataKey
from kornia.filters import box_blur
from torch import Tensor

from anomalib_anoseg.synthesis.colours import jitter_colours, paint, paint_colours
from anomalib_anoseg.synthesis.geometry import (
    Params,
    Patches,
    lay_patches,
    read,
    through_hard_augmentation,
)
from anomalib_anoseg.synthesis.laws import Anomalies
from anomalib_anoseg.synthesis.sampling import AnomalyParameters
from anomalib_anoseg.synthesis.structure import on_structure, within
from anomalib_anoseg.utils.checks import require_images
from anomalib_anoseg.utils.shapes import Images, Insides, Masks

SMOOTHED = 5  # side of the square of pixels over which a change is averaged


class AnomalyGenerator(MixAugmentationBaseV2):
    r"""Paste synthetic anomalies into a share of a batch of good images, and mark them in masks.

    Args:
        anomalies: The laws; ours by default, ``Anomalies.paper()`` for the paper's.
        data_keys: What is passed, "input" and "mask".

    Inputs:
        - Good images in [0, 1], :math:`(B, C, H, W)` with 1 or 3 channels.
        - (optional) Masks, :math:`(B, 1, H, W)`; 1 marks an anomalous pixel.

    Returns:
        torch.Tensor | list[torch.Tensor]: Images and masks of the same dtype and device, in the
        order they came. Outside of what its mask gained an image is bit-equal to the input, inside
        every pixel differs. The mask of a synthetic image is never left empty.

    Raises:
        ValueError: If the images are not floating-point numbers of that shape.

    Note:
        - ``anomalies.synthetic_share`` of a batch is not left to chance: it is rounded to whole
          images, at least one of each kind if there are two.
        - What changed in the images travels to the masks in ``params["changed"]``, (B, 1, H, W). A
          ``params`` passed in is completed in place, as RandomTransplantation does it: a container
          passes images and masks in separate calls.

    Examples:
        >>> images = torch.rand(4, 3, 64, 64)
        >>> generator = AnomalyGenerator(Anomalies(patches=(1, 1)))
        >>> synthetic, masks = generator(images, torch.zeros(4, 1, 64, 64))
        >>> again, _ = generator(images, torch.zeros(4, 1, 64, 64), params=generator._params)
        >>> torch.equal(synthetic, again)
        True
    """

    def __init__(
        self,
        anomalies: Anomalies = Anomalies(),  # noqa: B008  # frozen
        data_keys: list[str | int | DataKey] | None = None,
    ) -> None:
        super().__init__(
            p=anomalies.synthetic_share, p_batch=1.0, data_keys=data_keys or ["input", "mask"]
        )
        self.anomalies = anomalies
        self._param_generator = AnomalyParameters(anomalies)
        self.flags = {"min_difference": anomalies.min_difference}

    def __batch_prob_generator__(
        self, batch_shape: tuple[int, ...], p: float, p_batch: float, same_on_batch: bool
    ) -> Tensor:
        """Choose an exact share of the batch."""
        del p_batch, same_on_batch
        batch = batch_shape[0]
        most = batch if p == 1 else batch - 1
        least = 0 if p == 0 else 1
        count = max(least, min(round(p * batch), most))
        return (torch.rand(batch, device=self.device).argsort() < count).to(self.dtype)

    @torch.no_grad()
    def forward(  # type: ignore[override]  # as all of kornia's mix augmentations
        self,
        *input: Tensor,  # noqa: A002  # kornia's name
        params: Params | None = None,
        data_keys: list[str | int | DataKey] | None = None,
        inside: Insides | None = None,
    ) -> Tensor | list[Tensor]:
        """Draw parameters if none are given, and apply them to the images first, then the masks.

        Args:
            input: Images and masks.
            params: Of an earlier call.
            data_keys: What is passed.
            inside: Where anomalies may be, (b or 1, 1, h, w), some in each image; anywhere by
                default. It goes into the parameters.
        """
        keys = [DataKey.get(key) for key in data_keys or self.data_keys][: len(input)]
        for key in keys:
            self._validate_data_key(key)
        if params is None:
            images = input[keys.index(DataKey.INPUT)]
            require_images(images)
            params = self.forward_parameters(images.shape)
        if inside is not None:
            params["inside"] = inside
        self._params = params
        outputs = list(input)
        for index in sorted(range(len(keys)), key=lambda index: keys[index] != DataKey.INPUT):
            is_image = keys[index] == DataKey.INPUT
            transform = self.transform_input if is_image else self.transform_mask
            outputs[index] = transform(input[index], params, self.flags)
        return outputs[0] if len(outputs) == 1 else outputs

    def transform_input(
        self,
        input: Images,  # noqa: A002
        params: Params,
        flags: dict[str, Any],
    ) -> Images:
        """Apply to all images: the base class would wait for a GPU to see whether to."""
        require_images(input)
        # In mixed precision's bfloat16 a position would be half a pixel off at 256.
        with torch.autocast(input.device.type, enabled=False):
            return self.apply_transform(input, params, flags)

    def transform_mask(
        self,
        input: Masks,  # noqa: A002
        params: Params,
        flags: dict[str, Any],
    ) -> Masks:
        """Apply to all masks, likewise."""
        return self.apply_transform_mask(input, params, flags)

    def apply_transform(
        self,
        input: Images,  # noqa: A002
        params: Params,
        flags: dict[str, Any],
    ) -> Images:
        """Return the synthetic images, and add to params what changed."""
        here = {name: value.to(input.device, non_blocking=True) for name, value in params.items()}
        patches, laid = _patches(input, here)
        inside = here.get("inside")
        pasted, changed = _blend(input, patches, laid, flags["min_difference"], inside)
        params["changed"] = changed & (here["batch_prob"] > 0.5)[:, None, None, None]
        return torch.where(params["changed"], pasted, input)

    def apply_transform_mask(
        self,
        input: Masks,  # noqa: A002
        params: Params,
        flags: dict[str, Any],
    ) -> Masks:
        """Mark what changed in the images."""
        del flags
        return input.masked_fill(params["changed"], 1)


def _patches(images: Images, params: Params) -> tuple[Images, Patches]:
    """Return the colours of the patches in float32, and where they lie."""
    height, width = images.shape[-2:]
    target = params["target"]
    structured, inside = params["structured"][..., None], params.get("inside")
    anywhere = target if inside is None else within(inside, target)
    target = torch.where(structured, on_structure(images, target, inside), anywhere)
    target = torch.stack([target[..., 0] * width, target[..., 1] * height], -1)
    laid = lay_patches(params, target, height, width)
    position = through_hard_augmentation(laid.position, params, height, width)
    # Jitter moves no pixel, so it may come before the moves.
    source = jitter_colours(images[params["donor"]].float(), params["jitter"])
    patches = read(source, position)
    colour = paint_colours(params["colour"], images)
    return paint(patches, laid.owner, params["painted"], colour), laid


def _blend(
    images: Images,
    patches: Images,
    laid: Patches,
    min_difference: float,
    inside: Insides | None,
) -> tuple[Images, Tensor]:
    """Return the images with patches, and where they change enough; nowhere is no answer."""
    pasted = torch.lerp(images.float(), patches, laid.opacity[:, None]).to(images.dtype)
    difference = (pasted.float() - images.float()).abs_().amax(1, keepdim=True)
    region, changed = laid.owner[:, None] >= 0, difference > 0
    if inside is not None:
        region, changed = region & inside, changed & inside
    if min_difference > 0:
        # Over the patches' own pixels only: their neighbours are not pasted.
        excess = torch.where(region, difference - min_difference, 0)
        changed &= box_blur(excess, SMOOTHED, "constant") > 0
    # White on white changes nothing. Such an image gets its region in another brightness, so that
    # no image is called synthetic with an empty mask. A half more or less always changes it.
    nothing = ~changed.flatten(1).any(1)[:, None, None, None]
    other = images + torch.where(images < 0.5, 0.5, -0.5).to(images.dtype)
    return torch.where(nothing, other, pasted), torch.where(nothing, region, changed)
