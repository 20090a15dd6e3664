"""A region of interest from training to use: parts with a serial number that changes by right."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino as ov
import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.pre_processing import PreProcessor as AnomalibPreProcessor
from conftest import quiet_engine, remembering_model, segmenter
from jsonargparse import ArgumentParser
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import Resize
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_anoseg import AnoSeg, PreProcessor
from anomalib_anoseg.__main__ import run
from anomalib_anoseg.networks.encoder import pad
from anomalib_anoseg.networks.memory import STRIDES
from anomalib_anoseg.networks.region import Region
from anomalib_anoseg.report.model_command import page
from anomalib_anoseg.utils.images import read_image

pytestmark = pytest.mark.slow
WIDTH, HEIGHT = 160, 128
FRAME = [[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]]
SERIAL = (0, 0, 70, 30)  # left, top, right, bottom
DRAWS = np.random.default_rng(0)


def draw(path: Path, blot: tuple[int, int, int, int] | None = None) -> None:
    """A part of the same kind as all others, with a serial number of its own."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (90, 110, 120))
    pen = ImageDraw.Draw(image)
    shift = int(DRAWS.integers(-1, 2))
    pen.ellipse((60 + shift, 40, 130 + shift, 110), (190, 180, 160), (60, 60, 60), 3)
    number = "".join(map(str, DRAWS.integers(0, 10, 4)))
    pen.text((4, 2), number, tuple(DRAWS.integers(0, 255, 3).tolist()), ImageFont.load_default(24))
    if blot:
        pen.ellipse(blot, (20, 20, 20))
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).ellipse(blot, 255)
        (path.parents[1] / "masks" / path.parent.name).mkdir(parents=True, exist_ok=True)
        mask.save(path.parents[1] / "masks" / path.parent.name / path.name)
    noise = DRAWS.normal(0, 2, (HEIGHT, WIDTH, 3))
    path.parent.mkdir(exist_ok=True)
    pixels = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("line")
    for folder, count in (("good", 16), ("unseen", 6)):
        for number in range(count):
            draw(root / folder / f"{number:02}.png")
    for number in range(3):
        draw(root / "inside" / f"{number}.png", (80 + 8 * number, 60, 96 + 8 * number, 76))
        draw(root / "outside" / f"{number}.png", (5 + 20 * number, 4, 17 + 20 * number, 16))
    mask = Image.new("L", (WIDTH, HEIGHT), 255)
    ImageDraw.Draw(mask).rectangle(SERIAL, 0)
    mask.save(root / "region.png")
    return root


def folder(root: Path) -> Folder:
    kinds = ["inside", "outside"]
    return Folder(
        "line", root=root, normal_dir="good", normal_test_dir="unseen", abnormal_dir=kinds,
        mask_dir=[f"masks/{kind}" for kind in kinds], val_split_mode="none", num_workers=0,
        train_batch_size=4, eval_batch_size=4, seed=0,
    )  # fmt: skip


class Trained:
    """A trained model, its checkpoint, and what a test of it gave."""

    def __init__(self, root: Path, out: Path) -> None:
        mask = out / "region.png"
        mask.write_bytes((root / "region.png").read_bytes())
        model = remembering_model(
            region=str(mask), seed=0, backbone="thin_resnet", pre_processor=PreProcessor((64, 80))
        )
        engine = quiet_engine(out, max_steps=30, max_epochs=-1)
        engine.fit(model, datamodule=folder(root))
        (self.figures,) = engine.test(model, datamodule=folder(root), verbose=False)
        self.checkpoint = Path(engine.trainer.checkpoint_callback.best_model_path)
        mask.unlink()  # from here on the checkpoint alone has it
        self.mask = mask
        self.model = AnoSeg.load_from_checkpoint(self.checkpoint).eval()


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(root, tmp_path_factory.mktemp("trained"))


def read(path: Path) -> Tensor:
    image: Tensor = to_dtype(to_image(read_image(path)), torch.float32, scale=True)
    return image.as_subclass(Tensor)[None]


