"""What each precision of an exported model costs and gains, and how fast a folder of images goes.

Usage: python benchmarks/deployment.py --ckpt_path model.ckpt
With a model trained on the demo, as ``make demo`` leaves it, and the demo's test images.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from anomalib.data import ImageBatch
from anomalib.deploy import CompressionType, OpenVINOInferencer
from record import command, trained
from side_by_side import report, save, side_by_side, where
from torch.nn.functional import interpolate
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg, SurfaceDemo
from anomalib_anoseg.evaluation.metrics import AUROC, IoU
from anomalib_anoseg.inference.command import infer

PRECISIONS = ("fp32", "fp16", "int8", "int8_ptq", "int8_acq")
BATCH = 16
CAMERA = 1024  # pixels of a side


def main() -> None:
    """Export, measure and time."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ckpt_path", type=Path, required=True)
    arguments = parser.parse_args()
    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = SurfaceDemo(num_workers=0)
    data.prepare_data()
    data.setup()
    model = AnoSeg.load_from_checkpoint(arguments.ckpt_path, map_location="cpu").eval()
    about = trained(arguments.ckpt_path, model) | {"command": command(sys.argv)}
    save("deployment, the model", where("cpu"), about)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: export(model, name, data, Path(folder)) for name in PRECISIONS}
        precisions(paths, data)
        throughput(paths["fp32"], data, Path(folder) / "folder")


def export(model: AnoSeg, name: str, data: SurfaceDemo, folder: Path) -> Path:
    """Return the exported model."""
    kind = None if name == "fp32" else CompressionType(name)
    return model.to_openvino(folder / name, compression_type=kind, datamodule=data)


def precisions(paths: dict[str, Path], data: SurfaceDemo) -> None:
    """Time each, as the device runs it by default, beside what is left of pixel AUROC and IoU."""
    compiled = {name: ov.Core().compile_model(path, "CPU") for name, path in paths.items()}
    images = torch.stack([data.train_data[index].image for index in range(BATCH)]).numpy()
    columns: dict[str, dict[str, Any]] = {"MB": {}, "pixel AUROC": {}, "IoU": {}}
    for name, graph in compiled.items():
        size = paths[name].stat().st_size + paths[name].with_suffix(".bin").stat().st_size
        columns["MB"][name] = size / 1e6
        columns["pixel AUROC"][name], columns["IoU"][name] = accuracy(graph, data)

    def alone(graph: Any) -> Callable[[], Any]:
        return lambda: [graph(image[None]) for image in images]

    times = side_by_side({name: alone(graph) for name, graph in compiled.items()})
    title = "precisions, OpenVINO, one image at a time"
    report(title, where("cpu"), times, "fp32", BATCH, **columns)


def accuracy(graph: Any, data: SurfaceDemo) -> tuple[float, float]:
    """Return pixel AUROC and IoU at the model's own threshold over the test images."""
    auroc = AUROC(fields=["anomaly_map", "gt_mask"])
    iou = IoU(fields=["pred_mask", "gt_mask"])
    for item in data.test_data:
        outputs = graph(item.image[None].numpy())
        anomaly_map = torch.from_numpy(outputs["anomaly_map"])[:, 0]
        mask = torch.as_tensor(item.gt_mask)[None, None].float()
        batch = ImageBatch(
            item.image[None],
            anomaly_map=anomaly_map,
            pred_mask=anomaly_map > 0.5,
            gt_mask=interpolate(mask, anomaly_map.shape[-2:])[:, 0] > 0,
        )
        auroc.update(batch)
        iou.update(batch)
    return float(auroc.compute()), float(iou.compute())


def throughput(path: Path, data: SurfaceDemo, folder: Path) -> None:
    """Time the command over a folder beside a loop over anomalib's inferencer.

    Both compile the model and read the same files, enlarged to what a camera of a line gives. The
    command writes its table too, but no pictures, as the loop writes none.
    """
    images = folder / "images"
    images.mkdir(parents=True)
    for index, item in enumerate(data.test_data):
        picture = interpolate(item.image[None], (CAMERA, CAMERA), mode="bicubic").clamp(0, 1)
        save_image(picture, images / f"{index:03}.png")
    files = sorted(images.iterdir())

    def loop() -> None:
        inferencer = OpenVINOInferencer(path, device="CPU")
        for file in files:
            inferencer.predict(file)

    times = side_by_side(
        {
            "loop over OpenVINOInferencer": loop,
            "infer": lambda: infer(path, str(images), folder / "a", masks=False, overlays=False),
            "infer, with masks and overlays": lambda: infer(path, str(images), folder / "b"),
        }
    )
    title = f"folder of images, {CAMERA} x {CAMERA}"
    report(title, where("cpu"), times, "loop over OpenVINOInferencer", len(files))


if __name__ == "__main__":
    main()
