"""The networks of AnoSeg (Song et al. 2021, figure 4 and table 6).

The paper's map A_hat is the probability of a pixel to be normal. Here its complement 1 - A_hat, the
probability of being anomalous, leaves the network, and everything else follows anomalib's sense.
"""

from typing import Any, Literal, NamedTuple

import timm
import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.shapes import Images, Logits, Masks, Verdicts

SMALLEST_SIDE = 64
SCORE_WINDOW = 11


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

    Raises:
        ValueError: If the encoder ends at another stride, or decoder is neither of the two.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "resnet18",
        pre_trained: bool = False,
        decoder: Literal["paper", "skip"] = "skip",
        coordinate_channels: bool = True,
        reconstruct: bool = True,
    ) -> None:
        super().__init__()
        self.coordinate_channels = coordinate_channels
        encoder: Any = timm.create_model(
            backbone,
            pretrained=pre_trained,
            features_only=True,
            in_chans=5 if coordinate_channels else 3,
        )
        strides = encoder.feature_info.reduction()
        if strides[-1] != 32:
            msg = f"backbone must end at stride 32, {backbone} has features at {strides}"
            raise ValueError(msg)
        # timm's encoders were trained on images with this mean and deviation; from scratch they do
        # no harm. Inside the network, so that its input stays in [0, 1].
        config = encoder.pretrained_cfg
        self.register_buffer(
            "mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)

        self.encoder = encoder
        channels = encoder.feature_info.channels()
        self.map_decoder = _build_decoder(decoder, channels, out_channels=1)
        self.image_decoder = _build_decoder(decoder, channels, 3) if reconstruct else None

    def forward(self, images: Images) -> Segmentation | InferenceBatch:
        """Segment images in [0, 1] of at least 64 x 64 pixels, any size."""
        if not self.training and not torch.compiler.is_compiling():
            check_images(images)
        height, width = images.shape[-2:]
        features = self._encode(images)
        anomaly_logits = self.map_decoder(features)[..., :height, :width]
        if self.training:
            reconstruction = None
            if self.image_decoder is not None:
                reconstruction = self.image_decoder(features)[..., :height, :width].sigmoid()
            return Segmentation(anomaly_logits, reconstruction)
        # Detached because anomalib's TorchInferencer calls this with gradients on.
        anomaly_map = anomaly_logits.detach().float().sigmoid()
        return InferenceBatch(pred_score=image_score(anomaly_map), anomaly_map=anomaly_map)

    def _encode(self, images: Images) -> list[Tensor]:
        pixels = (images - self.mean) / self.std
        if self.coordinate_channels:
            pixels = torch.cat([pixels, coordinates(images)], dim=1)
        # Both decoders double the encoder's coarsest map five times: pad to a multiple of 32.
        height, width = images.shape[-2:]
        pixels = F.pad(pixels, (0, -width % 32, 0, -height % 32), mode="replicate")
        features: list[Tensor] = self.encoder(pixels)
        return features


def check_images(images: Images) -> None:
    """Refuse what the network was not made for.

    Raises:
        ValueError: If a side is under 64 pixels, or a value is NaN or outside [0, 1].
    """
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


def coordinates(images: Images) -> Images:
    """Return the planes of row and column, (b, 2, h, w) in [-1, 1]."""
    batch, _, height, width = images.shape
    rows = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)
    columns = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype)
    planes = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return planes.expand(batch, -1, -1, -1)


def _build_decoder(name: str, channels: list[int], out_channels: int) -> nn.Module:
    if name == "paper":
        return PaperDecoder(channels, out_channels)
    if name == "skip":
        return SkipDecoder(channels, out_channels)
    msg = f"decoder must be 'paper' or 'skip', got {name!r}"
    raise ValueError(msg)


class ConvBlock(nn.Sequential):
    """Convolution 3 x 3, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Sequential):
    """Transposed convolution 4 x 4 with stride 2, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class PaperDecoder(nn.Module):
    """Table 6, layer by layer: no skip connections, only the coarsest feature map is read."""

    WIDTHS = (512, 256, 128, 128, 128)

    def __init__(self, channels: list[int], out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels[-1]
        for next_width in self.WIDTHS:
            layers += [ConvBlock(width, next_width), UpBlock(next_width, next_width)]
            width = next_width
        self.layers = nn.Sequential(*layers, ConvBlock(width, width))
        self.head = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits at the size of the encoder's input."""
        logits: Tensor = self.head(self.layers(features[-1]))
        return logits


class SkipDecoder(nn.Module):
    """Up from feature map to feature map, then to the image, with skip connections; ours."""

    WIDTHS = (128, 64, 32, 16)  # for encoders with less than five feature maps the first of them

    def __init__(self, channels: list[int], out_channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        width = channels[-1]
        for skip, next_width in zip(channels[-2::-1], self.WIDTHS, strict=False):
            self.stages.append(
                nn.Sequential(
                    ConvBlock(width + skip, next_width), ConvBlock(next_width, next_width)
                )
            )
            width = next_width
        self.head = nn.Sequential(
            ConvBlock(width, width), nn.Conv2d(width, out_channels, 3, padding=1)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits at the size of the encoder's input."""
        decoded = features[-1]
        for stage, skip in zip(self.stages, features[-2::-1], strict=True):
            decoded = F.interpolate(decoded, size=skip.shape[-2:], mode="nearest")
            decoded = stage(torch.cat([decoded, skip], dim=1))
        height, width = (32 * side for side in features[-1].shape[-2:])
        logits: Tensor = self.head(F.interpolate(decoded, size=(height, width), mode="nearest"))
        return logits


class Discriminator(nn.Module):
    """Table 6: a global critic of pairs of image and mask.

    At 256 x 256 it is exactly the paper's. A smaller image is padded where a feature map would
    vanish, the patches of a larger one are averaged.
    """

    WIDTHS = (64, 128, 256, 512, 512, 512, 128)
    SLOPE = 0.2  # of LeakyReLU, as in DCGAN; the paper does not say

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        width = 4
        for index, next_width in enumerate(self.WIDTHS):
            # No batch normalisation after the first convolution, as in the table.
            norm = nn.Identity() if index == 0 else nn.BatchNorm2d(next_width)
            convolution = nn.Conv2d(width, next_width, 4, 2, 1, bias=index == 0)
            self.blocks.append(nn.Sequential(convolution, norm, nn.LeakyReLU(self.SLOPE)))
            width = next_width
        self.head = nn.Conv2d(width, 1, 4, stride=2, padding=1)

    def forward(self, images: Images, masks: Masks) -> Tensor:
        """Return the logit of being real, (b,)."""
        features = torch.cat([images, masks], dim=1)
        for block in self.blocks:
            # A side of 4 becomes 2: batch normalisation sees several values even of one image.
            missing = [max(0, 4 - side) for side in features.shape[-2:]]
            if any(missing):
                features = F.pad(features, (0, missing[1], 0, missing[0]), mode="replicate")
            features = block(features)
        logits: Tensor = self.head(features).mean((1, 2, 3))
        return logits
