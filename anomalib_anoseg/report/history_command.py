"""The command that shows what infer has found over time; it needs neither torch nor anomalib."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from anomalib_anoseg.inference.address import without_login
from anomalib_anoseg.inference.drift import Comparison
from anomalib_anoseg.inference.frames import reason
from anomalib_anoseg.inference.records import SUMMARY, picture_name
from anomalib_anoseg.inference.table import Row, readable
from anomalib_anoseg.report.data_uri import QUALITY, SIDE, data_uri
from anomalib_anoseg.report.history import History, read_history
from anomalib_anoseg.report.history_plot import over_time
from anomalib_anoseg.report.pages import render, write
from anomalib_anoseg.utils.false_alarms import FalseAlarms
from anomalib_anoseg.utils.pixel_limit import any_size

EPILOG = """The folder may be one that infer --watch is still writing to: a row that is not whole
yet is left out. Scores are thinned to what a screen can show, but never the lowest and the highest.

exit status: 0 the page was written; 2 wrong arguments, or no results there; 130 interrupted.
"""
ERRORS = 20  # of the newest images with one, at most
QUIET = {
    "unchanged": "Good parts score as they did when the thresholds were set.",
    "too few images": "Whether good parts score as they did cannot be said of so few images.",
}


class Defective(NamedTuple):
    """An image that is called defective, as the page shows it.

    Attributes:
        row: Of the table.
        time: As a person reads it.
        picture: A data URI of its overlay.
        problem: Why there is none.
    """

    row: Row
    time: str
    picture: str = ""
    problem: str = ""


def history(
    results: Path,
    output: Path | None = None,
    by: Literal["time", "order"] = "time",
    newest: int = 24,
) -> int:
    """Show what infer has found over time: scores, defective images, drift.

    Args:
        results: A folder that infer has written to, its ``--output``.
        output: The page to write. Default: history.html in the folder.
        by: Where images lie in the plot: when they were taken, or in which order they were judged.
        newest: Defective images that are shown, at most.

    Returns:
        The exit status, 0.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If the table is not one of infer's, or newest is negative.
    """
    if newest < 0:
        msg = f"--newest must be at least 0 images, got {newest}"
        raise ValueError(msg)
    found = read_history(results)
    if by == "order":
        found = found._replace(times=None)
    path = results / "history.html" if output is None else output
    write(path, history_page(results, found, newest))
    print(readable(str(path)))  # noqa: T201
    return 0


def history_page(results: Path, found: History, newest: int) -> str:
    """Return the page, with so many of the newest defective images.

    Raises:
        ValueError: If results.json is of another version.
    """
    times = [row.time for row in found.judged if row.time]
    above = found.scores > found.about.get("image_threshold", 1)
    false_alarms, drift = _said(results, found.about)
    return render(
        "history.html.j2",
        folder=readable(str(results)),
        found=found,
        about=_by_what(found.about),
        first=to_read(min(times, default="")),
        last=to_read(max(times, default="")),
        below_smallest=int((~found.defective & above).sum()),
        false_alarms=false_alarms,
        drift=drift,
        plot=Markup(over_time(found)) if found.judged else "",  # noqa: S704 - no names
        shown=newest_defective(results, found, newest),
        errors=[(row, to_read(row.time)) for row in found.errors[: -ERRORS - 1 : -1]],
    )


def _by_what(about: dict[str, Any]) -> dict[str, Any]:
    """Return what results.json says, without the login of a camera that earlier versions kept."""
    return {
        name: without_login(value) if isinstance(value, str) else value
        for name, value in about.items()
    }


def _said(
    results: Path, about: dict[str, Any]
) -> tuple[FalseAlarms | None, tuple[str, bool] | None]:
    """Return the false alarms to expect, and how good parts score with whether to look at it."""
    alarms, drift = about.get("false_alarms"), about.get("drift")
    try:
        return (
            alarms and FalseAlarms(alarms["good_images"], alarms["expected"], *alarms["interval"]),
            drift and _drift(Comparison(**drift)),
        )
    except (KeyError, TypeError) as error:
        msg = f"{results / SUMMARY}: another version of infer wrote it, this one misses {error}"
        raise ValueError(msg) from error


def newest_defective(results: Path, found: History, most: int) -> list[Defective]:
    """Return the images that were called defective last, the newest first."""
    newest = np.flatnonzero(found.defective)[::-1][:most].tolist()
    last = {row.file: index for index, row in enumerate(found.judged)}
    return [_show(results, found.judged[i], last[found.judged[i].file] == i) for i in newest]


def _show(results: Path, row: Row, is_last: bool) -> Defective:
    shown = Defective(row, to_read(row.time))
    if not is_last:
        return shown._replace(problem="the file was written and judged again")
    for suffix in (".jpg", ".png"):
        path = results / "overlays" / picture_name(row.file, suffix)
        try:
            with any_size, Image.open(path) as picture:
                picture.thumbnail((SIDE, SIDE))
                return shown._replace(picture=data_uri(picture.convert("RGB"), quality=QUALITY))
        except FileNotFoundError:
            continue
        except Exception as error:  # noqa: BLE001 - one picture never ends a page
            return shown._replace(problem=readable(reason(error)))
    return shown._replace(problem="there is no overlay")


def _drift(found: Comparison) -> tuple[str, bool]:
    """Return what is to be read of it, and whether somebody should look."""
    said = str(found)
    return (said[0].upper() + said[1:] + ".", True) if said else (QUIET[found.verdict], False)


def to_read(time: str) -> str:
    """Return a time of the table to the second."""
    return time[:19].replace("T", " ")
