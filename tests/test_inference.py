"""The command that runs an exported model over images, on a real OpenVINO model."""

import csv
import inspect
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree, rmtree
from threading import Thread
from typing import Any

import cv2
import numpy as np
import openvino as ov
import pytest
import torch
from conftest import photographs, small_model
from numpy.typing import NDArray
from openvino import opset13 as ops
from PIL import Image

from anomalib_anoseg.export.export_mixin import write_openvino_metadata
from anomalib_anoseg.inference.command import infer as infer_here
from anomalib_anoseg.inference.drift import Drift
from anomalib_anoseg.inference.exported import ExportedModel, _digest
from anomalib_anoseg.inference.files import Files
from anomalib_anoseg.inference.frames import Frame, Source
from anomalib_anoseg.inference.parallel import in_order
from anomalib_anoseg.inference.pictures import Finding, find_defects
from anomalib_anoseg.inference.records import Records, picture_name
from anomalib_anoseg.inference.segmenter import Prediction, Segmenter, _prediction
from anomalib_anoseg.inference.sources import open_source, open_watch
from anomalib_anoseg.inference.stopping import Stop
from anomalib_anoseg.inference.table import Row
from anomalib_anoseg.inference.thresholds import Thresholds

HALF = Thresholds(0.5, 0.5)


def write_bright_spots(
    path: Path,
    *,
    fixed: bool = False,
    tiles: bool = False,
    cuts: tuple[float, float] = (0.5, 0.5),
    said: tuple[float, float] | None = None,
    labels: bool = True,
) -> Path:
    """Write a model of anomalib's interface that takes the green channel for the anomaly map.

    With ``tiles`` it takes a tile's place as well. It compares with ``cuts``, of image and pixel,
    and says ``said`` in its rt_info. Without ``labels`` it is one with enable_thresholding: false.
    """
    image = ops.parameter([1, 3, 64, 64] if fixed else [-1, 3, -1, -1], np.float32, name="input")
    one = ops.constant(np.int64([1]))
    green = ops.gather(image, one, ops.constant(np.int64(1)))
    score = ops.reduce_max(green, ops.constant(np.int64([1, 2, 3])))
    label = ops.greater(score, ops.constant(np.float32(cuts[0])))
    mask = ops.greater(green, ops.constant(np.float32(cuts[1])))
    named = {"pred_score": score, "anomaly_map": green}
    named |= {"pred_label": label, "pred_mask": mask} if labels else {}
    outputs = []
    for name, value in named.items():
        value.output(0).set_names({name})
        outputs.append(ops.result(value))
    place = ops.parameter([1, 4], np.float32, name="place")
    model = ov.Model(outputs, [image, place] if tiles else [image], "spots")
    for name, value in zip(("image", "pixel"), said or (), strict=said is not None):
        model.set_rt_info(f"{value:.8g}", ["anoseg", f"normalized_{name}_threshold"])
    ov.save_model(model, path)
    return path


