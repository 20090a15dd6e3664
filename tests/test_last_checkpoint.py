"""However a run ends, its last weights are on disk with their thresholds.

Oracle: the model that the run leaves in memory, and the figures that it prints.
"""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.cli import AnomalibCLI
from anomalib.data import Folder
from anomalib.engine import Engine
from conftest import photographs, quiet_engine, segmenter
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from PIL import Image, ImageDraw
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.training.loss_guard import check_weights

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path for folder in (ROOT, ROOT / "anomalib_anoseg") for path in folder.glob("configs/*.yaml")
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 13 good images, of which 12 are trained on: 3 batches of 4 in an epoch."""
    root = tmp_path_factory.mktemp("last")
    for folder, count in (("good", 13), ("fine", 3), ("bad", 3)):
        (root / folder).mkdir()
        for index, image in enumerate(photographs(count, height=64, width=64)):
            save_image(image, root / folder / f"{index:02}.png")
    (root / "masks").mkdir()
    for index in range(3):
        mask = Image.new("L", (64, 64))
        ImageDraw.Draw(mask).rectangle((20, 20, 40, 30), fill=255)
        mask.save(root / f"masks/{index:02}.png")
    return root


def folder(root: Path) -> Folder:
    return Folder(
        name="own", root=root, normal_dir="good", normal_test_dir="fine", abnormal_dir="bad",
        mask_dir="masks", train_batch_size=4, num_workers=0, val_split_mode="same_as_test",
    )  # fmt: skip


class At(Callback):
    """Does something before a step."""

    def __init__(self, step: int, act: Callable[[Any], None]) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.act(trainer)


def stop(trainer: Any) -> None:
    trainer.should_stop = True


def fail(trainer: Any) -> None:
    del trainer
    msg = "the camera's disk is gone"
    raise OSError(msg)


def interrupt(trainer: Any) -> None:
    del trainer
    os.kill(os.getpid(), signal.SIGINT)


def never_better() -> EarlyStopping:
    return EarlyStopping(
        "train_loss", mode="max", min_delta=99, patience=1, check_on_train_epoch_end=True
    )


ENDS: dict[str, tuple[dict[str, Any], list[Callback], int]] = {
    "max_steps": ({"max_steps": 4, "max_epochs": -1}, [], 4),
    "max_epochs": ({"max_epochs": 2}, [], 6),
    "max_time": ({"max_time": timedelta(milliseconds=1), "max_epochs": -1}, [], 1),
    "limit_train_batches": ({"limit_train_batches": 2, "max_epochs": 2}, [], 4),
    "early stopping": ({"max_epochs": 9}, [never_better()], 6),
    "should_stop": ({"max_epochs": 9}, [At(3, stop)], 4),
    "Ctrl-C": ({"max_epochs": 9}, [At(4, interrupt)], 4),
    "error": ({"max_epochs": 9}, [At(5, fail)], 5),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("end", ENDS)
def test_the_last_weights_are_saved(tmp_path: Path, root: Path, end: str) -> None:
    arguments, callbacks, steps = ENDS[end]
    model = segmenter(seed=1)
    run = quiet_engine(tmp_path, check_val_every_n_epoch=10, callbacks=callbacks, **arguments)
    if end in ("Ctrl-C", "error"):
        with pytest.raises(SystemExit if end == "Ctrl-C" else OSError):
            run.fit(model, datamodule=folder(root))
    else:
        run.fit(model, datamodule=folder(root))
    (path,) = tmp_path.rglob("*.ckpt")
    assert path.parts[-3:] == ("weights", "lightning", "model.ckpt")
    assert Path(run.trainer.checkpoint_callback.best_model_path) == path.resolve()
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == steps
    torch.testing.assert_close(saved["state_dict"], model.cpu().state_dict(), rtol=0, atol=0)
    assert saved["state_dict"]["post_processor._pixel_threshold"] not in (0, 0.5, 1)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_report_what_they_leave(
    tmp_path: Path, root: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled down, with epochs of 3 steps, which neither steps nor validations divide."""
    monkeypatch.chdir(tmp_path)
    by_steps = "max_steps" in config.read_text()
    length = {"trainer.max_steps": 4} if by_steps else {"trainer.max_epochs": 1}
    arguments = {
        "model.init_args.backbone": "mobilenetv3_small_050", "trainer.accelerator": "cpu",
        "model.init_args.pre_processor.init_args.image_size": "[64,64]",
        "model.init_args.visualizer": "false", "trainer.enable_progress_bar": "false",
        "data": "Folder", "data.name": "own", "data.root": root, "data.normal_dir": "good",
        "data.normal_test_dir": "fine", "data.abnormal_dir": "bad", "data.mask_dir": "masks",
        "data.train_batch_size": 4, "data.num_workers": 0, "data.val_split_mode": "same_as_test",
    } | length  # fmt: skip
    options = [f"--{name}={value}" for name, value in arguments.items()]
    cli = AnomalibCLI(["fit", f"--config={config}", *options], run=False)
    (printed,) = cli.engine.train(cli.model, datamodule=cli.datamodule)
    (path,) = tmp_path.rglob("*.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == (4 if by_steps else 3)
    # The checkpoint alone: other networks and another size are the default.
    run = quiet_engine(tmp_path, precision=cli.engine.trainer.precision)
    model = AnoSeg(visualizer=False)
    (again,) = run.test(model, datamodule=folder(root), ckpt_path=path)
    assert again == pytest.approx(printed, abs=1e-6)


def test_there_are_configurations() -> None:
    assert {path.stem for path in CONFIGS} >= {"cpu", "fast"}


@pytest.mark.parametrize("every", [1, 10], ids=["validated", "not validated"])
@pytest.mark.slow
@pytest.mark.parametrize("steps", [4, 6], ids=["within an epoch", "at its end"])
def test_a_run_that_ended_goes_on_where_it_was(
    tmp_path: Path, root: Path, steps: int, every: int
) -> None:
    """Oracle: the run that did not end, bit for bit."""

    def run(name: str, *callbacks: Callback) -> Engine:
        return quiet_engine(
            tmp_path / name, max_steps=9, max_epochs=-1, check_val_every_n_epoch=every,
            callbacks=[*callbacks],
        )  # fmt: skip

    whole, first, resumed = segmenter(seed=3), segmenter(seed=3), segmenter()
    run("whole").fit(whole, datamodule=folder(root))
    half = run("half", At(steps - 1, stop))
    half.fit(first, datamodule=folder(root))
    assert half.trainer.global_step == steps
    rest = run("rest")
    path = half.trainer.checkpoint_callback.best_model_path
    rest.fit(resumed, datamodule=folder(root), ckpt_path=path)
    assert rest.trainer.global_step == 9
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


class Falling(Callback):
    """Logs a metric that is best after the first epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("falling", -float(trainer.global_step))


@pytest.mark.slow
def test_a_checkpoint_that_follows_a_metric_keeps_its_meaning(tmp_path: Path, root: Path) -> None:
    """Of anomalib's class it replaces the engine's: the best weights, and no others."""
    best = ModelCheckpoint(tmp_path / "best", monitor="falling", mode="max")
    run = quiet_engine(
        tmp_path, max_steps=7, max_epochs=-1, callbacks=[Falling(), best], limit_val_batches=0
    )
    model = segmenter(seed=1)
    run.fit(model, datamodule=folder(root))
    (path,) = tmp_path.rglob("*.ckpt")
    assert Path(best.best_model_path) == path
    assert torch.load(path, weights_only=True)["global_step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("monitor", [None, "train_loss"])
def test_the_last_one_is_the_last_one(tmp_path: Path, root: Path, monitor: str | None) -> None:
    keeper = ModelCheckpoint(
        tmp_path / "kept", monitor=monitor, every_n_train_steps=2, save_last=True
    )
    run = quiet_engine(
        tmp_path, max_steps=5, max_epochs=-1, callbacks=[keeper], limit_val_batches=0
    )
    run.fit(segmenter(seed=1), datamodule=folder(root))
    last = torch.load(keeper.last_model_path, weights_only=True)
    assert last["global_step"] == 5


@pytest.mark.slow
def test_weights_are_saved_where_thresholds_cannot_be_set(tmp_path: Path, root: Path) -> None:
    """What is held out lies where nothing can be read any more, at the end of hours."""
    model = segmenter(seed=1)

    def lose(_: Any) -> None:
        def gone(*_: Any) -> None:
            msg = "the share"
            raise FileNotFoundError(msg)

        model.post_processor.fit = gone

    run = quiet_engine(
        tmp_path, max_steps=2, max_epochs=-1, limit_val_batches=0, callbacks=[At(1, lose)]
    )
    with (
        pytest.warns(UserWarning, match=r"could not be set again \(the share\)"),
        pytest.raises(FileNotFoundError, match="the share"),
    ):
        run.fit(model, datamodule=folder(root))
    (path,) = tmp_path.rglob("*.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_a_run_that_diverged_keeps_the_last_good_weights(tmp_path: Path, root: Path) -> None:
    def poison(trainer: Any) -> None:
        trainer.lightning_module.model.map_decoder.head.bias.data.fill_(float("nan"))

    run = quiet_engine(tmp_path, max_epochs=3, callbacks=[At(4, poison)])
    with pytest.raises(FloatingPointError):
        run.fit(segmenter(), datamodule=folder(root))
    saved = torch.load(run.trainer.checkpoint_callback.best_model_path, weights_only=True)
    assert saved["global_step"] == 3
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_weights_are_looked_at_when_the_last_loss_was_finite() -> None:
    check_weights([torch.ones(3), torch.zeros(2)])
    with pytest.raises(FloatingPointError, match="weights are not finite after the last step"):
        check_weights([torch.ones(3), torch.tensor([1.0, float("inf")])])


@pytest.mark.slow
def test_nothing_is_saved_before_the_first_step(tmp_path: Path, root: Path) -> None:
    run = quiet_engine(tmp_path, callbacks=[At(0, fail)])
    with pytest.raises(OSError, match="camera"):
        run.fit(segmenter(), datamodule=folder(root))
    assert not [*tmp_path.rglob("*.ckpt")]
    assert run.trainer.checkpoint_callback.best_model_path == ""
