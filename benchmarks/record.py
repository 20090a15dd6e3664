"""One way of writing a run: what was measured, where, with what and by which command."""

import json
import re
import shlex
import statistics
import subprocess
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_by_side import device

if TYPE_CHECKING:  # tables need no Lightning
    from anomalib.models.components import AnomalibModule
    from lightning import Trainer

PROJECT = Path(__file__).parents[1]
# What the rows' figures depend on; pages and infer come after them.
CODE = (
    "anomalib_anoseg", ":!anomalib_anoseg/report", ":!anomalib_anoseg/inference", "configs",
    "benchmarks/accuracy.py", "benchmarks/peers.py",
)  # fmt: skip
# Of one machine; the same command has others elsewhere.
PLACES = {"--root", "--out", "--runs", "--at-once"}


def stem(name: str, category: str, images: int | None, seed: int) -> str:
    """Return what the file of a run is called, without a suffix."""
    parts = [name, category, *([f"{images} images"] if images else []), str(seed)]
    return re.sub(r"\W+", "-", " ".join(parts))


def about(seed: int, commit: str) -> dict[str, Any]:
    """Return where and with what a run is made; scripts differ in which files they depend on."""
    versions = {name: version(name) for name in ("anomalib", "anomalib-anoseg", "torch")}
    where = {"commit": commit, "device": device(), "versions": versions}
    return {"command": command(sys.argv), "seed": seed, **where}


def used(trainer: "Trainer") -> dict[str, Any]:
    """Return what a trainer that has trained did it with."""
    return {"device": device(trainer.strategy.root_device.type), "precision": trainer.precision}


def image_size(model: "AnomalibModule") -> tuple[int, int] | str:
    """Return height and width of what a model sees, or "native" as PreProcessor does."""
    resize = model.pre_processor.transform
    return tuple(resize.size) if resize else "native"


def trained(path: Path, model: "AnomalibModule") -> dict[str, Any]:
    """Return what a figure of a checkpoint of AnoSeg has to say of it."""
    import torch  # not where runs are only listed

    return {
        "seed": model.seed,
        "steps": torch.load(path, map_location="cpu", weights_only=True)["global_step"],
        "memory_rows": model.hparams["memory_rows"],
        "size": image_size(model),
    }


def command(arguments: list[str]) -> str:
    """Return a command of benchmarks/ as it would be typed, without the places of a machine."""
    script, *rest = arguments
    rest = [
        argument for argument in rest if not argument.startswith(tuple(f"{p}=" for p in PLACES))
    ]
    pairs = pairwise(["", *rest])
    kept = [argument for before, argument in pairs if not {before, argument} & PLACES]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *kept])


def commit_of_code() -> str:
    """Return the last commit that changed what rows depend on, marked if those files differ."""
    last = _git("log", "-1", "--format=%h", "--", *CODE)
    return last + ("-dirty" if _git("status", "--porcelain", "--", *CODE) else "")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT)
    return done.stdout.strip()


def write(file: Path, result: dict[str, Any]) -> None:
    """Write what a run gave, whole or not at all, and print its figures."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=2) + "\n")
    part.rename(file)
    print(file, {key: round(value, 3) for key, value in result["metrics"].items()})


def cell(values: list[float], digits: int = 3) -> str:
    """Return the mean, and the standard deviation if there are several values."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"
