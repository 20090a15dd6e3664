"""An export held against its checkpoint, and what it says of images with labels."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from conftest import photographs, segmenter
from PIL import Image
from test_export_command import save
from torch import Tensor
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg, PostProcessor
from anomalib_anoseg.data.cases import Case, datamodule, read_cases, set_up
from anomalib_anoseg.export.command import export
from anomalib_anoseg.inference.journal import JOURNAL
from anomalib_anoseg.inference.segmenter import Prediction
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.report.agreement import Agreement, Pair
from anomalib_anoseg.report.threshold_choice import choices
from anomalib_anoseg.report.validate_command import validate

SIDE = 96  # pixels of the images; the network sees 64


def write(path: Path, image: Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(image, path)
    return path


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in MVTec AD's layout: two good images, two scratches, a hole without mask."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("part")
    images = iter(photographs(6, height=SIDE, width=SIDE))
    write(folder / "train/good/0.png", next(images))
    for name in ("good/0", "good/1", "scratch/0", "scratch/1", "hole/0"):
        write(folder / f"test/{name}.png", next(images))
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 10:40, 20:50] = 1
    for number in (0, 1):
        write(folder / f"ground_truth/scratch/{number}_mask.png", mask)
    return folder


def test_a_folder_says_what_is_defective(part: Path) -> None:
    found = {
        f"{case.path.parent.name}/{case.path.stem}": (case.defective, case.mask and case.mask.name)
        for case in read_cases(part)
    }
    assert found == {
        "good/0": (False, None), "good/1": (False, None), "hole/0": (True, None),
        "scratch/0": (True, "0_mask.png"), "scratch/1": (True, "1_mask.png"),
    }  # fmt: skip
    assert [case.defective for case in read_cases(part / "test/hole")] == [None]


def test_a_data_module_says_the_same(part: Path, tmp_path: Path) -> None:
    described = tmp_path / "data.yaml"
    described.write_text(
        "class_path: anomalib.data.Folder\n"
        f"init_args:\n  name: part\n  root: {part}\n  normal_dir: train/good\n"
        "  normal_test_dir: test/good\n  abnormal_dir: test/scratch\n"
        "  mask_dir: ground_truth/scratch\n  val_split_mode: same_as_test\n"
    )
    expected = [case for case in read_cases(part) if case.path.parent.name != "hole"]
    assert sorted(read_cases(described)) == sorted(expected)


def test_what_holds_no_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.yaml").write_text("class_path: NoSuchModule\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    for name, error, says in (
        ("empty", FileNotFoundError, "empty: no images"),
        ("missing", FileNotFoundError, "missing: no such folder"),
        ("missing.yaml", FileNotFoundError, "missing.yaml"),
        ("no.yaml", ValueError, "no.yaml: no data module"),
        ("broken.yaml", ValueError, "broken.yaml: no data module"),
    ):
        with pytest.raises(error, match=says):
            read_cases(tmp_path / name)


def test_a_layout_that_nobody_meant_is_named(part: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(part, whole)
    for folder in (whole, whole / "test/.."):
        with pytest.raises(ValueError, match=r"is a data set, with test/: give .*train/good"):
            datamodule(folder)
    for other in ("OK", "Good", "normal"):
        (whole / "test/good").rename(whole / "test" / other)
        with pytest.raises(ValueError, match=rf"test/{other} would be a kind of defect: .*rename"):
            read_cases(whole)
        (whole / "test" / other).rename(whole / "test/good")
    flat = tmp_path / "flat/test/0.png"
    write(flat, photographs(1)[0])
    with pytest.raises(FileNotFoundError, match=r"no images to judge in test/good or in test/<"):
        read_cases(tmp_path / "flat")


def test_what_anomalib_refuses_is_one_line(part: Path, tmp_path: Path) -> None:
    """It raises a RuntimeError and one of its own, which the commands do not know."""
    part = shutil.copytree(part, tmp_path / "part")
    masks = part / "ground_truth/scratch"
    for number, mask in enumerate(sorted(masks.iterdir())):  # called otherwise than the images
        mask.rename(mask.with_stem("ab"[number]))
    folders = {"normal_dir": "train/good", "abnormal_dir": "test/scratch", "mask_dir": str(masks)}
    module = Folder("part", root=part, **folders)
    with pytest.raises(ValueError, match="data part: Mismatch"):
        set_up(module, "test")
    (part / "train/empty").mkdir()
    with pytest.raises(ValueError, match="data part: Found 0"):
        set_up(Folder("part", root=part, normal_dir="train/empty"), "test")


def test_thresholds_to_choose_from_by_hand() -> None:
    good, bad = [0.1, 0.2, 0.6, 0.3], [0.5, 0.55, 0.8, 0.25]
    now, proposed, no_miss, no_alarm = choices(good, bad, 0.7)
    assert now == ("now", 0.7, 3, 0)
    # Both classes lose one: between 0.3 and 0.5, which log odds put at 0.396.
    assert proposed == ("proposed", 0.4, 1, 1)
    assert (no_miss.name, no_miss.misses, no_miss.false_alarms) == ("no miss", 0, 2)
    assert 0.2 < no_miss.threshold < 0.25
    assert (no_alarm.name, no_alarm.misses, no_alarm.false_alarms) == ("no false alarm", 3, 0)
    assert 0.6 < no_alarm.threshold < 0.8
    assert [choice.name for choice in choices([0.1], [0.9], 0.5)] == ["now", "proposed"]
    assert choices([], [0.9, 0.1], 0.5) == [("now", 0.5, 1, 0)]


def test_the_proposed_threshold_is_as_good_as_any() -> None:
    """Oracle: every threshold there is, tried one by one; a typed number has few digits."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        good, bad = rng.beta(2, 4, 12).tolist(), rng.beta(4, 2, 7).tolist()
        proposed = choices(good, bad, 0.5)[1]
        lost = [
            sum(s > cut for s in good) / 12 + sum(s <= cut for s in bad) / 7
            for cut in (0.0, *good, *bad)
        ]
        assert proposed.false_alarms / 12 + proposed.misses / 7 == pytest.approx(min(lost))
        assert sum(score > proposed.threshold for score in good) == proposed.false_alarms


