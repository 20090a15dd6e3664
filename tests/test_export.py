"""Exported models say what torch says, with the real runtimes."""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import onnxruntime
import openvino as ov
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.metrics import AnomalibMetric
from conftest import photographs, segmenter
from openvino import opset13 as ops
from torch import Tensor

from anomalib_anoseg import AnoSeg, PostProcessor, PreProcessor, SurfaceDemo
from anomalib_anoseg.evaluation.metrics import AUROC, IoUMax
from anomalib_anoseg.export.quantization import _samples, calibration_samples, quantize
from anomalib_anoseg.export.tile import SMALLEST_TILE
from anomalib_anoseg.networks.decision import ANOMALOUS
from anomalib_anoseg.utils.files import complete_files
from anomalib_anoseg.utils.signal_stack import current_stack

Trained = tuple[AnoSeg, SurfaceDemo]
F32 = {"INFERENCE_PRECISION_HINT": "f32"}
NAMES = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
OPEN = [(96, 96), (64, 128), (200, 75), (1024, 1024)]
FIXED = [(128, 96)]


def untrained(
    decoder: Literal["paper", "skip"] = "skip", image_score: Literal["map", "detector"] = "map"
) -> AnoSeg:
    """Return a small model whose maps and scores lie on both sides of their thresholds.

    It has a memory, unless it is the paper's.
    """
    model = AnoSeg(
        pre_trained=decoder == "skip",
        memory_rows=100,
        decoder=decoder,
        image_score=image_score,
        pre_processor=PreProcessor((64, 96)),
        seed=0,
    )
    calibrate(model)
    return model


def calibrate(model: AnoSeg) -> None:
    images = photographs(16, height=64, width=96)
    if model.model.memory is not None:
        model.model.memory.fill([(images, torch.arange(16))], 16)
    model.model.train()
    for _ in range(20):  # batch statistics that fit
        model.model(images)
    model.eval()
    with torch.no_grad():
        # Spread the map over the range of probabilities, by the last layer.
        last = [m for m in model.model.map_decoder.modules() if hasattr(m, "weight")][-1]
        last.weight *= 2 / model.model.witnesses(images)[0].std()
        if model.model.memory is not None:
            images = photographs(16, height=64, width=96)  # others than it remembers
            model.model.decision.fit([model.model.witnesses(images)])
        answer = model.model(images)
        model.post_processor._pixel_threshold.copy_(answer.anomaly_map.quantile(0.7))
        model.post_processor._image_threshold.copy_(answer.pred_score.median())


class Runtimes:
    """The same model in torch, ONNX Runtime and OpenVINO."""

    def __init__(self, model: AnoSeg, folder: Path, size: tuple[int, int] | None) -> None:
        self.model = model
        path = model.to_onnx(folder, input_size=size)
        self.onnx = onnxruntime.InferenceSession(path)
        # to_openvino converts what to_onnx writes: once is enough.
        with patch.object(model, "to_onnx", return_value=path) as written:
            xml = model.to_openvino(folder, input_size=size)
        assert written.call_args.args[2] == size
        self.openvino = ov.Core().compile_model(xml, "CPU", F32)

    def answers(self, images: Tensor) -> Iterator[tuple[str, dict[str, Tensor]]]:
        with torch.no_grad():
            yield "torch", {n: v for n, v in self.model(images)._asdict().items() if n in NAMES}
        names = [output.name for output in self.onnx.get_outputs()]
        seen = self.onnx.run(None, {"input": images.numpy()})
        yield "onnx", {n: torch.from_numpy(v) for n, v in zip(names, seen, strict=True)}
        outputs = self.openvino(images.numpy())
        yield "openvino", {n: torch.from_numpy(outputs[n]) for n in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "image_score", "size"),
    [  # every pair of two options
        pytest.param("skip", "map", None, id="any size"),
        pytest.param("paper", "detector", None, id="paper, detector, any size"),
        pytest.param("skip", "detector", FIXED[0], id="detector, fixed size"),
        pytest.param("paper", "map", FIXED[0], id="paper, fixed size"),
    ],
)
def test_parity(
    decoder: Literal["skip", "paper"],
    image_score: Literal["map", "detector"],
    size: tuple[int, int] | None,
    tmp_path: Path,
) -> None:
    runtimes = Runtimes(untrained(decoder, image_score), tmp_path, size)
    labels = []
    for shape in FIXED if size else OPEN:
        for batch in (1, 4):
            images = photographs(batch, height=shape[0], width=shape[1])
            answers = dict(runtimes.answers(images))
            expected = answers.pop("torch")
            labels += expected["pred_label"].tolist()
            assert 0.01 < expected["pred_mask"].float().mean() < 0.99
            for seen in answers.values():
                for name in ("anomaly_map", "pred_score"):
                    got = seen[name].view_as(expected[name])
                    torch.testing.assert_close(got, expected[name], atol=1e-4, rtol=0)
                for name, of in (("pred_label", "pred_score"), ("pred_mask", "anomaly_map")):
                    flipped = seen[name].view_as(expected[name]) != expected[name]
                    undecided = (expected[of] - 0.5).abs() < 1e-4
                    assert not (flipped & ~undecided.view_as(flipped)).any()
    assert size or len(set(labels)) == 2


