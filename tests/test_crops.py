"""Training on random crops that know where they lie, and judging whole images."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import Folder, ImageBatch, ImageItem
from anomalib.pre_processing import PreProcessor as AnomalibPreProcessor
from conftest import photographs, quiet_engine, remembering_model, segmenter, small_model
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Resize
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg, PreProcessor
from anomalib_anoseg.training.crops import CropBatch, RandomCrops, random_crops


def located(height: int, width: int) -> Tensor:
    """An image whose pixels say their row and column, and the size of the image."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    return torch.stack([rows, columns, torch.full_like(rows, 1000 * height + width)]).float()


def items(*sizes: tuple[int, int]) -> list[ImageItem]:
    return [ImageItem(image=located(*size), image_path=f"{size}.png") for size in sizes]


class Whole(Dataset[ImageItem]):
    """Images in a module of its own, which a process that is spawned can import."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> ImageItem:
        return ImageItem(image=located(60 + index, 70), image_path=f"{index}.png")


@pytest.mark.slow
def test_workers_that_are_spawned_cut_crops() -> None:
    """As on Windows and macOS, where each is sent what cuts."""
    cut = RandomCrops(40, ImageBatch.collate)
    loader = DataLoader(Whole(), 2, collate_fn=cut, num_workers=1, multiprocessing_context="spawn")
    batches = [*loader]
    assert [batch.image.shape for batch in batches] == [(4, 3, 40, 40)] * 2  # two of each image
    for batch in batches:
        for crop, place in zip(batch.image, batch.place, strict=True):
            assert_in_place(crop, place, 40, 40)


def assert_in_place(crop: Tensor, place: Tensor, height: int, width: int) -> None:
    """Oracle: what the pixels say."""
    top, left, rows, columns = (int(value) for value in place)
    inside = crop[:, : rows - top, : columns - left]
    expected = located(rows, columns)[:, top : top + height, left : left + width]
    assert torch.equal(inside, expected)
    assert crop.shape[-2:] == (height, width)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([(100, 80), (100, 80)], (64, 64)),
        ([(100, 80), (300, 70), (64, 64), (500, 400)], (64, 64)),
        ([(40, 200), (40, 200)], (40, 64)),  # a strip
        ([(40, 50), (50, 40)], (50, 50)),  # all of them are smaller
    ],
)
def test_crops_say_where_they_are_from(
    sizes: list[tuple[int, int]], shape: tuple[int, int]
) -> None:
    batch = RandomCrops(64, ImageBatch.collate)(items(*sizes))
    assert isinstance(batch, CropBatch)
    assert batch.place is not None
    counts = [max(1, min(4, h * w // (shape[0] * shape[1]))) for h, w in sizes]
    of_crops = [size for size, count in zip(sizes, counts, strict=True) for _ in range(count)]
    assert batch.image_path == [f"{size}.png" for size in of_crops]
    for crop, place, size in zip(batch.image, batch.place, of_crops, strict=True):
        assert tuple(place[2:].int().tolist()) == size
        assert_in_place(crop, place, *shape)


def test_crops_are_everywhere_and_repeat_with_their_seed() -> None:
    crops = RandomCrops(64, ImageBatch.collate)
    batch = crops(items(*[(64, 68)] * 100))
    assert batch.place is not None
    assert set(batch.place[:, 1].tolist()) == {0, 1, 2, 3, 4}
    assert not batch.place[:, 0].any()
    state = torch.get_rng_state()
    crops.draws.manual_seed(5)
    first = crops(items((100, 100)))
    crops.draws.manual_seed(5)
    assert torch.equal(first.image, crops(items((100, 100))).image)
    assert torch.equal(torch.get_rng_state(), state)  # what the steps draw does not depend on it


def test_smaller_images_are_continued_by_their_border(caplog: pytest.LogCaptureFixture) -> None:
    crops = RandomCrops(64, ImageBatch.collate)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            batch = crops(items((40, 80), (100, 80)))
    assert "a side shorter than train_crop (64 pixels)" in caplog.text
    assert len(caplog.records) == 1
    assert torch.equal(batch.image[0, :, 40:], batch.image[0, :, 39:40].expand(-1, 24, -1))


def test_of_a_batch_as_well() -> None:
    crops, place = random_crops(located(100, 80)[None].repeat(3, 1, 1, 1), 96)
    for crop, where in zip(crops, place, strict=True):
        assert_in_place(crop, where, 96, 80)


SIZES = {(120, 90), (97, 141), (60, 200)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images of three sizes, one of them smaller than a crop."""
    root = tmp_path_factory.mktemp("mixed")
    (root / "good").mkdir()
    torch.manual_seed(0)
    for number in range(8):
        height, width = sorted(SIZES)[number % 3]
        save_image(photographs(1, height=height, width=width), root / f"good/{number}.png")
    return root


def folder(root: Path, **arguments: Any) -> Folder:
    return Folder(
        "own", root=root, normal_dir="good", test_split_mode="none", val_split_mode="none",
        train_batch_size=4, num_workers=0, **arguments,
    )  # fmt: skip


def loader_of(root: Path, **arguments: Any) -> DataLoader[Any]:
    """Return a user's own loader of whole images."""
    data = folder(root)
    data.setup()
    return DataLoader(data.train_data, collate_fn=ImageBatch.collate, **arguments)


