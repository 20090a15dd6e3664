"""Random crops to train on, cut out where images are loaded; each knows where it lies."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, default_collate, get_worker_info

from anomalib_anoseg.training.random_draws import mixed
from anomalib_anoseg.utils.inside import inside_of
from anomalib_anoseg.utils.shapes import Images, Insides, Places

logger = logging.getLogger(__name__)
MOST = 4  # crops of an image


@dataclass
class CropBatch(ImageBatch):
    """Crops of images.

    Attributes:
        place: Top and left of each crop, height and width of the image it is from, (b, 4), pixels.
    """

    place: Tensor | None = None


class RandomCrops:
    """A ``collate_fn`` that cuts random squares out of each image.

    Of a large image as many as ``MOST``, as long as they are no more of it than its whole: to read
    one of four megapixels takes as long as to train on several crops.

    In the data loader, because images of different sizes fit into a batch only as crops, and no
    batch of whole ones is ever held. A side of an image that is shorter than the crop is not cut.
    Where images of a batch differ in it, the shorter ones are continued by their border.

    Args:
        side: Of the crops, in pixels.
        collate: What makes a batch of whole images; None for torch's own.
        prepare: Applied to whole images: the pre-processor's transform.
        region: The model's, or None; each crop shows some of it.
    """

    def __init__(
        self,
        side: int,
        collate: Callable[[list[Any]], Any] | None,
        prepare: Callable[[Images], Images] | None = None,
        region: Any = None,
    ) -> None:
        self.side, self.collate = side, collate or default_collate
        self._prepare = prepare
        self._region = deepcopy(region).cpu() if region is not None else None  # for workers
        # Of its own: the loader draws ahead of the steps, which a resumed run would not repeat.
        self.draws: torch.Generator | None = torch.Generator()
        self._said = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what no worker uses, and what one that is spawned cannot be sent."""
        return self.__dict__ | {"draws": None}

    def __call__(self, items: list[Any]) -> CropBatch:
        """Return the crops of all images, those of one beside each other."""
        # One by one: anomalib would stretch images of different sizes to one.
        whole = [self.collate([item]) for item in items]
        images = [self._prepare(one.image) if self._prepare else one.image for one in whole]
        sizes = [image.shape[-2:] for image in images]
        height, width = (min(self.side, max(sides)) for sides in zip(*sizes, strict=True))
        if any(h < height or w < width for h, w in sizes):
            self._say_once()
        counts = [_count(rows * columns, height * width) for rows, columns in sizes]
        singles = [
            one
            for image, count in zip(images, counts, strict=True)
            for one in torch.split(image, 1)
            for _ in range(count)
        ]
        # Workers would all draw the same, and have been seeded for this epoch.
        draws = self.draws if get_worker_info() is None else None
        crops, place = cut_randomly(singles, height, width, draws, self._region)
        paths = [
            path
            for one, count in zip(whole, counts, strict=True)
            for path in one.image_path or []
            for _ in range(count)
        ]
        return CropBatch(
            image=crops,
            image_path=paths or None,
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


def _count(pixels: int, of_a_crop: int) -> int:
    return max(1, min(MOST, pixels // of_a_crop))


class TrainOnCrops(Callback):
    """Has the loaders of a run give crops, where the model is trained on them.

    Before anything draws the order of the data: Lightning begins to load before any hook, and what
    it has begun with goes on with whole images.
    """

    def __init__(self) -> None:
        self._whole: list[tuple[Any, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut from now on, also within an epoch."""
        self._cut(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut also what loaders give that were made for this epoch."""
        self._cut(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the loaders as they were."""
        del trainer, pl_module
        self._give_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the loaders as they were."""
        del trainer, pl_module, exception
        self._give_back()

    def _cut(self, trainer: Trainer, module: Any) -> None:
        whole = [
            loader
            for loader in loaders_of(trainer.train_dataloader)
            if module.train_crop is not None and not isinstance(loader.collate_fn, RandomCrops)
        ]
        for loader in whole:
            self._whole.append((loader, loader.collate_fn))
            prepare = getattr(module.pre_processor, "transform", None)
            loader.collate_fn = RandomCrops(
                module.train_crop, loader.collate_fn, prepare, module.model.region
            )
            loader._iterator = None  # noqa: SLF001 - workers that persist would go on as before
        for loader, _ in self._whole:
            seed = torch.initial_seed() if module.seed is None else module.seed
            place = mixed(seed, trainer.current_epoch, trainer.global_rank)
            loader.collate_fn.draws = torch.Generator().manual_seed(place)
        if whole:
            iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]  # noqa: SLF001

    def _give_back(self) -> None:
        for loader, collate in self._whole:
            loader.collate_fn = collate
            loader._iterator = None  # noqa: SLF001 - likewise
        self._whole.clear()


def loaders_of(loader: Any) -> Iterator[DataLoader[Any]]:
    """Yield what Lightning trains with at the same time: one loader, or a nest of several."""
    if isinstance(loader, Mapping):
        loader = list(loader.values())
    if isinstance(loader, list | tuple):
        for part in loader:
            yield from loaders_of(part)
    else:
        yield loader


def random_crops(images: Images, side: int, region: Any = None) -> tuple[Images, Places]:
    """Return a random square of each image, no larger than the image, and where they lie."""
    height, width = (min(side, length) for length in images.shape[-2:])
    crops, place = cut_randomly(torch.split(images, 1), height, width, None, region)
    return crops, place.to(images.device)


def as_trained(module: Any, images: Images) -> tuple[Images, Places | None, Insides | None]:
    """Return what anomalies are made in, as in training: images or crops, their place and inside.

    A model trained on crops knows synthetic anomalies by their size in pixels.
    """
    place = None
    if module.train_crop is not None:
        images, place = random_crops(images, module.train_crop, module.model.region)
    return images, place, inside_of(module.model.region, images, place)


def cut_randomly(
    images: Iterable[Images],
    height: int,
    width: int,
    draws: torch.Generator | None = None,
    region: Any = None,
) -> tuple[Images, Places]:
    """Return a random part of each image, continued where the image is smaller, and its place.

    With a region each part shows some of it.
    """
    parts = (_cut(image, height, width, draws, region) for image in images)
    crops, places = zip(*parts, strict=True)
    return torch.cat(crops), torch.tensor(places, dtype=torch.float32)


def _cut(
    image: Images, height: int, width: int, draws: torch.Generator | None, region: Any
) -> tuple[Images, tuple[int, int, int, int]]:
    rows, columns = image.shape[-2:]
    row, column = _pixel(region, rows, columns, draws) if region else (None, None)
    top, left = _start(rows, height, row, draws), _start(columns, width, column, draws)
    crop = image[..., top : top + height, left : left + width].as_subclass(Tensor)
    missing = (0, max(width - columns, 0), 0, max(height - rows, 0))
    return pad(crop, missing, mode="replicate"), (top, left, rows, columns)


def _pixel(region: Any, height: int, width: int, draws: torch.Generator | None) -> tuple[int, int]:
    """Return row and column of any pixel of an image that is inspected, each as likely."""
    inside = region.inside
    if inside.shape[0] > height or inside.shape[1] > width:
        inside = region.at(height, width)[0, 0]  # otherwise that is slow, and every pixel is shown
    row = int(torch.multinomial(inside.sum(1).float().cpu(), 1, generator=draws))
    column = int(torch.multinomial(inside[row].float().cpu(), 1, generator=draws))
    tall, wide = inside.shape
    return (2 * row + 1) * height // (2 * tall), (2 * column + 1) * width // (2 * wide)


def _start(length: int, part: int, shown: int | None, draws: torch.Generator | None) -> int:
    """Return where a part of a side starts, such that it shows one of its pixels."""
    first, last = 0, max(length - part, 0)
    if shown is not None:
        first, last = max(shown - part + 1, 0), min(shown, last)
    return first + int(torch.randint(last - first + 1, (), generator=draws))
