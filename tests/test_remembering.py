"""A memory is filled with the training images, as the network sees them, each under its number."""

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from anomalib.data import Folder, ImageBatch, ImageItem
from anomalib.pre_processing import PreProcessor as AnomalibPreProcessor
from conftest import photographs, quiet_engine, remembering_model
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision.transforms.v2 import Resize
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg, PreProcessor
from anomalib_anoseg.networks.level import Level
from anomalib_anoseg.networks.memory import Memory
from anomalib_anoseg.report.model_command import page
from anomalib_anoseg.training import remembering
from anomalib_anoseg.training.good_images import read_good_images
from anomalib_anoseg.training.hold_out import spread
from anomalib_anoseg.training.remembering import (
    TrainingImages,
    numbers_of,
    warn_if_remembered,
    warn_of_changes,
)


def write(folder: Path, count: int, **sizes: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:02}.png" for index in range(count)]
    for path, image in zip(paths, photographs(count, **sizes), strict=True):
        save_image(image, path)
    return paths


class Drawn(Dataset[ImageItem]):
    """Images of one value each, with augmentations that would change them."""

    def __init__(self, paths: list[Path] | None, *values: float, side: int = 40) -> None:
        self.paths, self.values, self.side = paths, values, side
        self.augmentations: Any = nn.Sequential(nn.Dropout(1.0))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> ImageItem:
        if self.values[index] < 0:
            msg = "the camera's disk is gone"
            raise OSError(msg)
        image = torch.full((3, self.side, self.side), self.values[index])
        if self.augmentations is not None:
            image = self.augmentations(image)
        path = None if self.paths is None else str(self.paths[index])
        return ImageItem(image=image, image_path=path)


def loader(source: Dataset[ImageItem]) -> DataLoader[ImageItem]:
    return DataLoader(source, batch_size=2, collate_fn=ImageBatch.collate)


def as_it_is(images: Tensor) -> Tensor:
    return images


def values(images: TrainingImages) -> list[float]:
    """Return the value of each image; each is of one value."""
    found: list[float] = []
    for batch, numbers in images:
        assert len(batch) == len(numbers)
        assert torch.equal(batch.amin((1, 2, 3)), batch.amax((1, 2, 3)))
        found += batch.amax((1, 2, 3)).tolist()
    return [round(value, 3) for value in found]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return write(tmp_path / "good", 12, height=8, width=8)


def batch_of(*paths: Path) -> Any:
    return ImageBatch(image=torch.zeros(len(paths), 3, 8, 8), image_path=[str(p) for p in paths])


def test_files_of_equal_content_have_one_number(paths: list[Path], tmp_path: Path) -> None:
    """Wherever they are and whatever they are called: a data set holds copies, and is moved."""
    copy = tmp_path / "other/name.png"
    copy.parent.mkdir()
    shutil.copy(paths[0], copy)
    first, same, other = numbers_of(batch_of(paths[0], copy, paths[1])).tolist()
    assert first == same != other
    assert numbers_of(batch_of(*paths)).unique().numel() == 12


def test_a_file_that_was_written_again_is_another_image(paths: list[Path]) -> None:
    """In a notebook, between two trainings of one process."""
    before = numbers_of(batch_of(paths[0]))
    shutil.copyfile(paths[1], paths[0])
    assert numbers_of(batch_of(paths[0])) == numbers_of(batch_of(paths[1])) != before


