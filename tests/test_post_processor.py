import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import Folder, ImageBatch, InferenceBatch
from anomalib.data.datasets.base import image as reading
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC
from anomalib.post_processing import PostProcessor as AnomalibPostProcessor
from conftest import photographs, quiet_engine, segmenter
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from PIL import Image
from torch import Tensor, nn

from anomalib_anoseg import AnomalyGenerator, AnoSeg, PostProcessor, PreProcessor
from anomalib_anoseg.calibration import Answers
from anomalib_anoseg.synthesis.laws import Anomalies
from anomalib_anoseg.training.content import number_of
from anomalib_anoseg.training.hold_out import HeldOut
from anomalib_anoseg.utils.cuts import halfway, separate


def with_thresholds(pixel: float, image: float = 0.5) -> PostProcessor:
    made = PostProcessor()
    made._pixel_threshold.fill_(pixel)
    made._image_threshold.fill_(image)
    return made.eval()


THRESHOLDS = [1e-4, 0.02, 0.5, 0.97, 1 - 1e-4]


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_metrics_do_not_notice_the_normalisation(threshold: float) -> None:
    masks = photographs(4, 1)[:, 0] > 0.7
    # Most pixels near 0 and 1, as trained networks have them.
    maps = (6 * torch.randn(4, 96, 96) + 8 * masks - 6).sigmoid()
    normalised = with_thresholds(threshold)(
        InferenceBatch(anomaly_map=maps, pred_score=maps[:, 0, 0])
    )
    for metric in (AUROC, AUPRO):
        values = []
        for seen in (maps, normalised.anomaly_map):
            batch = ImageBatch(image=torch.zeros(4, 3, 96, 96), anomaly_map=seen, gt_mask=masks)
            exact = metric(fields=["anomaly_map", "gt_mask"])
            exact.update(batch)
            values.append(float(exact.compute()))
        assert values[0] == pytest.approx(values[1], abs=1e-4)
        assert 0.5 < values[0] < 0.999


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_normalisation_is_monotone_and_puts_the_threshold_at_one_half(threshold: float) -> None:
    maps = torch.cat([torch.linspace(0, 1, 10_001), torch.tensor([threshold])]).sort().values
    seen = with_thresholds(threshold)(InferenceBatch(anomaly_map=maps, pred_score=maps))
    assert (seen.anomaly_map.diff() >= 0).all()
    assert (seen.anomaly_map[0], seen.anomaly_map[-1]) == (0, 1)
    assert torch.equal(seen.pred_mask, maps > threshold)
    torch.testing.assert_close(seen.pred_score, with_thresholds(0.5, 0.5)._normalize(
        maps, *torch.tensor([0.0, 1.0, 0.5])
    ))  # fmt: skip


def test_thresholds_of_image_and_pixels_are_not_mixed_up() -> None:
    values = torch.tensor([0.1, 0.3, 0.6])
    seen = with_thresholds(pixel=0.2, image=0.4)(
        InferenceBatch(anomaly_map=values[:, None, None], pred_score=values)
    )
    assert seen.pred_mask.flatten().tolist() == [False, True, True]
    assert seen.pred_label.tolist() == [False, False, True]


def test_sensitivity_moves_the_cut() -> None:
    values = torch.tensor([0.1, 0.3, 0.6])
    bold = PostProcessor(pixel_sensitivity=0.8, image_sensitivity=0.2)
    seen = bold(InferenceBatch(anomaly_map=values[:, None, None], pred_score=values))
    assert seen.pred_mask.flatten().tolist() == [False, True, True]
    assert seen.pred_label.tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("good", "bad", "low", "high"),
    [
        ([0.01, 0.02], [0.6, 0.9], 0.02, 0.6),
        ([0.01, 0.02, 0.7], [0.5, 0.6, 0.9], 0.02, 0.5),
        ([0.0, 0.0], [1.0, 1.0], 0.0, 1.0),
        ([0.3], [0.3], 0.0, 1.0),
    ],
)
def test_separate(good: list[float], bad: list[float], low: float, high: float) -> None:
    assert low <= separate(torch.tensor(good), torch.tensor(bad)) <= high


