"""AnoSeg's model: images in, anomaly maps and scores out (Song et al. 2021, figure 4).

The paper's map A_hat is the probability of a pixel to be normal. Here its complement 1 - A_hat, the
probability of being anomalous, leaves the network, and everything else follows anomalib's sense.
"""

from typing import Literal, NamedTuple

import torch
from anomalib.data import InferenceBatch
from torch import nn
from torch.nn import functional as F

from anomalib_anoseg.networks.detector import Detector
from anomalib_anoseg.networks.segmentation import Encoder, PaperDecoder, SkipDecoder, crop
from anomalib_anoseg.utils.checks import require_images, require_one_of
from anomalib_anoseg.utils.shapes import Images, Logits, Masks, Verdicts

SMALLEST_SIDE = 33  # the coarsest map then has 2 x 2 pixels, which batch normalisation needs
SCORE_WINDOW = 5


class Segmentation(NamedTuple):
    """What the network returns in training."""

    anomaly_logits: Logits  # logits of 1 - A_hat
    reconstruction: Images | None  # x_hat in [0, 1]; None without an image decoder

    @property
    def anomaly_map(self) -> Masks:
        """The map 1 - A_hat in [0, 1]."""
        return self.anomaly_logits.float().sigmoid()


class AnoSegModel(nn.Module):
    """Encoder with coordinate channels, a decoder for the map and one for the image.

    In training mode it returns a :class:`Segmentation`. In evaluation mode only the encoder and the
    map decoder run and it returns anomalib's ``InferenceBatch``: ``anomaly_map`` (b, 1, h, w) and
    ``pred_score`` (b,), both in [0, 1], higher is more anomalous.

    Args:
        backbone: Name of a timm encoder whose coarsest feature map has stride 32.
        pre_trained: Load timm's pretrained weights; needs a network connection.
        decoder: ``"paper"`` for table 6, ``"skip"`` for a light decoder with skip connections.
        coordinate_channels: Give the encoder the row and the column of each pixel.
        reconstruct: Build the image decoder.
        detect: Build the paper's second network, and take the image score from it instead of the
            map.

    Raises:
        ValueError: If the encoder ends at another stride, or decoder is neither of the two.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        pre_trained: bool = False,
        decoder: Literal["paper", "skip"] = "skip",
        coordinate_channels: bool = True,
        reconstruct: bool = True,
        detect: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(backbone, pre_trained, coordinate_channels)
        channels = self.encoder.channels
        self.map_decoder = _build_decoder(decoder, channels, out_channels=1)
        self.image_decoder = _build_decoder(decoder, channels, 3) if reconstruct else None
        self.detector = Detector(backbone, pre_trained, coordinate_channels) if detect else None

    def forward(self, images: Images) -> Segmentation | InferenceBatch:
        """Segment images in [0, 1] of at least 33 x 33 pixels, any size."""
        if not self.training and not torch.compiler.is_compiling():
            check_images(images)
        features = self.encoder(images)
        anomaly_logits = crop(self.map_decoder(features), images)
        if self.training:
            reconstruction = None
            if self.image_decoder is not None:
                reconstruction = crop(self.image_decoder(features), images).sigmoid()
            return Segmentation(anomaly_logits, reconstruction)
        # Detached because anomalib's TorchInferencer calls this with gradients on.
        anomaly_map = anomaly_logits.detach().float().sigmoid()
        if self.detector is None:
            score = image_score(anomaly_map)
        else:
            score = self.detector(images, anomaly_map).detach()
        return InferenceBatch(pred_score=score, anomaly_map=anomaly_map)


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


def _build_decoder(name: str, channels: list[int], out_channels: int) -> nn.Module:
    decoders = {"paper": PaperDecoder, "skip": SkipDecoder}
    require_one_of("decoder", name, decoders)
    return decoders[name](channels, out_channels)
