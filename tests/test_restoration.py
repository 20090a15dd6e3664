"""A checkpoint alone is enough, and what contradicts it is named.

Oracle: the model that was saved.
"""

import gc
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.models import AnomalibModule, get_model
from anomalib.post_processing import PostProcessor as AnomalibPostProcessor
from conftest import photographs, quiet_engine, segmenter, small_model
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback
from torch import nn
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_anoseg import AnoSeg, PostProcessor, PreProcessor, SurfaceDemo, Variation
from anomalib_anoseg.training.learning_rate import resume_with
from anomalib_anoseg.training.restoration import contradictions, plain


@pytest.fixture(scope="module")
def part(demo_root: Path) -> SurfaceDemo:
    return SurfaceDemo(demo_root, category="part", train_batch_size=4, num_workers=0)


UNUSUAL: dict[str, Any] = {
    "decoder": "paper", "coordinate_channels": False, "adversarial_weight": 0.0,
    "reconstruction_weight": 0.0, "pre_processor": PreProcessor((64, 96)),
    "learning_rate": 5e-4, "seed": 2,
}  # fmt: skip


class Saved:
    """A run with unusual arguments: its model, its checkpoint and its figures."""

    def __init__(self, root: Path, data: SurfaceDemo) -> None:
        post_processor = PostProcessor(image_sensitivity=0.6, pixel_sensitivity=0.4)
        self.model = small_model(post_processor=post_processor, **UNUSUAL)
        run = quiet_engine(root, max_steps=3)
        (self.figures,) = run.train(self.model, datamodule=data)
        self.path = Path(run.trainer.checkpoint_callback.best_model_path)
        self.model.cpu().eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, part: SurfaceDemo) -> Saved:
    return Saved(tmp_path_factory.mktemp("saved"), part)


def assert_same(model: AnoSeg, saved: Saved) -> None:
    assert plain(dict(model.hparams)) == plain(dict(saved.model.hparams))
    torch.testing.assert_close(model.cpu().state_dict(), saved.model.state_dict(), rtol=0, atol=0)
    image = photographs(1, height=150, width=120)
    torch.testing.assert_close(model.eval()(image), saved.model(image), rtol=0, atol=0)
    weight = model.model.map_decoder.state_dict()
    assert any(
        value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()
        for value in weight.values() if value.dim() == 4
    )  # fmt: skip