def test_a_serial_number_is_no_false_alarm_and_a_defect_is_found(
    root: Path, trained: Trained
) -> None:
    for kind, expected in (("unseen", False), ("outside", False), ("inside", True)):
        for path in sorted((root / kind).iterdir()):
            assert bool(trained.model(read(path)).pred_label) == expected, path
    assert trained.figures["image_AUROC"] == trained.figures["image_F1Score"] == 1
    assert trained.figures["pixel_AUROC"] > 0.9


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the OpenVINO model; the ONNX file that it is made from is kept beside it."""
    folder, model = tmp_path_factory.mktemp("exported"), trained.model
    to_onnx = model.to_onnx

    def kept(*args: Any, **options: Any) -> Path:
        path = to_onnx(*args, **options)
        shutil.copytree(path.parent, folder / "onnx")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "to_onnx", kept)
        return model.to_openvino(folder)


def test_exports_say_what_torch_says(root: Path, trained: Trained, exported: Path) -> None:
    """Oracle: torch, from the checkpoint alone; outside the map is 0 to the bit."""
    image = read(root / "inside/0.png")
    expected = trained.model(image)
    hidden = ~trained.model.model.region.at(64, 80)[0, 0].numpy()
    core = ov.Core()
    model = core.read_model(exported)
    said = float(model.get_rt_info(["anoseg", "inspected_share"]).value)
    assert said == pytest.approx(1 - 71 * 31 / (WIDTH * HEIGHT), abs=1e-5)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    onnx = onnxruntime.InferenceSession(exported.parents[2] / "onnx/model.onnx")
    answer = onnx.run(["pred_score", "anomaly_map"], {"input": image.numpy()})
    others = [answer, [compiled(image.numpy())[name] for name in ("pred_score", "anomaly_map")]]
    for score, anomaly_map in others:
        np.testing.assert_allclose(score, expected.pred_score.numpy(), atol=1e-4)
        np.testing.assert_allclose(anomaly_map, expected.anomaly_map.numpy(), atol=1e-4)
        assert (anomaly_map[0, 0][hidden] == 0).all()


def test_infer_needs_nothing_else(root: Path, exported: Path, tmp_path: Path) -> None:
    arguments = ["--model", exported, "--input", root / "unseen", "--output", tmp_path / "seen"]
    assert run("infer", [*map(str, arguments)]) == 0
    found = json.loads((tmp_path / "seen/results.json").read_text())
    assert (found["images"], found["defective"]) == (6, 0)
    assert 0.8 < found["inspected_share"] < 0.9


def test_page_and_validate_count_the_inside(
    root: Path, trained: Trained, exported: Path, tmp_path: Path
) -> None:
    """Oracle: the figures of anomalib's test, by which defects outside are good parts."""
    described = tmp_path / "data.yaml"
    described.write_text(
        "class_path: anomalib.data.Folder\n"
        f"init_args:\n  name: line\n  root: {root}\n  normal_dir: good\n"
        "  normal_test_dir: unseen\n  abnormal_dir: [inside, outside]\n"
        "  mask_dir: [masks/inside, masks/outside]\n  val_split_mode: same_as_test\n"
    )
    given = ["--ckpt_path", trained.checkpoint, "--data", described]
    report = tmp_path / "found.json"
    arguments = [*given, "--model", exported, "--output", report]
    assert run("validate", [*map(str, arguments)]) == 0
    found = json.loads(report.read_text())
    assert (found["good"], found["defective"]) == (6 + 3, 3)
    for name, value in found["figures"]["checkpoint"].items():
        assert value == pytest.approx(trained.figures[name], abs=0.01), name
    output = tmp_path / "page.html"
    assert page(trained.checkpoint, folder(root), output) == 0
    shown = output.read_text()
    assert f"{trained.figures['pixel_AUROC']:.3f}"[:4] in shown


def test_adapting_remembers_nothing_from_outside(
    root: Path, trained: Trained, tmp_path: Path
) -> None:
    arguments = ["--ckpt_path", trained.checkpoint, "--data", root / "unseen"]
    output = tmp_path / "adapted.ckpt"
    assert run("adapt", [*map(str, [*arguments, "--output", output])]) == 0
    adapted = AnoSeg.load_from_checkpoint(output)
    assert len(adapted.remembered) > len(trained.model.remembered)
    assert_inside(adapted)
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (80, 64)).save(other / "0.png")
    with pytest.raises(ValueError, match=r"has 128 x 160 pixels, the image .* has 64 x 80"):
        run("adapt", ["--ckpt_path", str(trained.checkpoint), "--data", str(other)])


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_images_of_another_size_than_the_mask_of_a_checkpoint(
    trained: Trained, tmp_path: Path, stage: str
) -> None:
    (tmp_path / "good").mkdir()
    Image.new("RGB", (80, 64)).save(tmp_path / "good/0.png")
    data = Folder(
        "other", root=tmp_path, normal_dir="good", normal_test_dir="good", num_workers=0,
        val_split_mode="same_as_test",
    )  # fmt: skip
    judge = getattr(quiet_engine(tmp_path), stage)
    with pytest.raises(ValueError, match=r"has 128 x 160 pixels, the image .* has 64 x 80"):
        judge(remembering_model(), datamodule=data, ckpt_path=trained.checkpoint)


def resumed(root: Path, out: Path, checkpoint: Path, **arguments: Any) -> AnoSeg:
    model = remembering_model(
        seed=0, backbone="thin_resnet", pre_processor=PreProcessor((64, 80)), **arguments
    )
    engine = quiet_engine(out, max_steps=31, max_epochs=-1)
    engine.fit(model, datamodule=folder(root), ckpt_path=checkpoint)
    return model


