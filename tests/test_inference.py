"""The command that runs an exported model over images, on a real OpenVINO model."""

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import cv2
import numpy as np
import openvino as ov
import pytest
import torch
from numpy.typing import NDArray
from openvino import opset13 as ops
from PIL import Image, PngImagePlugin

from anomalib_anoseg.inference.frames import Frame, Frames, read_image
from anomalib_anoseg.inference.parallel import in_order
from anomalib_anoseg.inference.records import Finding, find_defects
from anomalib_anoseg.inference.segmenter import Prediction, Segmenter

pytestmark = pytest.mark.exported


def write_bright_spots(path: Path, *, fixed: bool = False) -> Path:
    """Write a model of anomalib's interface that takes the green channel for the anomaly map."""
    image = ops.parameter([1, 3, 64, 64] if fixed else [-1, 3, -1, -1], np.float32, name="input")
    one = ops.constant(np.int64([1]))
    green = ops.gather(image, one, ops.constant(np.int64(1)))
    score = ops.reduce_max(green, ops.constant(np.int64([1, 2, 3])))
    label = ops.greater(score, ops.constant(np.float32(0.5)))
    outputs = []
    for name, value in {"pred_score": score, "pred_label": label, "anomaly_map": green}.items():
        value.output(0).set_names({name})
        outputs.append(ops.result(value))
    ov.save_model(ov.Model(outputs, [image], "spots"), path)
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
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_folder_to_masks_overlays_and_table(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/a/two.png", spots((10, 20, 8, 5), (60, 40, 20, 10)))
    write(tmp_path / "in/good.png", spots(size=(70, 90)))
    done = infer(model=model, input=tmp_path / "in", output=tmp_path / "out", precision="f32")
    assert done.returncode == 0, done.stderr
    two, good = table(tmp_path / "out")
    assert two == {
        "file": "a/two.png", "score": "1.000000", "label": "anomalous", "defect_area": "240",
        "boxes": "60 40 20 10;10 20 8 5", "error": "",
    }  # fmt: skip
    assert (good["label"], good["defect_area"], good["boxes"]) == ("normal", "0", "")
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
    assert [path.name for path in out.iterdir()] == ["results.csv"]


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
    finding = find_defects(Prediction(0.4, anomalous=False, anomaly_map=anomaly_map), 32, 32)
    assert finding.area == 0
    assert finding.boxes == []
    assert not finding.mask.any()


def test_a_defective_part_without_a_defective_pixel() -> None:
    anomaly_map = np.full((8, 8), 0.4, np.float32)
    finding = find_defects(Prediction(0.6, anomalous=True, anomaly_map=anomaly_map), 32, 40)
    assert (finding.area, finding.boxes, finding.mask.shape) == (0, [], (32, 40))


def test_the_map_is_enlarged_to_the_image() -> None:
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[2:4, 4:6] = 1.0
    finding: Finding = find_defects(
        Prediction(0.9, anomalous=True, anomaly_map=anomaly_map), 80, 160
    )
    assert finding.boxes == [(80, 20, 40, 20)]
    assert 700 < finding.area < 800  # interpolation rounds the corners


def test_glob_and_single_image(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/y.png", "b/z.bmp"):
        write(tmp_path / name, spots())
    assert [f.name for f in Frames(f"{tmp_path}/*/*.png")] == ["a/x.png", "b/y.png"]
    assert [f.name for f in Frames(str(tmp_path / "b/z.bmp"))] == ["z.bmp"]
    assert len(Frames(str(tmp_path))) == 3


def test_video(tmp_path: Path) -> None:
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for grey in (20, 120, 220):
        writer.write(np.full((64, 96, 3), (0, grey, 0), np.uint8))
    writer.release()
    frames = list(Frames(str(path)))
    assert [frame.name for frame in frames] == ["000000", "000001", "000002"]
    for frame, grey in zip(frames, (20, 120, 220), strict=True):
        assert frame.image is not None
        assert abs(int(frame.image[32, 48, 1]) - grey) < 6
    assert len(Frames(str(path))) == 3


def test_images_are_read_as_anomalib_reads_them(tmp_path: Path) -> None:
    from anomalib.data.utils import read_image as read_as_anomalib

    colours = torch.randint(0, 256, (64, 80, 3), dtype=torch.uint8).numpy()
    picture = Image.fromarray(colours)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.convert("RGBA").save(tmp_path / "alpha.png")
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("P").save(tmp_path / "palette.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.save(tmp_path / "turned.jpg", exif=turned)
    picture.save(tmp_path / "turned.png", exif=turned)
    picture.save(tmp_path / "key.png", transparency=tuple(colours[0, 0].tolist()))
    picture.convert("L").save(tmp_path / "grey.jpg")
    for quality, subsampling in ((30, 0), (75, 2), (95, 1)):
        name = f"{quality}.jpg"
        picture.save(tmp_path / name, quality=quality, subsampling=subsampling, progressive=True)
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    picture.save(tmp_path / "gamma.png", pnginfo=gamma)
    picture.save(tmp_path / "film.png", save_all=True, append_images=[picture.convert("L")])
    for path in tmp_path.iterdir():
        expected = (read_as_anomalib(path) * 255).round()
        assert (read_image(path) == expected).all(), path


def test_unreadable_files_are_reported_and_the_rest_goes_on(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "z.png"):
        write(folder / name, spots((1, 1, 5, 5)))
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    flipped = bytearray((folder / "a.png").read_bytes())
    flipped[len(flipped) // 2] ^= 255
    (folder / "flipped.png").write_bytes(flipped)
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(folder / "deep.png")
    done = infer(model=model, input=folder, output=tmp_path / "out")
    assert done.returncode == 1
    rows = {row["file"]: row for row in table(tmp_path / "out")}
    assert list(rows) == ["a.png", "cut.png", "deep.png", "empty.png", "flipped.png", "z.png"]
    for name in ("cut.png", "deep.png", "empty.png", "flipped.png"):
        assert rows[name]["error"]
        assert rows[name]["label"] == ""
        assert f"{name}: {rows[name]['error']}" in done.stderr
    assert "8 bits" in rows["deep.png"]["error"]
    assert rows["z.png"]["label"] == "anomalous"
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
        "film.mp4: not an image": {"model": model, "input": tmp_path / "film.mp4"},
        "file": {"model": model, "input": images, "output": tmp_path / "file"},
    }
    for message, options in wrong.items():
        done = infer(**{"output": tmp_path / "out"} | options)
        assert done.returncode == 2, message
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert message in line


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Undo what a shell does to commands in the background: they ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_interruption_leaves_complete_rows(model: Path, tmp_path: Path) -> None:
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
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors, errors
    rows = table(tmp_path / "out")
    assert 20 <= len(rows) < count
    assert [row["file"] for row in rows] == [f"{index:04}.png" for index in range(len(rows))]
    assert all(row["boxes"] == "5 5 20 20" for row in rows)
    assert not list((tmp_path / "out").rglob("*.part"))


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


def test_nothing_heavy_is_imported() -> None:
    """A line's computer needs no torch in memory to run a model."""
    code = "import sys, anomalib_anoseg.inference.command; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
