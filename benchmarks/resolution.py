"""Time and memory of exported models against the size of the image.

Usage: python benchmarks/resolution.py [--sizes 256 512 1024] [--models AnoSeg Stfpm Padim]
Each model and size in a process of its own that has nothing but OpenVINO loaded, one image at a
time, float32. By default beside the two fastest peers of inference.py that segment.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from memory import peak

RUNS = 7  # after one to warm up


def main() -> None:
    """Measure every model at every size, and print how both grow per pixel."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument(
        "--models", nargs="+", default=["AnoSeg", "AnoSeg, no memory", "Stfpm", "Padim"]
    )
    parser.add_argument("--measure", nargs=2, metavar=("XML", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        path, size = arguments.measure
        print(json.dumps(measure(path, int(size))))
        return

    from side_by_side import save, where

    here = where("cpu")
    rows = {
        name: {size: in_own_process(name, size) for size in arguments.sizes}
        for name in arguments.models
    }
    smallest = min(arguments.sizes)
    print(f"\n## OpenVINO against resolution\n{here}\n")
    print(
        "| | size | ms | per pixel, times its smallest size | MB | per pixel |\n"
        + 6 * "| --- "
        + "|"
    )
    for name, sizes in rows.items():
        for size, (ms, megabytes) in sizes.items():
            pixels = (size / smallest) ** 2
            first_ms, first_megabytes = sizes[smallest]
            cells = [
                name, str(size),
                f"{ms:.1f}", f"{ms / first_ms / pixels:.2f}",
                f"{megabytes:.0f}", f"{megabytes / first_megabytes / pixels:.2f}",
            ]  # fmt: skip
            print("| " + " | ".join(cells) + " |")
    save("resolution", here, {"rows_by_size": rows})


def in_own_process(name: str, size: int) -> tuple[float, float]:
    """Export a model, and measure it where no other one has left anything in the memory."""
    from inference import build, exported

    with tempfile.TemporaryDirectory() as folder:
        path = exported(build(name, size), size, Path(folder))
        command = [sys.executable, __file__, "--measure", path, str(size)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ms, megabytes = json.loads(output.splitlines()[-1])
    return ms, megabytes


def measure(path: str, size: int) -> tuple[float, float]:
    """Return the median latency in ms, and the peak memory in MB above that of OpenVINO alone."""
    import numpy as np
    import openvino as ov

    core = ov.Core()
    image: Any = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    before = peak()
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        compiled(image)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:]), peak() - before


if __name__ == "__main__":
    main()