def model_of(make: Any, **arguments: Any) -> AnoSeg:
    given = {"seed": 2, "train_crop": 64, "pre_processor": PreProcessor("native")}
    return make(**given | arguments)


Trained = list[tuple[Tensor, Tensor]]


def spied(model: AnoSeg, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Return the images and places that each training step gets."""
    seen: Trained = []
    step: Any = model.training_step

    def spy(batch: Any, *args: Any) -> Any:
        seen.append((batch.image, batch.place))
        return step(batch, *args)

    monkeypatch.setattr(model, "training_step", spy)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, None])
def test_every_step_sees_crops_and_the_memory_whole_images(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    """Lightning begins to load before any hook, and an unseeded run goes on with that."""
    model = model_of(remembering_model, seed=seed)
    trained_on = spied(model, monkeypatch)
    memory = model.model.memory
    assert memory is not None
    remembered: list[torch.Size] = []
    features = memory._features

    def see(images: Tensor) -> list[Tensor]:
        remembered.append(images.shape[-2:])
        return features(images)

    monkeypatch.setattr(memory, "_features", see)
    engine = quiet_engine(tmp_path, max_steps=3, max_epochs=-1)
    engine.fit(model, datamodule=folder(mixed))
    assert len(trained_on) == 3
    for images, place in trained_on:
        assert images.shape[1:] == (3, 64, 64)
        assert {tuple(size) for size in place[:, 2:].int().tolist()} <= SIZES
    # Padded to multiples of 32, before the first step.
    assert {tuple(size) for size in remembered[:3]} <= {(128, 96), (128, 160), (64, 224)}
    path = engine.trainer.checkpoint_callback.best_model_path
    again = AnoSeg.load_from_checkpoint(path)
    assert again.train_crop == 64
    assert again.pre_processor.checkpoint_config()["image_size"] == "native"


@pytest.mark.slow
def test_crops_are_cut_from_resized_images(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = segmenter(seed=2, train_crop=64, pre_processor=PreProcessor((128, 96)))
    trained_on = spied(model, monkeypatch)
    quiet_engine(tmp_path, max_steps=1, max_epochs=-1).fit(model, datamodule=folder(mixed))
    ((images, place),) = trained_on
    assert images.shape == (3 * 4, 3, 64, 64)  # 128 x 96 pixels hold three
    assert (place[:, 2:] == torch.tensor([128.0, 96.0])).all()


class Stop(Callback):
    """Ends a run after a step, as Ctrl-C does; the run does not know before."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.usefixtures("_interruptible")
def test_runs_repeat_bit_for_bit_also_resumed(mixed: Path, tmp_path: Path) -> None:
    """Oracle: a run of as many steps that was not stopped, here in the middle of an epoch."""
    states = []
    for name, stops in (("once", [None]), ("resumed", [3, None])):
        path = None
        for stop in stops:
            model = model_of(segmenter)
            engine = quiet_engine(tmp_path / name, max_epochs=4, callbacks=[Stop(stop)])
            with suppress(KeyboardInterrupt, SystemExit):
                engine.fit(model, datamodule=folder(mixed), ckpt_path=path)
            path = engine.trainer.checkpoint_callback.best_model_path
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.slow
def test_a_loader_gets_its_own_function_back(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after an error; the same loader then serves another model."""
    loader = loader_of(mixed, batch_size=2)
    failing = model_of(segmenter)
    monkeypatch.setattr(failing, "_segmentation_losses", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quiet_engine(tmp_path).fit(failing, train_dataloaders=loader)
    assert loader.collate_fn == ImageBatch.collate
    model = model_of(segmenter)
    trained_on = spied(model, monkeypatch)
    quiet_engine(tmp_path, max_steps=1).fit(model, train_dataloaders=loader)
    assert trained_on[0][0].shape[1:] == (3, 64, 64)
    assert loader.collate_fn == ImageBatch.collate


@pytest.mark.slow
def test_workers_that_persist_cut_as_well(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning advises to keep them. They have begun before anything is cut."""
    loader = loader_of(mixed, batch_size=1, num_workers=1, persistent_workers=True)
    model = model_of(segmenter)
    trained_on = spied(model, monkeypatch)
    quiet_engine(tmp_path, max_epochs=2).fit(model, train_dataloaders=loader)
    images: Any = loader.dataset
    assert len(trained_on) == 2 * len(images)
    assert {place is None for _, place in trained_on} == {False}
    (whole,) = {type(batch) for batch in loader}
    assert whole is ImageBatch


@pytest.mark.slow
def test_another_pre_processor_would_stretch_crops(mixed: Path, tmp_path: Path) -> None:
    theirs = AnomalibPreProcessor(Resize((128, 128)))
    model = segmenter(train_crop=64, pre_processor=theirs)
    with pytest.raises(ValueError, match="train_crop needs AnoSeg's own PreProcessor"):
        quiet_engine(tmp_path, max_steps=1).fit(model, datamodule=folder(mixed))


@pytest.mark.parametrize("value", [0, 32, -5, 64.5, "64"])
def test_sizes_that_cannot_be_meant(value: Any) -> None:
    with pytest.raises(ValueError, match="train_crop must"):
        segmenter(train_crop=value)


def test_a_network_that_judges_whole_images() -> None:
    with pytest.raises(ValueError, match="judges whole images: train it without train_crop"):
        small_model(train_crop=64, image_score="detector")
