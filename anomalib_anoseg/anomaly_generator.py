"""Synthetic anomalies: the laws of hard augmentation and CutPaste, drawn for a whole batch at once.

AnoSeg (Song et al. 2021, section 3.1) cuts a region out of a hard-augmented copy of a normal image
and pastes it at another place of that image. Here the random numbers of a batch are drawn once
(:meth:`AnomalyGenerator.sample`) and then applied (``cut_paste``), so a draw can be replayed. Both
work on the device of the images, without a loop over images and without waiting for the device.
"""

import math

import torch
from torch import Tensor, nn

from anomalib_anoseg.synthesis.cut_paste import cut_paste
from anomalib_anoseg.synthesis.draws import Draw, on_structure
from anomalib_anoseg.synthesis.geometry import AnomalyParameters
from anomalib_anoseg.utils.checks import (
    require_images,
    require_range,
    require_up_to,
    require_whole,
    require_within,
)
from anomalib_anoseg.utils.shapes import Images, Masks, sides

Range = tuple[float, float]
BLOB_ELLIPSES = 3


class AnomalyGenerator(nn.Module):
    """Turn a share of normal images into images with a synthetic anomaly.

    The defaults are ours, a wider family of anomalies than the paper's single rectangle; the
    paper's values stand beside them, and in ``configs/paper.yaml``.

    Args:
        synthetic_share: Share of a batch that becomes synthetic, [0, 1]. One half in figure 2 of
            AnoSeg; more, because normal pixels are plenty in synthetic images too. Rounded, but
            with at least one image of each kind if the batch has two.
        hard_augmentation: Probability of each of rotation, permutation and colour jitter of what is
            pasted, [0, 1]. 0.5 in figure 3 of AnoSeg.
        patch_area: Patch area as a share of the image, log-uniform, in CutPaste's range. From 0.002
            to 0.3 the bottles' AUPRO lost 0.06.
        patch_aspect: Patch width over height, log-uniform. (0.3, 3.3) is CutPaste's law.
        patch_rotation: Angle in degrees by which a patch is turned. Figure 3 of AnoSeg shows about
            18; the range is ours and equals CutPaste's for scars.
        patches: Fewest and most patches of a synthetic image. One in the paper.
        scar_share: Share of patches that are scars instead, [0, 1]. None in AnoSeg; CutPaste shows
            as many scars as patches. With 0.3 the maps of bottles and tiles were worse, and the
            demo's thin scratches were found no better.
        scar_width: Width of a scar in pixels of a 256 x 256 image. (2, 16) in CutPaste.
        scar_length: Length of a scar, likewise. (10, 25) in CutPaste; scratches and fibres are
            longer.
        blob_share: Share of patches other than scars that are unions of ellipses instead of
            rectangles, [0, 1]. None in AnoSeg.
        colour_share: Share of patches that are painted in one random colour instead of filled from
            an image, [0, 1]. None in AnoSeg; from CutPaste's ablation with coloured scars.
        opacity: Share of a patch in what is seen, (0, 1]; the rest is the normal image. Most are
            near the highest. 1 in AnoSeg.
        border_width: Width over which a patch fades in, in pixels of a 256 x 256 image. 0 in AnoSeg
            and CutPaste, where patches end abruptly.
        patch_scale: Factor by which a patch is enlarged before it is pasted, as in NSA (Schlueter
            et al. 2022). 1 in AnoSeg.
        other_source_share: Share of synthetic images whose patches come from another image of the
            batch, [0, 1]. None in AnoSeg, all in NSA.
        structure_share: Share of patches that are pasted where the image has structure, [0, 1]:
            with a density that follows its contrast instead of anywhere. None in AnoSeg; NSA looks
            for the object by a brightness that has to be given for each product.
        colour_jitter: Strengths of brightness, contrast, saturation and hue, CSI's values.
        min_difference: A pasted pixel counts as anomalous, and is pasted at all, if the 5 x 5 mean
            of its change exceeds this value, [0, 1): about a camera's noise, because metal on metal
            is no defect. At 0 every pixel that changes counts, as in AnoSeg; the test itself is
            NSA's, the smoothing ours.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        synthetic_share: float = 0.8,
        hard_augmentation: float = 0.5,
        patch_area: Range = (0.02, 0.15),
        patch_aspect: Range = (0.3, 3.3),
        patch_rotation: Range = (-45.0, 45.0),
        patches: tuple[int, int] = (1, 3),
        scar_share: float = 0.0,
        scar_width: Range = (1.0, 16.0),
        scar_length: Range = (10.0, 80.0),
        blob_share: float = 0.7,
        colour_share: float = 0.3,
        opacity: Range = (0.3, 1.0),
        border_width: Range = (0.0, 12.0),
        patch_scale: Range = (0.7, 1.4),
        other_source_share: float = 0.5,
        structure_share: float = 0.7,
        colour_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1),
        min_difference: float = 0.02,
    ) -> None:
        super().__init__()
        for name, share in {
            "synthetic_share": synthetic_share,
            "hard_augmentation": hard_augmentation,
            "scar_share": scar_share,
            "blob_share": blob_share,
            "colour_share": colour_share,
            "other_source_share": other_source_share,
            "structure_share": structure_share,
        }.items():
            require_within(name, share, 0, 1)
        require_range("patch_area", patch_area, 1e-4, 1.0)
        require_range("patch_aspect", patch_aspect, 0.01, 100.0)
        require_range("patch_rotation", patch_rotation, -180.0, 180.0)
        require_range("patches", patches, 1, 16)
        require_whole("patches", patches)
        require_range("scar_width", scar_width, 1.0, 256.0)
        require_range("scar_length", scar_length, 1.0, 256.0)
        require_range("opacity", opacity, 0.01, 1.0)
        require_range("border_width", border_width, 0.0, 256.0)
        require_range("patch_scale", patch_scale, 0.1, 10.0)
        require_up_to("colour_jitter", colour_jitter, (1, 1, 1, 0.5))
        require_within("min_difference", min_difference, 0, math.nextafter(1, 0))
        self.synthetic_share = synthetic_share
        self.hard_augmentation = hard_augmentation
        self.patch_area = patch_area
        self.patch_aspect = patch_aspect
        self.patch_rotation = patch_rotation
        self.patches = patches
        self.scar_share = scar_share
        self.scar_width = scar_width
        self.scar_length = scar_length
        self.blob_share = blob_share
        self.colour_share = colour_share
        self.opacity = opacity
        self.border_width = border_width
        self.patch_scale = patch_scale
        self.other_source_share = other_source_share
        self.structure_share = structure_share
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

        Raises:
            ValueError: If the images are not floating-point numbers (b, 1 or 3, h, w).
        """
        require_images(images)
        # In mixed precision's bfloat16 a position is half a pixel off at 256, and patches would be
        # told by their rounded colours.
        with torch.autocast(images.device.type, enabled=False):
            return self.apply_parameters(images, self.sample(images, generator))

    def sample(self, images: Images, generator: torch.Generator | None = None) -> AnomalyParameters:
        """Draw what is random about one batch.

        Of the images only shape and device are used, and with a structure_share their contrast.
        """
        batch, _, height, width = images.shape
        n, p = self._synthetic_images(batch), self.patches[1]
        draw = Draw(images.device, generator)
        quarter_turns, shift, jitter = self._hard_augmentation(draw, n, height, width)

        half_size, blob = self._half_size(draw, n, p, height, width)
        scale = draw.uniform(*self.patch_scale, n, p)
        size = sides(height, width, images.device)
        reach = torch.minimum(half_size / scale[..., None], size / 2)
        # Centres and radii such that no ellipse leaves its rectangle.
        centre = draw.uniform(-0.6, 0.6, n, p, BLOB_ELLIPSES, 2)
        centre[:, :, 0] = 0  # one covers the middle, so that no blob is empty
        radii = (1 - centre.abs()) * draw.uniform(0.5, 1.0, n, p, BLOB_ELLIPSES, 2)
        ellipses = torch.cat([centre, radii], -1)

        chosen = torch.rand(batch, device=images.device, generator=generator).argsort()[:n]
        target = draw.uniform(0, 1, n, p, 2) * size
        if self.structure_share > 0:
            structured = draw.happens(self.structure_share, n, p)[..., None]
            target = torch.where(structured, on_structure(draw, images, chosen, p), target)
        another = draw.happens(self.other_source_share, n)
        return AnomalyParameters(
            chosen=chosen,
            source_image=torch.where(another, draw.integers(0, batch, n), chosen),
            quarter_turns=quarter_turns,
            shift=shift,
            jitter=jitter,
            present=torch.arange(p, device=images.device)
            < draw.integers(self.patches[0], self.patches[1] + 1, n, 1),
            source=reach + draw.uniform(0, 1, n, p, 2) * (size - 2 * reach),
            target=target,
            half_size=half_size,
            angle=torch.deg2rad(draw.uniform(*self.patch_rotation, n, p)),
            scale=scale,
            blob=blob,
            ellipses=ellipses if self.blob_share else ellipses[:, :, :0],
            opacity=self._opacity(draw, n, p),
            border=draw.uniform(*self.border_width, n, p) * (min(height, width) / 256),
            painted=draw.happens(self.colour_share, n, p),
            colour=draw.uniform(0, 1, n, p, 3),
        )

    def _synthetic_images(self, batch: int) -> int:
        most = batch if self.synthetic_share == 1 else batch - 1
        least = 0 if self.synthetic_share == 0 else 1
        return max(least, min(round(self.synthetic_share * batch), most))

    def _hard_augmentation(
        self, draw: Draw, n: int, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        probability = self.hard_augmentation
        quarter_turns = draw.integers(1, 4, n) * draw.happens(probability, n)
        # CSI swaps the halves along rows, along columns, or along both: 1, 2 or 3 as bits.
        swap = draw.integers(1, 4, n) * draw.happens(probability, n)
        shift = torch.stack([(swap % 2) * (height // 2), (swap // 2) * (width // 2)], dim=-1)
        strength = draw.uniform(-1, 1, n, 4) * draw.happens(probability, n, 1)
        brightness, contrast, saturation, hue = self.colour_jitter
        jitter = torch.stack(
            [
                1 + brightness * strength[:, 0],
                1 + contrast * strength[:, 1],
                1 + saturation * strength[:, 2],
                hue * strength[:, 3],
            ],
            dim=-1,
        )
        return quarter_turns, shift, jitter

    def _opacity(self, draw: Draw, n: int, p: int) -> Tensor:
        """Draw opacities, half of them within an eighth of the range from the highest.

        Evenly drawn, the demo's part lost a quarter of its IoU: what is missing or in its place is
        opaque, stains are not.
        """
        low, high = self.opacity
        return high - (high - low) * draw.uniform(0, 1, n, p) ** 3

    def _half_size(
        self, draw: Draw, n: int, p: int, height: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """Return half the height and width of each patch, and which of them are blobs."""
        area = draw.log_uniform(*self.patch_area, n, p) * (height * width)
        aspect = draw.log_uniform(*self.patch_aspect, n, p)
        size = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], dim=-1)
        # Scars keep their proportion to the image at other sizes than CutPaste's 256.
        length, thickness = (draw.uniform(*r, n, p) for r in (self.scar_length, self.scar_width))
        scar_size = torch.stack([length, thickness], -1) * (min(height, width) / 256)
        scar = draw.happens(self.scar_share, n, p)
        size = torch.where(scar[..., None], scar_size, size)
        blob = draw.happens(self.blob_share, n, p) & ~scar
        # So wide that each covers the centre of a pixel, however it is turned and wherever an
        # ellipse is; no larger than the image it is cut from.
        smallest = torch.where(blob, 3.0, 1.5)
        half_height = size[..., 0].clamp(max=height).maximum(smallest) / 2
        half_width = size[..., 1].clamp(max=width).maximum(smallest) / 2
        return torch.stack([half_height, half_width], -1), blob

    def apply_parameters(
        self, images: Images, parameters: AnomalyParameters
    ) -> tuple[Images, Masks]:
        """Make the synthetic images that the parameters describe; a pure function of both."""
        require_images(images)
        return cut_paste(images, parameters, self.min_difference)
