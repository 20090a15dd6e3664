"""A memory of what good images look like, and how far an image is from it.

The features that a frozen encoder sees in good images are kept, thinned to a coreset, as in
PatchCore (Roth et al. 2022). For each place of an image the nearest of them is looked up; unlike
PatchCore the difference to it is given on, for a decoder to read (as in MemSeg, Yang et al. 2022).
"""

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.networks.encoder import pad
from anomalib_anoseg.networks.pretrained import build_backbone, load_pretrained, normalisation
from anomalib_anoseg.networks.reach import sees_far
from anomalib_anoseg.networks.region import Region
from anomalib_anoseg.networks.tiles import in_tiles, too_large
from anomalib_anoseg.utils.shapes import Images, Indices, Logits
from anomalib_anoseg.utils.tiles import MARGIN, MULTIPLE

STRIDES = (4, 8, 16)  # of the feature maps that are remembered
CANDIDATES = 40_000  # rows of a level among which the coreset is chosen, from all images alike
AT_ONCE = 512  # places that a processor looks up in one product
PROJECTIONS = 32  # random directions in which the coreset is chosen (Johnson-Lindenstrauss)


class Recollection(NamedTuple):
    """What a memory says of a batch of images.

    Attributes:
        features: Of the frozen encoder, finest first.
        differences: To the nearest row, and its distance, (b, c + 1, h, w), by level.
        distance: In deviations of good images, at the size of the padded images.
    """

    features: list[Tensor]
    differences: dict[int, Tensor]
    distance: Logits


class Match(NamedTuple):
    """The remembered row that is nearest to a pixel, by where it is from.

    Attributes:
        owner: The number of the good image.
        row: Of the pixel there, at the size at which that image was remembered.
        column: Likewise.
    """

    owner: int
    row: int
    column: int


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


