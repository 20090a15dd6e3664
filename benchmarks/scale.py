"""How filling the memory grows with the number of good images, and looking up with its rows.

Usage: python benchmarks/scale.py [--images 100 1000 10000] [--rows 500 1000 5000] [--size 256]
Each number of images in a process of its own, which draws them a batch at a time: what reading
files takes is not counted. The memory of a process is its peak, with torch and all. This is one
filling: training also asks some of the images whether parts lie in any direction, and fills again
with turned ones if they do and are few, see anomalib_anoseg/training/remembering.py.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from memory import peak
from side_by_side import save, side_by_side, where
from synthesis import photographs
from torch import Tensor

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.networks.memory import CANDIDATES, Memory

NAME = "tf_efficientnet_lite0"
BATCH = 8


def drawn(count: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of images and their numbers."""
    for start in range(0, count, BATCH):
        batch = min(BATCH, count - start)
        yield photographs(batch, torch.device("cpu"), size), torch.arange(start, start + batch)


def fill(count: int, size: int) -> dict[str, float]:
    """Fill the default's memory."""
    memory = AnoSeg().model.memory
    assert memory is not None
    before = time.perf_counter()
    for _ in drawn(count, size):
        pass
    start = time.perf_counter()
    memory.fill(drawn(count, size), count)
    end = time.perf_counter()
    return {"minutes": (end - start - (start - before)) / 60, "MB": peak()}


def main() -> None:
    """Fill in processes of their own, look up in this one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", nargs="+", type=int, default=[100, 1000, 10_000])
    parser.add_argument("--rows", nargs="+", type=int, default=[500, 1000, 5000])
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--fill", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = arguments.size
    if arguments.fill:
        print(json.dumps(fill(arguments.fill, size)))
        return
    here = where("cpu")
    print(f"{here}\n")
    print("| images | minutes | MB |\n|---|---|---|")
    command = [sys.executable, "-W", "ignore", __file__, "--size", str(size), "--fill"]
    filled = {}
    for count in arguments.images:
        output = subprocess.run([*command, str(count)], check=True, capture_output=True, text=True)
        cost = filled[count] = json.loads(output.stdout.splitlines()[-1])
        print(f"| {count} | {cost['minutes']:.2f} | {cost['MB']:.0f} |", flush=True)

    images = photographs(BATCH, torch.device("cpu"), size)
    memories = {str(rows): Memory(NAME, rows) for rows in arguments.rows}
    many = -(-max(arguments.rows) * 16**2 // size**2)  # enough places of the coarsest map
    for memory in memories.values():
        memory.fill(drawn(many, size), many)
    with torch.no_grad():
        times = side_by_side({rows: lambda m=m: m(images) for rows, m in memories.items()})
    print("\n| rows | ms per image, frozen encoder included |\n|---|---|")
    for rows, taken in times.items():
        print(f"| {rows} | {1e3 * taken.median / BATCH:.1f} |")
    save("scale", here, {"candidates": CANDIDATES, "filled": filled, "seconds": times})


if __name__ == "__main__":
    main()