@pytest.mark.slow
def test_test_gives_the_figures_of_the_run(
    tmp_path: Path, part: SurfaceDemo, saved: Saved, caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.get_rng_state()
    model = AnoSeg(visualizer=False)
    assert not torch.equal(torch.get_rng_state(), state)  # an unseeded one draws as torch does
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        (figures,) = quiet_engine(tmp_path).test(model, datamodule=part, ckpt_path=saved.path)
    assert figures == pytest.approx(saved.figures, abs=1e-6)
    assert_same(model, saved)
    assert caplog.text == ""
    assert model.post_processor.image_sensitivity == 0.6


@pytest.mark.slow
def test_predict_and_validate_need_nothing_else(
    tmp_path: Path, part: SurfaceDemo, saved: Saved
) -> None:
    model = AnoSeg(visualizer=False)
    images = Path(part.root) / "part/test/good"
    predictions = quiet_engine(tmp_path).predict(model, data_path=images, ckpt_path=saved.path)
    for batch in predictions:
        expected = saved.model(batch.image)
        torch.testing.assert_close(batch.pred_score.cpu(), expected.pred_score)
        assert torch.equal(batch.pred_mask.cpu(), expected.pred_mask.squeeze(1))
    quiet_engine(tmp_path).validate(model, datamodule=part, ckpt_path=saved.path)
    assert_same(model, saved)


def contradicting() -> AnoSeg:
    return AnoSeg(
        decoder="skip", backbone="resnet10t", variation=Variation(turn=9.0), visualizer=False,
        post_processor=PostProcessor(image_sensitivity=0.7), pre_processor=PreProcessor((128, 128)),
    )  # fmt: skip


SAID = (
    "backbone is 'mobilenetv3_small_050' in the checkpoint, but 'resnet10t' was given",
    "variation.turn is 2.0 in the checkpoint, but 9.0 was given",
    "post_processor.image_sensitivity is 0.6 in the checkpoint, but 0.7 was given",
    "pre_processor.image_size is [64, 96] in the checkpoint, but [128, 128] was given",
)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["test", "export"])
def test_contradictions_are_named_and_the_checkpoint_wins(
    tmp_path: Path, part: SurfaceDemo, saved: Saved, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = contradicting()
    engine = quiet_engine(tmp_path)
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        if command == "test":
            (figures,) = engine.test(model, datamodule=part, ckpt_path=saved.path)
            assert figures == pytest.approx(saved.figures, abs=1e-6)
        else:
            engine.export(model, "torch", tmp_path, ckpt_path=saved.path)
            assert "anomalib-anoseg export --image_sensitivity" in caplog.text
    lines = [record.getMessage() for record in caplog.records]
    assert {line for line in lines if "was given" in line} == {
        f"{said}: the checkpoint's is used" for said in SAID
    }


COMPONENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none, another was given": ({"post_processor": False, "pre_processor": False}, {}),
    "ours, none was given": ({}, {"post_processor": False, "pre_processor": False}),
    "anomalib's": ({"post_processor": AnomalibPostProcessor()}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPONENTS)
def test_components_are_those_of_the_checkpoint(
    tmp_path: Path, part: SurfaceDemo, case: str
) -> None:
    trained, given = COMPONENTS[case]
    model = segmenter(**{"pre_processor": PreProcessor((64, 96)), "seed": 1} | trained)
    run = quiet_engine(tmp_path / "a", max_steps=2)
    (figures,) = run.train(model, datamodule=part)
    other = AnoSeg(visualizer=False, **given)
    path = run.trainer.checkpoint_callback.best_model_path
    (again,) = quiet_engine(tmp_path / "b").test(other, datamodule=part, ckpt_path=path)
    assert again == pytest.approx(figures, abs=1e-6)
    for name in ("pre_processor", "post_processor"):
        assert type(getattr(other, name)) is type(getattr(model, name))


@pytest.mark.slow
def test_a_resumed_run_takes_the_networks_of_its_checkpoint(
    tmp_path: Path, part: SurfaceDemo, saved: Saved, caplog: pytest.LogCaptureFixture
) -> None:
    """Oracle: the same run, resumed with every argument said again."""

    class Rates(Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    def resume(model: AnoSeg, name: str) -> list[float]:
        rates = Rates()
        run = quiet_engine(tmp_path / name, max_steps=5, max_epochs=-1, callbacks=[rates])
        run.fit(model, datamodule=part, ckpt_path=saved.path)
        return rates.seen

    expected = small_model(**UNUSUAL)
    rates = resume(expected, "whole")
    model = AnoSeg(visualizer=False)
    assert resume(model, "alone") == rates
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
    # A learning rate may change, and counts; other networks may not.
    assert resume(AnoSeg(visualizer=False, learning_rate=2.5e-4), "slower") == pytest.approx(
        [rate / 2 for rate in rates]
    )
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        run = quiet_engine(tmp_path / "train", max_steps=4, max_epochs=-1)
        run.train(AnoSeg(visualizer=False), datamodule=part, ckpt_path=saved.path)
    assert f"figures of {saved.path}, from which the run was resumed; what it ended" in caplog.text
    with pytest.raises(
        ValueError, match=r"cannot resume .*model.ckpt with other networks: backbone is"
    ):
        resume(AnoSeg(visualizer=False, backbone="resnet10t"), "other")


def test_only_what_was_given_and_is_not_the_default_contradicts() -> None:
    default = {"a": 1, "laws": {"b": (0, 1), "c": 2}}
    saved = {"a": 2, "laws": {"b": [0, 2], "c": 3}}
    assert contradictions(default, saved, default) == []
    assert contradictions({"a": 2, "laws": {"b": (0, 2), "c": 3}}, saved, default) == []
    found = contradictions({"a": 3, "laws": {"b": (0, 3), "c": 2}}, saved, default)
    assert [(entry.name, entry.given, entry.saved) for entry in found] == [
        ("a", 3, 2), ("laws.b", [0, 3], [0, 2]),
    ]  # fmt: skip


def test_laws_and_a_list_contradict() -> None:
    default = {"variation": {"turn": 5.0}}
    for given, saved, found in (
        ({"turn": 5.0}, [], []),  # nobody gave the default
        ([], {"turn": 5.0}, [([], {"turn": 5.0})]),
        ({"turn": 9.0}, [], [({"turn": 9.0}, [])]),
        ([], [], []),
    ):
        entries = contradictions({"variation": given}, {"variation": saved}, default)
        assert [(entry.given, entry.saved) for entry in entries] == found


@pytest.mark.slow
@pytest.mark.parametrize("given", [None, "laws", "list"])
def test_a_resumed_run_varies_images_as_before_or_as_given(
    tmp_path: Path, part: SurfaceDemo, given: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A run without variation; one with a list of augmentations looks the same in a checkpoint."""
    flip = RandomHorizontalFlip(p=1.0)
    first = quiet_engine(tmp_path, max_steps=1, max_epochs=-1)
    first.fit(segmenter(variation=[]), datamodule=part)
    path = first.trainer.checkpoint_callback.best_model_path
    options = {None: {}, "laws": {"variation": Variation(turn=90)}, "list": {"variation": [flip]}}
    model = segmenter(**options[given])
    with caplog.at_level(logging.WARNING, logger="anomalib_anoseg"):
        quiet_engine(tmp_path / "rest", max_steps=2, max_epochs=-1).fit(
            model, datamodule=part, ckpt_path=path
        )
    images = photographs(2)
    varied = model.variation(images)
    if given == "list":
        assert torch.equal(varied, images.flip(-1))
    else:
        assert torch.equal(varied, images) == (given is None)
    assert ("give those again as variation" in caplog.text) == (given is None)


def test_the_state_of_an_optimizer_follows_a_new_rate() -> None:
    """Oracle: an optimizer that had the new rate from the start."""
    weight = nn.Parameter(torch.ones(1))
    states = []
    for rate in (1e-3, 5e-4):
        optimizer = torch.optim.AdamW([weight], rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        states.append(
            {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}
        )
    old, new = states
    resume_with(old, {"learning_rate": 1e-3}, {"learning_rate": 5e-4})
    for state in states:
        state["lr_schedulers"][0].pop("lr_lambdas")
    assert plain(old) == plain(new)


def test_pretrained_weights_are_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine on the line may have no network."""
    model = segmenter(pre_trained=True)
    # As if they had come from timm's hub.
    model.hparams["memory_backbone"] = "tf_efficientnet_lite0.in1k"
    checkpoint = {
        "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.6.0",
    }  # fmt: skip
    torch.save(checkpoint, tmp_path / "model.ckpt")

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("asked for weights")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    loaded = AnoSeg.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.model.memory is not None
    other = AnoSeg(backbone="resnet10t")
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])


def test_no_module_has_two_names() -> None:
    """torch.export derives classes of the same names from such a model, AnoSeg's among them."""
    model = segmenter()
    assert isinstance(model.pre_processor, PreProcessor)
    model.pre_processor.load_checkpoint_config({"image_size": [64, 64]})
    names: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        assert names.setdefault(id(module), name) == name


@pytest.mark.slow
def test_the_name_stays_unambiguous_after_an_export(
    tmp_path: Path, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the garbage collector, which would hide it."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    gc.disable()
    try:
        quiet_engine(tmp_path).export(AnoSeg(), "onnx", tmp_path, ckpt_path=saved.path)
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(AnomalibModule, "model")
        assert parser.parse_args(["--model=AnoSeg"]).model.class_path.endswith("AnoSeg")
        assert type(get_model("AnoSeg")) is AnoSeg
        assert AnoSeg.__subclasses__() == []
    finally:
        gc.enable()
