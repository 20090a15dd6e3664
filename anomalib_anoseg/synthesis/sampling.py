"""The random numbers of a batch, drawn before any image is looked at."""

import math

import torch
from kornia.augmentation.random_generator.base import RandomGeneratorBase
from torch import Tensor

from anomalib_anoseg.synthesis.laws import Anomalies, Range

BLOB_ELLIPSES = 3
JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue: CSI, Tack et al. 2020


class AnomalyParameters(RandomGeneratorBase):
    """Draw what is random about the synthetic anomalies of b images, with p patches each at most.

    Args:
        anomalies: The laws.

    Returns:
        params Dict[str, torch.Tensor]: positions and lengths are in pixels as (x, y).
            - donor (b,): which image of the batch is pasted from.
            - quarter_turns (b,): hard augmentation, 0 to 3 turns by 90 degrees.
            - swap (b, 2): hard augmentation, whether left and right, upper and lower half change.
            - jitter (b, 4): factors of brightness, contrast, saturation; turns of the hue.
            - present (b, p): which patches there are; later ones lie on earlier ones.
            - half_size (b, p, 2), angle (b, p) in degrees, scale (b, p), opacity (b, p), border
              (b, p): of the patches as they are pasted.
            - source (b, p, 2): centres of the patches where they are cut out.
            - target (b, p, 2): uniform in [0, 1), shares of the sides to paste at; if structured
              (b, p), quantiles of the image's contrast instead.
            - ellipses (b, p, e, 4): centres and radii of those a blob (b, p) is made of, in halves
              of the patch's sides.
            - colour (b, p, 3): of painted (b, p) patches.
    """

    def __init__(self, anomalies: Anomalies) -> None:
        super().__init__()
        self.anomalies = anomalies

    def __repr__(self) -> str:
        return repr(self.anomalies)

    def make_samplers(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make none: all numbers come from uniform ones, in float32 whatever the images are."""

    def forward(
        self, batch_shape: tuple[int, ...], same_on_batch: bool = False
    ) -> dict[str, Tensor]:
        """Draw from torch's global random numbers."""
        del same_on_batch  # one anomaly pasted into each image of a batch teaches little
        batch, _, height, width = batch_shape
        return self._hard_augmentation(batch) | self._patches(batch, height, width)

    def _hard_augmentation(self, batch: int) -> dict[str, Tensor]:
        laws = self.anomalies
        another = self._happens(laws.other_source_share, batch)
        own = torch.arange(batch, device=self.device)
        turned, swapped, jittered = self._happens(laws.hard_augmentation, 3, batch)
        # CSI swaps the halves along x, along y, or along both: 1, 2 or 3 as bits.
        swap = self._integers(1, 4, batch) * swapped
        strength = self._uniform(-1, 1, batch, 4) * jittered[:, None]
        brightness, contrast, saturation, hue = strength.unbind(-1)
        factors = zip(JITTER, (brightness, contrast, saturation), strict=False)
        return {
            "donor": torch.where(another, self._integers(0, batch, batch), own),
            "quarter_turns": self._integers(1, 4, batch) * turned,
            "swap": torch.stack([swap % 2, swap // 2], -1),
            "jitter": torch.stack([*(1 + s * drawn for s, drawn in factors), JITTER[3] * hue], -1),
        }

    def _patches(self, batch: int, height: int, width: int) -> dict[str, Tensor]:
        laws = self.anomalies
        most = laws.patches[1]
        shape = (batch, most)
        blob = self._happens(laws.blob_share, *shape)
        half_size = self._half_size(blob, height, width)
        scale = self._uniform(*laws.patch_scale, *shape)
        # Cut out of the inside, and no larger than the image.
        source = [
            reach + self._uniform(0, 1, *shape) * (side - 2 * reach)
            for side, half in zip((width, height), half_size.unbind(-1), strict=True)
            for reach in [(half / scale).clamp(max=side / 2)]
        ]
        count = self._integers(laws.patches[0], most + 1, batch, 1)
        low, high = laws.opacity
        return {
            "present": torch.arange(most, device=self.device) < count,
            "half_size": half_size,
            "angle": self._uniform(*laws.patch_rotation, *shape),
            "scale": scale,
            # Evenly drawn, the demo's part lost a quarter of its IoU: what is missing or in its
            # place is opaque, stains are not. Half are within an eighth of the range.
            "opacity": high - (high - low) * self._uniform(0, 1, *shape) ** 3,
            "border": self._uniform(*laws.border_width, *shape) * (min(height, width) / 256),
            "source": torch.stack(source, -1),
            "target": self._uniform(0, 1, *shape, 2),
            "structured": self._happens(laws.structure_share, *shape),
            "blob": blob,
            "ellipses": self._ellipses(*shape),
            "painted": self._happens(laws.colour_share, *shape),
            "colour": self._uniform(0, 1, *shape, 3),
        }

    def _half_size(self, blob: Tensor, height: int, width: int) -> Tensor:
        """Return half the width and height: each patch covers the centre of a pixel."""
        area = self._log_uniform(self.anomalies.patch_area, *blob.shape) * (height * width)
        aspect = self._log_uniform(self.anomalies.patch_aspect, *blob.shape)
        sizes = (area * aspect).sqrt().clamp(max=width), (area / aspect).sqrt().clamp(max=height)
        # However it is turned, and wherever the ellipses of a blob are.
        smallest = torch.where(blob, 3.0, 1.5)
        return torch.stack([size.maximum(smallest) / 2 for size in sizes], -1)

    def _ellipses(self, batch: int, patches: int) -> Tensor:
        """Return centres and radii such that no ellipse leaves its rectangle."""
        centre = self._uniform(-0.6, 0.6, batch, patches, BLOB_ELLIPSES, 2)
        centre[:, :, 0] = 0  # one covers the middle, so that no blob is empty
        radii = (1 - centre.abs()) * self._uniform(0.5, 1, batch, patches, BLOB_ELLIPSES, 2)
        return torch.cat([centre, radii], -1)

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, device=self.device)

    def _log_uniform(self, law: Range, *shape: int) -> Tensor:
        """Return as many between 1 and 2 as between 2 and 4."""
        return self._uniform(math.log(law[0]), math.log(law[1]), *shape).exp()

    def _integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, device=self.device)

    def _happens(self, probability: float, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device) < probability
