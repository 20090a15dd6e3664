"""Random crops to train on, cut out where images are loaded; each knows where it lies."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from anomalib.data import ImageBatch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import default_collate, get_worker_info

from anomalib_anoseg.utils.shapes import Images, Places

logger = logging.getLogger(__name__)


@dataclass
class CropBatch(ImageBatch):
    """Crops of images.

    Attributes:
        place: Top and left of each crop, height and width of the image it is from, (b, 4), pixels.
    """

    place: Tensor | None = None


class RandomCrops:
    """A ``collate_fn`` that cuts a random square out of each image.

    In the data loader, because images of different sizes fit into a batch only as crops, and no
    batch of whole ones is ever held. A side of an image that is shorter than the crop is not cut.
    Where images of a batch differ in it, the shorter ones are continued by their border.

    Args:
        side: Of the crops, in pixels.
        collate: What makes a batch of whole images; None for torch's own.
    """

    def __init__(self, side: int, collate: Callable[[list[Any]], Any] | None) -> None:
        self.side, self.collate = side, collate or default_collate
        self._said = False

    def __call__(self, items: list[Any]) -> CropBatch:
        """Return one crop of each image."""
        # One by one: anomalib would stretch images of different sizes to one.
        whole = [self.collate([item]) for item in items]
        sizes = [one.image.shape[-2:] for one in whole]
        height, width = (min(self.side, max(sides)) for sides in zip(*sizes, strict=True))
        if any(h < height or w < width for h, w in sizes):
            self._say_once()
        images = (image for one in whole for image in torch.split(one.image, 1))
        crops, place = cut_randomly(images, height, width)
        paths = [one.image_path or [] for one in whole]
        return CropBatch(
            image=crops,
            image_path=list(chain.from_iterable(paths)) or None,
            place=place,
        )

    def _say_once(self) -> None:
        worker = get_worker_info()
        if not self._said and (worker is None or worker.id == 0):
            logger.warning(
                "some images have a side shorter than train_crop (%d pixels): they are continued "
                "by their border",
                self.side,
            )
        self._said = True


def random_crops(images: Images, side: int) -> tuple[Images, Places]:
    """Return a random square of each image, no larger than the image, and where they lie."""
    height, width = (min(side, length) for length in images.shape[-2:])
    crops, place = cut_randomly(torch.split(images, 1), height, width)
    return crops, place.to(images.device)


def cut_randomly(images: Iterable[Images], height: int, width: int) -> tuple[Images, Places]:
    """Return a random part of each image, continued where the image is smaller, and its place."""
    crops, places = zip(*(_cut(image, height, width) for image in images), strict=True)
    return torch.cat(crops), torch.tensor(places, dtype=torch.float32)


def _cut(image: Images, height: int, width: int) -> tuple[Images, tuple[int, int, int, int]]:
    rows, columns = image.shape[-2:]
    top = int(torch.randint(max(rows - height, 0) + 1, ()))
    left = int(torch.randint(max(columns - width, 0) + 1, ()))
    crop = image[..., top : top + height, left : left + width].as_subclass(Tensor)
    missing = (0, max(width - columns, 0), 0, max(height - rows, 0))
    return pad(crop, missing, mode="replicate"), (top, left, rows, columns)