@pytest.mark.slow
def test_coordinates_follow_the_size(tmp_path: Path) -> None:
    """Without a pre-processor images of any size reach the network as they are."""
    model = AnoSeg(pre_processor=False, seed=0)
    calibrate(model)
    runtimes = Runtimes(model, tmp_path, None)
    for side in (256, 320):
        answers = dict(runtimes.answers(photographs(1, height=side, width=side)))
        for runtime in ("onnx", "openvino"):
            got, expected = answers[runtime]["anomaly_map"], answers["torch"]["anomaly_map"]
            assert got.shape == (1, 1, side, side)
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def train_a_little(root: Path, folder: Path, epochs: int, pre_trained: bool) -> Trained:
    """Train on the demo's part, so that quantisation has something to lose."""
    data = SurfaceDemo(root, category="part", train_batch_size=8, num_workers=0)
    model = AnoSeg(
        pre_trained=pre_trained,
        pre_processor=PreProcessor((96, 96)),
        visualizer=False,
        evaluator=False,
        seed=0,
    )
    engine = Engine(
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        logger=False,
        default_root_dir=folder,
        accelerator="cpu",
    )
    engine.fit(model, datamodule=data)
    return model.eval(), data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, demo_root: Path) -> Trained:
    """Return a model without a memory: trying each layer of one in 8 bits takes minutes."""
    return train_a_little(demo_root, tmp_path_factory.mktemp("trained"), 80, pre_trained=False)


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory, demo_root: Path) -> Trained:
    return train_a_little(demo_root, tmp_path_factory.mktemp("remembering"), 30, pre_trained=True)


@pytest.fixture(scope="module")
def exported(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float], Tensor]:
    """Return the model in floating point, its figures and its labels."""
    model, data = trained
    path = model.to_openvino(tmp_path_factory.mktemp("exported"))
    return path, *measure(path, data, F32)


