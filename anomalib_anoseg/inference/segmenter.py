"""An exported model at work on several images at once."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from anomalib_anoseg.inference.exported import ExportedModel, find_device
from anomalib_anoseg.inference.frames import Frame
from anomalib_anoseg.inference.tiled import TiledModel
from anomalib_anoseg.utils.images import Pixels

AHEAD = 64  # frames that wait for an earlier one; images among them are bounded by the requests


class Prediction(NamedTuple):
    """What the model says of one image.

    Attributes:
        score: In [0, 1].
        anomaly_map: (h, w) float32 in [0, 1] at the network's size.
    """

    score: float
    anomaly_map: NDArray[np.float32]


Seen = tuple[Frame, Prediction | None]


class Segmenter:
    """Predictions of an exported model for images of any size.

    Conversion and resizing are part of the compiled graph. Several images are worked on at once;
    memory stays bounded, and predictions come in the order of the images.

    Args:
        model: The .xml of an OpenVINO model, or an .onnx file, that anomalib has exported.
        device: OpenVINO's name of a device.
        precision: "default" lets the device choose, which may be bfloat16; "f32" agrees with torch.

    Attributes:
        model: What the file says of itself, with its thresholds.

    Raises:
        FileNotFoundError: If the file, or the .bin beside it, is missing.
        ValueError: If it cannot be read, or is no anomaly model with a map, or there is no such
            device, or it cannot compile the model.
    """

    def __init__(self, model: Path | str, device: str = "CPU", precision: str = "default") -> None:
        self._device = find_device(device)
        self._hints: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT"}
        if precision != "default":
            self._hints["INFERENCE_PRECISION_HINT"] = precision
        self.model = ExportedModel(Path(model))
        self._idle: dict[type, _Requests] = {}
        self._suspects: set[_Size] = set()
        self._tiled: dict[type, TiledModel] = {}
        # What the device cannot compile ends the run now, not each image later.
        if self.model.takes_tiles:
            self._tiles(np.uint8)
        else:
            self._requests(np.uint8)

    def __call__(self, frames: Iterable[Frame]) -> Iterator[Seen]:
        """Yield each frame with its prediction; None, and an error, where it has none.

        Images are as read_image gives them: (h, w, 3), uint8, or float32 in [0, 1].
        """
        frames = map(_with_known_pixels, frames)
        if self.model.takes_tiles:
            yield from map(self._in_tiles, frames)
            return
        running: deque[_Job] = deque()
        try:
            for frame in frames:
                while running and self._has_to_wait(frame):
                    yield self._result(running.popleft())
                running.append(self._started(frame))
                while running and (running[0].done() or len(running) > AHEAD):
                    yield self._result(running.popleft())
            while running:
                yield self._result(running.popleft())
        finally:
            for job in running:  # requests read the images until they end
                job.wait()

    def _in_tiles(self, frame: Frame) -> Seen:
        """Judge one frame, of which several tiles are worked on at once."""
        if frame.image is None:
            return frame, None
        kind = frame.image.dtype.type
        try:
            return frame, _checked(*self._tiles(kind)(frame.image))
        except Exception as error:  # noqa: BLE001 - one image never ends a run
            self._tiled.pop(kind, None)
            return _failed(frame, _reason(error)), None

    def _tiles(self, kind: type) -> TiledModel:
        """Return the model for images of a type, compiled when the first one comes."""
        if kind not in self._tiled:
            self._tiled[kind] = TiledModel(self.model.compile(kind, self._device, self._hints))
        return self._tiled[kind]

    def _has_to_wait(self, frame: Frame) -> bool:
        """Return whether no request is idle, or the frame is judged when no other one is."""
        if frame.image is None:
            return False
        return self._idle.get(frame.image.dtype.type) == deque() or self._is_suspect(frame.image)

    def _is_suspect(self, image: Pixels) -> bool:
        """Return whether the last image of this type and size has failed."""
        return _size(image) in self._suspects

    def _started(self, frame: Frame) -> "_Job":
        if frame.image is None or self._is_suspect(frame.image):
            return _Job(frame)
        try:
            idle = self._requests(frame.image.dtype.type)
            request = idle[0]
            request.start_async({0: frame.image[None]}, share_inputs=True)
        except Exception as error:  # noqa: BLE001 - one image never ends a run
            return _Job(_failed(frame, _reason(error)))
        idle.popleft()
        return _Job(frame, request, idle)

    def _requests(self, kind: type) -> "_Requests":
        """Return the idle requests for images of a type, compiled when the first one comes."""
        if kind not in self._idle:
            compiled = self.model.compile(kind, self._device, self._hints)
            count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            self._idle[kind] = deque(compiled.create_infer_request() for _ in range(2 * count))
        return self._idle[kind]

    def _result(self, job: "_Job") -> Seen:
        """Wait for the prediction of a job, and take its request back."""
        if job.frame.image is None:
            return job.frame, None
        if job.request is None:
            return self._alone(job.frame, job.frame.image)
        try:
            job.request.wait()
            return job.frame, _prediction(job.request)
        except RuntimeError:
            kind = job.frame.image.dtype.type
            if self._idle.get(kind) is job.idle:  # else they are new since another failure
                del self._idle[kind]
            return self._alone(job.frame, job.frame.image)
        except Exception as error:  # noqa: BLE001 - one image never ends a run
            return _failed(job.frame, _reason(error)), None
        finally:
            job.idle.append(job.request)

    def _alone(self, frame: Frame, image: Pixels) -> Seen:
        """Judge a frame by a model that is compiled for it alone.

        OpenVINO 2026.4's graph keeps shapes of an image that it has failed for, and then fails for
        images of the size that it has last seen before. What fails here is at fault itself, but
        perhaps for this moment only, as where a device has run out of memory. So a size that has
        failed is tried again with each image, and where the device can never do it, each of them
        costs a compilation, and no other image its prediction.
        """
        size = _size(image)
        self._suspects.add(size)
        try:
            compiled = self.model.compile(image.dtype.type, self._device, self._hints)
            request = compiled.create_infer_request()
            request.infer({0: image[None]})
            self._suspects.discard(size)
            return frame, _prediction(request)
        except Exception as error:  # noqa: BLE001 - one image never ends a run
            return _failed(frame, _reason(error)), None


_Size = tuple[type, tuple[int, ...]]
_Requests = deque[ov.InferRequest]


class _Job(NamedTuple):
    """A frame, the request that works on it, if any, and those that it goes back to."""

    frame: Frame
    request: ov.InferRequest | None = None
    idle: _Requests = deque()  # noqa: RUF012 - of jobs without a request; never changed

    def done(self) -> bool:
        """Return whether the result can be had without waiting."""
        try:
            return self.request is None or bool(self.request.wait_for(0))
        except RuntimeError:
            return True  # the result will say why

    def wait(self) -> None:
        """Wait until the image is no longer read."""
        with suppress(RuntimeError):
            if self.request is not None:
                self.request.wait()
                self.idle.append(self.request)


def _with_known_pixels(frame: Frame) -> Frame:
    """Return a frame, with an error where its image is of another kind than the graph takes."""
    image = frame.image
    if image is None or (image.size and image.shape[2:] == (3,) and _is_known(image)):
        return frame
    found = f"{image.dtype} {image.shape}" + (f", up to {image.max():g}," if image.size else "")
    return _failed(frame, f"{found} is no image (h, w, 3) of uint8, or of float32 in [0, 1]")


def _is_known(image: Pixels) -> bool:
    if image.dtype == np.float32:
        return bool(image.min() >= 0 and image.max() <= 1)
    return image.dtype == np.uint8


def _size(image: Pixels) -> _Size:
    """Return what a graph is made for: type and shape."""
    return image.dtype.type, image.shape


def _prediction(request: ov.InferRequest) -> Prediction:
    score = float(request.get_tensor("pred_score").data.flat[0])
    return _checked(score, request.get_tensor("anomaly_map").data[0, 0].copy())


def _checked(score: float, anomaly_map: NDArray[np.float32]) -> Prediction:
    if not (math.isfinite(score) and np.isfinite(anomaly_map).all()):
        msg = f"the model gives no number: score {score}"
        raise ValueError(msg)
    return Prediction(score, anomaly_map)


def _reason(error: Exception) -> str:
    """Return the end of a message of OpenVINO's, after the places that it came through."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _failed(frame: Frame, why: str) -> Frame:
    """Return the frame without its image; with its time, by which a file is not judged twice."""
    return frame._replace(image=None, error=f"cannot be judged: {why}")