def test_a_run_goes_on_with_the_region_of_its_checkpoint(
    root: Path, trained: Trained, tmp_path: Path
) -> None:
    model = resumed(root, tmp_path, trained.checkpoint)
    assert model.hparams["region"] == str(trained.mask)
    kept = model.model.region
    assert kept is not None
    assert torch.equal(kept.inside, Region(str(root / "region.png")).inside)
    moved = shutil.copy(root / "region.png", tmp_path / "moved.png")
    assert resumed(root, tmp_path, trained.checkpoint, region=moved).hparams["region"] == str(moved)
    with pytest.raises(ValueError, match="with another region than its own"):
        resumed(root, tmp_path, trained.checkpoint, region=[[[0, 0], [1, 0], [1, 1]]])


def test_the_memory_holds_nothing_from_outside(trained: Trained) -> None:
    assert_inside(trained.model)


def assert_inside(model: AnoSeg) -> None:
    """Oracle: where the rows are from."""
    memory, region = model.model.memory, model.model.region
    assert memory is not None
    assert region is not None
    assert region.inside.shape == (HEIGHT, WIDTH)
    inside = pad(region.at(64, 80).float())[0, 0] > 0
    for stride, level in zip(STRIDES, memory.levels, strict=True):
        for row, column in level.place.tolist():
            top, left = row * stride, column * stride
            assert inside[top : top + stride, left : left + stride].any()


@pytest.mark.parametrize("make", [remembering_model, segmenter])
def test_crops_are_trained_with_a_region(make: Any, root: Path, tmp_path: Path) -> None:
    """Oracle: all of the validation, and that nothing is drawn outside; by the native size."""
    model = make(
        region=root / "region.png", train_crop=64, pre_processor=PreProcessor("native"), seed=1
    )
    engine = quiet_engine(tmp_path, max_steps=2, max_epochs=-1)
    engine.fit(model, datamodule=folder(root))
    image = read(root / "unseen/00.png")
    answer = model.eval()(image)
    hidden = ~model.model.region(image)
    assert (answer.anomaly_map[hidden] == 0).all()


def test_what_does_not_fit_the_images_is_told_before_training(root: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.new("L", (80, 64), 255).save(small)
    dot = [[[0.5, 0.5], [0.501, 0.5], [0.501, 0.502], [0.5, 0.502]]]
    theirs = AnomalibPreProcessor(Resize((64, 64)))
    cut = folder(root)
    cut.external_collate_fn = ImageBatch.collate
    for arguments, data, message in (
        ({"region": small}, folder(root), r"64 x 80 pixels, the image .*\.png has 128 x 160"),
        ({"region": dot}, folder(root), "nothing of the region is left at 64 x 64 pixels"),
        ({"region": FRAME, "pre_processor": theirs}, folder(root), "region needs AnoSeg's own"),
        ({"region": FRAME}, cut, "as anomalib's tiled ensemble"),
    ):
        with pytest.raises(ValueError, match=message):
            quiet_engine(tmp_path, max_steps=1).fit(segmenter(**arguments), datamodule=data)


def test_a_region_comes_from_a_command_line_and_a_file(root: Path, tmp_path: Path) -> None:
    mask = str(root / "region.png")
    for given, expected in (
        ([f"--model.region={mask}"], mask),
        ([f"--model.region={json.dumps(FRAME)}"], FRAME),
        ([f"--config={tmp_path / 'model.yaml'}"], FRAME),
        ([], None),
    ):
        lines = "\n".join(f"    - [{x}, {y}]" for x, y in FRAME[0])[6:]
        (tmp_path / "model.yaml").write_text(f"model:\n  region:\n  - - {lines}\n")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--config", action="config")
        parser.add_class_arguments(AnoSeg, "model", skip={"pre_processor", "post_processor"})
        parsed = parser.instantiate_classes(parser.parse_args(given))
        assert parsed.model.hparams["region"] == expected


def test_sheet_draws_it_and_nothing_outside(root: Path, tmp_path: Path) -> None:
    """Oracle: the pictures of image and synthetic image, equal outside; and a yellow line."""
    given = [str(root / "good"), f"--region={root / 'region.png'}", "--rows=2", "--size=64"]
    output = tmp_path / "sheet.png"
    assert run("sheet", [*given, f"--output={output}", "--columns=1"]) == 0
    picture = np.asarray(Image.open(output)).astype(int)
    good, synthetic, mask = (picture[4:68, 4 + 68 * n : 68 + 68 * n] for n in range(3))
    hidden = ~Region(str(root / "region.png")).at(64, 64)[0, 0].numpy()
    assert (good[hidden] == synthetic[hidden]).all()
    assert not mask[hidden].any()
    assert mask.any()
    yellow = (good == [255, 217, 0]).all(-1)
    assert yellow.any()
    assert hidden[yellow].all()
    crops = tmp_path / "crops.png"
    assert run("sheet", [*given, f"--output={crops}", "--columns=1", "--train_crop=32"]) == 0
    Image.new("L", (80, 64), 255).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"the image .* has 128 x 160"):
        run("sheet", [given[0], f"--region={tmp_path / 'small.png'}", f"--output={output}"])
