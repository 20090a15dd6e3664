"""Feature maps to maps of the image's size (Song et al. 2021, table 6, and ours)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.networks.encoder import coordinates
from anomalib_anoseg.utils.shapes import Places


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
    """Up from feature map to feature map, with a skip connection from each; ours.

    Args:
        channels: Of the feature maps, finest first.
        strides: Likewise. Where the finest has 1 it is what the encoder itself is given: thin
            defects are drawn sharper with it.
        out_channels: Of what is decoded.
        depth: Convolutions of a stage; the finest has one.
    """

    def __init__(
        self, channels: list[int], strides: list[int], out_channels: int, depth: int = 1
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.stride = strides[0]
        width = channels[-1]
        for skip, stride in zip(channels[-2::-1], strides[-2::-1], strict=True):
            next_width = max(16, 8 * stride)
            more = 0 if stride == self.stride else depth - 1
            blocks = [ConvBlock(next_width, next_width) for _ in range(more)]
            self.stages.append(nn.Sequential(ConvBlock(width + skip, next_width), *blocks))
            width = next_width
        self.head = nn.Conv2d(width, out_channels * self.stride**2, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits at the size of the encoder's input."""
        decoded = features[-1]
        for stage, skip in zip(self.stages, features[-2::-1], strict=True):
            decoded = F.interpolate(decoded, size=skip.shape[-2:], mode="nearest")
            # As the convolution will: in mixed precision joining two types makes the wider one.
            decoded = stage(torch.cat([decoded, skip.to(decoded.dtype)], dim=1))
        logits: Tensor = self.head(decoded)
        return logits if self.stride == 1 else F.pixel_shuffle(logits, self.stride)


class MemoryDecoder(nn.Module):
    """Reads what a memory says: differences and distances, where they are, and raw features.

    Of the raw features it sees those that are finer than the coarsest remembered ones.

    Args:
        channels: Of the frozen encoder's feature maps, finest first.
        strides: Likewise.
        remembered: Indices of those that are compared with the memory, the coarsest among them.
    """

    def __init__(self, channels: list[int], strides: list[int], remembered: list[int]) -> None:
        super().__init__()
        seen = [count + (count + 1) * (i in remembered) for i, count in enumerate(channels)]
        seen[-1] += 2 - channels[-1]  # coordinates instead of raw features
        self.stride = strides[-1]
        self.decoder = SkipDecoder(seen, strides, 1, depth=2)

    def forward(
        self,
        features: list[Tensor],
        differences: dict[int, Tensor],
        place: Places | None = None,
    ) -> Tensor:
        """Return logits at the size of the padded images."""
        raw = [*features[:-1], coordinates(features[-1], place, self.stride)]
        seen = [
            torch.cat([differences[i], one], dim=1) if i in differences else one
            for i, one in enumerate(raw)
        ]
        logits: Tensor = self.decoder(seen)
        return logits