class Memory(nn.Module):
    """A frozen encoder with ImageNet weights, and rows of its feature maps of good images.

    Args:
        backbone: Name of a timm encoder with feature maps at strides 4, 8 and 16.
        rows: Most rows of a level.

    Raises:
        ValueError: If the encoder has other feature maps.
        OSError: If its weights can neither be found nor fetched.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, rows: int) -> None:
        super().__init__()
        encoder = build_backbone(backbone, coarsest=STRIDES[-1], argument="memory_backbone")
        self.encoder: Any = encoder.requires_grad_(False).eval()
        self.strides: list[int] = self.encoder.feature_info.reduction()
        if not {*STRIDES} <= set(self.strides):
            msg = (
                f"a memory needs features at strides {STRIDES}, {backbone} has none but at "
                f"{self.strides}: take a convolutional memory_backbone"
            )
            raise ValueError(msg)
        load_pretrained(self.encoder, backbone)
        self.limit = rows
        self.channels: list[int] = self.encoder.feature_info.channels()
        self.indices = [self.strides.index(stride) for stride in STRIDES]
        self.levels = nn.ModuleList(Level(self.channels[index]) for index in self.indices)
        mean, std = normalisation(self.encoder)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def train(self, mode: bool = True) -> "Memory":
        """Stay in evaluation mode: nothing here is trained."""
        del mode
        return super().train(False)

    def forward(self, images: Images, owners: Indices | None = None) -> Recollection:
        """Compare images in [0, 1] with what is remembered.

        Args:
            images: Of any size, padded to a multiple of 32 as the trained encoder's.
            owners: For each image the number under which it is remembered itself, (b,); its own
                rows are left out. Any other number for images that are not.
        """
        with torch.no_grad():
            padded = pad(images.to(self.mean.dtype))
            size = [side // STRIDES[0] for side in padded.shape[-2:]]
            features = self._features(padded)
            differences = {}
            distances = []
            for index, level in zip(self.indices, self._levels(), strict=True):
                compared = level(_pooled(features[index]), owners)
                differences[index] = compared
                usual = (compared[:, -1:] - level.mean) / level.std
                distances.append(F.interpolate(usual, size=size, mode="bilinear"))
            distance = torch.stack(distances).mean(0)
            distance = F.interpolate(distance, size=padded.shape[-2:], mode="bilinear")
        return Recollection(features, differences, distance)

    @torch.no_grad()
    def fill(
        self,
        batches: Iterable[tuple[Images, Indices]],
        count: int,
        before: int = 0,
        region: Region | None = None,
    ) -> None:
        """Remember good images, instead of what was remembered before, or beside it.

        From each image as many places are drawn, and the rows are chosen among them. No more than
        these and one batch is held at a time, however many images there are.

        Beside others the rows are chosen among theirs and the new places, so that no place of
        either is far from all of them; how many images there are of each does not matter for it.

        Args:
            batches: Images in [0, 1] and the number of each, (b,). Images of one number count as
                one image, of which no rows are compared with each other.
            count: How many images there are in all batches.
            before: How many images were remembered before, whose rows may stay; 0 forgets them.
            region: What is inspected, all by default; nothing else is remembered.

        Raises:
            ValueError: If a feature is not finite.
        """
        generator = torch.Generator().manual_seed(0)
        quota = max(1, CANDIDATES // max(count, 1))
        candidates = [_Candidates(level.rows.shape[1], quota * count) for level in self._levels()]
        for whole, numbers in batches:
            images = whole if region is None else region.hide_outside(whole)
            features = self._features(pad(images.to(self.mean)))
            for index, stride, found in zip(self.indices, STRIDES, candidates, strict=True):
                seen = _pooled(features[index]).float()
                flat, width = seen.flatten(2).mT.cpu(), seen.shape[-1]
                if not flat.isfinite().all():
                    msg = "the encoder sees values that are not finite in a good image"
                    raise ValueError(msg)
                cells = torch.arange(flat.shape[1])
                if region is not None:
                    cells = cells[region.cells(whole, stride).cpu()]
                for one, number in zip(flat, numbers.cpu(), strict=True):
                    chosen = cells[torch.randperm(len(cells), generator=generator)[:quota]]
                    place = torch.stack([chosen // width, chosen % width], dim=1)
                    found.add(one[chosen], number, place)
        for level, found in zip(self._levels(), candidates, strict=True):
            level.keep(*found.all(), self.limit, generator, before / (before + count))

    @torch.no_grad()
    def look_up(self, image: Images, row: int, column: int) -> Match:
        """Return what a pixel of an image, (1, 3, h, w) in [0, 1], was compared with.

        Each level compares; the answer is that of the one which deviates most there.
        """
        # That one added most to the distance. The finest places a pixel better, but may see
        # nothing unusual there, and then what it was compared with explains nothing.
        part, top, left = (image, 0, 0) if self.sees_far else _around(image, row, column)
        features = self._features(pad(part.to(self.mean)))
        found = []
        for index, stride, level in zip(self.indices, STRIDES, self._levels(), strict=True):
            y, x = row // stride, column // stride
            there = _pooled(features[index])[:, :, y - top // stride :, x - left // stride :]
            seen = there[:, :, :1, :1].float()
            deviation = (level(seen)[0, -1] - level.mean) / level.std
            nearest = int(level.nearest(seen))
            near_y, near_x = level.place[nearest].tolist()
            # As far from the corner of its cell as the given pixel is from the corner of its own.
            shifted = row + (near_y - y) * stride, column + (near_x - x) * stride
            found.append((float(deviation), Match(int(level.owner[nearest]), *shifted)))
        return max(found)[1]

    @cached_property
    def sees_far(self) -> bool:
        """Whether a feature depends on all of the image, so that no tile of it gives the same."""
        return sees_far(self.encoder, 3)

    def _features(self, padded: Images) -> list[Tensor]:
        if too_large(padded) and not self.sees_far:
            return in_tiles(lambda tile, _: self._features(tile), padded, self.strides)
        features: list[Tensor] = self.encoder((padded - self.mean) / self.std)
        return features

    def _levels(self) -> list[Level]:
        return [level for level in self.levels if isinstance(level, Level)]


class _Candidates:
    """Rows among which a coreset is chosen, with owner and place of each.

    In one block of memory: small ones, between those that the encoder takes and frees again for
    each batch, would keep these from the system, half a megabyte for each image.
    """

    def __init__(self, channels: int, most: int) -> None:
        self._held = (
            torch.empty(most, channels),
            torch.empty(most, dtype=torch.long),
            torch.empty(most, 2, dtype=torch.long),
        )
        self._count = 0

    def add(self, rows: Tensor, owner: Tensor, place: Tensor) -> None:
        after = self._count + len(rows)
        for held, values in zip(self._held, (rows, owner, place), strict=True):
            held[self._count : after] = values
        self._count = after

    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        rows, owner, place = self._held
        return rows[: self._count], owner[: self._count], place[: self._count]


def coreset(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the indices of rows that leave no other far away: greedy k-centre selection.

    Args:
        rows: (n, c).
        count: How many; all are returned where there are not more.
        generator: Of the random directions.
    """
    if len(rows) <= count:
        return torch.arange(len(rows))
    directions = torch.randn(rows.shape[1], PROJECTIONS, generator=generator)
    points = rows @ directions / math.sqrt(PROJECTIONS)
    points -= points.mean(0)
    squares = points.square().sum(1)

    def to(centre: Tensor) -> Tensor:
        return torch.addmv(squares + squares[centre], points, points[centre], alpha=-2)

    kept = [squares.argmax()]
    distance = to(kept[0])
    while len(kept) < count:
        kept.append(distance.argmax())
        distance = torch.minimum(distance, to(kept[-1]))
    return torch.stack(kept)


def _around(image: Images, row: int, column: int) -> tuple[Images, int, int]:
    """Return all that the features of a pixel depend on, and the row and column it starts at."""
    top, left = (max(0, place // MULTIPLE * MULTIPLE - MARGIN) for place in (row, column))
    side = 2 * MARGIN + MULTIPLE
    return image[..., top : top + side, left : left + side], top, left


def _pooled_moments(
    share: float, mean: Tensor, variance: Tensor, other: Tensor, others_variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a mixture, of which the first two have the share."""
    between = share * (1 - share) * (mean - other) ** 2
    mixed = share * variance + (1 - share) * others_variance + between
    return share * mean + (1 - share) * other, mixed


def _pooled(features: Tensor) -> Tensor:
    """Average 3 x 3: neighbours say what a place is."""
    return F.avg_pool2d(features, 3, stride=1, padding=1)
