"""Models whose weights were compressed to 8 bits, through infer's several streams.

Oracle: the same network in torch. OpenVINO 2026.4 itself is wrong by any amount.
"""

from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import pytest
import torch
from conftest import photographs
from torch import Tensor, nn

from anomalib_anoseg.inference.frames import Frame
from anomalib_anoseg.inference.segmenter import Segmenter


class Pointwise(nn.Module):
    """Three convolutions of 1 x 1 that make a map, in anomalib's interface."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(), nn.Conv2d(64, 1, 1)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        anomaly_map = self.layers(image).sigmoid()
        score = anomaly_map.amax((1, 2, 3))
        return score, score > 0.5, anomaly_map


@pytest.mark.parametrize("device", ["CPU", "AUTO"])
def test_several_streams_give_what_torch_gives(tmp_path: Path, device: str) -> None:
    network = Pointwise().eval()
    images = (photographs(4, height=64, width=80).movedim(1, -1) * 255).round().byte()
    first = images[:1].movedim(-1, 1) / 255
    model = ov.convert_model(network, example_input=first)
    model.reshape([-1, 3, -1, -1])
    for output, name in zip(
        model.outputs, ("pred_score", "pred_label", "anomaly_map"), strict=True
    ):
        output.get_tensor().set_names({name})
    ov.save_model(nncf.compress_weights(model), tmp_path / "model.xml", compress_to_fp16=False)
    segmenter = Segmenter(tmp_path / "model.xml", device, "f32")
    seen = [*segmenter(Frame(str(index), image.numpy()) for index, image in enumerate(images))]
    with torch.inference_mode():
        expected = network(images.movedim(-1, 1) / 255)[2].numpy()
    for (frame, prediction), anomaly_map in zip(seen, expected, strict=True):
        assert prediction is not None, frame.error
        np.testing.assert_allclose(prediction.anomaly_map, anomaly_map[0], atol=0.01)