def measure(path: Path, data: SurfaceDemo, config: dict[str, str]) -> tuple[list[float], Tensor]:
    """Return pixel AUROC and best IoU of an exported model, and its labels."""
    compiled = ov.Core().compile_model(path, "CPU", config)
    fields = ["anomaly_map", "gt_mask"]
    metrics: list[AnomalibMetric] = [AUROC(fields=fields), IoUMax(fields=fields)]
    labels = []
    data.setup("test")
    for item in data.test_data:
        assert isinstance(item.image, Tensor)
        outputs = compiled(item.image[None].numpy())
        anomaly_map = torch.from_numpy(outputs["anomaly_map"])
        mask = torch.nn.functional.interpolate(
            torch.as_tensor(item.gt_mask)[None, None].float(), anomaly_map.shape[-2:]
        )
        for metric in metrics:
            metric.update(ImageBatch(item.image[None], anomaly_map=anomaly_map, gt_mask=mask > 0.5))
        labels.append(bool(outputs["pred_label"].item()))
    return [float(metric.compute()) for metric in metrics], torch.tensor(labels)


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
@pytest.mark.parametrize("compression", ["fp16", "int8", "int8_ptq", "int8_acq"])
def test_compressed_models_keep_their_maps(
    trained: Trained,
    exported: tuple[Path, list[float], Tensor],
    compression: str,
    tmp_path: Path,
) -> None:
    model, data = trained
    plain, reference, labels = exported
    path = model.to_openvino(
        tmp_path, compression_type=CompressionType(compression), datamodule=data
    )
    small, large = (
        file.stat().st_size for file in (path.with_suffix(".bin"), plain.with_suffix(".bin"))
    )
    kinds = weights(path)
    if compression == "fp16":
        assert set(kinds) == {"f16"}
        assert small < 0.51 * large
    else:
        eight = kinds.count("i8") + kinds.count("u8")
        assert eight >= len(kinds) - 3  # all but the last convolution and the two that see pixels
        assert small < 0.3 * large
    figures, seen = measure(path, data, F32)
    assert reference[0] > 0.7  # there is something to lose
    for figure, before in zip(figures, reference, strict=True):
        assert figure > before - 0.01
    if compression == "fp16":
        assert torch.equal(seen, labels)


@pytest.mark.slow
def test_a_memory_keeps_its_map_in_8_bits(remembering: Trained, tmp_path: Path) -> None:
    """Oracle: the model in floating point, on the same images."""
    model, data = remembering
    plain = model.to_openvino(tmp_path / "plain")
    path = model.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ, datamodule=data)
    # All but the first and last convolutions: of both encoders and decoders, and those whose
    # features are looked up in the memory.
    kinds = weights(path)
    assert kinds.count("i8") + kinds.count("u8") >= len(kinds) - 13
    # What is remembered stays as it is, once to be compared with and once to be looked up.
    rows = sum(level.rows.nbytes for level in model.model.memory.levels)
    small, large = (file.with_suffix(".bin").stat().st_size - 2 * rows for file in (path, plain))
    assert small < 0.45 * large  # the thirteen stay in floating point
    reference, _ = measure(plain, data, F32)
    figures, _ = measure(path, data, F32)
    assert reference[0] > 0.7
    for figure, before in zip(figures, reference, strict=True):
        assert figure > before - 0.01


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_quantisation_of_a_fixed_size(trained: Trained, tmp_path: Path) -> None:
    """Oracle: the model in floating point, on an image of that size."""
    model, data = trained
    kind = CompressionType.INT8_PTQ
    path = model.to_openvino(
        tmp_path, input_size=(128, 160), compression_type=kind, datamodule=data
    )
    assert "i8" in weights(path)
    image = torch.nn.functional.interpolate(data.test_data[0].image[None], (128, 160))
    seen = ov.Core().compile_model(path, "CPU", F32)(image.numpy())["anomaly_map"]
    expected = model(image).anomaly_map
    assert np.abs(seen - expected.numpy()).mean() < 0.03


NATIVE = PreProcessor("native")
RESIZED = PreProcessor((64, 96))


def stand_in(*sides: int) -> ov.Model:
    """Return what calibration asks of a model that takes images of these sides."""
    image = ops.parameter([1, 3, *sides], np.float32)
    return ov.Model([ops.result(image)], [image], "stand-in")