def test_halfway_by_hand() -> None:
    """Between odds of 1 to 10 and 1000 to 1 are 10 to 1; one odd good image changes nothing."""
    good = torch.tensor([*[1 / 11] * 39, 0.99])
    bad = torch.tensor([0.01, 1000 / 1001, 1000 / 1001, 1000 / 1001, 0.9999])
    assert float(halfway(good, bad)) == pytest.approx(10 / 11, rel=1e-5)


@pytest.mark.parametrize(
    ("good", "bad", "cut"),
    [
        pytest.param(0.2, 0.9, 0.4, id="evident"),
        pytest.param(0.5, 0.9, 0.5, id="good images score higher"),
        pytest.param(0.1, 0.2, 1 / 7, id="anomalies score lower"),  # odds of 1/9, 1/6 and 1/4
        pytest.param(0.9, 0.1, 0.5, id="the wrong way round"),
    ],
)
def test_halfway_or_what_is_anomalous_in_itself(good: float, bad: float, cut: float) -> None:
    found = halfway(torch.full((9,), good), torch.full((9,), bad), most=0.4)
    assert float(found) == pytest.approx(cut, rel=1e-5)


@pytest.mark.parametrize(("good", "bad"), [([0.0], [1.0]), ([0.3], [0.3]), ([0.9], [0.1])])
def test_halfway_is_a_number_whatever_the_scores(good: list[float], bad: list[float]) -> None:
    assert 0 < halfway(torch.tensor(good), torch.tensor(bad)) < 1


class Difference(nn.Module):
    """Stands in for a trained network: how far a pixel is from 0.2, the value of a good one."""

    memory = region = None

    def forward(self, images: Tensor, place: None = None) -> InferenceBatch:
        del place
        maps = 0.1 + (images - 0.2).abs().mean(1, keepdim=True) / 2
        return InferenceBatch(pred_score=maps.amax((1, 2, 3)), anomaly_map=maps)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre_processor = self.train_crop = None
        self.model: nn.Module = Difference()
        self.anomaly_generator = AnomalyGenerator(Anomalies(colour_share=1.0))
        self.device = torch.device("cpu")


@pytest.mark.parametrize(("kind", "cut"), [("map", 20 / 42), ("detector", 9 / 13)])
def test_a_memorys_image_threshold_is_evidence_of_20(
    monkeypatch: pytest.MonkeyPatch, kind: str, cut: float
) -> None:
    """Unlike a detector's score, which is cut halfway, at odds of 9/4."""
    good, bad = torch.full((8,), 0.2), torch.full((8,), 81 / 85)  # odds of 1/4 and 81/4
    answers = Answers(good, bad, good, good, None)
    monkeypatch.setattr("anomalib_anoseg.post_processor.calibrate", lambda *_: answers)
    model = Model()
    model.model.detector = None if kind == "map" else nn.Identity()
    made = PostProcessor()
    made.fit(model, [])
    assert float(made.image_threshold) == pytest.approx(cut, rel=1e-5)
    assert float(made.pixel_threshold) == 0.5


def test_fit_separates_good_images_from_synthetic_anomalies() -> None:
    images = [torch.full((1, 3, 96, 96), 0.2) for _ in range(5)]
    state = torch.get_rng_state()
    model, made, again = Model(), PostProcessor(), PostProcessor()
    made.fit(model, images)
    assert 0.1 < made.image_threshold < 0.25
    assert 0.1 < made.pixel_threshold < 0.15  # every changed pixel is above, every other at 0.1
    again.fit(model, images)
    for name, value in again.state_dict().items():
        assert torch.equal(value, made.state_dict()[name])
    assert torch.equal(torch.get_rng_state(), state)  # training's draws do not depend on it
    assert model.anomaly_generator.p == 0.8  # training's is left alone


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_map_that_tells_nothing_gives_numbers(value: float) -> None:
    class Blind(nn.Module):
        memory = region = None

        def forward(self, images: Tensor, place: None = None) -> InferenceBatch:
            del place
            maps = torch.full_like(images[:, :1], value)
            return InferenceBatch(pred_score=maps[:, 0, 0, 0], anomaly_map=maps)

    model, made = Model(), PostProcessor()
    model.model = Blind()
    image = torch.full((1, 3, 96, 96), 0.2)
    made.fit(model, [image])
    seen = made(Blind()(image))
    assert 0 <= seen.anomaly_map.min() <= seen.anomaly_map.max() <= 1  # not NaN
    assert 0 <= seen.pred_score <= 1


