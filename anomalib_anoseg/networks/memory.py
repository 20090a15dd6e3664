"""A memory of what good images look like, and how far an image is from it.

The features that a frozen encoder sees in good images are kept, thinned to a coreset, as in
PatchCore (Roth et al. 2022). For each place of an image the nearest of them is looked up; unlike
PatchCore the difference to it is given on, for a decoder to read (as in MemSeg, Yang et al. 2022).
"""

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.networks.coreset import Candidates
from anomalib_anoseg.networks.encoder import pad
from anomalib_anoseg.networks.level import Level
from anomalib_anoseg.networks.pretrained import build_backbone, load_pretrained, normalisation
from anomalib_anoseg.networks.reach import sees_far
from anomalib_anoseg.networks.region import Region
from anomalib_anoseg.networks.tiles import in_tiles, too_large
from anomalib_anoseg.networks.turning import OUTSIDE, places, turned
from anomalib_anoseg.utils.shapes import Images, Indices, Logits
from anomalib_anoseg.utils.tiles import MARGIN, MULTIPLE

STRIDES = (4, 8, 16)  # of the feature maps that are remembered
# Parts lie in any direction if turned images are less than so many times as far from the others as
# upright ones, by the farthest tenth of their places. Twenty drawn parts in any direction have 0.91
# to 0.99, papers 1.00 to 1.03, bottles, which look almost alike from all sides, 1.13 to 1.15.
AS_NEAR = 1.08
FARTHEST = 0.1
CANDIDATES = 40_000  # rows of a level among which the coreset is chosen, from all images alike


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
        turns: int = 1,
    ) -> None:
        """Remember good images, instead of what was remembered before, or beside it.

        From each image as many places are drawn, and the rows are chosen among them. No more than
        these and one batch is held at a time: up to ``CANDIDATES`` places, one of each of more
        images than that.

        Beside others the rows are chosen among theirs and the new places, so that no place of
        either is far from all of them; how many images there are of each does not matter for it.

        Args:
            batches: Images in [0, 1] and the number of each, (b,). Images of one number count as
                one image, of which no rows are compared with each other.
            count: How many images there are in all batches.
            before: How many images were remembered before, whose rows may stay; 0 forgets them.
            region: What is inspected, all by default; nothing else is remembered.
            turns: In how many directions each image is remembered, evenly spread.

        Raises:
            ValueError: If a feature is not finite.
        """
        generator = torch.Generator().manual_seed(0)
        seen = count * turns
        quota = max(1, CANDIDATES // max(seen, 1))
        candidates = [Candidates(level.rows.shape[1], quota * seen) for level in self._levels()]
        for images, numbers in batches:
            for turn in range(turns):
                looks = self._look(images, 360 * turn / turns, region)
                for (features, shown), found in zip(looks, candidates, strict=True):
                    flat = features.flatten(2).mT.cpu()
                    if not flat.isfinite().all():
                        msg = "the encoder sees values that are not finite in a good image"
                        raise ValueError(msg)
                    cells = (shown[:, 0] != OUTSIDE).nonzero().flatten()
                    for one, number in zip(flat, numbers.cpu(), strict=True):
                        chosen = cells[torch.randperm(len(cells), generator=generator)[:quota]]
                        found.add(one[chosen], number, shown[chosen])
        for level, found in zip(self._levels(), candidates, strict=True):
            level.keep(*found.all(), self.limit, generator, before / (before + count))

    @torch.no_grad()
    def lie_in_any_direction(
        self, batches: Iterable[tuple[Images, Indices]], region: Region | None = None
    ) -> bool:
        """Return whether good images, turned by quarters, are as near to what is remembered.

        Args:
            batches: Images in [0, 1] and their numbers; its own rows are left out for each.
            region: What is inspected.
        """
        distances = torch.zeros(4, len(self.levels))
        for images, numbers in batches:
            for quarter in range(4):
                looks = zip(self._look(images, 90 * quarter, region), self._levels(), strict=True)
                for index, ((features, shown), level) in enumerate(looks):
                    far = level(features, numbers.to(level.owner))[:, -1].flatten(1).cpu()
                    far = far[:, shown[:, 0] != OUTSIDE]
                    # What is farthest: of a print on even ground the mean would see the ground.
                    farthest = far.topk(math.ceil(FARTHEST * far.shape[1])).values
                    distances[quarter, index] += farthest.mean(1).sum()
        # The level in the middle: the coarsest sees whether an image is wide or tall. Images that
        # are all alike have no distances, and 0 / 0 proves nothing.
        return bool((distances[1:] / distances[0]).median(1).values.mean() < AS_NEAR)

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

    def _look(
        self, whole: Images, degrees: float, region: Region | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, per level, features of turned images, and what place each of them shows, (h w, 2).

        That is a row and a column of the images as they lie, or OUTSIDE of what is inspected.
        """
        images = whole if region is None else region.hide_outside(whole)
        padded = pad(images.to(self.mean))
        features = self._features(turned(padded, degrees))
        for index, stride in zip(self.indices, STRIDES, strict=True):
            height, width = (side // stride for side in padded.shape[-2:])
            shown = places(degrees, height, width)
            if region is not None:  # OUTSIDE asks for the last place, and stays OUTSIDE
                inside = region.cells(whole, stride).cpu().view(height, width)
                shown[~inside[shown[:, 0], shown[:, 1]]] = OUTSIDE
            yield _pooled(features[index]).float(), shown

    def _features(self, padded: Images) -> list[Tensor]:
        if too_large(padded) and not self.sees_far:
            return in_tiles(lambda tile, _: self._features(tile), padded, self.strides)
        features: list[Tensor] = self.encoder((padded - self.mean) / self.std)
        return features

    def _levels(self) -> list[Level]:
        return [level for level in self.levels if isinstance(level, Level)]


def _around(image: Images, row: int, column: int) -> tuple[Images, int, int]:
    """Return all that the features of a pixel depend on, and the row and column it starts at."""
    top, left = (max(0, place // MULTIPLE * MULTIPLE - MARGIN) for place in (row, column))
    side = 2 * MARGIN + MULTIPLE
    return image[..., top : top + side, left : left + side], top, left


def _pooled(features: Tensor) -> Tensor:
    """Average 3 x 3: neighbours say what a place is."""
    return F.avg_pool2d(features, 3, stride=1, padding=1)
