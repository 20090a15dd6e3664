"""results.csv: a row per image, written one by one and read again by a run that continues it."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

TABLE = "results.csv"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END = b"\r\n"


class Row(NamedTuple):
    r"""What results.csv says of an image; columns that do not apply are empty.

    Attributes:
        file: Its name; bytes of it that are not UTF-8 are written as ``\udcXX``.
        score: How defective it is, in [0, 1].
        label: ``good``, or ``defective`` if the score exceeds the image threshold and, where there
            is a smallest defect, a region is as large.
        defect_area: Pixels of the image whose map exceeds the pixel threshold; 0 of a good one.
        boxes: ``left top width height`` of each defect in pixels, the largest first, with ``;``
            between them.
        time: When its file was last written, or a camera gave it: ISO 8601, UTC.
        error: What went wrong. With a score, the image was judged but a picture is missing.
    """

    file: str
    score: str = ""
    label: str = ""
    defect_area: str = ""
    boxes: str = ""
    time: str = ""
    error: str = ""


def line(row: tuple[str, ...]) -> bytes:
    """Return a row as a line of the table."""
    text = io.StringIO()
    csv.writer(text).writerow(row)
    return text.getvalue().encode()


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table, none if there is no file; not one that is being written.

    Raises:
        ValueError: If it has other columns.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        rows = csv.reader(_whole_lines(file))
        if tuple(next(rows, Row._fields)) != Row._fields:
            columns = ", ".join(Row._fields)
            msg = f"{path}: has other columns than {columns}: choose another folder of results"
            raise ValueError(msg)
        for number, row in enumerate(rows, 1):
            if len(row) != len(Row._fields):
                msg = f"{path}: row {number} has {len(row)} columns of {len(Row._fields)}"
                raise ValueError(msg)
            yield Row(*row)


def _whole_lines(file: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines that are ended; a name within quotes may hold the end of a line itself."""
    begun = b""
    for text in file:
        begun += text
        if begun.endswith(END):
            yield begun.decode()
            begun = b""


def cut_incomplete(path: Path) -> None:
    """Remove the beginning of a line that a run was writing when it was killed."""
    if not path.is_file():
        return
    position = whole = 0
    with path.open("rb+") as file:
        for text in file:
            position += len(text)
            whole = position if text.endswith(END) else whole
        file.truncate(whole)


def judged_files(path: Path) -> dict[str, int]:
    """Return the files that a table has, each with the time of its last row, as in a frame."""
    cut_incomplete(path)
    return {file_of(row.file): from_text(row.time) for row in read_rows(path)}


def file_of(name: str) -> str:
    """Return the name of the file that a frame is a page of."""
    return re.sub(r"#\d+$", "", name)


def readable(text: str) -> str:
    """Return text that can be written as UTF-8, whatever bytes a file's name has."""
    return text.encode(errors="backslashreplace").decode()


def to_text(time: int) -> str:
    """Return a frame's time as the table has it; nothing for one that no calendar has."""
    try:
        moment = EPOCH + timedelta(microseconds=time)
    except OverflowError:
        return ""
    return moment.isoformat(timespec="microseconds") if time else ""


def from_text(time: str) -> int:
    """Return what to_text was given."""
    if not time:
        return 0
    return (datetime.fromisoformat(time) - EPOCH) // timedelta(microseconds=1)