@pytest.mark.parametrize(
    ("pre_processor", "train_crop", "sides", "expected"),
    [
        pytest.param(NATIVE, None, (-1, -1), (150, 200), id="whole"),
        pytest.param(NATIVE, 64, (-1, -1), (64, 64), id="crop"),
        pytest.param(NATIVE, None, (96, 128), (96, 128), id="fixed"),
        pytest.param(False, 64, (96, 128), (96, 128), id="fixed, larger than the crop"),
        pytest.param(NATIVE, None, (160, 128), (160, 128), id="fixed, higher than the image"),
    ],
)
def test_a_model_of_native_size_is_calibrated_at_its_scale(
    pre_processor: PreProcessor | bool,
    train_crop: int | None,
    sides: tuple[int, int],
    expected: tuple[int, int],
) -> None:
    """Oracle: the pixels of the good image, continued by its border, where its place says."""
    module = segmenter(pre_processor=pre_processor, train_crop=train_crop)
    good = photographs(1, height=150, width=200)
    samples = _samples(module, [good], stand_in(*sides))
    continued = torch.nn.functional.pad(good, (0, 0, 0, 10), mode="replicate")
    for sample in samples:
        top, left, *whole = (int(value) for value in sample.place[0])
        assert whole == [150, 200]
        part = continued[..., top : top + expected[0], left : left + expected[1]]
        assert sample.image.shape == (1, 3, *expected)
        changed = (torch.from_numpy(sample.image) != part).any(1, keepdim=True)
        assert torch.equal(changed, sample.mask)
    assert len({bool(sample.mask.any()) for sample in samples}) == 2


@pytest.mark.parametrize("train_crop", [None, 64])
@pytest.mark.parametrize("sides", [(-1, -1), (128, 160)])
def test_what_resizes_is_calibrated_by_whole_images(
    train_crop: int | None, sides: tuple[int, int]
) -> None:
    """With masks of the size of its maps, also where it was trained on crops."""
    module = segmenter(pre_processor=RESIZED, train_crop=train_crop)
    good = photographs(1, height=64, width=96)
    for sample in _samples(module, [good], stand_in(*sides)):
        assert sample.mask.shape == (1, 1, 64, 96)
        assert sample.image.shape == (1, 3, *(sides if sides[0] > 0 else (64, 96)))


