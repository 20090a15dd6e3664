import random
import re
from collections.abc import Iterable
from functools import partialmethod
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.pre_processing import PreProcessor as AnomalibPreProcessor
from conftest import photographs, quiet_engine, small_model
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_anoseg import AnoSeg, SurfaceDemo
from anomalib_anoseg.training.learning_rate import warmup_cosine
from anomalib_anoseg.training.loss_guard import LossGuard


@pytest.fixture
def part(demo_root: Path) -> SurfaceDemo:
    return SurfaceDemo(demo_root, category="part", train_batch_size=4)


class Watch(Callback):
    """Notes what was logged and how the weights moved in each step."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.losses.append({k: v.item() for k, v in trainer.callback_metrics.items()})


WEIGHTS = {
    "all": ((1.0, 0.01), {"segmentation", "reconstruction", "discriminator", "adversarial"}),
    "no adversary": ((1.0, 0.0), {"segmentation", "reconstruction"}),
    "no reconstruction": ((0.0, 0.01), {"segmentation", "discriminator", "adversarial"}),
    "segmentation only": ((0.0, 0.0), {"segmentation"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "32-true") for name in WEIGHTS), ("all", "bf16-mixed")]
)
def test_each_part_can_be_switched_off(
    tmp_path: Path, part: SurfaceDemo, name: str, precision: str
) -> None:
    weights, parts = WEIGHTS[name]
    watch = Watch()
    model = small_model(reconstruction_weight=weights[0], adversarial_weight=weights[1])
    assert (model.discriminator is None) == (weights[1] == 0)
    assert (model.model.image_decoder is None) == (sum(weights) == 0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    quiet_engine(tmp_path, precision=precision, max_steps=3, callbacks=[watch]).fit(
        model, datamodule=part
    )
    assert len(watch.losses) == 3  # max_steps counts batches, not the steps of two optimisers
    for losses in watch.losses:
        assert set(losses) == {"train_loss"} | {f"train_{name}" for name in parts}
        total = sum(losses[f"train_{name}"] for name in parts - {"discriminator"})
        assert losses["train_loss"] == pytest.approx(total, rel=1e-4)
    unmoved = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert unmoved == []  # every network that is built is trained


@pytest.mark.slow
def test_a_training_batch_of_one(tmp_path: Path, demo_root: Path) -> None:
    part = SurfaceDemo(demo_root, category="part", train_batch_size=1)
    watch = Watch()
    quiet_engine(tmp_path, max_steps=2, callbacks=[watch]).fit(small_model(), datamodule=part)
    assert all(torch.isfinite(torch.tensor(list(loss.values()))).all() for loss in watch.losses)


@pytest.mark.slow
def test_metrics_of_a_test_run(tmp_path: Path, part: SurfaceDemo) -> None:
    run = quiet_engine(tmp_path)
    model = small_model()
    run.fit(model, datamodule=part)
    (results,) = run.test(model, datamodule=part)
    assert set(results) == {
        "image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_AUPR", "pixel_AUPRO",
        "pixel_F1Score", "pixel_IoU", "pixel_IoUMax",
    }  # fmt: skip
    assert all(0 <= value <= 1 for value in results.values())


@pytest.mark.slow
def test_resumed_run_continues_where_it_was(tmp_path: Path, demo_root: Path) -> None:
    """Oracle: the uninterrupted run, bit for bit."""

    def data() -> SurfaceDemo:
        return SurfaceDemo(demo_root, category="part", train_batch_size=4)

    class Interrupt(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 7:  # in the middle of the third epoch
                raise KeyboardInterrupt

    whole = small_model(seed=3)
    quiet_engine(tmp_path / "a", max_epochs=3).fit(whole, datamodule=data())
    broken = quiet_engine(tmp_path / "b", max_epochs=3, callbacks=[Interrupt()])
    with pytest.raises(SystemExit):
        broken.fit(small_model(seed=3), datamodule=data())
    checkpoint = broken.trainer.checkpoint_callback.best_model_path
    assert Path(checkpoint).is_file()
    resumed = small_model(seed=3)
    again = quiet_engine(tmp_path / "c", max_epochs=3)
    again.fit(resumed, datamodule=data(), ckpt_path=checkpoint)
    assert again.trainer.global_step == 9
    expected, ended = whole.state_dict(), resumed.state_dict()
    torch.testing.assert_close(ended, expected, atol=0, rtol=0, equal_nan=True)
    for a, b in zip(whole.trainer.optimizers, resumed.trainer.optimizers, strict=True):
        assert a.param_groups[0]["lr"] == b.param_groups[0]["lr"]
        for left, right in zip(a.state.values(), b.state.values(), strict=True):
            torch.testing.assert_close(left["exp_avg_sq"], right["exp_avg_sq"])


@pytest.mark.slow
def test_compiled_training(
    tmp_path: Path, part: SurfaceDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the same run without a compiler. Without inductor, which takes minutes."""
    compile_ = partialmethod(torch.nn.Module.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    watches = Watch(), Watch()
    for watch, compiled in zip(watches, (False, True), strict=True):
        model = small_model(torch_compile=compiled, seed=1)
        if compiled:
            model.variation.compile(dynamic=False)  # as on a GPU
        torch._dynamo.utils.counters.clear()
        run = quiet_engine(tmp_path, max_steps=2, callbacks=[watch], limit_val_batches=0)
        run.fit(model, datamodule=part)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 4  # the model, twice the discriminator, thresholds
    assert counters["graph_break"] == {}
    eager, compiled = (watch.losses for watch in watches)
    assert eager[0] == pytest.approx(compiled[0], rel=1e-3)
    assert eager[1] == pytest.approx(compiled[1], rel=2e-2)
    assert model._compiled_call_impl is model.model._compiled_call_impl is None
    run.export(model, "openvino", tmp_path)


@pytest.mark.parametrize("part", ["variation", "anomaly_generator"])
def test_synthesis_is_one_graph(part: str) -> None:
    """Of a size that is not the next one's: a GPU's last batch is smaller."""
    module = getattr(small_model(), part)
    torch.compiler.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=False)
    for batch in (4, 3):
        images = photographs(batch)
        if part == "anomaly_generator":
            result, masks = compiled(images, torch.zeros_like(images[:, :1]))
            changed = (result != images).any(1, keepdim=True)
            assert torch.equal(changed, masks > 0)
        else:
            result = compiled(images)
        assert result.shape == images.shape
        assert not torch.equal(result, images)


