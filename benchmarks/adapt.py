"""What adapting a trained model to another lamp costs and gains.

Usage: python benchmarks/adapt.py --ckpt_path model.ckpt --root DATASETS --category bottle
The lamp is drawn: red 5 % more, blue 5 % less, and all 20 % darker. Training images of the set
under it, 50 by default, are the new good parts. False alarms and misses are counted on its test
images, under the lamp they were taken with and under the new one.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import command, trained
from side_by_side import save, where
from torch import Tensor

from anomalib_anoseg import AnoSeg, PostProcessor
from anomalib_anoseg.data.cases import datamodule
from anomalib_anoseg.training.adapt_command import adapt
from anomalib_anoseg.training.adaptation import SHARE, divide
from anomalib_anoseg.training.hold_out import kept_or_reread
from anomalib_anoseg.utils.images import find_images, read_image, to_8_bits

LAMP = np.array([1.05, 1.0, 0.95]) * 0.8


def main() -> None:
    """Count, adapt, and count again."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ckpt_path", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="folder of the categories")
    parser.add_argument("--category", required=True, help="laid out as one of MVTec AD")
    parser.add_argument("--images", type=int, default=50, help="new good ones")
    arguments = parser.parse_args()
    folder = arguments.root / arguments.category
    here = where("cpu")  # before anybody changes a file
    with tempfile.TemporaryDirectory() as place:
        adapted = Path(place) / "adapted.ckpt"
        relight(folder / "train/good", Path(place) / "new", arguments.images)
        start = time.perf_counter(), time.process_time()
        adapt(arguments.ckpt_path, Path(place) / "new", adapted)
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        models = {
            "before": load(arguments.ckpt_path),
            "thresholds alone": with_thresholds(load(arguments.ckpt_path), Path(place) / "new"),
            "after": load(adapted),
        }
    about = trained(arguments.ckpt_path, models["before"]) | {"command": command(sys.argv)}
    seed, size = about["seed"], about["size"]
    rows = {name: count(model, folder / "test") for name, model in models.items()}
    print(f"\n## {arguments.category}, another lamp\n{here}, seed {seed}, size {size}\n")
    print(f"{arguments.images} images in {seconds[0]:.0f} s, {seconds[1]:.0f} of a processor\n")
    print("| | false alarms, old lamp | misses | false alarms, new lamp | misses |")
    print("|---|---|---|---|---|")
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells.values()) + " |")
    result = about | {"images": arguments.images, "seconds": seconds, "rows": rows}
    save(f"adapt {arguments.category}", here, result)


def relight(source: Path, target: Path, count: int) -> None:
    """Write some images of a folder, evenly spread, as the new lamp would show them."""
    target.mkdir()
    paths = find_images(source)
    for index in range(min(count, len(paths))):
        path = paths[index * len(paths) // min(count, len(paths))]
        Image.fromarray(under_lamp(path)).save(target / f"{path.stem}.png")


def under_lamp(path: Path) -> Any:
    """Return an image of 8 bits under the new lamp."""
    return (to_8_bits(read_image(path)) * LAMP).round().clip(0, 255).astype(np.uint8)


def load(path: Path) -> AnoSeg:
    """Return a trained model."""
    return AnoSeg.load_from_checkpoint(path, map_location="cpu").eval()


def with_thresholds(model: AnoSeg, folder: Path) -> AnoSeg:
    """Set decision and thresholds by the images that adapt takes for it, and remember none."""
    data = datamodule(folder)
    data.setup("fit")
    source: Any = data.train_data
    held_out = divide([*source.samples.image_path], model.remembered, SHARE).held_out
    assert isinstance(model.post_processor, PostProcessor)
    with torch.no_grad():
        model.post_processor.fit(model, kept_or_reread(source, held_out, model.pre_processor))
    return model


def count(model: AnoSeg, test: Path) -> dict[str, str]:
    """Return false alarms and misses under both lamps, each of how many."""
    cells = {}
    for lamp in ("old", "new"):
        found = {True: [0, 0], False: [0, 0]}  # by whether it is good: called defective, and all
        for path in find_images(test):
            pixels = under_lamp(path) if lamp == "new" else to_8_bits(read_image(path))
            tally = found[path.parent.name == "good"]
            tally[0] += called_defective(model, pixels)
            tally[1] += 1
        alarms, good = found[True]
        hits, defective = found[False]
        cells[f"false alarms, {lamp} lamp"] = f"{alarms} of {good}"
        cells[f"misses, {lamp} lamp"] = f"{defective - hits} of {defective}"
    return cells


@torch.inference_mode()
def called_defective(model: AnoSeg, pixels: Any) -> bool:
    """Return the verdict on an image, (h, w, 3) of 8 bits."""
    image: Tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return bool(model(image).pred_label)


if __name__ == "__main__":
    main()
