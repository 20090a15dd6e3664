"""The same pixels reach the network in training, test, torch and OpenVINO inference."""

from pathlib import Path
from typing import Any

import onnxruntime
import openvino as ov
import pytest
import torch
from anomalib.pipelines.tiled_ensemble.components.utils import NormalizationStage
from anomalib.pipelines.tiled_ensemble.components.utils.helper_functions import get_ensemble_model
from anomalib.pre_processing import PreProcessor as AnomalibPreProcessor
from conftest import photographs
from jsonargparse import Namespace
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import Resize
from torchvision.transforms.v2.functional import resize

from anomalib_anoseg import AnoSeg, PreProcessor

SIZES = [(1024, 1024), (512, 300), (256, 256), (96, 130), (64, 64), (1000, 70), (33, 4000)]


def texture(size: tuple[int, int]) -> Tensor:
    """Fine noise: any difference in antialiasing shows."""
    return torch.rand(1, 3, *size)


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in this test is what an export records."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resize_is_torchvisions_antialiased_one(size: tuple[int, int]) -> None:
    image = texture(size)
    assert torch.equal(PreProcessor((128, 160))(image), resize(image, [128, 160], antialias=True))


@pytest.mark.usefixtures("exporting")
@pytest.mark.parametrize("size", [*SIZES, (101, 67), (1, 1), (2304, 1728)], ids=str)
@pytest.mark.parametrize("target", [(128, 160), (33, 500)], ids=str)
def test_exported_matrices_are_torchvisions_resize(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    image = texture(size)
    expected = resize(image, list(target), antialias=True)
    torch.testing.assert_close(PreProcessor(target)(image), expected, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("exporting")
def test_half_precision_finds_the_right_pixels() -> None:
    image = texture((2000, 2000))
    expected = resize(image, [128, 160], antialias=True)
    half = PreProcessor((128, 160))(image.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, atol=2e-3, rtol=0)


def test_same_size_is_bit_equal() -> None:
    image = texture((128, 160))
    transform = PreProcessor((128, 160)).transform
    assert torch.equal(transform(image), image)
    assert torch.equal(transform(tv_tensors.Image(image)), image)


def test_masks_are_resized_by_torchvision_and_stay_binary() -> None:
    image = tv_tensors.Image(texture((200, 100)))
    mask = tv_tensors.Mask(torch.rand(1, 200, 100) > 0.9)
    small, small_mask = PreProcessor((64, 64)).transform(image, mask)
    assert isinstance(small, tv_tensors.Image)
    assert isinstance(small_mask, tv_tensors.Mask)
    assert small.shape == (1, 3, 64, 64)
    assert torch.equal(small_mask, Resize((64, 64))(mask))


class Resizing(nn.Module):
    """What anomalib exports of a pre-processor."""

    def __init__(self, pre_processor: PreProcessor) -> None:
        super().__init__()
        self.pre_processor = pre_processor

    def forward(self, images: Tensor) -> Tensor:
        resized: Tensor = self.pre_processor(images)
        return resized


@pytest.mark.parametrize("open_size", [False, True], ids=["fixed size", "any size"])
def test_exported_resize_gives_the_same_pixels(tmp_path: Path, open_size: bool) -> None:
    module = Resizing(PreProcessor((128, 128))).eval()
    path = tmp_path / "resize.onnx"
    torch.onnx.export(
        module,
        (texture((1024, 1024)),),
        path,
        dynamo=True,
        opset_version=18,
        dynamic_shapes={"images": {0: "batch"} | ({2: "height", 3: "width"} if open_size else {})},
        verbose=False,
    )
    onnx = onnxruntime.InferenceSession(path)
    name = onnx.get_inputs()[0].name
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(ov.convert_model(path), "CPU", config)
    for size in SIZES if open_size else [(1024, 1024)]:
        image = texture(size)
        expected = module.pre_processor.transform(tv_tensors.Image(image))  # what the engine does
        for got in (onnx.run(None, {name: image.numpy()})[0], compiled(image.numpy())[0]):
            torch.testing.assert_close(torch.from_numpy(got), expected + 0, atol=2e-6, rtol=0)


@pytest.mark.slow
def test_engine_and_exports_agree_on_large_textures(tmp_path: Path) -> None:
    """From image to score: the engine's way, torch's forward, ONNX Runtime and OpenVINO."""
    model = AnoSeg(reconstruction_weight=0, adversarial_weight=0)
    model.model.train()(photographs(8, height=64, width=64))  # batch statistics that are not 0, 1
    model.eval()
    image = texture((1024, 1024))
    batch = model.pre_processor.transform(tv_tensors.Image(image)).as_subclass(Tensor)
    engine = model.post_processor(model.model(batch))
    path = model.to_onnx(tmp_path, opset_version=18)
    onnx = onnxruntime.InferenceSession(path)
    names = [output.name for output in onnx.get_outputs()]
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(ov.convert_model(path), "CPU", config)
    answers = {
        "torch": model(image)._asdict(),
        "onnx": dict(zip(names, onnx.run(None, {"input": image.numpy()}), strict=True)),
    }
    outputs = compiled(image.numpy())
    answers["openvino"] = {name: outputs[name] for name in names}
    for answer in answers.values():
        for name in ("anomaly_map", "pred_score"):
            got = torch.as_tensor(answer[name]).view_as(getattr(engine, name))
            torch.testing.assert_close(got, getattr(engine, name), atol=1e-4, rtol=0)


def test_size_survives_the_checkpoint() -> None:
    saved = PreProcessor((96, 128)).checkpoint_config()
    restored = PreProcessor()
    restored.load_checkpoint_config(saved)
    image = texture((300, 200))
    assert torch.equal(restored(image), PreProcessor((96, 128))(image))
    assert restored.transform is not restored.export_transform  # see PreProcessor._resize_to
    # anomalib's own PreProcessor restores its nearest equivalent, instead of nothing.
    host = AnomalibPreProcessor()
    host.load_checkpoint_config(saved)
    assert list(host.transform.size) == [96, 128]


def test_anomalibs_pre_processor_can_be_restored_into_ours() -> None:
    restored = PreProcessor()
    restored.load_checkpoint_config(AnomalibPreProcessor(Resize((80, 80))).checkpoint_config())
    assert type(restored.transform) is Resize
    assert restored(texture((200, 200))).shape[-2:] == (80, 80)


def test_sizes_without_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image_size must be positive, got \(0, 100\)"):
        PreProcessor((0, 100))


def test_tiled_ensemble_takes_the_resize_over() -> None:
    """anomalib's own helper drops a model's resize, because each tile has its size already."""
    arguments = Namespace(class_path="AnoSeg", init_args={})
    model = get_ensemble_model(arguments, 128, NormalizationStage.IMAGE)
    assert model.pre_processor.transform is None
    checkpoint: dict[str, Any] = {"hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    restored = AnoSeg()
    restored.on_load_checkpoint(checkpoint)
    tile = texture((128, 128))
    assert torch.equal(restored.pre_processor(tile), tile)
