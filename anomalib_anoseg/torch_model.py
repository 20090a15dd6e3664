"""AnoSeg's model: images in, anomaly maps and scores out (Song et al. 2021, figure 4, and ours).

The paper's map A_hat is the probability of a pixel to be normal. Here its complement 1 - A_hat, the
probability of being anomalous, leaves the network, and everything else follows anomalib's sense.
"""

from typing import Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.networks.decision import Decision
from anomalib_anoseg.networks.decoders import MemoryDecoder, PaperDecoder, SkipDecoder
from anomalib_anoseg.networks.detector import Detector
from anomalib_anoseg.networks.encoder import Encoder, crop
from anomalib_anoseg.networks.memory import Memory
from anomalib_anoseg.networks.region import Polygons, Region
from anomalib_anoseg.networks.tiles import in_tiles, too_large
from anomalib_anoseg.utils.checks import require_images, require_one_of
from anomalib_anoseg.utils.shapes import (
    SMALLEST_SIDE,
    Images,
    Indices,
    Logits,
    Masks,
    Places,
    Verdicts,
)

SCORE_WINDOW = 5
NOTHING = -30.0  # logit of a pixel that is not inspected; its loss and gradient are 0


class Segmentation(NamedTuple):
    """What the network returns in training."""

    anomaly_logits: Logits  # logits of 1 - A_hat
    reconstruction: Images | None  # x_hat in [0, 1]; None without an image decoder
    memory_logits: Logits | None = None  # the same as the first, read from the memory

    @property
    def anomaly_map(self) -> Masks:
        """The map 1 - A_hat in [0, 1]."""
        return self.anomaly_logits.float().sigmoid()