@pytest.mark.slow
def test_checkpoint_restores_arguments_and_answers(tmp_path: Path, part: SurfaceDemo) -> None:
    model = small_model(decoder="paper", anomalies={"patch_area": [0.05, 0.1]}, seed=1)
    run = quiet_engine(tmp_path, max_steps=1)
    run.fit(model, datamodule=part)
    loaded = AnoSeg.load_from_checkpoint(run.trainer.checkpoint_callback.best_model_path)
    assert loaded.hparams.decoder == "paper"
    assert loaded.anomaly_generator.anomalies.patch_area == (0.05, 0.1)
    image = photographs(1, height=150, width=120)  # through the restored resize to 64 x 64
    torch.testing.assert_close(loaded.eval()(image), model.cpu().eval()(image))


def with_plain_descent(**arguments: Any) -> AnoSeg:
    """With a rate of 1 a step moves the weights by their gradients."""
    model = small_model(**arguments)
    # What `anomalib fit --optimizer SGD` does.
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), 1.0)
    return model


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@pytest.mark.slow
def test_an_optimizer_from_outside_and_clipping(tmp_path: Path, part: SurfaceDemo) -> None:
    model = with_plain_descent()
    before = flat(model.parameters())
    quiet_engine(tmp_path, max_steps=1, gradient_clip_val=0.5).fit(model, datamodule=part)
    after = flat(model.parameters())
    assert (after - before).norm() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.slow
