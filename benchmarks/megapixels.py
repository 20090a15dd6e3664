"""Time and memory of large images at their own size, in torch and in OpenVINO.

Usage: python benchmarks/megapixels.py [--sides 1024 2048 3072 4472] [--tile 1024]
Each way and size in a process of its own; the memory of a process is its peak, with all that it has
loaded and the image itself. A network of the default with random weights and a full memory, on
which neither time nor memory depends.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory import peak

RUNS = 3  # after one to warm up


def main() -> None:
    """Measure every way at every size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sides", nargs="+", type=int, default=[1024, 2048, 3072, 4472])
    parser.add_argument("--tile", type=int, default=1024, help="side of an exported model's tiles")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, side = arguments.measure
        print(json.dumps(WAYS[way](int(side), arguments.files)))
        return
    from side_by_side import save, where

    here = where("cpu")
    print(f"{here}\n")
    print("| way | side | megapixels | s | s per megapixel | MB |\n" + 6 * "|---" + "|")
    rows: dict[str, dict[int, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder), arguments.tile)
        for way in WAYS:
            for side in arguments.sides:
                found = in_own_process(way, side, folder)
                rows.setdefault(way, {})[side] = found
                pixels = side**2 / 1e6
                seconds, megabytes = found["seconds"], found["MB"]
                print(
                    f"| {way} | {side} | {pixels:.1f} | {seconds:.2f} | {seconds / pixels:.2f} "
                    f"| {megabytes:.0f} |",
                    flush=True,
                )
    save("megapixels", here, {"tile": arguments.tile, "ways": rows})


def in_own_process(way: str, side: int, folder: str) -> dict[str, float]:
    """Run this script for one way and size."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", way, str(side)]
    output = subprocess.run(
        [*command, "--files", folder], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def build() -> Any:
    """Return the default that sees images at their own size, with a full memory."""
    import torch
    from synthesis import photographs

    from anomalib_anoseg import AnoSeg, PreProcessor

    model = AnoSeg(seed=0, pre_processor=PreProcessor("native"), visualizer=False).eval()
    assert model.model.memory is not None
    model.model.memory.fill([(photographs(8, torch.device("cpu")), torch.arange(8))], 8)
    return model


def export(folder: Path, tile: int) -> None:
    """Export it for images of any size, and for tiles."""
    model = build()
    model.to_openvino(folder / "whole")
    model.to_openvino(folder / "tiles", onnx_kwargs={"tile_size": tile})


def in_torch(side: int, folder: Path) -> dict[str, float]:
    """Judge in torch, as anomalib's engine does."""
    import torch

    del folder
    model, image = build(), torch.rand(1, 3, side, side)
    return timed(lambda: model(image))


def filling(side: int, folder: Path) -> dict[str, float]:
    """Remember one image."""
    import torch

    del folder
    memory, image = build().model.memory, torch.rand(1, 3, side, side)
    return timed(lambda: memory.fill([(image, torch.zeros(1, dtype=torch.long))], 1))


def cropping(side: int, folder: Path) -> dict[str, float]:
    """Read one PNG and cut a crop, as training does for each of its images."""
    import torch
    from anomalib.data import ImageBatch, ImageItem
    from PIL import Image
    from torchvision.transforms.v2.functional import to_dtype, to_image

    from anomalib_anoseg.training.crops import RandomCrops
    from anomalib_anoseg.utils.images import read_image

    pixels = (torch.rand(side // 8, side // 8, 3) * 255).byte().numpy()
    path = folder / f"{side}.png"
    Image.fromarray(pixels).resize((side, side)).save(path)
    crops = RandomCrops(256, ImageBatch.collate)

    def crop() -> None:
        image = to_dtype(to_image(read_image(path)), torch.float32, scale=True)
        crops([ImageItem(image=image, image_path=str(path))])

    return timed(crop)


def in_openvino(side: int, folder: Path, exported: str) -> dict[str, float]:
    """Judge as infer does, without torch."""
    import numpy as np

    from anomalib_anoseg.inference.frames import Frame
    from anomalib_anoseg.inference.segmenter import Segmenter

    segmenter = Segmenter(folder / exported / "weights/openvino/model.xml", precision="f32")
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return timed(lambda: list(segmenter([Frame("", image)])))


WAYS: dict[str, Callable[[int, Path], dict[str, float]]] = {
    "training: read and cut": cropping,
    "training: remember": filling,
    "torch": in_torch,
    "infer, one pass": lambda side, folder: in_openvino(side, folder, "whole"),
    "infer, tiles": lambda side, folder: in_openvino(side, folder, "tiles"),
}


def timed(function: Callable[[], object]) -> dict[str, float]:
    """Return the median time and the peak of the process."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[1:]), "MB": peak()}


if __name__ == "__main__":
    main()
