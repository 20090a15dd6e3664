"""The networks that AnoSeg is built of (Song et al. 2021, figure 4 and table 6)."""

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.utils.shapes import Images, Masks


class Encoder(nn.Module):
    """A timm encoder that also sees each pixel's row and column, and an anomaly map if wanted.

    Args:
        backbone: Name of a timm encoder whose coarsest feature map has stride 32.
        pre_trained: Load timm's pretrained weights; needs a network connection.
        coordinate_channels: Give the encoder the row and the column of each pixel.
        map_channel: Give it an anomaly map as well.

    Attributes:
        channels: Channels of each feature map, finest first.

    Raises:
        ValueError: If timm cannot build the encoder, or it ends at another stride.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        pre_trained: bool = False,
        coordinate_channels: bool = True,
        map_channel: bool = False,
    ) -> None:
        super().__init__()
        self.coordinate_channels = coordinate_channels
        try:
            backbone_model: Any = timm.create_model(
                backbone,
                pretrained=pre_trained,
                features_only=True,
                in_chans=3 + 2 * coordinate_channels + map_channel,
            )
        except (AttributeError, RuntimeError, TypeError) as error:  # of whatever timm tried first
            msg = f"backbone {backbone!r} cannot be built by timm: {error}"
            raise ValueError(msg) from error
        strides = backbone_model.feature_info.reduction()
        if strides[-1] != 32:
            msg = f"backbone must end at stride 32, {backbone} has features at {strides}"
            raise ValueError(msg)
        # timm's encoders were trained on images with this mean and deviation; from scratch they do
        # no harm. Inside the network, so that its input stays in [0, 1].
        config = backbone_model.pretrained_cfg
        mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.backbone = backbone_model
        self.channels: list[int] = backbone_model.feature_info.channels()

    def forward(self, images: Images, anomaly_map: Masks | None = None) -> list[Tensor]:
        """Return the feature maps of images of any size, padded to a multiple of 32."""
        images = images.to(self.mean.dtype)  # a camera's pipeline may be in another precision
        planes = [(images - self.mean) / self.std]
        if self.coordinate_channels:
            planes.append(coordinates(images))
        if anomaly_map is not None:
            planes.append(anomaly_map)
        # Decoders double the coarsest map five times.
        height, width = images.shape[-2:]
        padding = (0, -width % 32, 0, -height % 32)
        pixels = F.pad(torch.cat(planes, dim=1), padding, mode="replicate")
        features: list[Tensor] = self.backbone(pixels)
        return features


def coordinates(images: Images) -> Images:
    """Return the planes of row and column, (b, 2, h, w) in [-1, 1]."""
    batch, _, height, width = images.shape
    # Not linspace: an exported model would keep the size of the example.
    pixels = (torch.arange(side, device=images.device).float() for side in (height, width))
    positions = (2 * index / index[-1:] - 1 for index in pixels)
    planes = torch.stack(torch.meshgrid(*positions, indexing="ij"))
    return planes.to(images.dtype).expand(batch, -1, -1, -1)


def crop(decoded: Tensor, images: Images) -> Tensor:
    """Take away what the encoder has padded: (b, c, H, W) -> (b, c, h, w) of the images."""
    # Not slices: torch 2.10 does not export those that end at a size left open.
    height, width = images.shape[-2:]
    return decoded.narrow(-2, 0, height).narrow(-1, 0, width)


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
        logits: Tensor = self.head(self.features(images, masks)).mean((1, 2, 3))
        return logits

    def features(self, images: Images, masks: Masks) -> Tensor:
        """Return what the last layer decides by, (b, 128, rows, columns)."""
        features = torch.cat([images, masks], dim=1)
        for block in self.blocks:
            # A side of 4 becomes 2: batch normalisation sees several values even of one image. By
            # concatenation, because inductor fails in the gradient of replicate padding.
            for side in (2, 3):
                last = features.narrow(side, features.shape[side] - 1, 1)
                missing = max(0, 4 - features.shape[side])
                features = torch.cat([features, *missing * [last]], side)
            features = block(features)
        return features
