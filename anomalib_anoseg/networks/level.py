"""The remembered rows of one feature map, and how far features are from them."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.networks.coreset import coreset
from anomalib_anoseg.utils.shapes import Indices

AT_ONCE = 512  # places that a processor looks up in one product


class Level(nn.Module):
    """The remembered rows of one feature map.

    Attributes:
        rows: Features, (n, c).
        owner: Which image each row is from, (n,).
        place: Row and column in the feature map of that image, (n, 2).
        mean: Of the distances of good images to the rows of others.
        std: Their deviation.
    """

    rows: Tensor
    owner: Tensor
    place: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # One row of nobody, so that a model that was not trained yet can be exported.
        self.register_buffer("rows", torch.zeros(1, channels))
        self.register_buffer("owner", torch.zeros(1, dtype=torch.long))
        self.register_buffer("place", torch.zeros(1, 2, dtype=torch.long))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def keep(
        self,
        rows: Tensor,
        owner: Indices,
        place: Tensor,
        limit: int,
        generator: torch.Generator,
        before: float = 0.0,
    ) -> None:
        """Keep a coreset of the rows, and measure how far the rows are from those of others.

        Args:
            rows: (n, c).
            owner: Which image each is from, (n,).
            place: Row and column of each in the feature map of that image, (n, 2).
            limit: How many are kept.
            generator: Of the coreset's random directions.
            before: Share of images remembered before among all, [0, 1). Their rows compete for
                their places with the new ones; 0 forgets them.
        """
        found = {"rows": rows, "owner": owner, "place": place}
        if before:
            found = {n: torch.cat([getattr(self, n).to(new), new]) for n, new in found.items()}
        kept = coreset(found["rows"], limit, generator)
        for name, value in found.items():
            setattr(self, name, value[kept].to(getattr(self, name)))
        distances = []
        lengths = torch.unique_consecutive(owner, return_counts=True)[1].tolist()
        of_images = torch.split(rows, lengths), torch.split(owner, lengths)
        for some, numbers in zip(*of_images, strict=True):
            places = some.to(self.rows).T[None, :, :, None]
            distances.append(self(places, numbers[:1].to(self.owner))[:, -1].flatten())
        values = torch.cat(distances)
        mean, variance = values.mean(), values.var(correction=min(1, len(values) - 1))
        if before:
            mean, variance = _pooled_moments(before, self.mean, self.std**2, mean, variance)
        self.mean.copy_(mean)
        # Images that are all alike have no distances; whatever differs from them then is far.
        self.std.copy_(variance.sqrt().clamp(min=1e-3))

    def nearest(self, features: Tensor, owners: Indices | None = None) -> Tensor:
        """Return the index of the nearest row for each place, (b, h w).

        Args:
            features: (b, c, h, w).
            owners: Images whose rows are left out for each image of the batch, (b,); unless there
                are no others.
        """
        wanted = features.flatten(2).mT
        rows = self.rows.to(wanted)
        # Less the square of what is wanted, which does not change the order.
        squares = rows.square().sum(1)
        if torch.compiler.is_compiling() and owners is None:
            # OpenVINO finds the least along the first axis in a sixth of the time of the last, and
            # adds the squares in no time within the product.
            flat = F.pad(features.flatten(2), (0, 0, 0, 1), value=1.0)
            return (torch.cat([-2 * rows, squares[:, None]], dim=1) @ flat).argmin(1)
        squares = squares.expand(len(wanted), -1)
        if owners is not None:
            own = owners[:, None] == self.owner
            squares = squares.masked_fill(own & ~own.all(1, keepdim=True), math.inf)
        # In parts that fit a processor's cache: a sixth of the time. A GPU takes whole images.
        at_once = AT_ONCE if wanted.device.type == "cpu" else wanted.shape[1]
        near = [
            torch.addmm(square, part, rows.T, alpha=-2).min(1).indices
            for image, square in zip(wanted, squares, strict=True)
            for part in torch.split(image, at_once)
        ]
        return torch.cat(near).view(wanted.shape[:2])

    def forward(self, features: Tensor, owners: Indices | None = None) -> Tensor:
        """Return absolute differences to the nearest row, and its distance, (b, c + 1, h, w).

        The distance is the root of the mean square over the channels.
        """
        batch, channels, height, width = features.shape
        # Everything in float32: a difference of large numbers in bfloat16 is noise.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            near = self.rows[self.nearest(features, owners).flatten()]
            near = near.view(batch, height * width, channels).mT.view(features.shape)
            difference = (features - near).abs()
            distance = difference.square().mean(1, keepdim=True).sqrt()
        return torch.cat([difference, distance], dim=1)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take as many rows as were saved."""
        for name in ("rows", "owner", "place"):
            saved = state_dict.get(prefix + name)
            ours = getattr(self, name)
            if isinstance(saved, Tensor) and saved.shape[1:] == ours.shape[1:]:
                setattr(self, name, ours.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _pooled_moments(
    share: float, mean: Tensor, variance: Tensor, other: Tensor, others_variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a mixture, of which the first two have the share."""
    between = share * (1 - share) * (mean - other) ** 2
    mixed = share * variance + (1 - share) * others_variance + between
    return share * mean + (1 - share) * other, mixed