def test_differences_and_flips_by_hand(tmp_path: Path) -> None:
    mask = write(tmp_path / "mask.png", torch.eye(2)[None])
    agreement = Agreement((Thresholds(0.5, 0.5), Thresholds(0.5, 0.4)), has_masks=True)
    first, second = np.eye(2, dtype=np.float32), np.array([[1, 0.45], [0, 0.5]], np.float32)
    cases = [Case(tmp_path / "bad/1.png", True, mask), Case(tmp_path / "good/2.png", False)]
    agreement.add(Pair(cases[0], Prediction(0.6, first), Prediction(0.4, second)))
    agreement.add(Pair(cases[1], Prediction(0.25, 0 * first), Prediction(0.25, 0 * first)))
    assert agreement.flipped == ["bad/1.png"]
    assert agreement.flipped_pixels == 1 / 8
    assert agreement.differences["map"] == (0.5, pytest.approx(0.95 / 8), "bad/1.png")
    assert agreement.differences["score"] == (pytest.approx(0.2), pytest.approx(0.1), "bad/1.png")
    assert agreement.wrong == {
        "checkpoint": {"misses": 0, "false_alarms": 0},
        "export": {"misses": 1, "false_alarms": 0},
    }
    figures = agreement.figures()
    assert figures["checkpoint"]["image_AUROC"] == figures["export"]["image_AUROC"] == 1
    assert figures["checkpoint"]["pixel_IoU"] == 1
    assert figures["export"]["pixel_IoU"] == pytest.approx(2 / 3)


class Exported(NamedTuple):
    checkpoint: Path
    model: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a checkpoint and an ONNX file of it; docs/deployment.md validates an OpenVINO one."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    path = save(segmenter(seed=0), folder / "model.ckpt")
    assert export(path, "onnx", folder) == 0
    return Exported(path, folder / "weights/onnx/model.onnx")


