"""Time alternatives in turn, in one process: on a shared machine only their ratio means something.

Also says where and with what a figure was computed, for every benchmark.
"""

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

PACKAGES = ("anomalib", "anomalib-anoseg", "kornia", "openvino", "torch")
RUNS = 9  # at least 7 after the warm-up


class Times(NamedTuple):
    """Seconds of each run of one alternative."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Return the middle one."""
        return statistics.median(self.seconds)

    def against(self, baseline: "Times") -> list[float]:
        """Return how many times faster than the baseline each run was than the one beside it."""
        return [b / s for s, b in zip(self.seconds, baseline.seconds, strict=True)]


def side_by_side(alternatives: dict[str, Callable[[], Any]], runs: int = RUNS) -> dict[str, Times]:
    """Call each alternative in turn, runs times after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(runs + 1):
        for name, call in alternatives.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            if number > 0:
                times[name].append(time.perf_counter() - start)
    return {name: Times(seconds) for name, seconds in times.items()}


def wait() -> None:
    """Let a GPU finish."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Where(NamedTuple):
    """The code, the machine and the packages that figures come from."""

    commit: str
    device: str
    versions: str

    def __str__(self) -> str:
        """Return the line below a heading."""
        return f"{self.device}, commit {self.commit}, {self.versions}"


def where(kind: str = "cuda") -> Where:
    """Return those of this process; "cpu" is for what makes no use of a GPU."""
    return Where(commit_checked_out(), device(kind), versions())


def report(
    title: str,
    here: Where,
    times: dict[str, Times],
    baseline: str,
    images: int,
    **more: dict[str, Any],
) -> None:
    """Print a Markdown table with ratios to the baseline, and write results/bench/TITLE.json.

    Args:
        title: What was timed.
        here: Where that was.
        times: Of each alternative.
        baseline: Which of them is 1.
        images: How many images each call worked on.
        more: Further columns, by alternative.
    """
    print(f"\n## {title}\n{here}\n")
    columns = ["", "ms per image", "spread", "images/s", f"times {baseline}", "spread", *more]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    rows = {}
    for name, taken in times.items():
        ratios = taken.against(times[baseline])
        per_image = [1e3 * seconds / images for seconds in taken.seconds]
        rows[name] = {
            "ms_per_image": per_image,
            "times_baseline": ratios,
            **{key: column.get(name) for key, column in more.items()},
        }
        cells = [
            name,
            f"{statistics.median(per_image):.3g}",
            spread(per_image),
            f"{images / taken.median:.3g}",
            f"{statistics.median(ratios):.3g}",
            spread(ratios),
            *(_cell(column.get(name)) for column in more.values()),
        ]
        print("| " + " | ".join(cells) + " |")
    save(title, here, {"baseline": baseline, "images": images, "rows": rows})


def save(title: str, here: Where, result: dict[str, Any]) -> None:
    """Write one JSON file per title."""
    file = Path("results/bench") / f"{title.replace(' ', '_')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(here._asdict() | result, indent=2) + "\n")


def spread(values: list[float]) -> str:
    """Return smallest and largest."""
    return f"{min(values):.3g} to {max(values):.3g}"


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def commit_checked_out() -> str:
    """Return the commit that is checked out, marked if files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


def device(kind: str = "cuda") -> str:
    """Return what the figures were computed on, the GPU if there is one and it was of use."""
    if kind != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def versions() -> str:
    """Return what was installed; a machine that only trains has no OpenVINO."""
    found = []
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)
