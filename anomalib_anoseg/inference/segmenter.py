"""An exported model behind OpenVINO's asynchronous queue."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor, ResizeAlgorithm

from anomalib_anoseg.inference.frames import Frame
from anomalib_anoseg.utils.signal_stack import kept_signal_stack

OUTPUTS = {"pred_score", "pred_label", "anomaly_map"}


class Prediction(NamedTuple):
    """What the model says of one image.

    Attributes:
        score: In [0, 1]; 0.5 is the threshold.
        anomalous: Whether the part is defective.
        anomaly_map: (h, w) float32 in [0, 1] at the network's size; 0.5 is the threshold.
    """

    score: float
    anomalous: bool
    anomaly_map: NDArray[np.float32]


class Segmenter:
    """Predictions of an exported model for images of any size.

    Conversion from uint8 and resizing are part of the compiled graph. Several images are worked on
    at once; memory stays bounded, and predictions come in the order of the images.

    Args:
        model: The .xml of an OpenVINO model, or an .onnx file, that anomalib has exported.
        device: OpenVINO's name of a device.
        precision: "default" lets the device choose, which may be bfloat16; "f32" agrees with torch.

    Raises:
        FileNotFoundError: If the file, or the .bin beside it, is missing.
        ValueError: If it cannot be read, or is no anomaly model with a map.
    """

    def __init__(self, model: Path, device: str = "CPU", precision: str = "default") -> None:
        hints: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT"}
        if precision != "default":
            hints["INFERENCE_PRECISION_HINT"] = precision
        with kept_signal_stack():
            compiled = ov.Core().compile_model(_with_uint8_input(_read(model)), device, hints)
        self._queue = ov.AsyncInferQueue(compiled)

    def __call__(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Prediction | None]]:
        """Yield each frame with its prediction, None for one without an image."""
        done: dict[int, tuple[Frame, Prediction | None]] = {}

        def keep(request: ov.InferRequest, job: tuple[int, Frame]) -> None:
            index, frame = job
            score, label, anomaly_map = (
                request.get_tensor(name).data
                for name in ("pred_score", "pred_label", "anomaly_map")
            )
            prediction = Prediction(
                float(score.flat[0]), bool(label.flat[0]), anomaly_map[0, 0].copy()
            )
            done[index] = frame, prediction

        self._queue.set_callback(keep)
        taken = 0
        try:
            for given, frame in enumerate(frames):
                if frame.image is None:
                    done[given] = frame, None
                else:
                    image = frame.image[None]
                    self._queue.start_async({0: image}, (given, frame), share_inputs=True)
                if given - taken > 2 * len(self._queue):
                    self._queue.wait_all()  # one request is slow: the others shall not pile up
                while taken in done:
                    yield done.pop(taken)
                    taken += 1
        finally:
            self._queue.wait_all()  # requests read the images until they end
        yield from (done[index] for index in sorted(done))


def _read(path: Path) -> ov.Model:
    for file in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
        if not file.is_file():
            msg = f"{file}: no such file"
            raise FileNotFoundError(msg)
    try:
        model = ov.Core().read_model(path)
    except RuntimeError as error:
        msg = f"{path}: cannot be read as an OpenVINO or ONNX model, or its .bin is damaged"
        raise ValueError(msg) from error
    names = {name for output in model.outputs for name in output.names}
    if not names >= OUTPUTS:
        msg = (
            f"{path}: not an anomaly model with a map, {', '.join(sorted(OUTPUTS - names))} missing"
        )
        raise ValueError(msg)
    return model


def _with_uint8_input(model: ov.Model) -> ov.Model:
    """Return the model with an input of uint8 images (1, h, w, 3) of any size."""
    *_, height, width = model.input(0).partial_shape
    process = PrePostProcessor(model)
    image = process.input()
    image.model().set_layout(ov.Layout("NCHW"))
    tensor = image.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps = image.preprocess()
    if height.is_static and width.is_static:
        # Antialiased like the resize in front of the network, which this takes the place of.
        tensor.set_spatial_dynamic_shape()
        steps.convert_element_type(ov.Type.f32).resize(ResizeAlgorithm.RESIZE_BILINEAR_PILLOW)
    # The layout first: with three channels innermost, scaling alone takes ten times as long.
    steps.convert_layout(ov.Layout("NCHW")).convert_element_type(ov.Type.f32).scale(255.0)
    return process.build()