def test_fit_takes_images_of_several_sizes() -> None:
    images = [torch.full((1, 3, side, 96), 0.2) for side in (96, 64, 100)]
    made = PostProcessor()
    made.fit(Model(), images)
    assert 0.1 < made.image_threshold < 0.25


def test_held_out_images_are_kept_small(good: Path) -> None:
    data = module(good)
    data.setup()
    (image,) = HeldOut(data, PreProcessor((64, 80))).images
    assert image.shape == (1, 3, 64, 80)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    for index, image in enumerate(photographs(12)):
        pixels = (255 * image.movedim(0, -1)).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def module(good: Path, **arguments: Any) -> Folder:
    # anomalib splits off test images at random.
    arguments = {"train_batch_size": 4, "num_workers": 0, "seed": 1} | arguments
    return Folder(name="part", root=good.parent, normal_dir="good", **arguments)


def paths(data: Any) -> set[str]:
    return {Path(path).name for path in data.samples.image_path}


def test_held_out_images_are_not_trained_on(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(good)
    data.setup()
    everything = paths(data.train_data)
    read: list[str] = []
    real = reading.read_image
    monkeypatch.setattr(
        reading, "read_image", lambda path, **kw: read.append(Path(path).name) or real(path, **kw)
    )
    held_out = HeldOut(data, torch.clone)
    assert read
    assert len(read) == len(held_out.images) == max(1, round(len(everything) / 10))
    assert paths(data.train_data) == everything - set(read)
    held_out.release()
    assert paths(data.train_data) == everything
    first, read[:] = [*read], []
    HeldOut(data, torch.clone)
    assert read == first  # a resumed run holds out the same


@pytest.mark.parametrize("mode", ["same_as_test", "from_train"])
def test_copies_of_held_out_images_are_not_trained_on(good: Path, mode: str) -> None:
    """A memory would know the image itself, and put both thresholds too low."""
    for path in sorted(good.iterdir()):
        shutil.copy(path, path.with_name(f"again-{path.name}"))
    data = module(good, val_split_mode=mode, normal_split_ratio=0.1)
    data.setup()
    everything = paths(data.train_data)
    trainer, anoseg = Trainer(logger=False), AnoSeg()
    trainer.datamodule = data  # type: ignore[attr-defined]
    post_processor: Any = anoseg.post_processor
    with pytest.warns(UserWarning, match="training images are copies of ones that are held out"):
        post_processor.setup(trainer, anoseg, "fit")
    held_out = post_processor._held_out
    left_out = {Path(path).name for path in held_out.copies}
    assert left_out
    trained_on = paths(data.train_data)
    assert trained_on.isdisjoint(left_out)
    chosen = (everything - trained_on - left_out) or paths(data.val_data)
    assert {name.removeprefix("again-") for name in left_out} <= {
        name.removeprefix("again-") for name in chosen
    }
    held_out.release()
    assert paths(data.train_data) == everything


def test_of_held_out_copies_one_sets_thresholds(good: Path) -> None:
    """The others tell nothing of the next good image, and would make a promise too good."""
    data = module(good)
    data.setup()
    assert len(HeldOut(data, None, wanted=100).images) == 2
    first, *others = sorted(good.iterdir())
    for path in others:
        shutil.copy(first, path)
    data.setup()
    assert len(HeldOut(data, None, wanted=100).images) == 1


def test_images_that_a_memory_knows_set_no_thresholds(good: Path) -> None:
    data = module(good)
    data.setup()
    everything = [number_of(path) for path in data.train_data.samples.image_path]
    held_out = HeldOut(data, None, wanted=100)
    trained_on = {number_of(path) for path in data.train_data.samples.image_path}
    chosen = [number for number in everything if number not in trained_on]
    images = [*held_out.images]
    assert len(chosen) == len(images) > 1
    assert held_out.leave_out(trained_on) == (0, 2)
    assert held_out.leave_out({chosen[0]}) == (1, 1)
    assert len(held_out.images) == len(images) - 1
    assert torch.equal(held_out.images[0], images[1])
    assert held_out.leave_out({*chosen}) == (2, 0)
    assert len(held_out.images) == len(images) - 1


def test_validation_images_from_the_training_set_are_used(good: Path) -> None:
    data = module(good, val_split_mode="from_train", val_split_ratio=0.5)
    data.setup()
    before = paths(data.train_data)
    HeldOut(data, torch.clone)
    assert paths(data.train_data) == before


def test_a_validation_split_that_is_empty_is_as_none(good: Path) -> None:
    """anomalib takes a hundredth of ten images to be none, and says so."""
    data = module(good, val_split_mode="from_train", val_split_ratio=0.01)
    data.setup()
    assert len(data.val_data) == 0
    before = paths(data.train_data)
    assert len(HeldOut(data, torch.clone).images) == 1
    assert len(paths(data.train_data)) == len(before) - 1


def test_a_single_good_image_serves_both(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "good/a.png")
    data = module(tmp_path / "good", test_split_mode="none", val_split_mode="none")
    data.setup()
    assert len(HeldOut(data, torch.clone).images) == 1
    assert len(data.train_data) == 1


def train(model: AnoSeg, data: Folder, root: Path, **arguments: Any) -> Engine:
    engine = quiet_engine(root, **{"max_epochs": 2} | arguments)
    engine.fit(model, datamodule=data)
    return engine


def flat(folder: Path, *colours: str) -> str:
    folder.mkdir()
    for index, colour in enumerate(colours):
        Image.new("RGB", (96, 96), colour).save(folder / f"{index}.png")
    return folder.name


@pytest.mark.slow
def test_thresholds_do_not_depend_on_test_images(good: Path, tmp_path: Path) -> None:
    """Oracle: the same run with other test images, which by default are also validation images."""
    models = []
    for name, colours in (("a", ["black", "white"]), ("b", ["red", "blue"])):
        bad = flat(good.parent / f"bad_{name}", colours[0])
        fine = flat(good.parent / f"fine_{name}", colours[1])
        data = module(good, abnormal_dir=bad, normal_test_dir=fine)
        models.append(segmenter(seed=1))
        train(models[-1], data, tmp_path / name)
        assert len(data.train_data) == 12  # released
    states = [model.state_dict() for model in models]
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], equal_nan=True)
    assert states[0]["post_processor._pixel_threshold"] not in (0, 0.5, 1)