class AnoSegModel(nn.Module):
    """Three witnesses of where an image is anomalous, and a decision between them.

    The paper's network, an encoder with coordinate channels and decoders for the map and for the
    image, draws what it sees in the pixels. A memory of good images, seen by a frozen encoder,
    measures how far each place is from all of them, and a decoder reads how it differs. Without a
    memory the paper's network decides alone.

    In training mode it returns a :class:`Segmentation`. In evaluation mode it returns anomalib's
    ``InferenceBatch``: ``anomaly_map`` (b, 1, h, w) and ``pred_score`` (b,), both in [0, 1], higher
    is more anomalous.

    Args:
        backbone: Name of a timm encoder whose coarsest feature map has stride 32; trained from
            scratch.
        decoder: ``"paper"`` for table 6, ``"skip"`` for a light decoder with skip connections.
        coordinate_channels: Give the encoder the row and the column of each pixel.
        reconstruct: Build the image decoder.
        detect: Build the paper's second network, and take the image score from it instead of the
            map.
        memory_backbone: Name of the timm encoder that remembers good images; None for no memory.
        memory_rows: Most features that are remembered of each of its three feature maps.
        region: The part of images that is inspected, see :class:`Region`: the rest is hidden from
            all networks, and the map is 0 there. None for all of it.

    Raises:
        ValueError: If an encoder has other feature maps than it needs, or decoder is neither of the
            two.
        OSError: If the ImageNet weights can neither be found nor fetched.
    """

    def __init__(
        self,
        backbone: str = "thin_resnet",
        decoder: Literal["paper", "skip"] = "skip",
        coordinate_channels: bool = True,
        reconstruct: bool = True,
        detect: bool = False,
        memory_backbone: str | None = None,
        memory_rows: int = 1000,
        region: str | Polygons | None = None,
    ) -> None:
        super().__init__()
        self.region = None if region is None else Region(region)
        self.encoder = Encoder(backbone, coordinate_channels)
        self.map_decoder = _build_decoder(decoder, self.encoder, out_channels=1)
        self.image_decoder: nn.Module | None = None
        if reconstruct:
            self.image_decoder = _build_decoder(decoder, self.encoder, out_channels=3, finest=1)
        self.detector = Detector(backbone, coordinate_channels) if detect else None
        self.memory: Memory | None = None
        if memory_backbone is not None:
            self.memory = Memory(memory_backbone, memory_rows)
            self.memory_decoder = MemoryDecoder(
                self.memory.channels, self.memory.strides, self.memory.indices
            )
            self.decision = Decision()

    def forward(
        self, images: Images, owners: Indices | None = None, place: Places | None = None
    ) -> Segmentation | InferenceBatch:
        """Segment images in [0, 1] of at least 33 x 33 pixels, any size.

        Args:
            images: (b, 3, h, w).
            owners: Under which number each image is remembered itself, (b,), see :class:`Memory`.
            place: Where the images lie, if they are crops of larger ones.
        """
        if self.training:
            images = self.inspected(images, place)
            features = self.encoder(images, place=place)
            logits = crop(self.map_decoder(features), images)
            if self.region is not None:  # as in evaluation, for the networks that see the map
                logits = torch.where(self.region(images, place), logits, NOTHING)
            reconstruction = memory_logits = None
            if self.image_decoder is not None:
                # It would copy the image if it saw it.
                reconstruction = crop(self.image_decoder(features[1:]), images).sigmoid()
            if self.memory is not None:
                recollection = self.memory(images, owners)
                memory_logits = crop(self.memory_decoder(*recollection[:2], place), images)
            return Segmentation(logits, reconstruction, memory_logits)
        if not torch.compiler.is_compiling():
            check_images(images)
        # anomalib's TorchInferencer calls this with gradients on.
        with torch.no_grad():
            if self.detector is None:
                anomaly_map = self._map(images, owners, place)
                score = image_score(anomaly_map)
            else:
                witnesses = self.witnesses(images, owners, place)
                anomaly_map = self._decided(witnesses)
                # Trained beside the paper's network, whose map it takes.
                score = self.detector(self.inspected(images, place), self._drawn(witnesses))
        return InferenceBatch(pred_score=score, anomaly_map=anomaly_map)

    def inspected(self, images: Images, place: Places | None = None) -> Images:
        """Return the images as all networks see them, with what lies outside the region hidden."""
        return images if self.region is None else self.region.hide_outside(images, place)

    def _map(self, images: Images, owners: Indices | None, place: Places | None) -> Masks:
        """Return the anomaly map, of what is too large for one pass from tiles."""
        if self._needs_tiles(images):
            # Decided in tiles too, or the decision would take more memory than the witnesses.
            return in_tiles(lambda tile, at: [self._map(tile, owners, at)], images, [1], place)[0]
        return self._decided(self.witnesses(images, owners, place))

    def _needs_tiles(self, images: Images) -> bool:
        return too_large(images) and not self.sees_far

    @property
    def sees_far(self) -> bool:
        """Whether an encoder looks at all of an image, so that no tile of it has the same map."""
        return self.encoder.sees_far or (self.memory is not None and self.memory.sees_far)

    def _decided(self, witnesses: list[Tensor]) -> Masks:
        return self._drawn(witnesses) if self.memory is None else self.decision(*witnesses)

    def _drawn(self, witnesses: list[Tensor]) -> Masks:
        logits = witnesses[0].unsqueeze(1)
        if self.region is None:
            return logits.sigmoid()
        return torch.where(logits > -torch.inf, logits.sigmoid(), 0)  # OpenVINO's is 1e-38 there

    def witnesses(
        self, images: Images, owners: Indices | None = None, place: Places | None = None
    ) -> list[Tensor]:
        """Return what each of the three says before the decision, or the only one, (b, h, w).

        Outside the region that is -inf: no evidence at all. What is too large for one pass is
        looked at in tiles.
        """
        if not self._needs_tiles(images):
            said = self._look(images, owners, place)
        else:
            strides = [1] * (1 if self.memory is None else 3)
            said = in_tiles(lambda tile, at: self._look(tile, owners, at), images, strides, place)
        # Planes, not one channel: OpenVINO computes with those ten times as fast.
        planes = [crop(one, images).float().squeeze(1) for one in said]
        if self.region is None:
            return planes
        inside = self.region(images, place).squeeze(1)
        return [torch.where(inside, plane, -torch.inf) for plane in planes]

    def _look(self, images: Images, owners: Indices | None, place: Places | None) -> list[Tensor]:
        """Return the same as maps of the padded images."""
        images = self.inspected(images, place)
        said = [self.map_decoder(self.encoder(images, place=place))]
        if self.memory is not None:
            recollection = self.memory(images, owners)
            said += [self.memory_decoder(*recollection[:2], place), recollection.distance]
        return said


def check_images(images: Images) -> None:
    """Refuse what the network was not made for.

    Raises:
        ValueError: If they are not a batch of RGB images, a side is under 33 pixels, or a value is
            NaN or outside [0, 1].
    """
    require_images(images, channels=(3,))
    height, width = images.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        msg = f"images must be at least {SMALLEST_SIDE} x {SMALLEST_SIDE}, got {height} x {width}"
        raise ValueError(msg)
    low, high = (value.item() for value in images.aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # a resize rounds; NaN fails both comparisons
        msg = (
            f"images must have finite values in [0, 1], got {low:.3g} to {high:.3g}: is there a "
            "Normalize left in the pre-processor or in the augmentations of the data?"
        )
        raise ValueError(msg)


def image_score(anomaly_map: Masks) -> Verdicts:
    """Return the highest mean of the map over a window, (b,) in [0, 1].

    A window because the maximum of single pixels is the maximum of their noise.
    """
    return F.avg_pool2d(anomaly_map, SCORE_WINDOW, stride=1).amax((1, 2, 3))


def _build_decoder(name: str, encoder: Encoder, out_channels: int, finest: int = 0) -> nn.Module:
    require_one_of("decoder", name, ("paper", "skip"))
    if name == "paper":
        return PaperDecoder(encoder.channels, out_channels)
    return SkipDecoder(encoder.channels[finest:], encoder.strides[finest:], out_channels)