def test_accumulated_gradients(tmp_path: Path, part: SurfaceDemo) -> None:
    """Oracle: the mean of the gradients of two batches, each taken at the same weights."""

    class Gradients(Callback):
        def __init__(self) -> None:
            self.sums: list[Tensor] = []

        def on_after_backward(self, trainer: Any, module: AnoSeg) -> None:
            del trainer
            self.sums.append(flat(p.grad for p in module.parameters()))

    watch, model = Gradients(), with_plain_descent(seed=1)
    before = flat(model.parameters())
    run = quiet_engine(tmp_path, max_steps=1, accumulate_grad_batches=2, callbacks=[watch])
    run.fit(model, datamodule=part)
    after = flat(model.parameters())
    first, both = watch.sums
    torch.testing.assert_close(before - after, both)
    assert (both - first).norm() > 0.1 * first.norm()


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    tmp_path: Path, part: SurfaceDemo
) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer: Any, module: AnoSeg, *_: Any) -> None:
            if trainer.global_step == 4:
                module.model.map_decoder.head.bias.data.fill_(float("nan"))

    run = quiet_engine(tmp_path, max_epochs=3, callbacks=[Poison()])
    model = small_model()
    with pytest.raises(FloatingPointError, match=r"step \d \(segmentation nan, .*learning_rate"):
        run.fit(model, datamodule=part)
    path = run.trainer.checkpoint_callback.best_model_path
    good = AnoSeg.load_from_checkpoint(path)
    assert all(p.isfinite().all() for p in good.parameters())
    again = quiet_engine(tmp_path / "again", max_epochs=3)
    again.fit(model, datamodule=part, ckpt_path=path)  # the same model goes on from there
    assert all(p.isfinite().all() for p in model.parameters())


def test_guard_reports_the_first_bad_step_when_asked_later() -> None:
    guard = LossGuard()
    guard.check()
    for step, value in enumerate([1.0, float("inf"), 2.0, float("nan")]):
        guard.watch(step, {"segmentation": torch.tensor(value), "adversarial": torch.tensor(0.5)})
    with pytest.raises(FloatingPointError, match=r"step 1 \(segmentation inf, adversarial 0.5\)"):
        guard.check()
    with pytest.raises(FloatingPointError, match="in another process"):
        LossGuard().check(anywhere=lambda _failed: True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_normalize_left_in_the_transform_is_named(
    tmp_path: Path, part: SurfaceDemo, stage: str
) -> None:
    transform = Compose([Resize((64, 64)), Normalize([0.5] * 3, [0.2] * 3)])
    model = small_model(pre_processor=AnomalibPreProcessor(transform))
    with pytest.raises(ValueError, match=r"\[0, 1\].*is there a Normalize left"):
        getattr(quiet_engine(tmp_path), stage)(model, datamodule=part)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("memory_rows", 0),
        ("memory_rows", 1.5),
        ("memory_rows", True),
        ("memory_rows", np.int64(100)),
        ("learning_rate", np.float64(0.001)),
        ("reconstruction_weight", -1.0),
        ("adversarial_weight", float("nan")),
        ("segmentation_loss", "l2"),
        ("decoder", "unet"),
        ("image_score", "maximum"),
    ],
)
def test_wrong_argument_is_named_with_its_range(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=argument) as caught:
        AnoSeg(**{argument: value})
    assert str(value) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ("a number of numpy" in str(caught.value)) == isinstance(value, np.number)


def test_the_constructor_stays_small() -> None:
    """Of anomalib's models the largest takes 23."""
    assert len(signature(AnoSeg).parameters) <= 22


def test_training_needs_synthetic_anomalies() -> None:
    with pytest.raises(ValueError, match=r"synthetic_share must be finite and greater than 0"):
        AnoSeg(anomalies={"synthetic_share": 0})


