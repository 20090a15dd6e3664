"""Time the whole path from an image to map, mask and score beside anomalib's other models.

Usage: python benchmarks/inference.py [--size 256] [--batches 1 16] [--models AnoSeg Padim ...]
In torch and in OpenVINO, one image and sixteen. Peers have random weights: latency does not depend
on them. AnoSeg, Patchcore and Padim get memories as large as 200 images and their defaults make.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import openvino as ov
import timm
import torch
from anomalib.deploy import ExportType
from anomalib.engine import Engine
from anomalib.models import (
    Draem,
    EfficientAd,
    Fastflow,
    Padim,
    Patchcore,
    Stfpm,
    Supersimplenet,
)
from anomalib.models.components import AnomalibModule
from side_by_side import RUNS, report, side_by_side, where
from synthesis import photographs
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from anomalib_anoseg import AnoSeg

TRAINING_IMAGES = 200


def anoseg(size: int) -> AnomalibModule:
    """Return AnoSeg with as many rows in its memory as it keeps."""
    model = AnoSeg()
    assert model.model.memory is not None
    images = photographs(16, torch.device("cpu"), size)
    model.model.memory.fill([(images, torch.arange(len(images)))], len(images))
    return model


def patchcore(size: int) -> AnomalibModule:
    """Return Patchcore with a tenth of the patches of 200 images in its memory."""
    model = Patchcore(pre_trained=False)
    patches = TRAINING_IMAGES * (size // 8) ** 2
    width = sum(model.model.feature_extractor.out_dims)
    model.model.memory_bank = torch.rand(int(patches * model.coreset_sampling_ratio), width)
    return model


def padim(size: int) -> AnomalibModule:
    """Return Padim with a Gaussian for each position."""
    model = Padim(pre_trained=False)
    patches, width = (size // 4) ** 2, model.model.n_features
    model.model.gaussian.mean = torch.rand(width, patches)
    model.model.gaussian.inv_covariance = torch.eye(width).repeat(patches, 1, 1)
    return model


def draem(size: int) -> AnomalibModule:
    """Return Draem; an empty folder of textures keeps it from downloading them."""
    del size
    with tempfile.TemporaryDirectory() as folder:
        return Draem(dtd_dir=folder)


MODELS: dict[str, Callable[[int], AnomalibModule]] = {
    "AnoSeg": anoseg,
    "AnoSeg, no memory": lambda _: AnoSeg(pre_trained=False),
    "AnoSeg, paper": lambda _: AnoSeg(pre_trained=False, backbone="resnet18", decoder="paper"),
    "Draem": draem,
    "EfficientAd S": lambda _: EfficientAd(),
    "Fastflow": lambda _: Fastflow(pre_trained=False),
    "Padim": padim,
    "Patchcore": patchcore,
    "Stfpm": lambda _: Stfpm(),
    "Supersimplenet": lambda _: Supersimplenet(),
}


def build(name: str, size: int) -> AnomalibModule:
    """Return a model without any download, with thresholds as after training."""
    create = timm.create_model
    with patch("timm.create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False})):
        model = MODELS[name](size)
    model.pre_processor = type(model).configure_pre_processor(image_size=(size, size))
    model.eval()
    # Within the range of this map nothing is clipped, so that a difference of two maps is seen.
    with torch.no_grad():
        image = model.pre_processor(photographs(1, torch.device("cpu"), size))
        raw = model.model(image).anomaly_map
    # At least from 0 to 1: a nearly constant map would be stretched to its rounding errors.
    low, high = raw.min().clamp(max=0), raw.max().clamp(min=1)
    for key, value in model.post_processor.named_buffers():
        value.fill_(low if "min" in key else high if "max" in key else (low + high) / 2)
    return model


def exported(model: AnomalibModule, size: int, folder: Path) -> Path:
    """Return the file that the model was exported to, for batches of any size if that can be."""
    engine = Engine(default_root_dir=folder, logger=False)
    where: dict[str, Any] = {"export_root": folder, "input_size": (size, size)}
    path = engine.export(model, ExportType.OPENVINO, **where)
    if fixed_batch(ov.Core().read_model(path)):
        # Patchcore's loop over patches fixes the batch to the two images that anomalib traces with.
        path = engine.export(
            model, ExportType.OPENVINO, **where, onnx_kwargs={"dynamic_axes": None}
        )
    return path


def fixed_batch(model: Any) -> bool:
    """Return whether a model takes a certain number of images only."""
    return bool(model.input().partial_shape[0].is_static)


def compiled(model: AnomalibModule, size: int, folder: Path, threads: int) -> tuple[Any, float]:
    """Return the exported model, compiled for low latency in float32, and its MB on the disk.

    One with a fixed batch gets the images one by one, and returns what the last one gave.
    """
    path = exported(model, size, folder)
    megabytes = sum(f.stat().st_size for f in (path, path.with_suffix(".bin"))) / 1e6
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    graph = ov.Core().compile_model(path, "CPU", options)
    if fixed_batch(graph):
        return (lambda images: [graph(image[None]) for image in images][-1]), megabytes
    return graph, megabytes


def main() -> None:
    """Build, export and count every model, then time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    logging.getLogger("anomalib").setLevel(logging.WARNING)
    size, threads = arguments.size, torch.get_num_threads()
    first = arguments.models[0]  # what ratios are to
    image = photographs(1, torch.device("cpu"), size)
    here = where("cpu")
    models, graphs = {}, {}
    counts: dict[str, dict[str, float]] = {"M parameters": {}, "GFLOP": {}, "MB": {}}
    for name in arguments.models:
        models[name] = model = build(name, size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            expected = model(image)
        with tempfile.TemporaryDirectory() as folder:
            graphs[name], counts["MB"][name] = compiled(model, size, Path(folder), threads)
        counts["M parameters"][name] = sum(p.numel() for p in model.model.parameters()) / 1e6
        counts["GFLOP"][name] = counter.get_total_flops() / 1e9
        found = torch.tensor(graphs[name](image.numpy())["anomaly_map"])
        difference = (found.flatten() - expected.anomaly_map.flatten()).abs().max().item()
        print(f"{name}: OpenVINO and torch differ by {difference:.1e}", flush=True)

    for batch in arguments.batches:
        images = photographs(batch, torch.device("cpu"), size)
        with torch.inference_mode():
            times = side_by_side(_calls(models, images), arguments.runs)
        report(f"torch, batch {batch}, {size} x {size}", here, times, first, batch, **counts)
        pixels = images.numpy()
        times = side_by_side(_calls(graphs, pixels), arguments.runs)
        report(f"OpenVINO, batch {batch}, {size} x {size}", here, times, first, batch, **counts)


def _calls(models: dict[str, Any], images: Tensor | Any) -> dict[str, Callable[[], Any]]:
    return {name: lambda model=model: model(images) for name, model in models.items()}


if __name__ == "__main__":
    main()
