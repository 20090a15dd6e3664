"""Images to feature maps: a timm encoder that also knows where in the image it looks."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.networks.pretrained import build_backbone, normalisation
from anomalib_anoseg.networks.reach import sees_far
from anomalib_anoseg.utils.shapes import Images, Masks, Places
from anomalib_anoseg.utils.tiles import MULTIPLE


class Encoder(nn.Module):
    """A timm encoder that also sees each pixel's row and column, and an anomaly map if wanted.

    Args:
        backbone: Name of a timm encoder whose coarsest feature map has stride 32.
        coordinate_channels: Give the encoder the row and the column of each pixel.
        map_channel: Give it an anomaly map as well.

    Attributes:
        channels: Channels of what it is given itself and of each feature map, finest first.
        strides: Likewise.

    Raises:
        ValueError: If timm cannot build the encoder, or it ends at another stride.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        coordinate_channels: bool = True,
        map_channel: bool = False,
    ) -> None:
        super().__init__()
        self.coordinate_channels = coordinate_channels
        in_channels = 3 + 2 * coordinate_channels + map_channel
        backbone_model: Any = build_backbone(backbone, in_channels)
        strides = backbone_model.feature_info.reduction()
        if strides[-1] != 32:
            msg = f"backbone must end at stride 32, {backbone} has features at {strides}"
            raise ValueError(msg)
        # Inside the network, so that its input stays in [0, 1].
        mean, std = normalisation(backbone_model)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.backbone = backbone_model
        self.channels: list[int] = [in_channels, *backbone_model.feature_info.channels()]
        self.strides: list[int] = [1, *strides]

    def forward(
        self, images: Images, anomaly_map: Masks | None = None, place: Places | None = None
    ) -> list[Tensor]:
        """Return what it is given, padded to a multiple of 32, and its feature maps.

        Args:
            images: (b, 3, h, w) in [0, 1], of any size.
            anomaly_map: (b, 1, h, w), for an encoder with a map channel.
            place: Where the images lie, if they are crops of larger ones.
        """
        images = images.to(self.mean.dtype)  # a camera's pipeline may be in another precision
        planes = [(images - self.mean) / self.std]
        if self.coordinate_channels:
            planes.append(coordinates(images, place))
        if anomaly_map is not None:
            planes.append(anomaly_map)
        given = pad(torch.cat(planes, dim=1))
        return [given, *self.backbone(given)]

    @cached_property
    def sees_far(self) -> bool:
        """Whether a feature depends on all of the image, so that no tile of it gives the same."""
        return sees_far(self.backbone, self.channels[0])


def pad(images: Images) -> Images:
    """Repeat the last row and column up to multiples of ``MULTIPLE``."""
    height, width = images.shape[-2:]
    # Not -height % 32: an exporter that reckons with open sizes then sees what is a multiple of 32,
    # and does not take a quarter of an hour.
    below, right = ((side + MULTIPLE - 1) // MULTIPLE * MULTIPLE - side for side in (height, width))
    return F.pad(images, (0, right, 0, below), mode="replicate")


def coordinates(images: Tensor, place: Places | None = None, stride: int = 1) -> Tensor:
    """Return the planes of row and column, (b, 2, h, w) in [-1, 1].

    Args:
        images: Images, or their feature maps.
        place: Where the images lie, if they are crops of larger ones; of feature maps at multiples
            of the stride.
        stride: Of the feature maps; they are of images that were padded.
    """
    batch, _, height, width = images.shape
    # Not linspace: an exported model would keep the size of the example.
    pixels = (torch.arange(side, device=images.device).float() for side in (height, width))
    if place is None:
        positions = (2 * index / index[-1:] - 1 for index in pixels)
        whole = torch.stack(torch.meshgrid(*positions, indexing="ij"))
        return whole.to(images.dtype).expand(batch, -1, -1, -1)
    first, size = place[:, :2] / stride, place[:, 2:]
    if stride > 1:
        size = (size / MULTIPLE).ceil() * (MULTIPLE / stride)
    # What a crop is padded with lies beyond the image: on its border, as when the image is padded.
    rows, columns = (
        (2 * (index + start[:, None]) / (length[:, None] - 1) - 1).clamp(max=1)
        for index, start, length in zip(pixels, first.unbind(1), size.unbind(1), strict=True)
    )
    shape = batch, height, width
    planes = [rows[:, :, None].expand(shape), columns[:, None].expand(shape)]
    return torch.stack(planes, dim=1).to(images.dtype)


def crop(decoded: Tensor, images: Images) -> Tensor:
    """Take away what the encoder has padded: (b, c, H, W) -> (b, c, h, w) of the images."""
    # Not slices: torch 2.10 does not export those that end at a size left open.
    height, width = images.shape[-2:]
    return decoded.narrow(-2, 0, height).narrow(-1, 0, width)
