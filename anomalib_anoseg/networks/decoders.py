"""Feature maps to maps of the image's size (Song et al. 2021, table 6, and ours)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.networks.encoder import coordinates


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
        out_channels: Of what is decoded.
        stride: Of the finest feature map. At 1 that is what the encoder itself is given: thin
            defects are drawn sharper with it.
        depth: Convolutions of a stage; the finest has one.
    """

    WIDTHS = (128, 64, 32, 16, 16)  # for fewer feature maps the first of them

    def __init__(self, channels: list[int], out_channels: int, stride: int, depth: int = 1) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        width = channels[-1]
        for left, skip in reversed([*enumerate(channels[:-1])]):
            next_width = self.WIDTHS[len(self.stages)]
            stage = [ConvBlock(width + skip, next_width)]
            if left > 0:
                stage += [ConvBlock(next_width, next_width) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*stage))
            width = next_width
        self.head = nn.Conv2d(width, out_channels * stride**2, 3, padding=1)
        self.stride = stride

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits at the size of the encoder's input."""
        decoded = features[-1]
        for stage, skip in zip(self.stages, features[-2::-1], strict=True):
            decoded = F.interpolate(decoded, size=skip.shape[-2:], mode="nearest")
            decoded = stage(torch.cat([decoded, skip], dim=1))
        logits: Tensor = self.head(decoded)
        return logits if self.stride == 1 else F.pixel_shuffle(logits, self.stride)


class MemoryDecoder(nn.Module):
    """Reads what a memory says: differences and distances, where they are, and raw features.

    Of the raw features it sees those that are finer than the coarsest remembered ones.

    Args:
        channels: Of the frozen encoder's feature maps, finest first.
        remembered: Indices of those that are compared with the memory.
        stride: Of the finest.
    """

    def __init__(self, channels: list[int], remembered: list[int], stride: int) -> None:
        super().__init__()
        self.raw = max(remembered)  # so many of the finest
        seen = [channels[i] + 1 if i in remembered else 0 for i in range(len(channels))]
        for i in range(self.raw):
            seen[i] += channels[i]
        seen[-1] += 2  # coordinates
        self.decoder = SkipDecoder(seen, 1, stride, depth=2)

    def forward(self, features: list[Tensor], differences: dict[int, Tensor]) -> Tensor:
        """Return logits at the size of the padded images."""
        seen = [[differences[i]] if i in differences else [] for i in range(len(features))]
        for parts, raw in zip(seen, features[: self.raw], strict=False):
            parts.append(raw)
        seen[-1].append(coordinates(features[-1]))
        logits: Tensor = self.decoder([torch.cat(parts, dim=1) for parts in seen])
        return logits
