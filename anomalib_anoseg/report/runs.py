"""Read what anomalib's benchmark and this project's scripts have measured."""

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# What anomalib calls a metric, and what the literature calls it; in the order of the tables.
METRICS = {
    "image_AUROC": "image AUROC",
    "image_F1Score": "image F1",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPR": "pixel AP",
    "pixel_AUPRO": "AUPRO",
    "pixel_F1Score": "pixel F1",
    "pixel_IoU": "IoU",
    "pixel_IoUMax": "best IoU",
}


class Run(NamedTuple):
    """One model, trained and tested once.

    Attributes:
        model: Name of the model or of its settings.
        category: Name of the data.
        seed: As it was written.
        metrics: By anomalib's names, those of :data:`METRICS` that were measured.
        minutes: Of training.
        where: Device and commit, as far as they are known.
        milliseconds: Of the exported model and one image, if they were measured with the run.
        images: How many of the good images it was trained on, None if on all.
        training_images: How many these were, all or not; None if it was not written.
    """

    model: str
    category: str
    seed: str
    metrics: dict[str, float]
    minutes: float
    where: str
    milliseconds: float | None = None
    images: int | None = None
    training_images: int | None = None

    @property
    def column(self) -> str:
        """Return the data's name in a table; some of the images are other data than all."""
        return f"{self.category}, {self.images} good images" if self.images else self.category


class Results(NamedTuple):
    """All that was read.

    Attributes:
        runs: Every run once.
        latency: Milliseconds per image of models by name, one image, OpenVINO: as measured with
            the runs, mean over them, or by ``benchmarks/inference.py``.
    """

    runs: list[Run]
    latency: dict[str, float]


def read_results(paths: Iterable[Path]) -> Results:
    """Read CSV files of ``anomalib benchmark`` and JSON files of ``benchmarks/``.

    Args:
        paths: Files, or folders that hold such files at any depth. Other files in a folder are
            passed over.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file that was named cannot be understood, or there is no run at all.
    """
    found = _Found([], [], {})
    for path in paths:
        for file in _files(path):
            try:
                _read(file, found)
            except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
                if file != path:
                    continue
                msg = f"{file}: neither results of anomalib's benchmark nor of benchmarks/: {error}"
                raise ValueError(msg) from error
    # A file may have been named twice.
    runs = list({str(run): run for run in [*_named(found.rows), *found.runs]}.values())
    if not runs:
        msg = f"no results in {', '.join(map(str, paths))}"
        raise ValueError(msg)
    timed = defaultdict(list)
    for run in runs:
        if run.milliseconds is not None:
            timed[run.model].append(run.milliseconds)
    return Results(runs, found.latency | {name: statistics.mean(t) for name, t in timed.items()})


def _files(path: Path) -> list[Path]:
    if not path.exists():
        msg = f"{path}: no such file or folder"
        raise FileNotFoundError(msg)
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.suffix in {".csv", ".json"} and p.is_file())


class _Found(NamedTuple):
    rows: list[dict[str, str]]  # of anomalib's benchmark
    runs: list[Run]
    latency: dict[str, float]


def _read(file: Path, found: _Found) -> None:
    if file.suffix == ".csv":
        with file.open(newline="") as lines:
            rows = [*csv.DictReader(lines)]
        _named(rows)  # complains if these are not what it is about
        found.rows.extend(rows)
        return
    content = json.loads(file.read_text())
    if "rows" in content:
        if file.stem.startswith("OpenVINO,_batch_1,"):
            for name, row in content["rows"].items():
                found.latency[name] = statistics.median(row["ms_per_image"])
        return
    measured = content["metrics"]
    run = Run(
        model=content["name"],
        category=content["category"],
        seed=str(content["seed"]),
        metrics={key: float(measured[key]) for key in METRICS if key in measured},
        minutes=float(measured["minutes"]),
        where=f"{content['device']}, commit {content['commit']}",
        milliseconds=measured.get("milliseconds"),
        images=content.get("images"),
        training_images=content.get("training_images"),
    )
    found.runs.append(run)


def _named(rows: list[dict[str, str]]) -> list[Run]:
    """Return the runs of anomalib's benchmark, named by model and by what differs between them."""
    by_model = defaultdict(list)
    for row in rows:
        by_model[row["model.class_path"].rpartition(".")[2]].append(row)
    return [
        _run_of(row, ", ".join([model, *_differences(row, alike)]))
        for model, alike in by_model.items()
        for row in alike
    ]


def _differences(row: dict[str, str], others: list[dict[str, str]]) -> list[str]:
    """Return those settings of a row that are not the same in all others."""
    settings = {key: value for key, value in row.items() if key.startswith("model.init_args.")}
    return [
        f"{key.removeprefix('model.init_args.')} {value}"
        for key, value in settings.items()
        if value and any(other.get(key) != value for other in others)
    ]


def _run_of(row: dict[str, str], name: str) -> Run:
    return Run(
        model=name,
        category=row.get("data.init_args.category")
        or row.get("data.init_args.name")
        or row["data.class_path"].rpartition(".")[2],
        seed=row["seed"],
        metrics={key: float(row[key]) for key in METRICS if row.get(key)},
        minutes=float(row["fit_duration"]) / 60,
        where=row["accelerator"],
    )
