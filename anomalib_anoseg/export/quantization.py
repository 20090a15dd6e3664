"""8-bit models that keep their maps: calibrated by good images and synthetic anomalies.

anomalib calibrates with its validation images, which by default are the test images, and lets
everything be quantised. Here that clips the map, whose values above those of the calibration
images are what it is about, and OpenVINO cannot compile the quantised resize.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from anomalib_anoseg.anomaly_generator import AnomalyGenerator
from anomalib_anoseg.data.cases import set_up
from anomalib_anoseg.evaluation.metrics import IoU, IoUMax
from anomalib_anoseg.training.crops import cut_randomly
from anomalib_anoseg.training.good_images import preparation_of
from anomalib_anoseg.training.hold_out import HeldOut
from anomalib_anoseg.training.image_reading import read_by_ours
from anomalib_anoseg.utils.inside import inside_of
from anomalib_anoseg.utils.seeds import own_seed
from anomalib_anoseg.utils.shapes import Images
from anomalib_anoseg.utils.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    import openvino as ov

SYNTHETIC_IMAGES = 128  # at least; few good images are used several times
LARGEST = 1024  # side of what is cut out of larger images
FEWEST, PIXELS = 16, 2**25  # of large images and tiles fewer are held


class Sample(NamedTuple):
    """What the exported model gets, and what it should say.

    Attributes:
        image: (1, c, h, w), or a tile of one.
        mask: At the network's size.
        place: Of the tile, (1, 4).
    """

    image: NDArray[np.float32]
    mask: torch.Tensor
    place: NDArray[np.float32]


def quantize(
    model: "ov.Model",
    module: Any,
    datamodule: AnomalibDataModule,
    metric: Any = None,
    max_drop: float | None = None,
) -> "ov.Model":
    """Return the model with convolutions in 8 bits.

    Args:
        model: The exported model.
        module: The AnoSeg it was exported from.
        datamodule: Gives the good images; no test image is looked at.
        metric: What must not drop, an anomalib metric; by default the IoU at the threshold, or the
            best one of a model that makes no masks.
        max_drop: Go back to floating point where the metric drops by more than this.
    """
    import nncf

    samples = calibration_samples(module, datamodule, model)
    images = nncf.Dataset(samples, lambda sample: _inputs(model, sample))
    # nncf's fast correction of biases is ten seconds faster and cost a little trained model 0.012
    # of its pixel AUROC, the other one 0.000; but that fails on what is looked up in a memory.
    options = {
        "ignored_scope": nncf.IgnoredScope(names=outer_operations(model)),
        "subset_size": len(samples),
        "fast_bias_correction": module.model.memory is not None,
    }
    if max_drop is None:
        with kept_signal_stack():
            return nncf.quantize(model, images, **options)
    names = {name for output in model.outputs for name in output.names}
    checked = metric or (
        IoU(fields=["pred_mask", "gt_mask"])
        if "pred_mask" in names
        else IoUMax(fields=["anomaly_map", "gt_mask"])  # enable_thresholding: false
    )

    def measure(compiled: Callable[..., Any], samples: Iterable[Sample]) -> float:
        checked.reset()
        for sample in samples:
            outputs = compiled(_inputs(model, sample))
            answer: dict[str, Any] = {
                name: torch.from_numpy(outputs[name])
                for name in names & {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
            }
            label = sample.mask.flatten(1).any(1)
            image = torch.from_numpy(sample.image)
            checked.update(ImageBatch(image, gt_mask=sample.mask, gt_label=label, **answer))
        value = checked.compute()
        # nncf also asks about single images, and a good one alone has no IoU; a constant tells it
        # that quantisation changes nothing there.
        return 0.0 if value is None else float(value)

    with kept_signal_stack():  # nncf makes a core for each model that it tries
        return nncf.quantize_with_accuracy_control(
            model,
            images,
            images,  # measure gets the samples; nncf itself runs the model on what is made of them
            measure,
            max_drop=max_drop,
            **options,
        )


def calibration_samples(
    module: Any, datamodule: AnomalibDataModule, model: "ov.Model"
) -> list[Sample]:
    """Return good images as the network sees them, and synthetic anomalies made from them."""
    set_up(datamodule, "fit")
    with read_by_ours([datamodule.train_data, getattr(datamodule, "val_data", None)]):
        held_out = HeldOut(datamodule, preparation_of(module.pre_processor))
        held_out.release()
        return _samples(module, held_out.images, model)


def _samples(module: Any, good: Sequence[Images], model: "ov.Model") -> list[Sample]:
    region = module.model.region
    resizes = getattr(module.pre_processor, "transform", None) is not None
    *_, height, width = model.input(0).partial_shape
    is_fixed = height.is_static and width.is_static
    fixed = (height.get_length(), width.get_length()) if is_fixed else None
    side = module.train_crop or LARGEST

    def part(image: Images) -> tuple[int, int]:
        # What resizes gets whole images; else a part has the scale of what it was trained on.
        rows, columns = image.shape[-2:]
        if resizes:
            return rows, columns
        return fixed or (min(side, rows), min(side, columns))

    generator = AnomalyGenerator(module.anomaly_generator.anomalies)  # one that draws on the CPU
    wanted = min(SYNTHETIC_IMAGES, max(FEWEST, PIXELS // math.prod(part(good[0]))))
    repeats = math.ceil(wanted / len(good))
    samples: list[Sample] = []
    for image in good:
        with own_seed(len(samples)):
            seen, place = cut_randomly([image.cpu()], *part(image), None, region)
            several = seen.expand(1 + repeats, -1, -1, -1)
            inside = inside_of(region, seen, place)
            nothing = torch.zeros_like(several[:, :1])
            images, masks = generator(several, nothing, inside=inside)
        if resizes and fixed is not None:  # back to the network's size, which the mask has
            images = interpolate(images, fixed)
        samples += [
            Sample(one[None].numpy(), mask[None] > 0, place.numpy())
            for one, mask in zip(images, masks, strict=True)
        ]
    return samples


def _inputs(model: "ov.Model", sample: Sample) -> Any:
    """Return what the model takes."""
    if len(model.inputs) == 1:
        return sample.image
    return {"input": sample.image, "place": sample.place}


def outer_operations(model: "ov.Model") -> list[str]:
    """Return the names of what lies before the first and after the last convolution of any path.

    With these convolutions: the first sees pixels and coordinates, the last makes the map.
    """
    outer: dict[str, Any] = {}

    def walk(start: Iterable[Any], neighbours: Callable[[Any], Iterable[Any]]) -> None:
        seen = set()
        todo = list(start)
        while todo:
            node = todo.pop()
            name = node.get_friendly_name()
            if name in seen or node.get_type_name() == "Constant":
                continue
            seen.add(name)
            if node.get_type_name() not in {"Convolution", "ConvolutionBackpropData"}:
                todo += neighbours(node)
        outer.update(dict.fromkeys(seen))

    def consumers(node: Any) -> list[Any]:
        return [target.get_node() for out in node.outputs() for target in out.get_target_inputs()]

    def sources(node: Any) -> list[Any]:
        return [value.get_source_output().get_node() for value in node.inputs()]

    walk(model.get_parameters(), consumers)
    walk(model.get_results(), sources)
    return [*outer]
