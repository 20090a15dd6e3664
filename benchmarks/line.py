"""A day of a production line in minutes: does infer --watch need more with every image?

Usage: python benchmarks/line.py [--images 20000] [--out results/line.json]
Images of 64 x 64 appear in a folder as fast as they are judged. The memory and the open files of
the process are sampled on the way; then it is started again, and has nothing to judge but what
comes late. Writes JSON with the commit. On Linux.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from side_by_side import where
from soak import engine, small

from anomalib_anoseg.data import surface_demo

AHEAD = 400  # images in the folder that were not judged yet, at most
SAMPLES = 100
SINGLE = 20  # images that come one by one, for the time until the answer


def encoded(folder: Path) -> list[bytes]:
    """Return a few images of 64 x 64 as files, good and defective."""
    surface_demo.write_part(folder, counts=surface_demo.Counts(1, 10, 3))
    paths = sorted(folder.glob("test/*/*.png"))
    small_ones = (cv2.resize(cv2.imread(str(path)), (64, 64)) for path in paths)
    return [cv2.imencode(".png", image)[1].tobytes() for image in small_ones]


def appear(path: Path, data: bytes) -> None:
    """Write a file and give it its name when it is whole."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.rename(path)


def watching(model: Path, folder: Path) -> "subprocess.Popen[bytes]":
    """Start the command that is measured."""
    command = [sys.executable, "-m", "anomalib_anoseg", "infer", "--watch", "--jsonl", "-"]
    command += [f"--model={model}", f"--input={folder / 'in'}", f"--output={folder / 'out'}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def state(process: psutil.Process, images: int) -> dict[str, float]:
    """Return what a process holds after so many images."""
    with process.oneshot():
        megabytes = process.memory_info().rss / 1e6
        held = {"files": process.num_fds(), "threads": process.num_threads()}
    return {"images": images, "MB": megabytes, **held}


def a_day(model: Path, folder: Path, images: list[bytes], count: int) -> list[dict[str, float]]:
    """Let so many images appear, and return what the process holds on the way."""
    samples = []
    coming = enumerate(islice(cycle(images), count))
    with watching(model, folder) as process:
        assert process.stdout is not None
        for number, data in islice(coming, AHEAD):
            appear(folder / f"in/{number:06}.png", data)
        for judged in range(1, count + 1):
            line = json.loads(process.stdout.readline())
            assert line["error"] is None, line
            for number, data in islice(coming, 1):
                appear(folder / f"in/{number:06}.png", data)
            if judged % (count // SAMPLES) == 0:
                samples.append(state(psutil.Process(process.pid), judged))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    return samples


def restarted(model: Path, folder: Path, data: bytes) -> dict[str, float]:
    """Start again; return seconds from an image to its line, and the share of a core at rest."""
    seconds = []
    with watching(model, folder) as process:
        assert process.stdout is not None
        for number in range(SINGLE + 1):
            started = time.monotonic()
            appear(folder / f"in/late{number}.png", data)
            assert json.loads(process.stdout.readline())["file"] == f"late{number}.png"
            seconds.append(time.monotonic() - started)
        share = psutil.Process(process.pid).cpu_percent(interval=10) / 100
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    start, *later = seconds
    return {
        "start_seconds": start,
        "answer_seconds": statistics.median(later),
        "answer_seconds_worst": max(later),
        "cores_at_rest": share,
    }


def main() -> None:
    """Export a model, run the day, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("results/line.json"))
    arguments = parser.parse_args()
    here = where("cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        model = engine(folder).export(small(pre_trained=False), "openvino", folder / "exported")
        images = encoded(folder / "part")
        started = time.monotonic()
        samples = a_day(model, folder, images, arguments.images)
        seconds = time.monotonic() - started
        table = (folder / "out/results.csv").read_bytes()
        assert table.count(b"\n") == arguments.images + 1
        quarter = len(samples) // 4
        memory = np.array([sample["MB"] for sample in samples])
        result: dict[str, Any] = {
            "images": arguments.images,
            "images_per_second": arguments.images / seconds,
            "MB_second_quarter": memory[quarter : 2 * quarter].mean(),
            "MB_last_quarter": memory[-quarter:].mean(),
            "files": [min(s["files"] for s in samples), max(s["files"] for s in samples)],
            **restarted(model, folder, images[0]),
            **here._asdict(),
        }
        print(json.dumps(result, indent=2), flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result | {"samples": samples}, indent=2) + "\n")


if __name__ == "__main__":
    main()
