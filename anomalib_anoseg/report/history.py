"""What infer has found so far, read from a folder of results that it may still be writing to."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_anoseg.inference.records import SUMMARY, read_summary
from anomalib_anoseg.inference.table import TABLE, Row, from_text, read_rows

LATEST = 100  # images whose share of defective ones is shown, at most
BINS = 500  # more than this cannot be told apart on a screen

DAY = 86_400e6  # microseconds

Values = NDArray[np.float64]


class History(NamedTuple):
    """The images that infer has judged, in the order in which it did.

    Attributes:
        judged: Their rows.
        scores: Of each.
        defective: Which are called so.
        times: When they were taken, in days since 1970 as matplotlib counts them; None where some
            row has no time, or all have the same.
        errors: Rows with an error; one that was judged but not drawn is in both lists.
        images: All of them.
        about: results.json as of its last writing, which may lag behind the rows; empty without.
    """

    judged: list[Row]
    scores: Values
    defective: NDArray[np.bool_]
    times: Values | None
    errors: list[Row]
    images: int
    about: dict[str, Any]


class Extremes(NamedTuple):
    """A curve of many values, thinned so that no highest and no lowest one is lost.

    Attributes:
        x: The mean of those in a bin.
        low: The lowest value in it.
        high: The highest.
    """

    x: Values
    low: Values
    high: Values


def read_history(folder: Path) -> History:
    """Read a folder that infer has written to.

    Raises:
        FileNotFoundError: If there is no table in it.
        ValueError: If the table is not one of infer's.
    """
    path = folder / TABLE
    if not path.is_file():
        msg = f"{path}: no such file: give the folder that infer has written to, its --output"
        raise FileNotFoundError(msg)
    rows = [*read_rows(path)]
    numbers = [_numbers(path, number, row) for number, row in enumerate(rows, 1)]
    judged = [math.isfinite(score) for score, _ in numbers]
    kept = [row for row, one in zip(rows, judged, strict=True) if one]
    scores, times = np.array(numbers, float).reshape(-1, 2)[judged].T
    timed = all(row.time for row in kept) and len(np.unique(times)) > 1
    return History(
        kept,
        scores,
        np.array([row.label == "defective" for row in kept], bool),
        times if timed else None,
        [row for row in rows if row.error],
        len(rows),
        read_summary(folder / SUMMARY),
    )


def _numbers(path: Path, number: int, row: Row) -> tuple[float, float]:
    """Return score and days of a row, NaN where it has no score."""
    try:
        return float(row.score or "nan"), from_text(row.time) / DAY
    except (TypeError, ValueError) as error:
        msg = f"{path}: row {number} has a score or a time that is none: {error}"
        raise ValueError(msg) from error


def extremes(x: Values, y: Values, start: float, end: float) -> Extremes:
    """Return the lowest and the highest of the values in each of ``BINS`` parts of the axis."""
    width = (end - start) / BINS or 1.0
    which = np.clip(((x - start) / width).astype(int), 0, BINS - 1)
    counts = np.bincount(which, minlength=BINS)
    low, high = np.full(BINS, np.inf), np.full(BINS, -np.inf)
    np.minimum.at(low, which, y)
    np.maximum.at(high, which, y)
    there = counts > 0
    mean = np.bincount(which, x, BINS)[there] / counts[there]
    return Extremes(mean, low[there], high[there])


def running_share(defective: NDArray[np.bool_]) -> tuple[int, Values]:
    """Return how many of the latest images a share is of, and the shares from that image on.

    With few images it is of a quarter of them, at least ten; there are no shares of fewer.
    """
    latest = min(LATEST, max(10, len(defective) // 4))
    sums = np.concatenate([[0.0], np.cumsum(defective)])
    return latest, (sums[latest:] - sums[:-latest]) / latest
