import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import Folder, ImageBatch
from conftest import photographs, quiet_engine, segmenter
from lightning.pytorch import Trainer
from PIL import Image, ImageDraw
from torchvision.utils import save_image

from anomalib_anoseg.evaluation.evaluator import Evaluator
from anomalib_anoseg.training.data_check import check_mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Good images, one bad one and its mask."""
    for folder, count in (("good", 10), ("fine", 2), ("bad", 2)):
        (tmp_path / folder).mkdir()
        for index, image in enumerate(photographs(count)):
            save_image(image, tmp_path / folder / f"{index}.png")
    (tmp_path / "masks").mkdir()
    for index in range(2):
        mask = Image.new("L", (96, 96))
        ImageDraw.Draw(mask).rectangle((20, 30, 60, 50), fill=255)
        mask.save(tmp_path / f"masks/{index}.png")
    return tmp_path


def folder(root: Path, **arguments: Any) -> Folder:
    return Folder(
        **{
            "name": "own", "root": root, "normal_dir": "good", "normal_test_dir": "fine",
            "abnormal_dir": "bad", "mask_dir": "masks", "train_batch_size": 2, "num_workers": 0,
        } | arguments
    )  # fmt: skip


def test_a_mask_of_two_values_and_the_right_size_passes(root: Path) -> None:
    for value in (1, 128, 255):
        Image.new("L", (96, 96), value).save(root / "mask.png")
        check_mask(str(root / "bad/0.png"), str(root / "mask.png"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_mask_of_another_size_is_named(root: Path, stage: str) -> None:
    Image.new("L", (96, 48), 255).save(root / "masks/1.png")
    with pytest.raises(ValueError, match=r"masks/1.png has 48 x 96 pixels, .*bad/1.png has 96 x"):
        getattr(quiet_engine(root), stage)(segmenter(), datamodule=folder(root))


@pytest.mark.slow
def test_a_mask_with_grey_values_is_named(root: Path) -> None:
    Image.linear_gradient("L").resize((96, 96)).save(root / "masks/0.png")
    with pytest.raises(ValueError, match=r"masks/0.png has \d+ grey values from \d+ to 25\d, of"):
        quiet_engine(root).fit(segmenter(), datamodule=folder(root))


def other_arguments(path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "pytorch-lightning_version": "2.6"}, path)


def shortened(path: Path) -> None:
    torch.save(segmenter().state_dict(), path)
    path.write_bytes(path.read_bytes()[:20_000])


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (other_arguments, "its weights are of another model, or of AnoSeg with other arguments"),
        (shortened, "not a checkpoint that can be read"),
        (lambda path: path.write_bytes(b""), "not a checkpoint that can be read"),
    ],
    ids=["other arguments", "truncated", "empty"],
)
def test_a_checkpoint_that_does_not_fit_is_named(
    root: Path, damage: Any, says: str, stage: str
) -> None:
    path = root / "model.ckpt"
    damage(path)
    with pytest.raises(Exception, match=f"cannot load {path}: {says}"):
        getattr(quiet_engine(root), stage)(
            segmenter(), datamodule=folder(root), ckpt_path=str(path)
        )


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.slow
@pytest.mark.parametrize("index", [2, 5])  # 5 is held out
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, r"cannot read .*\d.png: .*(truncated|broken)"),
        (lambda path: path.write_bytes(b""), r"cannot identify image file .*\d.png"),
        (lambda path: path.write_text("hello"), r"cannot identify image file .*\d.png"),
    ],
    ids=["truncated", "empty", "text"],
)
def test_an_image_that_cannot_be_read_is_named(
    root: Path, damage: Any, says: str, workers: int, index: int
) -> None:
    damage(root / f"good/{index}.png")
    with pytest.raises((OSError, SyntaxError), match=says.replace("\\d", str(index))):
        quiet_engine(root).fit(segmenter(), datamodule=folder(root, num_workers=workers))


@pytest.mark.slow
def test_a_folder_without_images_is_named(root: Path) -> None:
    (root / "none").mkdir()
    with pytest.raises(RuntimeError, match=r"Found 0 .* images in .*none"):
        quiet_engine(root).fit(segmenter(), datamodule=folder(root, normal_dir="none"))


INCOMPLETE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "no masks": ({"mask_dir": None}, {"image_AUROC", "image_F1Score"}),
    "no defects": ({"abnormal_dir": None, "mask_dir": None}, set()),
    "nothing": (
        {
            "abnormal_dir": None,
            "mask_dir": None,
            "normal_test_dir": None,
            "normal_split_ratio": 0.5,
        },
        set(),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "reported"), INCOMPLETE.values(), ids=INCOMPLETE.keys())
def test_metrics_that_do_not_exist_are_left_out_with_one_warning(
    root: Path, arguments: dict[str, Any], reported: set[str]
) -> None:
    data, run, trained = folder(root, **arguments), quiet_engine(root), segmenter()
    run.fit(trained, datamodule=data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (results,) = run.test(trained, datamodule=data) or ({},)
    assert set(results) == reported
    ours = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert len(ours) == 1
    assert "pixel_IoU" in ours[0]
    assert ("image_AUROC" in ours[0]) == ("image_AUROC" not in reported)
    assert not [w for w in caught if "torchmetrics" in w.filename]


@pytest.mark.slow
def test_a_test_set_without_good_images_still_has_pixel_metrics(root: Path) -> None:
    data = folder(root, normal_test_dir="bad")  # their masks are not used
    trained = segmenter()
    run = quiet_engine(root)
    run.fit(trained, datamodule=data)
    data.test_data.samples = data.test_data.samples[data.test_data.samples.label_index == 1]
    with pytest.warns(UserWarning, match="left out image_AUROC"):
        (results,) = run.test(trained, dataloaders=data.test_dataloader())
    assert {"pixel_AUROC", "pixel_IoU", "pixel_IoUMax", "pixel_AUPRO"} <= set(results)
    assert "image_AUROC" not in results


def test_a_complete_test_set_warns_of_nothing() -> None:
    evaluator = Evaluator()
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4] = True
    maps = masks * 0.6 + 0.2 * torch.rand(2, 8, 8)
    batch = ImageBatch(
        image=torch.zeros(2, 3, 8, 8), anomaly_map=maps, pred_mask=masks, gt_mask=masks,
        pred_score=maps.amax((1, 2)), gt_label=masks[:, 0, 0], pred_label=masks[:, 0, 0],
    )  # fmt: skip
    for metric in evaluator.test_metrics:
        metric.update(batch)
    logged: dict[str, Any] = {}
    # Lightning gives callbacks the log of their module.
    evaluator.log = lambda name, metric: logged.setdefault(name, metric.compute())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator.on_test_epoch_end(Trainer(logger=False, accelerator="cpu"), segmenter())
    assert len(logged) == 8
    assert logged["pixel_IoU"] == 1
