"""Runs -> tables: mean and spread over seeds, per category, best and second best."""

import math
import statistics
from collections import defaultdict
from typing import NamedTuple

from anomalib_anoseg.report.runs import METRICS, Run


class Cell(NamedTuple):
    """Mean of a metric over the seeds of one model and category.

    Attributes:
        mean: None if it was not measured.
        spread: Standard deviation over seeds, None for a single one.
        place: 1 for the best of the column, 2 for the second best, 0 for the others.
        ran: Whether the model was run there; one without maps has no figures of pixels.
    """

    mean: float | None
    spread: float | None = None
    place: int = 0
    ran: bool = True

    def __str__(self) -> str:
        """Return what stands in a table."""
        if self.mean is None:
            return "-" if self.ran else "not run"
        spread = "" if self.spread is None else f" ± {self.spread:.3f}"
        return f"{self.mean:.3f}{spread}"


class Table(NamedTuple):
    """One metric of all models.

    Attributes:
        metric: Its name in the literature.
        columns: The categories, and their mean if there are several.
        rows: Cells of each model.
    """

    metric: str
    columns: list[str]
    rows: dict[str, list[Cell]]


def compare(runs: list[Run]) -> list[Table]:
    """Return a table of each metric that any run has measured."""
    models = list(dict.fromkeys(run.model for run in runs))
    categories = _columns(runs)
    done = {(run.model, run.column) for run in runs}
    tables = []
    for key, name in METRICS.items():
        values = defaultdict(list)
        for run in runs:
            if key in run.metrics:
                values[run.model, run.column].append(run.metrics[key])
        if not values:
            continue
        rows = {m: [_cell(values[m, c], (m, c) in done) for c in categories] for m in models}
        columns = categories
        if len(categories) > 1:
            columns = [*categories, "mean"]
            rows = {model: [*cells, _mean(cells)] for model, cells in rows.items()}
        tables.append(Table(name, columns, _placed(rows)))
    return tables


def _columns(runs: list[Run]) -> list[str]:
    found = {run.column: (run.category, run.images or math.inf) for run in runs}
    return sorted(found, key=found.__getitem__)


def _cell(values: list[float], ran: bool) -> Cell:
    if not values:
        return Cell(None, ran=ran)
    return Cell(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def _mean(cells: list[Cell]) -> Cell:
    """Return the mean over categories; of some of them it would not compare with others'."""
    known = [cell.mean for cell in cells if cell.mean is not None]
    return Cell(statistics.mean(known) if len(known) == len(cells) else None)


def _placed(rows: dict[str, list[Cell]]) -> dict[str, list[Cell]]:
    """Mark the best and the second best of each column; equal values share a place."""
    columns = []
    for column in zip(*rows.values(), strict=True):
        best = sorted({c.mean for c in column if c.mean is not None}, reverse=True)[:2]
        marked = []
        for cell in column:
            place = best.index(cell.mean) + 1 if cell.mean in best and len(column) > 1 else 0
            marked.append(cell._replace(place=place))
        columns.append(marked)
    return dict(zip(rows, map(list, zip(*columns, strict=True)), strict=True))


def missing(runs: list[Run]) -> list[str]:
    """Return the models and categories that others have and that were not run."""
    done = {(run.model, run.column) for run in runs}
    models = dict.fromkeys(run.model for run in runs)
    return [f"{m} on {c}" for m in models for c in _columns(runs) if (m, c) not in done]


def minutes(runs: list[Run]) -> dict[str, float]:
    """Return the mean minutes of training by model."""
    taken = defaultdict(list)
    for run in runs:
        taken[run.model].append(run.minutes)
    return {model: statistics.mean(values) for model, values in taken.items()}


def learning_curves(runs: list[Run], metric: str) -> dict[str, list[tuple[float, float]]]:
    """Return numbers of good images and the mean of a metric, by model and data."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        count = run.images or run.training_images
        if count and metric in run.metrics:
            values[f"{run.model}, {run.category}"][count].append(run.metrics[metric])
    return {
        name: [(count, statistics.mean(points[count])) for count in sorted(points)]
        for name, points in values.items()
        if len(points) > 1
    }


def markdown(tables: list[Table], runs: list[Run]) -> str:
    """Return the tables as Markdown: the best bold, the second best in italics."""
    marks = {0: "", 1: "**", 2: "_"}
    parts = []
    for table in tables:
        lines = [["model", *map(_escaped, table.columns)], ["---"] * (len(table.columns) + 1)]
        for model, cells in table.rows.items():
            lines.append(
                [_escaped(model), *(f"{marks[c.place]}{c}{marks[c.place]}" for c in cells)]
            )
        parts.append(f"## {table.metric}\n")
        parts += ["| " + " | ".join(line) + " |" for line in lines]
        parts.append("")
    parts += [f"Not run: {', '.join(map(_escaped, missing(runs)))}."] if missing(runs) else []
    parts += [f"- {_escaped(line)}" for line in provenance(runs)]
    return "\n".join(parts) + "\n"


def provenance(runs: list[Run]) -> list[str]:
    """Return a line per model: seeds, minutes of training, device and commit."""
    lines = []
    for model, taken in minutes(runs).items():
        own = [run for run in runs if run.model == model]
        seeds = " ".join(sorted({run.seed for run in own}))
        where = "; ".join(sorted({run.where for run in own}))
        lines.append(f"{model}: seed {seeds}, {taken:.1f} minutes of training, {where}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")
