"""What anomalib's own tests ask of its models, over the options that a user can combine.

Oracle: anomalib finishes each of its stages and writes what it promises; the metrics are those that
the test set defines.
"""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from anomalib.callbacks import TilerConfigurationCallback
from anomalib.data import AnomalibDataModule, Folder, MVTecAD
from anomalib.deploy import ExportType
from anomalib.loggers import AnomalibTensorBoardLogger
from anomalib.pipelines.tiled_ensemble import EvalTiledEnsemble, TrainTiledEnsemble
from anomalib.post_processing import PostProcessor as AnomalibPostProcessor
from anomalib.pre_processing import PreProcessor as AnomalibPreProcessor
from anomalib.visualization import ImageVisualizer
from conftest import photographs, quiet_engine, segmenter, small_model
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import Resize
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg, IoUMax
from anomalib_anoseg.evaluation.evaluator import Evaluator

pytestmark = pytest.mark.slow

LAYOUTS = ("masks", "no masks", "only good", "MVTec AD")
VALIDATION = ("none", "same_as_test", "from_test", "from_train", "synthetic")
TEST = ("from_dir", "none", "synthetic")
IMAGE = {"image_AUROC", "image_F1Score"}
PIXEL = {f"pixel_{name}" for name in ("AUROC", "AUPR", "AUPRO", "F1Score", "IoU", "IoUMax")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a category in the layout of MVTec AD, which Folder can read too."""
    root = tmp_path_factory.mktemp("conformance") / "part"
    for folder, count in (("train/good", 8), ("test/good", 4), ("test/bad", 4)):
        (root / folder).mkdir(parents=True)
        for index, image in enumerate(photographs(count, height=72, width=80)):
            save_image(image, root / folder / f"{index:03}.png")
    (root / "ground_truth/bad").mkdir(parents=True)
    for index in range(4):
        mask = Image.new("L", (80, 72))
        ImageDraw.Draw(mask).rectangle((20, 30, 40, 50), fill=255)
        mask.save(root / f"ground_truth/bad/{index:03}_mask.png")
    return root


def data(root: Path, layout: str = "MVTec AD", **arguments: Any) -> AnomalibDataModule:
    arguments = {"num_workers": 0, "seed": 1, "train_batch_size": 4} | arguments
    if layout == "MVTec AD":
        return MVTecAD(root.parent, category=root.name, **arguments)
    if layout != "only good":
        arguments |= {"abnormal_dir": "test/bad", "normal_test_dir": "test/good"}
    if layout == "masks":
        arguments["mask_dir"] = "ground_truth/bad"
    return Folder(name=root.name, root=root, normal_dir="train/good", **arguments)


def defined(data: AnomalibDataModule) -> set[str]:
    """Return the metrics that a test set defines."""
    samples = data.test_data.samples
    both = samples.label_index.nunique() == 2
    masks = (samples.mask_path[samples.label_index == 1].fillna("") != "").any()
    return (IMAGE if both else set()) | (PIXEL if masks else set())


# Every pair of two options; among them the triple that is refused.
SPLITS = [
    (layout, validation, TEST[(i + j) % 3], (1, 7)[(i + j // 2) % 2])
    for i, layout in enumerate(LAYOUTS)
    for j, validation in enumerate(VALIDATION)
]


@pytest.mark.parametrize(("layout", "validation", "test", "batch"), SPLITS)
def test_every_split_of_every_layout(
    tmp_path: Path, root: Path, layout: str, validation: str, test: str, batch: int
) -> None:
    images = data(
        root, layout, val_split_mode=validation, test_split_mode=test, train_batch_size=batch,
        eval_batch_size=batch,
    )  # fmt: skip
    trained, run = segmenter(), quiet_engine(tmp_path)
    if (layout, validation, test) == ("only good", "from_test", "none"):
        with pytest.raises(ValueError, match="part has no test images, and val_split_mode takes"):
            run.fit(trained, datamodule=images)
        return
    run.fit(trained, datamodule=images)
    weights = run.trainer.checkpoint_callback.best_model_path
    (results,) = run.test(trained, datamodule=images, ckpt_path=weights) or ({},)
    assert set(results) == defined(images)
    assert all(math.isfinite(value) for value in results.values())


def test_validation_of_nothing_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ValueError, match="no validation images: val_split_mode is none"):
        quiet_engine(tmp_path).validate(small_model(), datamodule=data(root, val_split_mode="none"))


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "anomalib's resize": {"pre_processor": AnomalibPreProcessor(Resize((64, 96)))},
    "no pre-processor": {"pre_processor": False},
    "no post-processor": {"post_processor": False},
    "anomalib's post-processor": {"post_processor": AnomalibPostProcessor()},
    "no evaluator": {"evaluator": False},
    "visualizer": {"visualizer": True},
    "detector": {"image_score": "detector"},
    "paper": {"decoder": "paper"},
}
# The graph of the others is the default's, or compared layer by layer in test_export.py.
OTHER_GRAPH = {"default", "anomalib's resize", "no pre-processor", "no post-processor"}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_stage_with_every_option(tmp_path: Path, root: Path, option: str) -> None:
    """The stages of anomalib's tests/integration/model/test_models.py."""
    trained = small_model(**OPTIONS[option])
    run = quiet_engine(tmp_path)
    run.fit(trained, datamodule=data(root))
    weights = run.trainer.checkpoint_callback.best_model_path
    results = run.test(trained, datamodule=data(root), ckpt_path=weights)
    if option == "no evaluator":
        assert results == [{}]
    else:
        expected = IMAGE | PIXEL
        if option == "no post-processor":  # there are no masks and labels without one
            expected -= {"image_F1Score", "pixel_F1Score", "pixel_IoU"}
        assert set(results[0]) == expected
    run.validate(trained, datamodule=data(root), ckpt_path=weights)
    predictions = run.predict(trained, datamodule=data(root), ckpt_path=weights)
    assert sum(len(batch.image_path) for batch in predictions) == 8
    for batch in predictions:
        assert batch.anomaly_map.shape[-2:] == batch.image.shape[-2:]
        assert (batch.pred_mask is None) == (option == "no post-processor")
    pictures = [*tmp_path.rglob("*.png")]
    assert bool(pictures) == (option == "visualizer")
    kinds = [ExportType.TORCH]
    if option in OTHER_GRAPH:
        kinds.append(ExportType.OPENVINO)  # what ONNX gets is made on the way
    if option == "default":
        kinds.append(ExportType.ONNX)
    for kind in kinds:
        assert run.export(trained, kind, tmp_path / "exported", ckpt_path=weights).is_file()


def test_train_is_fit_and_test(tmp_path: Path, root: Path) -> None:
    (results,) = quiet_engine(tmp_path).train(small_model(), datamodule=data(root))
    assert set(results) == IMAGE | PIXEL


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_precisions_and_steps(tmp_path: Path, root: Path, precision: str) -> None:
    run = quiet_engine(tmp_path, precision=precision, max_steps=3, max_epochs=-1)
    (results,) = run.train(small_model(), datamodule=data(root))
    assert run.trainer.global_step == 3
    assert set(results) == IMAGE | PIXEL


def test_deterministic_algorithms(tmp_path: Path, root: Path) -> None:
    """Every network there is, with all that torch refuses to do in a way that may vary."""
    weights = []
    for name in ("a", "b"):
        run = quiet_engine(tmp_path / name, deterministic=True, max_steps=3, max_epochs=-1)
        trained = small_model(image_score="detector", seed=1)
        run.fit(trained, datamodule=data(root))
        weights.append(trained.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0, equal_nan=True)
    torch.use_deterministic_algorithms(mode=False)  # Lightning leaves it on


def test_loggers(tmp_path: Path, root: Path) -> None:
    loggers = [CSVLogger(tmp_path / "csv"), AnomalibTensorBoardLogger(tmp_path / "board")]
    run = quiet_engine(tmp_path, logger=loggers, log_every_n_steps=1)
    run.train(small_model(visualizer=ImageVisualizer()), datamodule=data(root))
    (table,) = tmp_path.rglob("metrics.csv")
    with table.open() as lines:
        rows = [*csv.DictReader(lines)]
    assert rows[0]["train_segmentation"]
    assert float(rows[-1]["pixel_AUROC"]) > 0
    assert [*(tmp_path / "board").rglob("events.out.*")]


def test_early_stopping_and_checkpoints_follow_our_metrics(tmp_path: Path, root: Path) -> None:
    class Worse(Callback):
        """Break the network after its first epoch."""

        def on_train_epoch_start(self, trainer: Any, module: AnoSeg) -> None:
            if trainer.current_epoch == 1:
                torch.nn.init.zeros_(module.model.map_decoder.head.weight)

    best = ModelCheckpoint(tmp_path / "best", monitor="pixel_IoUMax", mode="max")
    stop = EarlyStopping("pixel_IoUMax", mode="max", patience=1)
    metric = IoUMax(fields=["anomaly_map", "gt_mask"], prefix="pixel_")
    run = quiet_engine(tmp_path, max_epochs=6, callbacks=[Worse(), best, stop])
    run.fit(small_model(evaluator=Evaluator(val_metrics=metric)), datamodule=data(root))
    assert run.trainer.current_epoch < 6
    assert best.best_model_score == stop.best_score
    assert Path(best.best_model_path).is_file()


def test_early_stopping_on_a_metric_that_is_not_there_is_named(tmp_path: Path, root: Path) -> None:
    run = quiet_engine(tmp_path, callbacks=[EarlyStopping("pixel_AUROC", mode="max")])
    with pytest.raises(RuntimeError, match=r"conditioned on metric `pixel_AUROC` which is not av"):
        run.fit(small_model(), datamodule=data(root))


def test_tiling_inside_the_model_is_refused(tmp_path: Path, root: Path) -> None:
    """With what to use instead; the tiled ensemble works."""
    run = quiet_engine(tmp_path, callbacks=[TilerConfigurationCallback(enable=True, tile_size=32)])
    with pytest.raises(ValueError, match=r"--model.train_crop 256 .*configs/fine.yaml"):
        run.fit(small_model(), datamodule=data(root))


@pytest.mark.parametrize("validation", ["same_as_test", "synthetic"])
@pytest.mark.parametrize("stage", ["tile", "image", "none"])
def test_tiled_ensemble(
    tmp_path: Path, root: Path, stage: str, validation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "ensemble.yaml"
    init_args = {
        "root": str(root.parent), "category": root.name, "num_workers": 0, "train_batch_size": 4,
        "eval_batch_size": 4, "test_split_mode": "from_dir", "test_split_ratio": 0.2,
        "val_split_mode": validation, "val_split_ratio": 0.5,
    }  # fmt: skip
    content = {
        "seed": 1,
        "accelerator": "cpu",
        "default_root_dir": str(tmp_path / "results"),
        "tiling": {"image_size": [50, 100], "tile_size": [50, 50], "stride": 50},
        "normalization_stage": stage,
        "thresholding_stage": "image",
        "data": {"class_path": "anomalib.data.MVTecAD", "init_args": init_args},
        "SeamSmoothing": {"apply": True, "sigma": 2, "width": 0.1},
        "TrainModels": {
            "model": {"class_path": "AnoSeg"},  # anomalib 2.7 takes no init_args here
            "trainer": {"max_epochs": 1, "enable_progress_bar": False},
        },
    }
    config.write_text(yaml.safe_dump(content))
    results = tmp_path / "results/AnoSeg/MVTecAD/part/v0"
    for pipeline in (TrainTiledEnsemble(), EvalTiledEnsemble(results)):
        pipeline.run(pipeline.get_parser().parse_args(["--config", str(config)]))
        # A pipeline goes on after an error.
        assert "There were some errors" not in capsys.readouterr().out
    with (results / "metric_results.csv").open() as lines:
        (row,) = csv.DictReader(lines)
    assert 0 < float(row["pixel_AUROC"]) <= 1
    assert (results / "images/bad/000.png").is_file()
