"""Thresholds that are changed on export, and files that say where they cut.

Oracle: what the exported model itself labels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
import torch
from conftest import photographs, segmenter
from PIL import Image
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg, PostProcessor
from anomalib_anoseg.data.cases import datamodule
from anomalib_anoseg.export.command import export
from anomalib_anoseg.export.export_mixin import THRESHOLDS
from anomalib_anoseg.inference.journal import JOURNAL

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a checkpoint whose maps and scores lie on both sides of their thresholds."""
    return save(segmenter(seed=0), tmp_path / "model.ckpt")


def save(model: AnoSeg, path: Path) -> Path:
    images = photographs(4, height=64, width=64)
    with torch.no_grad():
        for _ in range(20):  # batch statistics that fit
            model.train().model(images)
        answer = model.eval().model(images)
    if isinstance(model.post_processor, PostProcessor):
        model.post_processor._pixel_threshold.copy_(answer.anomaly_map.median())
        model.post_processor._image_threshold.copy_(answer.pred_score.median())
    content: dict[str, Any] = {
        "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.6.0",
    }  # fmt: skip
    model.on_save_checkpoint(content)
    torch.save(content, path)
    return path


def cuts(metadata: dict[str, str], answer: dict[str, Any]) -> None:
    """Assert that labels and masks are what the metadata say."""
    image, pixel = (float(metadata[f"normalized_{name}_threshold"]) for name in ("image", "pixel"))
    assert np.array_equal(answer["pred_label"], answer["pred_score"] > image)
    maps = np.asarray(answer["anomaly_map"])
    assert np.array_equal(np.asarray(answer["pred_mask"]).reshape(maps.shape), maps > pixel)
    assert 0 < (maps > pixel).mean() < 1


@pytest.mark.slow
def test_sensitivities_change_without_training(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photographs(4).numpy()
    out = tmp_path / "out"
    assert export(checkpoint, "openvino", out, image_sensitivity=0.6, pixel_sensitivity=0.45) == 0
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert path == out / "weights/openvino/model.xml"
    read = ov.Core().read_model(path)
    metadata = {name: read.get_rt_info(["anoseg", name]).astype(str) for name in THRESHOLDS}
    assert float(metadata["normalized_image_threshold"]) == pytest.approx(0.4)
    assert float(metadata["normalized_pixel_threshold"]) == pytest.approx(0.55)
    answer = ov.Core().compile_model(path, "CPU", F32)(images)
    cuts(metadata, {output.any_name: answer[output] for output in answer})


@pytest.mark.slow
@pytest.mark.parametrize("normalise", [True, False])
def test_onnx_files_say_the_same(tmp_path: Path, normalise: bool) -> None:
    """Without normalisation anomalib cuts the raw probabilities, at the same numbers."""
    post_processor = PostProcessor(enable_normalization=normalise, pixel_sensitivity=0.52)
    path = save(segmenter(seed=0, post_processor=post_processor), tmp_path / "model.ckpt")
    assert export(path, "onnx", tmp_path, input_size=(96, 96)) == 0
    file = tmp_path / "weights/onnx/model.onnx"
    props = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    metadata = {name: props[f"anoseg.{name}"] for name in THRESHOLDS}
    assert float(metadata["normalized_pixel_threshold"]) == pytest.approx(0.48)
    session = onnxruntime.InferenceSession(file)
    seen = session.run(None, {"input": photographs(4).numpy()})
    answer = dict(zip([output.name for output in session.get_outputs()], seen, strict=True))
    if normalise:
        cuts(metadata, answer)
    else:
        maps = answer["anomaly_map"]
        assert np.array_equal(answer["pred_mask"].reshape(maps.shape), maps > 0.48)


def test_wrong_arguments_are_named(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"image_sensitivity .* got 1.5"):
        export(checkpoint, image_sensitivity=1.5)
    with pytest.raises(ValueError, match="compression_type is for openvino, got FP16 with onnx"):
        export(checkpoint, "onnx", compression_type="FP16")
    with pytest.raises(ValueError, match="INT8_PTQ is calibrated with good images: give --data"):
        export(checkpoint, compression_type="INT8_PTQ")
    data = tmp_path / "good"
    for compression, got in ((None, "none"), ("FP16", "FP16"), ("INT8", "INT8")):
        with pytest.raises(ValueError, match=f"--data is for .*INT8_PTQ and INT8_ACQ, got {got}"):
            export(checkpoint, compression_type=compression, data=data)
    with pytest.raises(ValueError, match="--data is for"):
        export(checkpoint, "torch", data=data)
    with pytest.raises(ValueError, match="--max_drop is for --compression_type INT8_ACQ, got none"):
        export(checkpoint, max_drop=0.01)
    with pytest.raises(ValueError, match=r"--max_drop is for .*, got INT8_PTQ"):
        export(checkpoint, compression_type="INT8_PTQ", data=data, max_drop=0.02)
    for kind, size in (("openvino", (0, 64)), ("onnx", (64, -8)), ("torch", (64, 64))):
        with pytest.raises(ValueError, match="input_size is for openvino and onnx, two numbers"):
            export(checkpoint, kind, input_size=size)
    bare = save(segmenter(post_processor=False), tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="pixel_sensitivity needs a post-processor"):
        export(bare, pixel_sensitivity=0.4)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        ({"image_sensitivity": 0.6}, {"mask_false_alarm_rate": 0.2}),
        ({"false_alarm_rate": 0.2}, {"pixel_sensitivity": 0.6}),
    ],
)
def test_an_option_of_images_is_the_same_beside_one_of_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Any, pixel: Any
) -> None:
    rates = PostProcessor(false_alarm_rate=0.1, mask_false_alarm_rate=0.1)
    rates.good_scores, rates.good_peaks = torch.linspace(0.1, 0.4, 9), torch.linspace(0.3, 0.8, 9)
    rates.usual_threshold.fill_(0.2)
    rates.set_thresholds()
    path = save(segmenter(seed=0, post_processor=rates), tmp_path / "model.ckpt")
    exported: list[Any] = []
    monkeypatch.setattr(AnoSeg, "to_openvino", lambda self, *_, **_o: exported.append(self))
    for options in (image, pixel, image | pixel):
        assert export(path, **options) == 0
    of_image, of_pixel, both = (model.post_processor for model in exported)
    assert both.image_threshold == of_image.image_threshold
    assert both.image_sensitivity == of_image.image_sensitivity
    assert both.pixel_threshold == of_pixel.pixel_threshold
    assert both.pixel_sensitivity == of_pixel.pixel_sensitivity