def test_calibration_gets_data_that_are_not_there_yet(
    tmp_path: Path, demo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SurfaceDemo(tmp_path, category="part", num_workers=0)
    fetch = partial(copytree, demo_root / "part", tmp_path / "part")
    monkeypatch.setattr(data, "prepare_data", fetch)
    assert calibration_samples(segmenter(), data, stand_in(-1, -1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        pytest.param({"pre_processor": NATIVE}, (96, 128), id="native, fixed size"),
        pytest.param({"pre_processor": RESIZED, "train_crop": 64}, None, id="crops, resized"),
        pytest.param(
            {"post_processor": PostProcessor(enable_thresholding=False)}, None, id="no masks"
        ),
    ],
)
def test_accuracy_is_held_for_every_kind_of_model(
    arguments: dict[str, Any],
    size: tuple[int, int] | None,
    tmp_path: Path,
    demo_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anomalib_anoseg.export.quantization.SYNTHETIC_IMAGES", 2)
    kind = CompressionType.INT8_ACQ
    data = SurfaceDemo(demo_root, category="part", num_workers=0)
    path = segmenter(seed=0, **arguments).to_openvino(
        tmp_path, input_size=size, compression_type=kind, datamodule=data, max_drop=1.0
    )
    assert {"i8", "u8"} & {*weights(path)}


def weights(path: Path) -> list[str]:
    """Return the types in which the convolutions' weights are stored."""
    found = []
    for node in ov.Core().read_model(path).get_ops():
        if node.get_type_name() != "Convolution":
            continue
        value = node.input_value(1).get_node()
        while value.get_type_name() != "Constant":
            value = value.input_value(0).get_node()
        found.append(value.get_element_type().get_type_name())
    return found


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_default_precision_is_close(
    trained: Trained, exported: tuple[Path, list[float], Tensor]
) -> None:
    """A CPU may compute in bfloat16: maps differ by a few hundredths, figures and labels do not."""
    path, (auroc, iou), labels = exported
    (fast_auroc, fast_iou), fast_labels = measure(path, trained[1], {})
    assert fast_auroc == pytest.approx(auroc, abs=0.005)
    assert fast_iou == pytest.approx(iou, abs=0.01)
    assert torch.equal(labels, fast_labels)


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_quantisation_needs_a_data_module(trained: Trained, tmp_path: Path) -> None:
    for kind in (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ):
        with pytest.raises(
            ValueError, match=f"Datamodule must be provided for OpenVINO {kind.name}"
        ):
            trained[0].to_openvino(tmp_path, compression_type=kind)
    assert not list(tmp_path.rglob("model.*"))


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
@pytest.mark.parametrize("drop", [1.5, -0.1])
def test_a_drop_that_cannot_be_meant_is_refused(
    trained: Trained, tmp_path: Path, drop: float
) -> None:
    model, data = trained
    with pytest.raises(ValueError, match=f"max_drop must be between 0 and 1, got {drop}"):
        model.to_openvino(
            tmp_path, compression_type=CompressionType.INT8_ACQ, datamodule=data, max_drop=drop
        )


def test_a_model_of_tiles_has_one_size(tmp_path: Path) -> None:
    model = segmenter(pre_processor=NATIVE, backbone="thin_resnet")
    options: dict[str, Any] = {"onnx_kwargs": {"tile_size": SMALLEST_TILE}}
    with pytest.raises(ValueError, match=r"give tile_size without input_size, got \(96, 128\)"):
        model.to_openvino(tmp_path, input_size=(96, 128), **options)
    assert not [*tmp_path.iterdir()]


def test_a_model_of_tiles_is_exported_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = segmenter(pre_processor=NATIVE, backbone="thin_resnet")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **options: asked.append(options))
    monkeypatch.setattr("anomalib_anoseg.export.export_mixin.write_onnx_metadata", lambda *_: None)
    model.to_onnx(tmp_path, tile_size=SMALLEST_TILE)
    model.to_onnx(tmp_path, tile_size=SMALLEST_TILE, opset_version=20, verify=True)
    assert [options["opset_version"] for options in asked] == [18, 20]
    assert [options.get("verify") for options in asked] == [None, True]


class Agreement:
    """A metric that 8 bits cannot keep: how little maps differ from the network's own."""

    def __init__(self, model: AnoSeg) -> None:
        self.model = model
        self.reset()

    def reset(self) -> None:
        self.differences: list[float] = []

    def update(self, batch: ImageBatch) -> None:
        with torch.no_grad():
            own = self.model(batch.image).anomaly_map
        self.differences.append(float((own - batch.anomaly_map.view_as(own)).abs().mean()))

    def compute(self) -> float:
        return -sum(self.differences) / len(self.differences)


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_what_costs_accuracy_goes_back_to_floating_point(
    trained: Trained,
    exported: tuple[Path, list[float], Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With no loss at all as the condition."""
    model, data = trained
    path, *_ = exported
    # Every layer is tried on every image: a few will do.
    monkeypatch.setattr("anomalib_anoseg.export.quantization.SYNTHETIC_IMAGES", 8)
    before = current_stack().pointer
    some, everything = (
        quantize(ov.Core().read_model(path), model, data, Agreement(model), drop)
        for drop in (0.0, None)
    )
    some, everything = (
        [op.get_type_name() for op in quantised.get_ops()].count("FakeQuantize")
        for quantised in (some, everything)
    )
    assert some < everything
    # nncf's many cores once left a stack that was unmapped: a crash at the next signal.
    assert current_stack().pointer == before


@pytest.mark.slow
@pytest.mark.xdist_group("trained")
def test_metadata(trained: Trained, tmp_path: Path) -> None:
    model, _ = trained
    path = model.to_openvino(tmp_path, compression_type=CompressionType.FP16)
    read = ov.Core().read_model(path)
    told = {
        name: read.get_rt_info(["anoseg", name]).astype(str)
        for name in ("model", "data", "input_size", "image_threshold", "pixel_threshold")
    }
    assert told["model"] == "AnoSeg"
    assert told["data"] == "SurfaceDemo/part"
    assert told["input_size"] == "96 96"
    for name in ("image_threshold", "pixel_threshold"):
        assert float(told[name]) == pytest.approx(float(getattr(model.post_processor, name)))
        assert told[name] != "0.5"


@pytest.mark.slow
def test_inferencers_take_uint8_and_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer writes a cache there
    model = untrained()
    whole = (photographs(1, height=120, width=100)[0] * 255).round()
    image = whole.movedim(0, -1).to(torch.uint8).numpy()
    expected = model(whole[None] / 255)
    torch_model = TorchInferencer(model.to_torch(tmp_path), device="cpu")
    openvino_model = OpenVINOInferencer(model.to_openvino(tmp_path), "CPU", F32)
    rounded = 2.5e-3 / ANOMALOUS  # in evidence, where the map rises most with it
    answers: list[Any] = [
        torch_model.predict(image),
        torch_model.predict(whole / 255),
        openvino_model.predict(image),
        openvino_model.predict((image / 255).astype(np.float32)),
    ]
    for answer in answers:
        for name in ("anomaly_map", "pred_score"):
            got = torch.as_tensor(getattr(answer, name)).view_as(getattr(expected, name))
            torch.testing.assert_close(got, getattr(expected, name), atol=rounded, rtol=0)
        assert bool(torch.as_tensor(answer.pred_label)) == bool(expected.pred_label)


@pytest.mark.slow
def test_openvino_and_numpy_are_enough(tmp_path: Path) -> None:
    """In an environment that has nothing else."""
    model = untrained()
    image = photographs(1, height=96, width=130)
    np.save(tmp_path / "image.npy", image.numpy())
    np.save(tmp_path / "map.npy", model(image).anomaly_map.detach().numpy())
    path = model.to_openvino(tmp_path)
    venv.create(tmp_path / "venv", with_pip=False)
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    libraries = Path(sysconfig.get_path("purelib"))
    for name in ("numpy", "numpy.libs", "openvino"):
        if (libraries / name).exists():
            (site / name).symlink_to(libraries / name)
    code = f"""
import importlib.util, numpy as np, openvino as ov
for name in ("torch", "anomalib", "anomalib_anoseg", "cv2"):
    assert importlib.util.find_spec(name) is None, name
model = ov.Core().compile_model({str(path)!r}, "CPU", {F32!r})
seen = model(np.load("image.npy"))["anomaly_map"]
np.testing.assert_allclose(seen, np.load("map.npy"), atol=1e-4)
"""
    subprocess.run([tmp_path / "venv/bin/python", "-c", code], cwd=tmp_path, check=True)


def test_files_appear_only_when_all_are_complete(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("old")

    def fail() -> None:
        with complete_files(tmp_path) as part:
            (part / "model.xml").write_text("half")
            (part / "missing").read_text()

    with pytest.raises(FileNotFoundError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["model.xml"]
    assert (tmp_path / "model.xml").read_text() == "old"
    with complete_files(tmp_path) as part:
        (part / "deep").mkdir()
        (part / "deep/model.bin").write_text("new")
        assert not (tmp_path / "deep").exists()
    assert (tmp_path / "deep/model.bin").read_text() == "new"


@pytest.mark.slow
def test_a_full_disk_leaves_no_model(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        code = f"""
from anomalib_anoseg import AnoSeg
model = AnoSeg(pre_trained=False)
for export in (model.to_torch, model.to_onnx, model.to_openvino):
    try:
        export({str(disk)!r})
    except OSError as error:
        print(error)
"""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
        )
        said = [line for line in done.stdout.splitlines() if "No space left on device" in line]
        assert len(said) == 3, done.stdout
        assert all(str(disk) in line for line in said)
        assert not [path for path in disk.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", disk], check=True)
