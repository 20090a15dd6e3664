"""Training on random crops that know where they lie, and judging whole images."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import Folder, ImageBatch, ImageItem
from conftest import photographs, quiet_engine, remembering_model, segmenter, small_model
from torch import Tensor
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg, PreProcessor
from anomalib_anoseg.networks.encoder import Encoder
from anomalib_anoseg.training.crops import CropBatch, RandomCrops, random_crops


def located(height: int, width: int) -> Tensor:
    """An image whose pixels say their row and column, and the size of the image."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    return torch.stack([rows, columns, torch.full_like(rows, 1000 * height + width)]).float()


def items(*sizes: tuple[int, int]) -> list[ImageItem]:
    return [ImageItem(image=located(*size), image_path=f"{size}.png") for size in sizes]


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
        ([(100, 80), (300, 70), (64, 64)], (64, 64)),
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
    assert batch.image_path == [f"{size}.png" for size in sizes]
    for crop, place, size in zip(batch.image, batch.place, sizes, strict=True):
        assert tuple(place[2:].int().tolist()) == size
        assert_in_place(crop, place, *shape)


def test_crops_are_everywhere_and_of_the_global_random_numbers() -> None:
    crops = RandomCrops(64, None)
    wide = [{"image": located(64, 68), "image_path": "a.png"}] * 100
    batch = RandomCrops(64, lambda some: ImageBatch(some[0]["image"][None], image_path=["a"]))(wide)
    assert batch.place is not None
    assert set(batch.place[:, 1].tolist()) == {0, 1, 2, 3, 4}
    assert not batch.place[:, 0].any()
    torch.manual_seed(5)
    first = RandomCrops(64, ImageBatch.collate)(items((100, 100)))
    torch.manual_seed(5)
    assert torch.equal(first.image, RandomCrops(64, ImageBatch.collate)(items((100, 100))).image)
    assert crops.side == 64


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


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images of three sizes, one of them smaller than a crop."""
    root = tmp_path_factory.mktemp("mixed")
    (root / "good").mkdir()
    torch.manual_seed(0)
    for number in range(8):
        height, width = [(120, 90), (97, 141), (60, 200)][number % 3]
        save_image(photographs(1, height=height, width=width), root / f"good/{number}.png")
    return root


def folder(root: Path, **arguments: Any) -> Folder:
    return Folder(
        "own", root=root, normal_dir="good", test_split_mode="none", val_split_mode="none",
        train_batch_size=4, num_workers=0, **arguments,
    )  # fmt: skip


def model_of(make: Any, **arguments: Any) -> AnoSeg:
    return make(seed=2, train_crop=64, pre_processor=PreProcessor("native"), **arguments)


@pytest.mark.slow
def test_networks_see_crops_and_their_place_and_the_memory_whole_images(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Size, bool]] = []
    forward = Encoder.forward

    def spy(encoder: Encoder, images: Tensor, *args: Any, place: Tensor | None = None) -> Any:
        seen.append((images.shape[-2:], place is not None))
        return forward(encoder, images, *args, place=place)

    monkeypatch.setattr(Encoder, "forward", spy)
    model = model_of(remembering_model)
    assert model.model.memory is not None
    sizes = []
    features = model.model.memory._features
    monkeypatch.setattr(
        model.model.memory, "_features", lambda x: sizes.append(x.shape[-2:]) or features(x)
    )
    engine = quiet_engine(tmp_path, max_steps=2, max_epochs=-1)
    engine.fit(model, datamodule=folder(mixed))
    trained_on = [entry for entry in seen if entry[1]]
    assert trained_on[:2] == [((64, 64), True)] * 2
    # Thresholds are set by whole good images, and by synthetic anomalies in crops.
    judged = {size for size, placed in seen if not placed}
    assert judged <= {(120, 90), (97, 141), (60, 200)}
    assert judged
    assert {tuple(size) for size in sizes[:3]} <= {(128, 96), (128, 160), (64, 224)}
    # A run that is resumed goes on with crops.
    path = engine.trainer.checkpoint_callback.best_model_path
    again = AnoSeg.load_from_checkpoint(path)
    assert again.train_crop == 64
    assert again.pre_processor.checkpoint_config()["image_size"] == "native"


@pytest.mark.slow
def test_runs_repeat_bit_for_bit_also_resumed(mixed: Path, tmp_path: Path) -> None:
    """Oracle: a run of as many steps that was not stopped."""
    states = []
    for name, stops in (("once", [4]), ("again", [4]), ("resumed", [2, 4])):
        path = None
        for steps in stops:
            model = model_of(segmenter)
            engine = quiet_engine(tmp_path / name, max_steps=steps, max_epochs=-1)
            engine.fit(model, datamodule=folder(mixed), ckpt_path=path)
            path = engine.trainer.checkpoint_callback.best_model_path
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    # The rate is lowered towards the last step, which the first of two runs takes for its own.
    assert states[2].keys() == states[0].keys()


def test_a_loader_is_not_cropped_twice_and_given_back() -> None:
    """Oracle: the loader's own function, with and without crops."""
    from types import SimpleNamespace

    loader = SimpleNamespace(collate_fn=ImageBatch.collate)
    for crop in (64, 48, None):
        model = segmenter(train_crop=crop)
        model._trainer = SimpleNamespace(train_dataloader=loader)
        model.on_train_start()
        if crop is None:
            assert loader.collate_fn == ImageBatch.collate
        else:
            assert isinstance(loader.collate_fn, RandomCrops)
            assert loader.collate_fn.side == crop
            assert loader.collate_fn.collate == ImageBatch.collate


@pytest.mark.parametrize("value", [0, 32, -5, 64.5, "64"])
def test_sizes_that_cannot_be_meant(value: Any) -> None:
    with pytest.raises(ValueError, match="train_crop must"):
        segmenter(train_crop=value)


def test_a_network_that_judges_whole_images() -> None:
    with pytest.raises(ValueError, match="judges whole images: train it without train_crop"):
        small_model(train_crop=64, image_score="detector")