def test_what_infer_has_drawn_is_no_good_image(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "good/masks").mkdir(parents=True)
    for name in ("good/0.png", "good/masks/0.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    (tmp_path / "good" / JOURNAL).touch()
    with pytest.raises(ValueError, match=r"pictures that infer has drawn, such as .*masks/0.png"):
        export(checkpoint, compression_type="INT8_PTQ", data=tmp_path / "good")


@pytest.mark.parametrize("drop", [None, 0.02])
def test_a_drop_is_given_on(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, drop: float | None
) -> None:
    """Without one anomalib's own default holds."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(AnoSeg, "to_openvino", lambda *_, **options: given.update(options))
    assert export(checkpoint, compression_type="INT8_ACQ", data=tmp_path, max_drop=drop) == 0
    assert given.get("max_drop") == drop
    assert given["datamodule"].name == tmp_path.name


def test_the_ends_of_a_sensitivity_are_taken(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As anomalib takes them."""
    cuts_at: list[float] = []
    monkeypatch.setattr(
        AnoSeg,
        "to_openvino",
        lambda self, *_, **__: cuts_at.append(self.post_processor.normalized_image_threshold),
    )
    for sensitivity in (0.0, 1.0):
        assert export(checkpoint, image_sensitivity=sensitivity) == 0
    assert cuts_at == [1, 0]


def test_data_are_a_folder_or_a_data_module(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    for index, image in enumerate(photographs(3)):
        save_image(image, tmp_path / f"good/{index}.png")
    data = datamodule(tmp_path / "good")
    data.setup("fit")
    assert len(data.train_data) == 3
    described = tmp_path / "data.yaml"
    described.write_text(
        "class_path: anomalib.data.Folder\n"
        f"init_args:\n  name: own\n  normal_dir: {tmp_path}/good\n"
    )
    assert datamodule(described).name == "own"