@pytest.mark.slow
def test_images_come_back_after_a_run_that_failed(good: Path, tmp_path: Path) -> None:
    """Before another model trains on the same data; the last weights had their thresholds set."""

    class Fail(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 2:
                raise RuntimeError

    data, model = module(good), segmenter(seed=1)
    data.setup()
    count = len(data.train_data)
    with pytest.raises(RuntimeError):
        train(model, data, tmp_path / "failed", callbacks=[Fail()])
    assert len(data.train_data) == count
    (last,) = (tmp_path / "failed").rglob("*.ckpt")
    saved = AnoSeg.load_from_checkpoint(last)
    expected = refitted(saved, good)._pixel_threshold
    torch.testing.assert_close(saved.post_processor._pixel_threshold, expected)
    model.to_torch(tmp_path)  # without the data
    train(model, data, tmp_path / "again")
    assert len(data.train_data) == count


@pytest.mark.slow
def test_thresholds_that_could_not_be_set_are_set_later(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that is short in a validation: the last checkpoint must not keep what was before."""
    fit, tries = PostProcessor.fit, []

    def fails_once(self: PostProcessor, *args: Any) -> None:
        tries.append(0)
        if len(tries) == 1:
            raise RuntimeError
        fit(self, *args)

    monkeypatch.setattr(PostProcessor, "fit", fails_once)
    data = module(good, val_split_mode="same_as_test")
    with pytest.raises(RuntimeError):
        train(segmenter(seed=1), data, tmp_path)
    (last,) = tmp_path.rglob("*.ckpt")
    saved = AnoSeg.load_from_checkpoint(last)
    expected = refitted(saved, good)._pixel_threshold
    torch.testing.assert_close(saved.post_processor._pixel_threshold, expected)


@pytest.mark.parametrize("name", ["image_sensitivity", "pixel_sensitivity"])
@pytest.mark.parametrize("value", [-0.1, 5.0, float("nan")])
def test_a_sensitivity_is_a_share(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must satisfy 0 <= {name} <= 1, got {value}"):
        PostProcessor(**{name: value})


@pytest.mark.parametrize("name", ["false_alarm_rate", "mask_false_alarm_rate"])
def test_a_rate_without_normalisation_would_do_nothing(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0.1 needs enable_normalization"):
        PostProcessor(enable_normalization=False, **{name: 0.1})
    processor = PostProcessor(enable_normalization=False)
    setattr(processor, name, 0.1)  # as an export with another rate does
    with pytest.raises(ValueError, match=f"{name}=0.1 needs enable_normalization"):
        processor.set_thresholds()


def refitted(model: AnoSeg, good: Path) -> PostProcessor:
    data = module(good)
    data.setup()
    model.cpu().eval()
    made = PostProcessor()
    made.fit(model, HeldOut(data, model.pre_processor).images)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [{}, {"check_val_every_n_epoch": 2, "max_epochs": 3}, {"limit_val_batches": 0}],
    ids=["each epoch", "some epochs", "never"],
)  # fmt: skip
def test_thresholds_belong_to_the_weights_they_are_saved_with(
    good: Path, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    model = segmenter(seed=1)
    engine = train(model, module(good), tmp_path, **arguments)
    saved = AnoSeg.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path)
    for trained in (model, saved):
        expected = refitted(trained, good).state_dict()
        assert 0 < expected["_pixel_threshold"] < 1
        for name, value in trained.post_processor.state_dict().items():
            torch.testing.assert_close(value, expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("weights_only", [False, True])
def test_checkpoints_within_an_epoch_have_their_thresholds(
    good: Path, tmp_path: Path, weights_only: bool
) -> None:
    every_step = ModelCheckpoint(
        tmp_path / "steps",
        every_n_train_steps=1,
        save_top_k=-1,
        save_weights_only=weights_only,
    )
    train(segmenter(seed=1), module(good), tmp_path, callbacks=[every_step], max_epochs=1)
    paths = [*(tmp_path / "steps").glob("*.ckpt")]
    assert len(paths) > 1
    for path in paths:
        saved = AnoSeg.load_from_checkpoint(path)
        expected = refitted(saved, good)._pixel_threshold
        torch.testing.assert_close(saved.post_processor._pixel_threshold, expected)


@pytest.mark.slow
def test_anomalibs_own_post_processor_still_works(good: Path, tmp_path: Path) -> None:
    bad, fine = (
        flat(good.parent / "bad", "black", "red"),
        flat(good.parent / "fine", "white", "blue"),
    )
    data = module(good, abnormal_dir=bad, normal_test_dir=fine)
    model = segmenter(seed=1, post_processor=AnomalibPostProcessor())
    seen: list[int] = []
    model.on_train_epoch_start = lambda: seen.append(len(data.train_data))  # type: ignore[method-assign]
    train(model, data, tmp_path)
    assert seen == [12, 12]  # nothing is held out
    assert not model.post_processor.image_threshold.isnan()
