"""Time training steps beside anomalib's Draem, on the same images through anomalib's engine.

Usage: python benchmarks/training.py [--batch 8] [--precision 32-true bf16-mixed] [--models ...]
Ratios are to the first of the models.
Also the share of the time that a step waits for its data, and the peak memory: of a process of its
own, or on a GPU of the tensors.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Draem
from anomalib.models.components import AnomalibModule
from lightning.pytorch.callbacks import Callback
from memory import peak
from side_by_side import Times, report, wait, where
from synthesis import photographs
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg

# Steps of each fit, of which the first warms up, and fits of each alternative.
STEPS, FITS = (12, 2) if torch.cuda.is_available() else (3, 4)

LOSSES = {"reconstruction_weight": 1.0, "adversarial_weight": 0.01}  # all of the paper's
PAPER = {"pre_trained": False, "backbone": "resnet18", "decoder": "paper"}
MODELS: dict[str, Callable[[Path], AnomalibModule]] = {
    "Draem": lambda textures: Draem(dtd_dir=textures, visualizer=False),
    "default": lambda _: _ours(),
    "without a memory": lambda _: _ours(pre_trained=False),
    "the paper's network, all losses": lambda _: _ours(**PAPER, **LOSSES),
}
if torch.cuda.is_available():
    MODELS["default, compiled"] = lambda _: _ours(torch_compile=True)


def _ours(**arguments: Any) -> AnoSeg:
    # Thresholds are set once per epoch, not in a step: Draem sets its own in validation.
    return AnoSeg(post_processor=False, visualizer=False, **arguments)


class Clock(Callback):
    """Note how long each step takes, and how long it waited for its batch."""

    def __init__(self) -> None:
        self.working: list[float] = []
        self.waiting: list[float] = []
        self.peak: float | None = None  # of a GPU's memory, in MB
        self._before = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """End waiting."""
        wait()
        now = time.perf_counter()
        self.waiting.append(now - self._before)
        self._before = now

    def on_train_batch_end(self, *_: Any) -> None:
        """End working."""
        wait()
        now = time.perf_counter()
        self.working.append(now - self._before)
        self._before = now


def fit(model: AnomalibModule, images: Path, batch: int, precision: str) -> Clock:
    """Train for a few steps."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            default_root_dir=folder,
            max_steps=STEPS,
            max_epochs=-1,
            precision=precision,
            callbacks=[clock],
            limit_val_batches=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = Folder(
            name="images", root=images, normal_dir="good",
            train_batch_size=batch, num_workers=4 if torch.cuda.is_available() else 0,
        )  # fmt: skip
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        engine.fit(model, datamodule=data)
        if torch.cuda.is_available():
            clock.peak = torch.cuda.max_memory_allocated() / 1e6
    return clock


def write_images(folder: Path, count: int) -> None:
    """Write images to train on, and textures for Draem."""
    for kind in ("good", "textures/a"):
        (folder / kind).mkdir(parents=True)
        for index, image in enumerate(photographs(count, torch.device("cpu"))):
            save_image(image, folder / kind / f"{index:03}.png")


def memory(name: str, batch: int, precision: str) -> float:
    """Return the peak memory of a process with one fit, in MB."""
    command = [sys.executable, "-W", "ignore", __file__, "--batch", str(batch)]
    command += ["--precision", precision, "--memory", name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def main() -> None:
    """Fit each in turn, or one alone to see its memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--memory", choices=MODELS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    batch = arguments.batch
    for name in ("anomalib", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, STEPS * batch)
        if arguments.memory:
            fit(MODELS[arguments.memory](root / "textures"), root, batch, *arguments.precision)
            print(peak())
            return
        for precision in arguments.precision:
            models = {name: MODELS[name](root / "textures") for name in arguments.models}
            clocks: dict[str, list[Clock]] = {name: [] for name in models}
            for _ in range(FITS):
                for name, model in models.items():
                    clocks[name].append(fit(model, root, batch, precision))
            times = {n: Times([s for c in cs for s in c.working[1:]]) for n, cs in clocks.items()}
            waited = {
                n: 100 * sum(s for c in cs for s in c.waiting[1:]) / sum(times[n].seconds)
                for n, cs in clocks.items()
            }
            megabytes = {
                name: last[-1].peak or memory(name, batch, precision)
                for name, last in clocks.items()
            }
            columns: Any = {"% waiting for data": waited, "peak MB": megabytes}
            baseline = arguments.models[0]
            title = f"training beside {baseline}, {precision}, batch {batch}"
            report(title, where(), times, baseline, batch, **columns)


if __name__ == "__main__":
    main()