@pytest.mark.slow
def test_an_export_agrees_and_its_figures_stand_beside(
    exported: Exported, part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out/validated.json"
    assert validate(*exported, part, output=output) == 0
    found = json.loads(output.read_text())
    assert found["agrees"]
    assert found["images"] == 5
    assert found["map"]["largest"] < 1e-4
    assert found["flipped_labels"] == []
    ours, theirs = found["figures"]["checkpoint"], found["figures"]["export"]
    assert ours.keys() == theirs.keys() >= {"image_AUROC", "pixel_AUROC", "pixel_AUPR", "pixel_IoU"}
    assert theirs == pytest.approx(ours, abs=1e-3)
    printed = capsys.readouterr().out
    assert "within the tolerance of 0.001" in printed
    assert "misses of 3" in printed
    assert "infer also leaves out" not in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("openvino", {"pixel_sensitivity": 0.6}),
        ("onnx", {"pixel_sensitivity": 0.6}),
        ("openvino", {"pixel_sensitivity": 0.6, "false_alarm_rate": 0.2}),
    ],
)
def test_the_proposed_export_keeps_what_the_file_has_of_its_own(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: Literal["openvino", "onnx"],
    own: dict[str, float],
) -> None:
    """Oracle: the export that the printed command writes, validated again.

    A rate of its own puts 0.5 elsewhere: at 0.364 of the raw score instead of 0.999.
    """
    torch.manual_seed(0)
    path = save(
        segmenter(seed=0, post_processor=PostProcessor(false_alarm_rate=0.1)), tmp_path / "m.ckpt"
    )
    content: dict[str, Any] = torch.load(path, weights_only=True)
    content["state_dict"]["post_processor._image_threshold"].fill_(0.999)  # misses everything
    # Scores of the good images that training held out: what promises the rate.
    content["state_dict"]["post_processor.good_scores"] = torch.linspace(0.1, 0.4, 9)
    torch.save(content, path)
    assert export(path, kind, tmp_path, smallest_defect=20, **own) == 0  # type: ignore[arg-type]
    model = tmp_path / "weights" / kind / ("model.xml" if kind == "openvino" else "model.onnx")
    scored = AnoSeg.load_from_checkpoint(path).eval()
    with torch.inference_mode():
        images = sorted(
            photographs(5, height=SIDE, width=SIDE), key=lambda i: float(scored(i[None]).pred_score)
        )
    for number, image in enumerate(images):  # the highest scores are defects
        write(tmp_path / f"part/test/{'good' if number < 2 else 'bad'}/{number}.png", image)
    drawn = tmp_path / "part/test/masks"  # by infer --output part/test
    write(drawn / "0.png", images[0])
    (drawn.parent / JOURNAL).touch()

    output = tmp_path / "validated.json"
    assert validate(path, model, tmp_path / "part", output=output) == 0
    found = json.loads(output.read_text())
    assert found["images"] == 5
    assert found["thresholds"]["checkpoint"]["smallest_defect"] == 0
    assert found["thresholds"]["export"]["smallest_defect"] == 20
    printed = capsys.readouterr().out
    assert "infer also leaves out defects under 20 pixels, not counted here" in printed
    rate = own.get("false_alarm_rate", 0.1)
    assert f"ends the promise of a false-alarm rate of {rate:g}:" in printed
    (line,) = (line for line in printed.splitlines() if "--image_sensitivity" in line)
    words = shlex.split(line)
    assert words[:4] == ["anomalib-anoseg", "export", "--ckpt_path", str(path)]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options.pop("--export_type", "openvino") == kind
    assert options.keys() == {"--image_sensitivity", "--pixel_sensitivity", "--smallest_defect"}

    arguments: dict[str, Any] = {name[2:]: float(value) for name, value in options.items()}
    arguments["smallest_defect"] = int(options["--smallest_defect"])
    assert export(path, kind, tmp_path, **arguments) == 0
    assert validate(path, model, tmp_path / "part", output=output) == 0
    found = json.loads(output.read_text())
    assert found["wrong"]["checkpoint"] == {"misses": 3, "false_alarms": 0}
    assert found["wrong"]["export"] == {"misses": 0, "false_alarms": 0}
    assert found["thresholds"]["export"]["smallest_defect"] == 20
    assert found["thresholds"]["export"]["pixel"] == pytest.approx(0.4)
    assert "ends the promise" not in capsys.readouterr().out


@pytest.mark.slow
def test_another_checkpoint_is_past_the_tolerance(
    exported: Exported, part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: both checkpoints in torch. The second has another image threshold, nothing else."""
    content: dict[str, Any] = torch.load(exported.checkpoint, weights_only=True)
    content["state_dict"]["post_processor._image_threshold"] += 0.1
    other = tmp_path / "other.ckpt"
    torch.save(content, other)
    output = tmp_path / "validated.json"
    assert validate(other, exported.model, part / "test", output=output) == 1
    assert "PAST the tolerance" in capsys.readouterr().out
    found = json.loads(output.read_text())
    assert "figures" not in found  # a folder without test/ has no labels
    scores = []
    for path in (exported.checkpoint, other):
        model = AnoSeg.load_from_checkpoint(path).eval()
        images = [np.asarray(Image.open(case.path)) for case in read_cases(part)]
        with torch.inference_mode():
            tensors = [torch.from_numpy(image / np.float32(255)).movedim(-1, 0) for image in images]
            scores.append(model(torch.stack(tensors)).pred_score.flatten())
    assert found["score"]["largest"] == pytest.approx(
        float((scores[0] - scores[1]).abs().max()), abs=1e-4
    )
    assert found["map"]["largest"] < 1e-4
    assert validate(other, exported.model, part, tolerance=1) == 0


@pytest.mark.slow
def test_bad_input_is_named(
    exported: Exported, part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="tolerance must be finite and at least 0, got -1"):
        validate(*exported, part, tolerance=-1)
    with pytest.raises(FileNotFoundError, match="no such file"):
        validate(exported.checkpoint, tmp_path / "model.xml", part)
    with pytest.raises(ValueError, match="not a checkpoint of AnoSeg"):
        validate(exported.model, exported.model, part)
    folder = tmp_path / "images"
    write(folder / "whole.png", photographs(1)[0])
    (folder / "broken.png").write_bytes(b"no image")
    assert validate(*exported, folder) == 1
    assert "images/broken.png: " in capsys.readouterr().err
    (folder / "whole.png").unlink()
    with pytest.raises(ValueError, match="images: no image could be judged"):
        validate(*exported, folder)
    write(part / "ground_truth/hole/0_mask.png", torch.zeros(1, 10, 10))
    with pytest.raises(ValueError, match=r"mask .* has 10 x 10 pixels"):
        validate(*exported, part)
    (part / "ground_truth/hole/0_mask.png").unlink()


@pytest.mark.slow
def test_an_export_of_another_size_is_refused(
    exported: Exported, part: Path, tmp_path: Path
) -> None:
    from anomalib_anoseg import PreProcessor

    other = save(segmenter(pre_processor=PreProcessor((96, 96))), tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="no export of this checkpoint: its maps have 64 x 64"):
        validate(other, exported.model, part)
