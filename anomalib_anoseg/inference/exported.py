"""An exported model's file: its graph, what it says of itself, and a compiled form of it."""

from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino.preprocess import PrePostProcessor, ResizeAlgorithm

from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.utils.false_alarms import judged_by
from anomalib_anoseg.utils.signal_stack import kept_signal_stack

OUTPUTS = {"pred_score", "anomaly_map"}
SECTION = "anoseg"  # of rt_info or of ONNX's metadata, where an export says what it is
WEIGHTS = "weights_digest"  # in that section of a model of OpenVINO's: of its .bin
CHUNK = 2**20  # bytes read at once
VIRTUAL = {"AUTO", "BATCH", "HETERO", "MULTI"}  # devices that choose among others


class ExportedModel:
    """A model that anomalib has exported.

    Args:
        path: The .xml of an OpenVINO model, or an .onnx file.

    Raises:
        FileNotFoundError: If the file, or the .bin beside it, is missing.
        ValueError: If it cannot be read, or is no anomaly model with a map.

    Attributes:
        about: Model, version and data, as far as the file says them, how much of each image is
            inspected, and its digest: another training may have written the same path.
        thresholds: Where it cuts, and the smallest defect that counts.
        rates: Of false alarms, of images and of masks, that the thresholds were set for, or None.
        at_half: Which score of the network and which value of its map the export calls 0.5; None
            where it does not say.
        good_scores: Of the good images that set the thresholds, in order; empty if it says none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Read once: what is copied over the files of a model at work changes nothing of it.
        self._graph = model = _read(path)
        self.takes_tiles = len(model.inputs) > 1
        names = ("model", "version", "data")
        self.about: dict[str, Any] = {name: str(_said(model, name, "")) for name in names}
        self.about["inspected_share"] = float(_said(model, "inspected_share", 1))
        self.about["digest"] = _digest(path)
        self.thresholds = Thresholds(
            float(_said(model, "normalized_image_threshold", _cut(model, "pred_label"))),
            float(_said(model, "normalized_pixel_threshold", _cut(model, "pred_mask"))),
            int(_said(model, "smallest_defect", 0)),
        )
        self.rates = [
            None if (said := _said(model, f"{name}_asked", None)) is None else float(said)
            for name in ("false_alarm_rate", "mask_false_alarm_rate")
        ]
        self.at_half = [
            None if (said := _said(model, f"{level}_threshold", None)) is None else float(said)
            for level in ("image", "pixel")
        ]
        self.good_scores = [float(score) for score in str(_said(model, "good_scores", "")).split()]
        self._asked, self._expected, self._interval = (
            [float(value) for value in str(_said(model, name, "")).split()]
            for name in ("false_alarm_rate_asked", "false_alarm_rate", "false_alarm_interval")
        )

    def false_alarms(self, image_threshold: float) -> dict[str, Any] | None:
        """Return which share of good images is called defective, as results.json says it.

        At the model's own threshold that is what the file says; at another one what the good images
        say that set it. None if the file names none, or scipy would be needed and is not there.
        """
        if not self.good_scores:
            return None
        if image_threshold == self.thresholds.image and self._expected:
            expected, interval, asked = self._expected[0], self._interval, self._asked
        elif find_spec("scipy") is None:
            return None
        else:
            found = judged_by(self.good_scores, image_threshold)
            expected, interval, asked = found.expected, [found.low, found.high], []
        return {
            "good_images": len(self.good_scores),
            "asked": asked[0] if asked else None,
            "expected": expected,
            "interval": interval,
        }

    def compile(self, kind: type, device: str, hints: dict[str, Any]) -> ov.CompiledModel:
        """Return the compiled model with an input of images (1, h, w, 3) of uint8 or float32."""
        model = _with_images(self._graph.clone(), kind)
        try:
            with kept_signal_stack():
                return _core_for(model).compile_model(model, device, hints)
        except RuntimeError as error:
            last = str(error).strip().splitlines()[-1]
            msg = f"{self.path}: cannot be compiled for --device {device}: {last}"
            raise ValueError(msg) from error


def _core_for(model: ov.Model) -> ov.Core:
    """Return a core whose CPU computes this model rightly, also behind AUTO.

    OpenVINO 2026.4 gives garbage where several streams share convolutions of 1 x 1 with weights
    compressed to 8 bits (anomalib's INT8) and images of open size.
    """
    core = ov.Core()
    if any(
        node.get_type_name() == "Constant"
        and node.get_element_type() == ov.Type.u8
        and len(node.get_output_shape(0)) > 1
        for node in model.get_ops()
    ):
        core.set_property("CPU", {"NUM_STREAMS": "1"})
    return core


def find_device(name: str) -> str:
    """Return OpenVINO's name of a device that is there.

    Raises:
        ValueError: If it is not; the message names those that are.
    """
    there = ov.Core().available_devices
    kind, _, others = name.upper().partition(":")
    wanted = [other.partition("(")[0] for other in others.split(",") if other]
    for device in wanted if kind in VIRTUAL else [name.upper()]:
        if not any(device in (known, known.partition(".")[0]) for known in there):
            msg = f"--device {name} is not there; this computer has {', '.join(there)}, or AUTO"
            raise ValueError(msg)
    return name.upper()


def _read(path: Path) -> ov.Model:
    for file in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
        if not file.is_file():
            msg = f"{file}: no such file"
            raise FileNotFoundError(msg)
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})  # else weights change, or are gone, with their file
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        msg = f"{path}: cannot be read as an OpenVINO or ONNX model, or its .bin is damaged"
        raise ValueError(msg) from error
    names = {name for output in model.outputs for name in output.names}
    missing = OUTPUTS - names
    if _said(model, "normalized_image_threshold", None) is None:
        missing |= {"pred_label"} - names  # what then shows where scores are cut
    if missing:
        msg = f"{path}: not an anomaly model with a map, {', '.join(sorted(missing))} missing"
        raise ValueError(msg)
    weights = path.with_suffix(".bin")
    said = _said(model, WEIGHTS, None) if path.suffix == ".xml" else None
    if said is not None and said != digest(weights):
        msg = (
            f"{path} was exported with other weights than {weights.name} has now: copy both files "
            f"again (a program that changes a model must remove {WEIGHTS} from its rt_info)"
        )
        raise ValueError(msg)
    return model


def _digest(path: Path) -> str:
    """Return what tells the model from others: a hash of its file and of that with its weights."""
    return digest(path, path.with_suffix(".bin"), Path(f"{path}.data"))


def digest(*files: Path) -> str:
    """Return a hash of what files hold; those that are not there count for nothing."""
    found = blake2b(digest_size=8)
    for file in files:
        if file.is_file():
            with file.open("rb") as data:
                while part := data.read(CHUNK):
                    found.update(part)
    return found.hexdigest()


def _said(model: ov.Model, name: str, default: Any) -> Any:
    for place in ([SECTION, name], ["framework", f"{SECTION}.{name}"]):  # the second is ONNX's
        if model.has_rt_info(place):
            return model.get_rt_info(place).value
    return default


def _cut(model: ov.Model, output: str) -> float:
    """Return what an output of yes and no compares with; 0.5, anomalib's default, if it does not.

    Exports of other models say it nowhere else.
    """
    found = [result for result in model.outputs if output in result.names]
    node = found[0].node.input_value(0).node if found else None
    if node is None or node.get_type_name() != "Greater":
        return 0.5
    cut = node.input_value(1).node
    if cut.get_type_name() == "Convert":  # of a file with 16 bits, as older OpenVINO reads it
        cut = cut.input_value(0).node
    values = np.asarray(getattr(cut, "data", ()))
    return float(values.flat[0]) if values.size == 1 else 0.5


def _with_images(model: ov.Model, kind: type) -> ov.Model:
    """Return the model with an input of images (1, h, w, 3) of any size and of this type."""
    *_, height, width = model.input(0).partial_shape
    process = PrePostProcessor(model)
    image = process.input(0)
    image.model().set_layout(ov.Layout("NCHW"))
    tensor = image.tensor().set_element_type(ov.Type(kind)).set_layout(ov.Layout("NHWC"))
    steps = image.preprocess()
    if height.is_static and width.is_static and len(model.inputs) == 1:  # tiles are cut to size
        # Antialiased like the resize in front of the network, which this takes the place of.
        tensor.set_spatial_dynamic_shape()
        steps.convert_element_type(ov.Type.f32).resize(ResizeAlgorithm.RESIZE_BILINEAR_PILLOW)
    # The layout first: with three channels innermost, scaling alone takes ten times as long.
    steps.convert_layout(ov.Layout("NCHW")).convert_element_type(ov.Type.f32)
    if kind is np.uint8:
        steps.scale(255.0)
    return process.build()
