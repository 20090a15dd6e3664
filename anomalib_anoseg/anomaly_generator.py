"""Synthetic anomalies: the laws of hard augmentation and CutPaste, drawn for a whole batch at once.

AnoSeg (Song et al. 2021, section 3.1) cuts a region out of a hard-augmented copy of a normal image
and pastes it at another place of that image. Here the random numbers of a batch are drawn once
(:meth:`AnomalyGenerator.sample`) and then applied (``cut_paste``), so a draw can be replayed. Both
work on the device of the images, without a loop over images and without waiting for the device.
"""

import math

import torch
from torch import Tensor, nn

from anomalib_anoseg.cut_paste import AnomalyParameters, cut_paste
from anomalib_anoseg.shapes import Images, Masks

Range = tuple[float, float]


class AnomalyGenerator(nn.Module):
    """Turn a share of normal images into images with a synthetic anomaly.

    Args:
        synthetic_share: Share of a batch that becomes synthetic, [0, 1]. One half is one synthetic
            image per normal one, as in figure 2 of AnoSeg.
        patch_area: Patch area as a share of the image, uniform. (0.02, 0.15) is CutPaste's law.
        patch_aspect: Patch width over height, log-uniform. (0.3, 3.3) is CutPaste's law.
        patch_rotation: Angle in degrees by which a patch is turned. Figure 3 of AnoSeg shows about
            18; the range is ours and equals CutPaste's for scars.
        patches: Fewest and most patches of a synthetic image. One in the paper.
        scar_share: Share of patches that are scars instead, [0, 1]. None in AnoSeg; CutPaste shows
            as many scars as patches.
        scar_width: Width of a scar in pixels of a 256 x 256 image, CutPaste's law.
        scar_length: Length of a scar in pixels of a 256 x 256 image, CutPaste's law.
        colour_share: Share of patches that are painted in one random colour instead of filled from
            the image, [0, 1]. None in AnoSeg; from CutPaste's ablation with coloured scars.
        colour_jitter: Strengths of brightness, contrast, saturation and hue, CSI's values.
        min_difference: A pasted pixel counts as anomalous, and is pasted at all, if the 5 x 5 mean
            of its change exceeds this value, [0, 1). At 0 every pixel that changes counts, as in
            the paper; the test itself is NSA's (Schlueter et al. 2022), the smoothing ours.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        synthetic_share: float = 0.5,
        patch_area: Range = (0.02, 0.15),
        patch_aspect: Range = (0.3, 3.3),
        patch_rotation: Range = (-45.0, 45.0),
        patches: tuple[int, int] = (1, 1),
        scar_share: float = 0.0,
        scar_width: Range = (2.0, 16.0),
        scar_length: Range = (10.0, 25.0),
        colour_share: float = 0.0,
        colour_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        min_difference: float = 0.0,
    ) -> None:
        super().__init__()
        _require_share("synthetic_share", synthetic_share)
        _require_share("scar_share", scar_share)
        _require_share("colour_share", colour_share)
        _require_range("patch_area", patch_area, 1e-4, 1.0)
        _require_range("patch_aspect", patch_aspect, 0.01, 100.0)
        _require_range("patch_rotation", patch_rotation, -180.0, 180.0)
        _require_range("patches", patches, 1, 16)
        _require_range("scar_width", scar_width, 1.0, 256.0)
        _require_range("scar_length", scar_length, 1.0, 256.0)
        if (
            len(colour_jitter) != 4
            or not all(0 <= s <= 1 for s in colour_jitter)
            or colour_jitter[3] > 0.5
        ):
            law = "four strengths in [0, 1], the last at most 0.5"
            msg = f"colour_jitter must be {law}, got {colour_jitter}"
            raise ValueError(msg)
        if not 0 <= min_difference < 1:
            msg = f"min_difference must satisfy 0 <= min_difference < 1, got {min_difference}"
            raise ValueError(msg)
        self.synthetic_share = synthetic_share
        self.patch_area = patch_area
        self.patch_aspect = patch_aspect
        self.patch_rotation = patch_rotation
        self.patches = patches
        self.scar_share = scar_share
        self.scar_width = scar_width
        self.scar_length = scar_length
        self.colour_share = colour_share
        self.colour_jitter = colour_jitter
        self.min_difference = min_difference

    @torch.no_grad()
    def forward(
        self, images: Images, generator: torch.Generator | None = None
    ) -> tuple[Images, Masks]:
        """Return the batch with its share of synthetic images, and the masks of what changed.

        Args:
            images: Normal images in [0, 1], with 1 or 3 channels.
            generator: Source of the random draws, on the images' device; torch's own by default.

        Returns:
            Images and masks of the same dtype and device. Outside its mask an image is bit-equal
            to the input, inside every pixel differs; the mask of a normal image is zero, the mask
            of a synthetic one is never empty.
        """
        parameters = self.sample(images, generator)
        return self.apply_parameters(images, parameters)

    def sample(self, images: Images, generator: torch.Generator | None = None) -> AnomalyParameters:
        """Draw what is random about one batch; only the shape and device of images are used."""
        batch, _, height, width = images.shape
        n, p = math.ceil(self.synthetic_share * batch), self.patches[1]
        device = images.device

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.empty(*shape, device=device).uniform_(low, high, generator=generator)

        def integers(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, device=device, generator=generator)

        def happens(probability: float, *shape: int) -> Tensor:
            return torch.rand(shape, device=device, generator=generator) < probability

        quarter_turns = integers(1, 4, n) * happens(0.5, n)
        # CSI swaps the halves along rows, along columns, or along both: 1, 2 or 3 as bits.
        swap = integers(1, 4, n) * happens(0.5, n)
        shift = torch.stack([(swap % 2) * (height // 2), (swap // 2) * (width // 2)], dim=-1)
        strength = uniform(-1, 1, n, 4) * happens(0.5, n, 1)
        b, c, s, h = self.colour_jitter
        jitter = torch.stack(
            [
                1 + b * strength[:, 0],
                1 + c * strength[:, 1],
                1 + s * strength[:, 2],
                h * strength[:, 3],
            ],
            dim=-1,
        )

        area = uniform(*self.patch_area, n, p) * (height * width)
        aspect = uniform(math.log(self.patch_aspect[0]), math.log(self.patch_aspect[1]), n, p).exp()
        size = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], dim=-1)
        # Scars keep their proportion to the image at other sizes than CutPaste's 256.
        scale = min(height, width) / 256
        scar = torch.stack([uniform(*self.scar_length, n, p), uniform(*self.scar_width, n, p)], -1)
        size = torch.where(happens(self.scar_share, n, p)[..., None], scar * scale, size)
        # At least 1.5 pixels wide, so that a turned scar still covers the centre of a pixel; no
        # larger than the image it is cut from.
        half_height = size[..., 0].clamp(1.5, height) / 2
        half_width = size[..., 1].clamp(1.5, width) / 2
        target = torch.stack([uniform(0, height, n, p), uniform(0, width, n, p)], -1)
        source = torch.stack(
            [
                half_height + uniform(0, 1, n, p) * (height - 2 * half_height),
                half_width + uniform(0, 1, n, p) * (width - 2 * half_width),
            ],
            dim=-1,
        )
        count = integers(self.patches[0], self.patches[1] + 1, n, 1)
        return AnomalyParameters(
            chosen=torch.rand(batch, device=device, generator=generator).argsort()[:n],
            quarter_turns=quarter_turns,
            shift=shift,
            jitter=jitter,
            present=torch.arange(p, device=device) < count,
            source=source,
            target=target,
            half_size=torch.stack([half_height, half_width], -1),
            angle=torch.deg2rad(uniform(*self.patch_rotation, n, p)),
            painted=happens(self.colour_share, n, p),
            colour=uniform(0, 1, n, p, 3),
        )

    def apply_parameters(
        self, images: Images, parameters: AnomalyParameters
    ) -> tuple[Images, Masks]:
        """Make the synthetic images that the parameters describe; a pure function of both."""
        if images.shape[1] not in (1, 3):
            msg = f"images must have 1 or 3 channels, got {images.shape[1]}"
            raise ValueError(msg)
        masks = torch.zeros_like(images[:, :1])
        if parameters.chosen.numel() == 0:
            return images, masks
        normal = images[parameters.chosen]
        synthetic, changed = cut_paste(normal, parameters, self.min_difference)
        return (
            images.index_copy(0, parameters.chosen, synthetic),
            masks.index_copy(0, parameters.chosen, changed),
        )


def _require_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        msg = f"{name} must satisfy 0 <= {name} <= 1, got {value}"
        raise ValueError(msg)


def _require_range(name: str, value: Range, lowest: float, highest: float) -> None:
    if len(value) != 2 or not lowest <= value[0] <= value[1] <= highest:
        msg = f"{name} must satisfy {lowest} <= low <= high <= {highest}, got {value}"
        raise ValueError(msg)