def write_narrow(path: Path) -> Path:
    """Write a model that fails for every size of image but 40 x 40."""
    image = ops.parameter([-1, 3, -1, -1], np.float32, name="input")
    green = ops.gather(image, ops.constant(np.int64([1])), ops.constant(np.int64(1)))
    fitting = ops.reshape(green, ops.constant(np.int64([1, 1, 40, 40])), special_zero=False)
    score = ops.reduce_max(fitting, ops.constant(np.int64([1, 2, 3])))
    label = ops.greater(score, ops.constant(np.float32(0.5)))
    outputs = []
    for name, value in {"pred_score": score, "pred_label": label, "anomaly_map": fitting}.items():
        value.output(0).set_names({name})
        outputs.append(ops.result(value))
    ov.save_model(ov.Model(outputs, [image], "narrow"), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright_spots(tmp_path_factory.mktemp("model") / "model.xml")


def spots(
    *boxes: tuple[int, int, int, int], size: tuple[int, int] = (80, 120)
) -> NDArray[np.uint8]:
    """Draw green boxes of left, top, width, height on red."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = 200
    for x, y, width, height in boxes:
        image[y : y + height, x : x + width, 1] = 255
    return image


def write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def infer(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anomalib_anoseg", "infer", *map(str, arguments)]
    command += [f"--{name}={value}" for name, value in options.items()]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def opened(source: object, every: int = 1, stop: Stop | None = None) -> Source:
    return open_source(str(source), None, every, stop or Stop())


def frames_of(source: Source) -> list[Frame]:
    return [frame for frames in source.rounds() for frame in frames]


def names(source: object, every: int = 1) -> list[str]:
    return [frame.name for frame in frames_of(opened(source, every))]


def files(folder: Path) -> set[str]:
    """Return the files below a folder, without infer's own list of its pictures."""
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return found - {".pictures"}


def test_folder_to_masks_overlays_and_table(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/a/two.png", spots((10, 20, 8, 5), (60, 40, 20, 10)))
    write(tmp_path / "in/good.png", spots(size=(70, 90)))
    done = infer(model=model, input=tmp_path / "in", output=tmp_path / "out", precision="f32")
    assert done.returncode == 0, done.stderr
    two, good = table(tmp_path / "out")
    written = datetime.fromisoformat(two.pop("time"))
    assert written.timestamp() == pytest.approx((tmp_path / "in/a/two.png").stat().st_mtime)
    assert two == {
        "file": "a/two.png", "score": "1.000000", "label": "defective", "defect_area": "240",
        "boxes": "60 40 20 10;10 20 8 5", "error": "",
    }  # fmt: skip
    assert (good["label"], good["defect_area"], good["boxes"]) == ("good", "0", "")
    mask = np.asarray(Image.open(tmp_path / "out/masks/a/two.png"))
    assert mask.shape == (80, 120)
    assert (mask == spots((10, 20, 8, 5), (60, 40, 20, 10))[..., 1]).all()
    overlay = np.asarray(Image.open(tmp_path / "out/overlays/a/two.png.jpg")).astype(int)
    assert overlay.shape == (80, 120, 3)
    assert overlay[40, 70, 0] > 2 * overlay[40, 70, 1]  # the outline is red
    assert overlay[45, 70, 1] > 200  # what it surrounds is as it was
    assert not list((tmp_path / "out").rglob("*.part"))


def test_pictures_can_be_left_out(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "one.png", spots((1, 2, 3, 4)))
    out = tmp_path / "out"
    infer(model=model, input=tmp_path / "one.png", output=out, masks="false", overlays="false")
    assert files(out) == {"results.csv", "results.json"}


@pytest.mark.parametrize("fixed", [False, True])
def test_predictions_come_in_the_order_of_the_images(fixed: bool, tmp_path: Path) -> None:
    segmenter = Segmenter(write_bright_spots(tmp_path / "m.xml", fixed=fixed), precision="f32")
    images = [np.full((64 + i % 5, 80, 3), 4 * i, np.uint8) for i in range(60)]
    frames = [Frame(str(i), None if i % 7 == 0 else image) for i, image in enumerate(images)]
    seen = list(segmenter(frames))
    assert [frame.name for frame, _ in seen] == [frame.name for frame in frames]
    for index, (_, prediction) in enumerate(seen):
        assert (prediction is None) == (index % 7 == 0)
        if prediction is not None:
            assert prediction.score == pytest.approx(4 * index / 255, abs=1e-6)


def test_an_input_of_fixed_size_is_resized_with_antialias(tmp_path: Path) -> None:
    """As PreProcessor does: a checkerboard of single pixels becomes an even grey."""
    segmenter = Segmenter(write_bright_spots(tmp_path / "m.xml", fixed=True), precision="f32")
    image = np.indices((512, 512)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    ((_, prediction),) = segmenter([Frame("board", image.astype(np.uint8))])
    assert prediction is not None
    assert prediction.anomaly_map.shape == (64, 64)
    np.testing.assert_allclose(prediction.anomaly_map, 0.5, atol=0.01)


def test_a_good_part_has_no_defects() -> None:
    """A map that exceeds its threshold somewhere does not outvote the verdict on the part."""
    anomaly_map = np.full((8, 8), 0.9, np.float32)
    finding = find_defects(Prediction(0.4, anomaly_map), 32, 32, HALF)
    assert finding.area == 0
    assert finding.boxes == []
    assert not finding.mask.any()


def test_a_defective_part_without_a_defective_pixel() -> None:
    anomaly_map = np.full((8, 8), 0.4, np.float32)
    finding = find_defects(Prediction(0.6, anomaly_map), 32, 40, HALF)
    assert (finding.area, finding.boxes, finding.mask.shape) == (0, [], (32, 40))


def test_the_map_is_enlarged_to_the_image() -> None:
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[2:4, 4:6] = 1.0
    finding: Finding = find_defects(Prediction(0.9, anomaly_map), 80, 160, HALF)
    assert finding.boxes == [(80, 20, 40, 20)]
    assert 700 < finding.area < 800  # interpolation rounds the corners


def test_glob_and_single_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/good/x.png", "b/good/x.png", "b/good/z.bmp", "b/good/notes.txt"):
        write(tmp_path / name, spots()) if "txt" not in name else (tmp_path / name).touch()
    assert names(f"{tmp_path}/*/good/*.png") == ["a/good/x.png", "b/good/x.png"]
    assert names(f"{tmp_path}/b/good/*") == ["x.png", "z.bmp"]
    assert names(tmp_path / "b/good/z.bmp") == ["z.bmp"]
    assert len(opened(tmp_path)) == 3
    monkeypatch.chdir(tmp_path)
    assert names("*/good/*.png") == ["a/good/x.png", "b/good/x.png"]
    assert names("**/*.png") == ["a/good/x.png", "b/good/x.png"]
    monkeypatch.chdir(tmp_path / "a")
    assert names("../b/*/*.bmp") == ["z.bmp"]


def test_brackets_in_the_name_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a folder that is there are its name; others are a pattern."""
    write(tmp_path / "lot [1]/a.png", spots())
    write(tmp_path / "lot [1]/b.png", spots())
    assert names(f"{tmp_path}/lot [1]/*.png") == ["a.png", "b.png"]
    assert names(f"{tmp_path}/lot [1]/[b-z].png") == ["b.png"]
    monkeypatch.chdir(tmp_path)
    assert names("lot [1]/?.png") == ["a.png", "b.png"]
    assert names("l[o]t*/**/a.png") == ["a.png"]


def test_video(tmp_path: Path) -> None:
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for grey in (20, 120, 220):
        writer.write(np.full((64, 96, 3), (0, grey, 0), np.uint8))
    writer.release()
    source = opened(path)
    assert len(source) == 3
    frames = frames_of(source)
    assert source.missing == ""
    assert [frame.name for frame in frames] == ["000000", "000001", "000002"]
    for frame, grey in zip(frames, (20, 120, 220), strict=True):
        assert frame.image is not None
        assert abs(int(frame.image[32, 48, 1]) - grey) < 6


def test_unreadable_files_are_reported_and_the_rest_goes_on(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "z.png"):
        write(folder / name, spots((1, 1, 5, 5)))
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    flipped = bytearray((folder / "a.png").read_bytes())
    flipped[len(flipped) // 2] ^= 255
    (folder / "flipped.png").write_bytes(flipped)
    Image.fromarray(np.zeros((64, 64), np.int32)).save(folder / "deep.tif")
    done = infer(model=model, input=folder, output=tmp_path / "out")
    assert done.returncode == 1
    rows = {row["file"]: row for row in table(tmp_path / "out")}
    assert list(rows) == ["a.png", "cut.png", "deep.tif", "empty.png", "flipped.png", "z.png"]
    for name in ("cut.png", "deep.tif", "empty.png", "flipped.png"):
        assert rows[name]["error"]
        assert rows[name]["label"] == ""
        assert f"{name}: {rows[name]['error']}" in done.stderr
        assert str(folder) not in rows[name]["error"]
    assert "signed" in rows["deep.tif"]["error"]
    assert rows["z.png"]["label"] == "defective"
    assert "Traceback" not in done.stderr


def test_wrong_input_is_one_line(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/a.png", spots())
    images = tmp_path / "in"
    (tmp_path / "nothing").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "film.mp4").write_bytes(b"no film")
    alone = tmp_path / "alone.xml"
    alone.write_bytes(model.read_bytes())
    torn = copytree(model.parent, tmp_path / "torn") / "model.xml"
    torn.write_bytes(torn.read_bytes()[:300])
    other = tmp_path / "other.xml"
    image = ops.parameter([1, 3, 64, 64], np.float32)
    ov.save_model(ov.Model([ops.relu(image)], [image]), other)
    wrong = {
        "no such file or folder": {"model": model, "input": tmp_path / "missing"},
        "no images": {"model": model, "input": tmp_path / "nothing"},
        "missing.xml: no such file": {"model": tmp_path / "missing.xml", "input": images},
        "alone.bin: no such file": {"model": alone, "input": images},
        "cannot be read as": {"model": torn, "input": images},
        "pred_score missing": {"model": other, "input": images},
        "film.mp4: cannot be opened as": {"model": model, "input": tmp_path / "film.mp4"},
        "97: cannot be opened as a": {"model": model, "input": "97"},
        "--device GPU.7 is not there; this computer has CPU": {
            "model": model,
            "input": images,
            "device": "GPU.7",
        },
        "image_threshold must be in [0, 1]": {
            "model": model,
            "input": images,
            "image_threshold": 50,
        },
        "Expected a": {"model": model, "input": images, "masks": "perhaps"},
        "required": {"input": images},
        "file": {"model": model, "input": images, "output": tmp_path / "file"},
    }
    for message, options in wrong.items():
        done = infer(**{"output": tmp_path / "out"} | options)
        assert done.returncode == 2, message
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert not (tmp_path / "out").exists()


def test_an_interruption_between_a_row_and_its_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The summary counts what the table says, with names that a table must quote."""
    records = Records(tmp_path, True, True, HALF, {}, Drift([], 0.5)).__enter__()
    records.append(Row('a "b", c\n.png', "0.9", "defective", "4", "1 1 2 2"))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Records, "_count", interrupted)
    with pytest.raises(KeyboardInterrupt):
        records.append(Row("d.png", "0.1", "good", "0"))
    monkeypatch.undo()
    records.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    seen = summary(tmp_path)
    assert [seen[name] for name in ("images", "good", "defective", "errors")] == [2, 1, 1, 0]
    assert seen["ended"] == "interrupted"


@pytest.mark.slow
@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_complete_rows(model: Path, tmp_path: Path, number: int) -> None:
    count = 5000  # more than can be done before the signal comes, even on a busy machine
    write(tmp_path / "in/0000.png", spots((5, 5, 20, 20), size=(512, 512)))
    for index in range(1, count):
        (tmp_path / f"in/{index:04}.png").hardlink_to(tmp_path / "in/0000.png")
    command = [sys.executable, "-m", "anomalib_anoseg", "infer", f"--model={model}"]
    command += [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    results = tmp_path / "out/results.csv"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (results.exists() and results.read_bytes().count(b"\n") > 20):
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors, errors
    rows = table(tmp_path / "out")
    assert 20 <= len(rows) < count
    assert [row["file"] for row in rows] == [f"{index:04}.png" for index in range(len(rows))]
    assert all(row["boxes"] == "5 5 20 20" for row in rows)
    pictures = [picture for row in rows for picture in (row["file"], f"{row['file']}.jpg")]
    drawn = {path.name for path in (tmp_path / "out").glob("[mo]*/*")}
    assert drawn == set(pictures)  # of each row, and none without a row
    ended = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    assert summary(tmp_path / "out")["ended"] == ended[signal.Signals(number)]
    assert summary(tmp_path / "out")["defective"] == len(rows)


def test_a_full_disk_leaves_nothing_half_written(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"
    out.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", out], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        random = np.random.default_rng(0)
        for index in range(40):
            noise = random.integers(0, 256, (256, 256, 3), dtype=np.uint8)
            write(tmp_path / f"in/{index:02}.png", noise)
        done = infer(model=model, input=tmp_path / "in", output=out)
        assert done.returncode == 2
        assert "No space left on device" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not list(out.rglob("*.part"))
        for picture in [*out.rglob("*.png"), *out.rglob("*.jpg")]:
            Image.open(picture).load()
        assert (out / "results.csv").read_bytes().endswith(b"\r\n")
        assert len(table(out)) < 40
        assert "No space left on device" in summary(out)["ended"]
        assert summary(out)["images"] == len(table(out))
    finally:
        subprocess.run(["umount", out], check=True)


def test_in_order_stays_in_order_and_ahead_by_little() -> None:
    started = []

    def slowly(item: int) -> int:
        started.append(item)
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item

    for expected, result in enumerate(in_order(slowly, range(50))):
        assert result == expected
        assert len(started) - expected <= 8


class _Blocked:
    """Stands for a computer that has neither torch nor anomalib."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in {"torch", "anomalib", "lightning", "torchvision"}:
            raise ModuleNotFoundError(name)


def test_infer_needs_neither_torch_nor_anomalib(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/a.png", spots((1, 1, 9, 9)))
    code = f"""
import inspect, sys
{inspect.getsource(_Blocked)}
sys.meta_path.insert(0, _Blocked())
sys.argv = ["anomalib-anoseg", "infer", "--model={model}", "--input={tmp_path / "in"}",
            "--output={tmp_path / "out"}"]
from anomalib_anoseg.__main__ import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert table(tmp_path / "out")[0]["label"] == "defective"


def test_infer_in_a_process_that_was_spawned(model: Path, tmp_path: Path) -> None:
    """As on Windows and macOS, and without a main guard around what is imported."""
    write(tmp_path / "a.png", spots((1, 1, 9, 9)))
    arguments = (model, str(tmp_path / "a.png"), tmp_path / "out")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(infer_here, *arguments).result(timeout=120) == 0
    assert summary(tmp_path / "out")["ended"] == "complete"


def test_the_models_own_thresholds_and_others(tmp_path: Path) -> None:
    """Grey 120 of 255 is 0.47: defective above 0.4, good above 0.5; a pixel of it likewise."""
    grey = np.full((40, 40, 3), 120, np.uint8)
    grey[:20, :, 1] = 30
    write(tmp_path / "a.png", grey)

    def outcome(model: Path, **options: float) -> tuple[str, str]:
        out = tmp_path / "out"
        arguments: dict[str, Any] = {"precision": "f32", **options}
        infer_here(model, str(tmp_path / "a.png"), out, **arguments)
        (row,) = table(out)
        stated = summary(out)
        assert stated["model_file"] == str(model)
        for name, value in options.items():
            assert stated[name] == value
        assert stated[row["label"]] == stated["images"] == 1
        return row["label"], row["defect_area"]

    lower = write_bright_spots(tmp_path / "lower.xml", cuts=(0.4, 0.1))
    # With 16 bits, which an older OpenVINO keeps.
    assert ExportedModel(lower).thresholds[:2] == pytest.approx((0.4, 0.1), rel=1e-3)
    assert outcome(lower) == ("defective", "1600")
    assert outcome(lower, pixel_threshold=0.4) == ("defective", "800")
    assert outcome(lower, image_threshold=0.5) == ("good", "0")
    said = write_bright_spots(tmp_path / "said.xml", said=(0.4, 0.2))
    assert ExportedModel(said).thresholds[:2] == (0.4, 0.2)
    assert outcome(said) == ("defective", "800")
    bare = write_bright_spots(tmp_path / "bare.xml", said=(0.4, 0.2), labels=False)
    assert outcome(bare) == ("defective", "800")
    with pytest.raises(ValueError, match="not an anomaly model with a map, pred_label missing"):
        ExportedModel(write_bright_spots(tmp_path / "silent.xml", labels=False))
    assert outcome(write_bright_spots(tmp_path / "half.xml")) == ("good", "0")


def test_a_second_run_leaves_only_its_own_pictures(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("a/x.png", "b/y.jpg", "z.png"):
        write(source / name, spots((5, 5, 20, 20)))
    out = source / "results"  # inside what is inspected
    assert infer_here(model, str(source), out) == 0
    own = out / "masks/notes.png"
    write(own, spots())
    (out / "notes.txt").write_text("mine")
    rmtree(source / "a")
    assert infer_here(model, str(source), out) == 0
    assert files(out) == {
        "masks/b/y.jpg.png", "masks/z.png", "overlays/b/y.jpg", "overlays/z.png.jpg",
        "masks/notes.png", "results.csv", "results.json", "notes.txt",
    }  # fmt: skip
    assert not (out / "masks/a").exists()
    assert [row["file"] for row in table(out)] == ["b/y.jpg", "z.png"]
    # Nor do the results of one run become the input of another.
    assert infer_here(model, str(source), tmp_path / "other") == 0
    assert len(table(tmp_path / "other")) == 2
    assert names(f"{source}/**/*.png") == ["z.png"]
    # A folder that is its own output.
    for _ in range(2):
        assert infer_here(model, str(source / "b"), source / "b") == 0
        assert [row["file"] for row in table(source / "b")] == ["y.jpg"]


def test_a_picture_never_replaces_a_users_file(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/a.png", spots((5, 5, 20, 20)))
    truth = tmp_path / "out/masks/a.png"
    write(truth, spots())
    before = truth.read_bytes()
    for _ in range(2):  # nor is it taken for one of infer's in the next run
        assert infer_here(model, str(tmp_path / "in"), tmp_path / "out") == 1
        assert truth.read_bytes() == before
        (row,) = table(tmp_path / "out")
        assert (row["label"], "choose another --output" in row["error"]) == ("defective", True)


def test_a_run_that_was_killed_leaves_nothing_to_the_next(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(tmp_path / "in/a.png", spots((5, 5, 20, 20)))
    write(out / "masks/old/b.png", spots())
    (out / "masks/old/c.png.part").touch()
    (out / ".pictures").write_bytes(b"masks/old/b.png\0masks/old/c.png\0../../in/a.png\0")
    assert infer_here(model, str(tmp_path / "in"), out, overlays=False) == 0
    assert files(out) == {"results.csv", "results.json", "masks/a.png"}


def test_pictures_have_different_names() -> None:
    images = ["a.png", "a.jpg", "a.jpg.png", "a.jpg.png.png", "a.PNG", "b.tif#1", "b.tif#1.png"]
    for suffix in (".png", ".jpg"):
        assert len({picture_name(name, suffix) for name in images}) == len(images)
    assert picture_name("a.png", ".png") == "a.png"
    assert picture_name("a.jpg", ".png") == "a.jpg.png"


def test_a_name_that_is_not_utf8(model: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfc\xdfe.png")
    try:
        write(tmp_path / "in" / name, spots((5, 5, 20, 20)))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    write(tmp_path / "in/z.png", spots())
    done = infer(model=model, input=tmp_path / "in", output=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "out")
    assert [row["file"] for row in rows] == [r"gr\udcfc\udcdfe.png", "z.png"]
    assert (tmp_path / "out/masks" / name).is_file()
    # The same in names of folders and of what cannot be read.
    bad = tmp_path / os.fsdecode(b"\xff")
    write(bad / "a.png", spots())
    (bad / name).write_bytes(b"no image")
    done = infer(model=model, input=bad, output=tmp_path / "other")
    assert done.returncode == 1, done.stderr
    assert len(table(tmp_path / "other")) == 2


def test_a_side_that_jpeg_cannot_write(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/long.png", spots((5, 5, 10, 10), size=(20, 65_501)))
    write(tmp_path / "in/z.png", spots())
    assert infer_here(model, str(tmp_path / "in"), tmp_path / "out") == 0
    overlay = cv2.imread(str(tmp_path / "out/overlays/long.png"))
    assert overlay.shape == (20, 65_501, 3)
    assert table(tmp_path / "out")[0]["boxes"] == "5 5 10 10"


def test_what_cannot_be_judged_or_drawn_is_a_row(tmp_path: Path) -> None:
    model = write_narrow(tmp_path / "narrow.xml")
    name = "n" * 251 + ".png"  # a name of 255 bytes, and no room for .jpg
    for file, side in {"a.png": 40, "b.png": 41, name: 40, "z.png": 40}.items():
        write(tmp_path / "in" / file, spots((5, 5, 20, 20), size=(side, side)))
    assert infer_here(model, str(tmp_path / "in"), tmp_path / "out") == 1
    a, b, long, z = table(tmp_path / "out")
    assert (a["label"], a["error"]) == (z["label"], z["error"]) == ("defective", "")
    assert (b["label"], "reshape" in b["error"]) == ("", True)
    assert (long["label"], "too long" in long["error"]) == ("defective", True)
    assert {k: summary(tmp_path / "out")[k] for k in ("images", "defective", "errors")} == {
        "images": 4, "defective": 3, "errors": 2,
    }  # fmt: skip


@pytest.mark.parametrize("tiles", [False, True])
def test_a_model_that_the_device_cannot_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiles: bool
) -> None:
    """It ends the run at once, not each of its images."""
    path = write_bright_spots(tmp_path / "m.xml", fixed=True, tiles=tiles)
    assert ExportedModel(path).takes_tiles == tiles
    Segmenter(path)

    def fail(*_: object) -> ov.CompiledModel:
        msg = "cannot be compiled"
        raise ValueError(msg)

    monkeypatch.setattr(ExportedModel, "compile", fail)
    with pytest.raises(ValueError, match="cannot be compiled"):
        Segmenter(path)


def test_the_digest_is_of_the_weights_too(tmp_path: Path) -> None:
    """ONNX may keep them in a file of its own."""
    found = set()
    for name in ("m.onnx", "m.onnx.data", "m.bin"):
        (tmp_path / name).write_bytes(b"part")
        found.add(_digest(tmp_path / "m.onnx"))
    assert len(found) == 3


def test_a_model_at_work_does_not_change_with_its_files(tmp_path: Path) -> None:
    """Where one is copied over it, or begun to be: also for the first image of another depth."""
    path = write_bright_spots(tmp_path / "model.xml", cuts=(0.3, 0.5))
    size = path.with_suffix(".bin").stat().st_size
    segmenter = Segmenter(str(path))
    path.with_suffix(".bin").write_bytes(bytes(size))
    path.write_text("another")
    shallow = spots((5, 5, 20, 20))
    deep = shallow.astype(np.float32) / 255
    for image in (shallow, deep):
        ((_, found),) = segmenter([Frame("a", image)])
        assert found is not None
        assert found.score == pytest.approx(1)


def test_weights_of_another_export_are_refused(model: Path, tmp_path: Path) -> None:
    """Of the same size, as a copy leaves that stopped between the two files."""
    whole, other = tmp_path / "whole/model.xml", tmp_path / "other/model.xml"
    for path, cut in ((whole, 0.6), (other, 0.7)):
        path.parent.mkdir()
        write_bright_spots(path, cuts=(cut, cut))
        write_openvino_metadata(path, {"model": "AnoSeg"})
        assert ExportedModel(path).about["model"] == "AnoSeg"
    weights = [path.with_suffix(".bin").read_bytes() for path in (whole, other)]
    assert len(weights[0]) == len(weights[1])
    assert weights[0] != weights[1]
    whole.with_suffix(".bin").write_bytes(weights[1])
    with pytest.raises(ValueError, match=r"exported with other weights than model\.bin has now"):
        ExportedModel(whole)
    assert ExportedModel(model).about["model"] == ""  # which says nothing of its weights


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (spots().astype(np.uint16), "uint16"),
        (spots().astype(np.float64) / 255, "float64"),
        (spots().astype(np.float32), "up to 200"),
        (spots()[..., 0], r"\(80, 120\)"),
        (np.zeros((0, 9, 3), np.float32), r"\(0, 9, 3\)"),
    ],
    ids=["16 bits", "double", "floats of 255", "grey", "nothing"],
)
def test_pixels_that_the_graph_would_misread_are_an_error(
    model: Path, image: Any, says: str
) -> None:
    frames = [Frame("a", image), Frame("b", spots((5, 5, 20, 20)))]
    (wrong, nothing), (_, right) = Segmenter(model)(frames)
    assert nothing is None
    assert re.search(f"cannot be judged: .*{says}.*is no image", wrong.error)
    assert right is not None
    assert right.score == 1


def test_pictures_that_infer_has_drawn_are_no_input(model: Path, tmp_path: Path) -> None:
    """Named by themselves; with the same output they would be removed before they are read."""
    write(tmp_path / "in/a.png", spots((5, 5, 20, 20)))
    out = tmp_path / "out"
    assert infer_here(model, str(tmp_path / "in"), out) == 0
    drawn = files(out)
    for output in (out, tmp_path / "other"):
        for given in (out / "overlays", out / "masks/*.png", out / "masks/a.png"):
            with pytest.raises(ValueError, match="is where infer draws to"):
                infer_here(model, str(given), output)
        with pytest.raises(ValueError, match="is where infer draws to"):
            open_watch(str(out / "masks"), output, 1, Stop())
    assert files(out) == drawn
    with pytest.raises(ValueError, match="input is empty"):
        infer_here(model, "", out)


def test_lines_into_a_folder_that_is_made(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/a.png", spots())
    lines = tmp_path / "out/lines/rows.jsonl"
    assert infer_here(model, str(tmp_path / "in"), tmp_path / "out", jsonl=str(lines)) == 0
    assert json.loads(lines.read_text())["file"] == "a.png"


def test_a_failure_does_not_spread(tmp_path: Path) -> None:
    """After one, OpenVINO's graph fails for images that it has judged before."""
    segmenter = Segmenter(write_narrow(tmp_path / "narrow.xml"))
    sides = 3 * [40, 41, 40, 40, 40, 42, 40, 41, 40, 40]
    frames = [Frame("", spots((5, 5, 20, 20), size=(side, side))) for side in sides]
    assert [p is not None for _, p in segmenter(frames)] == [side == 40 for side in sides]


@pytest.mark.parametrize("second", [RuntimeError("out of memory"), ValueError("no number")])
def test_a_failure_of_a_moment_is_over_with_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, second: Exception
) -> None:
    """A stand-in for a device that fails for one image, and again when it is tried alone."""
    failures = [RuntimeError("out of memory"), second]

    def seen(request: ov.InferRequest) -> Prediction:
        if failures:
            raise failures.pop(0)
        return _prediction(request)

    monkeypatch.setattr("anomalib_anoseg.inference.segmenter._prediction", seen)
    frames = [Frame(str(index), spots((5, 5, 20, 20))) for index in range(40)]
    (first, none), *others = Segmenter(model)(frames)
    assert (first.error, none) == (f"cannot be judged: {second}", None)
    assert [(frame, p is not None) for frame, p in others] == [
        (frame, True) for frame in frames[1:]
    ]


def test_a_size_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried each time, by a model of its own; the others go on with theirs."""
    segmenter = Segmenter(write_narrow(tmp_path / "narrow.xml"))
    wide, fitting = Frame("", spots(size=(41, 41))), Frame("", spots(size=(40, 40)))
    for frame in (wide, fitting):
        assert [p is None for _, p in segmenter([frame])] == [frame is wide]
    requests = segmenter._idle[np.uint8]
    tried: list[type] = []
    compiled = ExportedModel.compile
    monkeypatch.setattr(ExportedModel, "compile", lambda *a: tried.append(a[1]) or compiled(*a))
    assert [p is None for _, p in segmenter(4 * [fitting, wide])] == 4 * [False, True]
    assert len(tried) == 4
    assert segmenter._idle[np.uint8] is requests


def test_a_score_that_is_no_number_is_an_error(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomalib_anoseg.inference.segmenter._is_known", lambda _: True)
    image = np.full((40, 40, 3), np.nan, np.float32)
    ((frame, prediction),) = Segmenter(model)([Frame("nan", image)])
    assert prediction is None
    assert "no number" in frame.error


def test_every_page_of_a_tiff_is_a_row(model: Path, tmp_path: Path) -> None:
    pages = [Image.fromarray(spots((5, 5, 10, 10 + i)) if i % 2 else spots()) for i in range(5)]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in/stack.tif", save_all=True, append_images=pages[1:])
    pages[1].save(tmp_path / "in/z.tif")
    assert infer_here(model, str(tmp_path / "in"), tmp_path / "out") == 0
    expected = {f"stack.tif#{i + 1}": str(10 * (10 + i)) if i % 2 else "0" for i in range(5)}
    areas = {row["file"]: row["defect_area"] for row in table(tmp_path / "out")}
    assert areas == expected | {"z.tif": "110"}
    assert (tmp_path / "out/masks/stack.tif#2.png").is_file()


def test_a_file_is_not_read_again_for_each_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for its first page, which may wait for another file's, and once for all others."""
    pages = [Image.fromarray(np.full((5, 7), value, np.uint8)) for value in range(20)]
    path = tmp_path / "stack.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    read: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self) or read_bytes(self))
    seen = [frame.image for frame in frames_of(opened(path))]
    assert [image is not None and int(image.max()) for image in seen] == [*range(20)]
    assert read == [path, path]


def test_a_file_that_is_gone_after_its_first_page(tmp_path: Path) -> None:
    """Each other page says so."""
    pages = [Image.fromarray(spots())] * 3
    path = tmp_path / "stack.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    frames = iter(Files(tmp_path, [path], Stop()))
    first = next(frames)
    path.unlink()
    others = [*frames]
    assert (first.name, first.error) == ("stack.tif#1", "")
    assert [frame.name for frame in others] == ["stack.tif#2", "stack.tif#3"]
    assert all("No such file" in frame.error for frame in others)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.jfif", "JPEG"), ("x.jpe", "JPEG"), ("x", "PNG"), ("x.avif", "AVIF"), ("x.mp4", "TIFF")],
)
def test_a_single_file_is_taken_by_what_it_holds(name: str, kind: str, tmp_path: Path) -> None:
    """Oracle: Pillow, which reads no video."""
    path = tmp_path / name
    try:
        Image.fromarray(spots((5, 5, 40, 40))).save(path, kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
    (frame,) = frames_of(opened(path))
    assert (frame.name, frame.error) == (name, "")
    assert frame.image is not None
    assert (frame.image == np.asarray(Image.open(path).convert("RGB"))).all()


def test_a_refused_image_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "deep"
    Image.fromarray(np.zeros((64, 64), np.int32)).save(path, "TIFF")
    (frame,) = frames_of(opened(path))
    assert "signed samples of [32] bits" in frame.error


@pytest.mark.parametrize(("suffix", "codec"), [(".m1v", "PIM1"), (".y4m", "I420"), (".mjpg", "")])
def test_videos_that_begin_as_an_image_or_as_text(suffix: str, codec: str, tmp_path: Path) -> None:
    """Pillow knows MPEG's beginning; Motion JPEG is one JPEG after the other."""
    path = tmp_path / f"line{suffix}"
    grey = np.full((64, 96, 3), 120, np.uint8)
    if codec:
        fourcc = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 25, (96, 64))
        if not writer.isOpened():
            pytest.skip(f"this OpenCV writes no {suffix}")
        for _ in range(5):
            writer.write(grey)
        writer.release()
    else:
        path.write_bytes(cv2.imencode(".jpg", grey)[1].tobytes() * 5)
    assert names(path) == [f"{index:06}" for index in range(5)]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"/data/1.png\n/data/2.png\n" * 300, "it is text"),
        ("C:\\Teile\\gr\u00fcn.png\r\n".encode("latin-1"), "it is text"),
        ("/data/1.png\n".encode("utf-16"), "it is text"),
        (b"\0\0\0\x20ftypheic\0\0\0\0", "a photograph in HEIF"),
    ],
    ids=["paths", "Latin-1", "UTF-16", "HEIF"],
)
def test_what_ffmpeg_would_make_a_video_of(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}: cannot be opened as .* {kind}: "):
        opened(path)


def test_a_video_without_a_frame_is_not_complete(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for a file that FFmpeg opens, and of which it then can decode nothing."""

    class Nothing:
        def __init__(self, _: str) -> None:
            pass

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return True

        def get(self, _: int) -> float:
            return 0.0

        def grab(self) -> bool:
            return False

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Nothing)
    film = tmp_path / "film.mp4"
    film.write_bytes(b"\0\1\2")
    assert infer_here(model, str(film), tmp_path / "out") == 3
    assert summary(tmp_path / "out")["ended"] == f"{film}: no frame of it could be read"
    assert "no frame of it could be read" in capsys.readouterr().err


def test_the_summary_counts_what_was_passed_over(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither hidden files nor results count."""
    write(tmp_path / "in/a.png", spots())
    for _ in range(2):  # the second time beside results
        assert infer_here(model, str(tmp_path / "in"), tmp_path / "in/out") == 0
        assert "passed over" not in capsys.readouterr().out
    (tmp_path / "in/.hidden").mkdir()
    for name in ("b.heic", "day/film.mp4", "notes", ".DS_Store", ".hidden/c.heic"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    assert infer_here(model, str(tmp_path / "in"), tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1 images: 1 good")
    assert said[-1] == "3 other files were passed over"


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v")])
def test_a_truncated_video(model: Path, tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"line{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (96, 64))
    noise = np.random.default_rng(0)
    for _ in range(30):
        writer.write(noise.integers(0, 256, (64, 96, 3), dtype=np.uint8))
    writer.release()
    whole = opened(path)
    assert len(frames_of(whole)) == 30
    assert whole.missing == ""
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = infer(model=model, input=cut, output=tmp_path / "out")
    if suffix == ".mp4":  # its table of frames is at the end
        assert done.returncode == 2
        assert "cannot be opened" in done.stderr
        return
    assert done.returncode == 3, done.stderr
    rows = table(tmp_path / "out")
    assert 5 < len(rows) < 30
    assert f"has 30 frames, of which {len(rows)} could be read" in done.stderr
    assert summary(tmp_path / "out")["ended"] in done.stderr


def test_a_video_from_an_address(tmp_path: Path) -> None:
    """Whole: as the file. A server that stops half way: what is missing is said."""
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for grey in range(0, 240, 10):
        writer.write(np.full((64, 96, 3), grey, np.uint8))
    writer.release()
    (tmp_path / "cut.avi").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    handler = partial(QuietServer, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        whole, cut = opened(f"{address}/line.avi"), opened(f"{address}/cut.avi")
        assert len(frames_of(whole)) == 24
        assert whole.missing == ""
        assert 0 < len(frames_of(cut)) < 24
        assert "has 24 frames" in cut.missing
        with pytest.raises(ValueError, match="cannot be opened as a stream"):
            opened(f"{address}/none.avi")
        server.shutdown()


class QuietServer(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_camera_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a camera that is unplugged after two frames."""

    class Camera:
        def __init__(self, source: object) -> None:
            assert source == 0
            self.left = 2

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return True

        def get(self, _: int) -> float:
            return -1.0

        def grab(self) -> bool:
            self.left -= 1
            return self.left >= 0

        def retrieve(self) -> tuple[bool, Any]:
            return True, np.zeros((4, 6, 3), np.uint8)

        def release(self) -> None:
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    source = opened("0")
    assert len(source) == 0
    assert [frame.name for frame in frames_of(source)] == ["000000", "000001"]
    assert source.missing.startswith("0: ended after 2 frames")


@pytest.mark.parametrize("fixed", [False, True])
def test_deep_images_get_the_map_of_their_own_pixels(fixed: bool, tmp_path: Path) -> None:
    """Oracle: the green channel itself; for a fixed size the antialiased resize of training."""
    from anomalib_anoseg.pre_processor import MatrixResize

    random = np.random.default_rng(0)
    deep = random.random((64, 80, 3)).astype(np.float32)
    shallow = (deep * 255).astype(np.uint8)
    segmenter = Segmenter(write_bright_spots(tmp_path / "m.xml", fixed=fixed), precision="f32")
    frames = [Frame(str(i), (deep, shallow)[i % 2]) for i in range(20)]
    for frame, prediction in segmenter(frames):
        assert prediction is not None
        image = torch.tensor(deep if int(frame.name) % 2 == 0 else shallow / np.float32(255))
        expected = image.permute(2, 0, 1)[1:2]
        expected = MatrixResize((64, 64))(expected) if fixed else expected
        np.testing.assert_allclose(prediction.anomaly_map, expected[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (64, 64)])
def test_the_map_is_torchs_for_every_depth(size: tuple[int, int] | None, tmp_path: Path) -> None:
    network = small_model(adversarial_weight=0, reconstruction_weight=0).eval()
    path = network.to_openvino(tmp_path / "export", input_size=size)
    deep = (photographs(1, 3, 96, 120)[0].permute(1, 2, 0).numpy() * 65535).astype(np.uint16)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/8.png", (deep // 256).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "in/16grey.png"), deep[..., 0])
    cv2.imwrite(str(tmp_path / "in/16rgb.png"), deep)
    cv2.imwrite(str(tmp_path / "in/float.tif"), deep[..., 0].astype(np.float32) / 65535)
    seen = list(Segmenter(path, precision="f32")(frames_of(opened(tmp_path / "in"))))
    assert [frame.name for frame, _ in seen] == ["16grey.png", "16rgb.png", "8.png", "float.tif"]
    for frame, prediction in seen:
        assert frame.image is not None, frame.error
        assert prediction is not None
        scale = 255 if frame.image.dtype == np.uint8 else 1
        image = torch.tensor(frame.image).permute(2, 0, 1)[None].float() / scale
        with torch.no_grad():
            expected = network(image)
        np.testing.assert_allclose(prediction.anomaly_map, expected.anomaly_map[0, 0], atol=1e-5)
        assert prediction.score == pytest.approx(float(expected.pred_score), abs=1e-5)
    score_of = {frame.name: prediction.score for frame, prediction in seen if prediction}
    assert score_of["16grey.png"] == pytest.approx(score_of["float.tif"], abs=1e-5)