def test_images_of_the_training_are_named_in_a_test(
    paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    remembered = dict.fromkeys(numbers_of(batch_of(*paths[:3])).tolist(), "elsewhere")
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        warn_if_remembered(remembered, paths[3:])
        warn_if_remembered({}, paths)  # a model without a memory
        assert caplog.text == ""
        warn_if_remembered(remembered, paths[1:])
    assert f"trained on 2 of these 11 images, such as {paths[1]}" in caplog.text


def test_images_that_are_no_files_are_known_by_their_names() -> None:
    first, same, other = numbers_of(batch_of(Path("a"), Path("a"), Path("b"))).tolist()
    assert first == same != other


def test_images_without_a_path() -> None:
    with pytest.raises(ValueError, match=r"need an image_path.*pre_trained=False"):
        numbers_of(ImageBatch(image=torch.zeros(1, 3, 8, 8)))
    with pytest.raises(ValueError, match=r"need an image_path"):
        values(TrainingImages(loader(Drawn(None, 0.5)), as_it_is))


def test_all_images_in_batches_and_prepared(paths: list[Path]) -> None:
    drawn = Drawn(paths, *(index / 16 for index in range(12)))
    images = TrainingImages(loader(drawn), lambda image: image / 2)
    assert len(images) == 12
    assert values(images) == [round(index / 32, 3) for index in range(12)]
    assert [*images.paths.values()] == [str(path) for path in paths]
    assert images.numbers() == {*images.paths} == {*numbers_of(batch_of(*paths)).tolist()}


def test_augmentations_are_left_out_and_put_back(paths: list[Path]) -> None:
    drawn = Drawn(paths, 0.25, 0.5)
    augmentations = drawn.augmentations
    assert values(TrainingImages(loader(drawn), as_it_is)) == [0.25, 0.5]
    assert drawn.augmentations is augmentations
    for _ in read_good_images(drawn, [0], as_it_is, ImageBatch.collate):
        assert drawn.augmentations is augmentations  # whoever looks meanwhile
    drawn.values = (0.25, -1.0)
    with pytest.raises(OSError, match="camera"):
        values(TrainingImages(loader(drawn), as_it_is))
    assert drawn.augmentations is augmentations


def test_images_of_several_sizes_come_in_batches_of_their_own(paths: list[Path]) -> None:
    small, large = Drawn(paths, 0.1, 0.2), Drawn(paths[2:], 0.3, 0.4, 0.5, side=50)
    images = TrainingImages([loader(small), loader(large)], as_it_is)
    for _ in range(2):  # a second time nothing is counted twice
        assert [batch.shape for batch, _ in images] == [(2, 3, 40, 40), (3, 3, 50, 50)]
        assert images.pixels == 2 * 40**2 + 3 * 50**2
    assert len(images) == 5


def test_a_subset_is_remembered_and_nothing_else_of_what_it_was_taken_from(
    paths: list[Path],
) -> None:
    """Else images that were kept for a test, defective ones among them, would be remembered."""
    drawn = Drawn(paths, *(index / 16 for index in range(12)))
    images = TrainingImages(loader(Subset(drawn, [1, 3])), as_it_is)
    assert len(images) == 2
    assert values(images) == [0.062, 0.188]
    assert images.numbers() == {*numbers_of(batch_of(paths[1], paths[3])).tolist()}
    assert drawn.augmentations is not None


@pytest.mark.parametrize("kind", ["list", "dict", "concatenated"])
def test_several_data_sets_at_once(kind: str, paths: list[Path]) -> None:
    first, second = Drawn(paths, 0.1, 0.2), Drawn(paths[2:], 0.3)
    loaders: dict[str, Any] = {
        "list": [loader(first), loader(second)],
        "dict": {"a": loader(first), "b": [loader(second)]},
        "concatenated": loader(ConcatDataset([first, second])),
    }
    images = TrainingImages(loaders[kind], as_it_is)
    assert (len(images), values(images)) == (3, [0.1, 0.2, 0.3])


def test_images_are_cut_as_the_loader_cuts_them(paths: list[Path]) -> None:
    """As the tiled ensemble does, whose networks see a tile each."""

    def tile(items: list[ImageItem]) -> ImageBatch:
        batch = ImageBatch.collate(items)
        return batch.update(image=batch.image[..., :20, :20], in_place=False)

    tiles = DataLoader(Drawn(paths, 0.1, 0.2), collate_fn=tile)
    assert [batch.shape for batch, _ in TrainingImages(tiles, as_it_is)] == [(2, 3, 20, 20)]


def test_images_that_are_asked_about_directions_are_spread(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """About as many as asked for, of all; not the first ones."""
    monkeypatch.setattr(remembering, "ASKED", 4)
    monkeypatch.setattr(remembering, "BATCH", 1)
    asked: list[int] = []

    class Unfilled:
        def fill(self, batches: Any, *_: Any, **__: Any) -> None:
            asked.clear()
            for _ in batches:
                pass

        def lie_in_any_direction(self, batches: Any, region: Any) -> bool:
            del region
            asked.extend(int(number) for _, number in batches)
            return False

    images = TrainingImages(loader(Drawn(paths, *[k / 12 for k in range(12)])), None)
    remembering.remember(Unfilled(), images)
    order = [*images.paths]
    step = len(order) // 4
    assert step > 1
    assert asked == order[::step]


def test_changes_are_counted(paths: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    """By content: names may change, and places."""
    ours = numbers_of(batch_of(*paths[:4])).tolist()
    same = TrainingImages(loader(Drawn([paths[1], paths[0]], 0.1, 0.2)), as_it_is)
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        warn_of_changes(dict.fromkeys(ours[:2], "elsewhere"), same, None)
        assert caplog.text == ""
        warn_of_changes(dict.fromkeys(ours[1:], "elsewhere"), same, None)
    assert "lacks 1 of them and holds 2 others" in caplog.text


class Trained(NamedTuple):
    """A short run, and what it left."""

    root: Path  # of its images
    model: AnoSeg
    path: Path  # of its checkpoint


def folder(root: Path) -> Folder:
    return Folder(
        name="own", root=root, normal_dir="good", train_batch_size=4, num_workers=0,
        test_split_mode="none", val_split_mode="none",
    )  # fmt: skip


def memory_of(model: AnoSeg) -> Memory:
    assert model.model.memory is not None
    return model.model.memory


def train(root: Path, out: Path, steps: int, path: Path | None = None, seed: int = 3) -> Trained:
    model = remembering_model(seed=seed)
    run = quiet_engine(out, max_steps=steps, max_epochs=-1)
    run.fit(model, datamodule=folder(root), ckpt_path=path)
    assert run.trainer.global_step == steps
    return Trained(root, model.cpu(), Path(run.trainer.checkpoint_callback.best_model_path))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train three steps with seven of eight images."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("remembered")
    write(root / "good", 8, height=64, width=64)
    return train(root, tmp_path_factory.mktemp("run"), 3)


def assert_same_memory(one: AnoSeg, two: AnoSeg) -> None:
    expected = memory_of(two).state_dict()
    torch.testing.assert_close(memory_of(one).state_dict(), expected, rtol=0, atol=0)
    assert one.remembered == two.remembered != {}


@pytest.mark.slow
def test_it_holds_the_training_images_without_those_held_out(trained: Trained) -> None:
    """Oracle: the one in the middle is held out, see HeldOut."""
    files = sorted((trained.root / "good").iterdir())
    del files[4]
    numbers = numbers_of(batch_of(*files)).tolist()
    assert trained.model.remembered == dict(zip(numbers, map(str, files), strict=True))
    for level in memory_of(trained.model).levels:
        assert isinstance(level, Level)
        assert {*level.owner.tolist()} == {*numbers}
        assert len(level.rows) == 100


@pytest.mark.slow
def test_it_does_not_depend_on_the_seed_of_the_training(trained: Trained, tmp_path: Path) -> None:
    """Nor on how long it is. Two equal runs are two of these."""
    again = train(trained.root, tmp_path, 1, seed=4)
    assert_same_memory(again.model, trained.model)


@pytest.mark.slow
def test_a_checkpoint_holds_it(trained: Trained) -> None:
    """Bit for bit, with the decision, which is made of held-out images."""
    loaded = AnoSeg.load_from_checkpoint(trained.path)
    assert_same_memory(loaded, trained.model)
    torch.testing.assert_close(loaded.state_dict(), trained.model.state_dict(), rtol=0, atol=0)
    decision = loaded.state_dict()["model.decision.mean"]
    assert not torch.equal(decision, remembering_model().state_dict()["model.decision.mean"])
    images = photographs(2, height=64, width=64)
    answers = [model.eval()(images).anomaly_map for model in (loaded, trained.model)]
    torch.testing.assert_close(*answers, rtol=0, atol=0)


@pytest.fixture
def never_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        pytest.fail("filled again")

    monkeypatch.setattr(Memory, "fill", refuse)


@pytest.mark.slow
@pytest.mark.usefixtures("never_filled")
def test_a_resumed_run_keeps_it(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        rest = train(trained.root, tmp_path, 5, trained.path)
    assert_same_memory(rest.model, trained.model)
    assert "the training images have changed" not in caplog.text
    weights = (dict(run.model.named_parameters()) for run in (rest, trained))
    name = "model.memory_decoder.decoder.head.weight"
    assert len({float(found[name].detach().sum()) for found in weights}) == 2  # it did train


@pytest.mark.slow
def test_a_page_shows_no_image_that_was_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Although anomalib's Folder draws good test images at random from those to train on."""
    write(tmp_path / "good", 20, height=64, width=64)

    def drawn() -> Folder:
        return Folder(name="own", root=tmp_path, normal_dir="good", num_workers=0)

    run = quiet_engine(tmp_path / "run", max_steps=1, max_epochs=-1)
    run.fit(remembering_model(seed=3), datamodule=drawn())
    torch.manual_seed(5)
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        path = Path(run.trainer.checkpoint_callback.best_model_path)
        assert page(path, drawn(), tmp_path / "page.html", device="cpu") == 0
    assert "the model was trained on" not in caplog.text


@pytest.mark.slow
def test_a_run_resumed_without_its_seed_is_told_the_seed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """anomalib's Folder draws those to train on before Lightning reads the checkpoint."""
    write(tmp_path / "good", 20, height=64, width=64)

    def run(steps: int, path: str | None = None, **arguments: Any) -> str:
        data = Folder(name="own", root=tmp_path, normal_dir="good", num_workers=0)
        made = quiet_engine(tmp_path / f"run{steps}", max_steps=steps, max_epochs=-1)
        made.fit(remembering_model(**arguments), datamodule=data, ckpt_path=path)
        return str(made.trainer.checkpoint_callback.best_model_path)

    path = run(1, seed=3)
    torch.manual_seed(11)
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        run(2, path, seed=3)
        assert "the training images have changed" not in caplog.text
        run(3, path)
    assert "at random, give --model.seed 3 again" in caplog.text


@pytest.mark.slow
def test_a_resumed_run_sets_no_thresholds_by_what_it_knows(
    trained: Trained, tmp_path: Path
) -> None:
    """Images that were added move the choice of those that are held out."""
    root = tmp_path / "data"
    shutil.copytree(trained.root, root)
    for index, image in enumerate(photographs(24, height=64, width=64)):
        save_image(image, root / f"good/{90 + index}.png")
    with pytest.warns(
        UserWarning, match=r"1 of the good images that would set thresholds .*: 2 others do"
    ):
        rest = train(root, tmp_path / "run", 4, trained.path)
    known = {Path(path).name for path in trained.model.remembered.values()}
    chosen = spread(sorted(path.name for path in (root / "good").iterdir()), 3)
    assert len(rest.model.post_processor.good_scores) == len([*chosen]) - len(known & {*chosen})


@pytest.mark.slow
@pytest.mark.parametrize("finder", [LearningRateFinder, BatchSizeFinder])
def test_it_is_filled_after_a_search_for_a_rate_or_a_size(
    trained: Trained, tmp_path: Path, finder: Any
) -> None:
    """They go back to a checkpoint of a memory that was empty."""
    options = {"num_training_steps": 3} if finder is LearningRateFinder else {"max_trials": 1}
    model = remembering_model(seed=3)
    model.batch_size = 2
    run = quiet_engine(
        tmp_path, max_steps=1, max_epochs=-1, callbacks=[finder(**options)], limit_val_batches=0
    )
    data = Folder(
        name="own", root=trained.root, normal_dir="good", num_workers=0, train_batch_size=2,
        val_split_mode="same_as_test",
    )  # fmt: skip
    run.fit(model, datamodule=data)
    assert len(model.remembered) == len(data.train_data) - 1  # which is held out
    for level in memory_of(model).levels:
        assert isinstance(level, Level)
        assert len(level.rows) > 1


@pytest.mark.slow
def test_anomalibs_pre_processor_shows_the_same_pixels_to_all(
    trained: Trained, tmp_path: Path
) -> None:
    """Its call is its export, without antialias; oracle: what ours remembers."""
    theirs = AnomalibPreProcessor(transform=Resize((48, 48), antialias=True))
    memories = []
    for name, pre_processor in (("theirs", theirs), ("ours", PreProcessor((48, 48)))):
        model = remembering_model(seed=3, pre_processor=pre_processor)
        run = quiet_engine(tmp_path / name, max_steps=1, max_epochs=-1)
        run.fit(model, datamodule=folder(trained.root))
        memories.append((memory_of(model), model.post_processor.good_scores))
    (one, scores), (other, expected) = memories
    torch.testing.assert_close(one.state_dict(), other.state_dict())
    torch.testing.assert_close(scores, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("never_filled")
def test_a_run_resumed_with_other_images(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One is added and one replaced; the memory stays what it was, and that is said once."""
    root = tmp_path / "data"
    shutil.copytree(trained.root, root)
    added, replaced = photographs(2, height=64, width=64)
    save_image(added, root / "good/99.png")
    save_image(replaced, root / "good/00.png")
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        rest = train(root, tmp_path / "run", 4, trained.path)
    assert_same_memory(rest.model, trained.model)
    assert caplog.text.count("the memory lacks 2 of them and holds 1 others") == 1
