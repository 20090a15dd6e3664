"""What a memory is filled with: the training images, each under a number of its own."""

from collections.abc import Callable, Iterator
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomalib_anoseg.training.good_images import read_good_images
from anomalib_anoseg.training.image_reading import datasets_of
from anomalib_anoseg.utils.shapes import Images, Indices

BATCH = 8


class TrainingImages:
    """All images of a training loader as the network sees them, in batches.

    Args:
        loader: What Lightning trains with.
        prepare: Applied to each image: the pre-processor.

    Attributes:
        paths: Where the images are, by their numbers; complete once all have been read.
    """

    def __init__(self, loader: Any, prepare: Callable[[Images], Images]) -> None:
        self._sources = list(datasets_of(loader))
        self._prepare = prepare
        self.paths: dict[int, str] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(map(len, self._sources))

    def __iter__(self) -> Iterator[tuple[Images, Indices]]:
        """Yield images of equal size, (b, c, h, w) in [0, 1], and the number of each, (b,)."""
        images: list[Images] = []
        numbers: list[Tensor] = []
        for source in self._sources:
            for image, batch in read_good_images(source, range(len(source)), self._prepare):
                if images and (len(images) == BATCH or image.shape != images[0].shape):
                    yield torch.cat(images), torch.cat(numbers)
                    images, numbers = [], []
                images.append(image)
                numbers.append(numbers_of(batch))
                self.paths.setdefault(int(numbers[-1]), batch.image_path[0])
        if images:
            yield torch.cat(images), torch.cat(numbers)


def numbers_of(batch: Any) -> Indices:
    """Return the number of each image of a batch, (b,).

    Raises:
        ValueError: If the images have no paths.
    """
    if batch.image_path is None:
        msg = (
            "in training a memory leaves out what it holds of the same image, which it knows by "
            "its file: images need an image_path. Give them one, or train with pre_trained=False"
        )
        raise ValueError(msg)
    return torch.tensor([number_of(path) for path in batch.image_path])


@cache
def number_of(path: str) -> int:
    """Return a number that files of equal content share, wherever they are."""
    file = Path(path)
    content = file.read_bytes() if file.is_file() else path.encode()
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big", signed=True)