def test_the_detector_needs_good_images() -> None:
    with pytest.raises(ValueError, match="synthetic_share must be below 1, got 1"):
        AnoSeg(image_score="detector", anomalies={"synthetic_share": 1})


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_precision_that_it_does_not_know(
    tmp_path: Path, part: SurfaceDemo, precision: str
) -> None:
    run = quiet_engine(tmp_path, precision=precision)
    for stage in (run.fit, run.test):
        with pytest.raises(
            ValueError, match=f"precision {precision}: AnoSeg works in 32-true, bf16"
        ):
            stage(small_model(), datamodule=part)


@pytest.mark.slow
def test_a_trainer_validates_again_after_data_without_validation_images(
    tmp_path: Path, demo_root: Path
) -> None:
    data = SurfaceDemo(demo_root, val_split_mode="none", num_workers=0)
    run = quiet_engine(tmp_path, max_steps=1, limit_val_batches=2)
    run.fit(small_model(), datamodule=data)
    assert run.trainer.limit_val_batches == 2


def test_schedule_warms_up_and_ends_at_one_percent() -> None:
    factor = warmup_cosine(1000)
    assert factor(0) == pytest.approx(0.05)
    assert factor(20) == pytest.approx(1, abs=2e-3)
    assert factor(1000) == factor(5000) == pytest.approx(0.01)
    assert warmup_cosine(float("inf"))(10**6) == 1  # an endless run keeps its rate
    assert warmup_cosine(-1)(100) == warmup_cosine(0)(100) == 1  # Lightning's "not known"


def test_seed_gives_the_same_weights() -> None:
    a, b, c = small_model(seed=1), small_model(seed=1), small_model(seed=2)
    assert torch.equal(
        a.model.encoder.backbone.conv_stem.weight, b.model.encoder.backbone.conv_stem.weight
    )
    assert not torch.equal(
        a.model.encoder.backbone.conv_stem.weight, c.model.encoder.backbone.conv_stem.weight
    )


def test_a_seed_leaves_the_callers_random_numbers_alone() -> None:
    states = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    small_model(seed=7)
    assert random.getstate() == states[0]
    assert repr(np.random.get_state()) == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_can_be_clipped_in_every_precision(
    tmp_path: Path, part: SurfaceDemo, precision: str
) -> None:
    class Norm(Callback):
        def on_before_optimizer_step(self, trainer: Any, module: AnoSeg, _: Any) -> None:
            self.norm = flat(p.grad for p in module.parameters()).norm().item()
            self.fused = trainer.optimizers[0].defaults["fused"]

        def on_train_batch_end(self, _: Any, module: AnoSeg, *__: Any) -> None:
            self.clipped = flat(p.grad for p in module.parameters()).norm().item()

    watch, model = Norm(), small_model()
    run = quiet_engine(
        tmp_path, max_steps=1, precision=precision, gradient_clip_val=0.01, callbacks=[watch],
        limit_val_batches=0,
    )  # fmt: skip
    run.fit(model, datamodule=part)
    assert watch.norm > 0.02
    assert watch.clipped == pytest.approx(0.01, rel=1e-3)
    assert watch.fused == (precision == "32-true")  # a quarter of an AdamW step on a CPU


def test_validation_step_adds_maps() -> None:
    batch = ImageBatch(image=photographs(2))
    updated = small_model().eval().validation_step(batch)
    assert updated.anomaly_map.shape == (2, 96, 96)  # anomalib's batches drop the channel
    assert updated.pred_score.shape == (2,)


@pytest.mark.parametrize("kind", ["truncated", "of another model", "no checkpoint"])
def test_a_wrong_checkpoint_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    other = {"state_dict": {"weight": torch.zeros(1)}, "pytorch-lightning_version": "2.6.0"}
    torch.save(other if kind == "of another model" else [1], path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: not a checkpoint of AnoSeg"):
        AnoSeg.load_from_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        AnoSeg.load_from_checkpoint(tmp_path / "none.ckpt")
