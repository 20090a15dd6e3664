"""What a memory is filled with: the training images, each under a number of its own."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from anomalib_anoseg.training.content import number_of
from anomalib_anoseg.training.crops import RandomCrops, loaders_of
from anomalib_anoseg.training.good_images import read_good_images
from anomalib_anoseg.utils.shapes import Images, Indices

logger = logging.getLogger(__name__)
BATCH, PIXELS = 8, 2**22  # at most at once, whichever is less
# In how many directions images are remembered, if that makes no more pixels of them than these, a
# minute's on two cores: many pictures show enough directions themselves.
TURNS, TURNED = (8, 4), 800 * 256**2
ASKED = 64  # images about, evenly spread, whether parts lie in any direction


class TrainingImages:
    """All images of a training loader as the network sees them, in batches.

    Args:
        loader: What Lightning trains with.
        prepare: Applied to each image: the pre-processor.

    Attributes:
        paths: Where the images are, by their numbers; complete once all have been read.
        pixels: Of all images as the network sees them; likewise.
    """

    def __init__(self, loader: Any, prepare: Callable[[Images], Images] | None) -> None:
        self._loaders = list(loaders_of(loader))
        self._prepare = prepare
        self.paths: dict[int, str] = {}
        self.pixels = 0

    def __len__(self) -> int:
        """Return the number of images."""
        sources: list[Any] = [loader.dataset for loader in self._loaders]
        return sum(map(len, sources))

    def __iter__(self) -> Iterator[tuple[Images, Indices]]:
        """Yield images of equal size, (b, c, h, w) in [0, 1], and the number of each, (b,)."""
        images: list[Images] = []
        numbers: list[Tensor] = []
        self.pixels = 0
        for image, batch in chain.from_iterable(map(self._read, self._loaders)):
            most = max(1, min(BATCH, PIXELS // image[0, 0].numel()))
            if images and (len(images) == most or image.shape != images[0].shape):
                yield torch.cat(images), torch.cat(numbers)
                images, numbers = [], []
            images.append(image)
            self.pixels += image[0, 0].numel()
            numbers.append(numbers_of(batch))
            self.paths.setdefault(int(numbers[-1]), batch.image_path[0])
        if images:
            yield torch.cat(images), torch.cat(numbers)

    def numbers(self) -> set[int]:
        """Return the number of each image; anomalib's data sets are not read for it."""
        found: set[int] = set()
        for loader in self._loaders:
            samples = getattr(loader.dataset, "samples", None)
            if samples is not None:
                found.update(map(number_of, samples.image_path))
            else:
                found.update(int(numbers_of(batch)) for _, batch in self._read(loader))
        return found

    def _read(self, loader: DataLoader[Any]) -> Iterator[tuple[Images, Any]]:
        # Of the loader, not of what it wraps: that may hold other images, or be cut into tiles.
        source: Any = loader.dataset
        collate: Any = loader.collate_fn
        if isinstance(collate, RandomCrops):  # remembered are whole images
            collate = collate.collate
        return read_good_images(source, range(len(source)), self._prepare, collate)


def remember(memory: Any, images: TrainingImages, region: Any = None, before: int = 0) -> None:
    """Fill a memory with good images, and with what they look like turned if parts lie so.

    A few pictures of parts in any direction do not show all directions. Whether parts do lie in any
    direction the pictures themselves tell: turned ones are then as near to what is remembered.

    Args:
        memory: What is filled, a ``networks.memory.Memory``.
        images: All of them.
        region: What is inspected, a ``networks.region.Region``; all by default.
        before: How many images were remembered before, beside which these are; 0 forgets them.
    """
    count = len(images)
    if not before:
        memory.fill(images, count, region=region)
        if _most_turns(images.pixels) == 1:
            return
    some = islice(images, None, None, max(1, count // ASKED))  # batches
    turns = 1
    if memory.lie_in_any_direction(some, region) and (turns := _most_turns(images.pixels)) > 1:
        rank_zero_info(
            "AnoSeg's good images are as near to each other turned as upright: each is remembered "
            f"in {turns} directions"
        )
    if before or turns > 1:
        memory.fill(images, count, before, region, turns)


def _most_turns(pixels: int) -> int:
    return next((turns for turns in TURNS if pixels * turns <= TURNED), 1)


def warn_if_remembered(remembered: Mapping[int, str], tested: Iterable[Path]) -> None:
    """Warn if a model is tested with images that it was trained on.

    anomalib's Folder draws its good test images at random from the training images, and in another
    run may draw others.

    Args:
        remembered: Training images by their numbers; empty of a model without a memory.
        tested: Images of a test.
    """
    paths = list(tested) if remembered else []
    known = [path for path in paths if number_of(str(path)) in remembered]
    if known:
        logger.warning(
            "the model was trained on %d of these %d images, such as %s, and figures of them "
            "flatter it. Where good test images are drawn at random from those to train on, give "
            "the seed of the training (--data.seed or --model.seed), or a folder of good test "
            "images (--data.normal_test_dir)",
            len(known),
            len(paths),
            known[0],
        )


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


def warn_of_changes(
    remembered: Mapping[int, str], images: TrainingImages, seed: int | None
) -> None:
    """Warn if a memory was filled with other images than these.

    Args:
        remembered: What was, by number.
        images: What is trained on now.
        seed: Of the checkpoint: Lightning loads it when the data are drawn already.
    """
    found = images.numbers()
    missing = len(found - remembered.keys())
    gone = len(remembered.keys() - found)
    if missing or gone:
        logger.warning(
            "the training images have changed: the memory lacks %d of them and holds %d others. "
            "It stays as it was; train without the checkpoint to fill it anew%s",
            missing,
            gone,
            "" if seed is None else f". Are they drawn at random, give --model.seed {seed} again",
        )
