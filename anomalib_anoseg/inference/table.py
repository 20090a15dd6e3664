"""results.csv: a row per image, written one by one and read again by a run that continues it."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple

TABLE = "results.csv"
BOM = b"\xef\xbb\xbf"  # what spreadsheets put before UTF-8
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST = 2**31 - 1  # characters of a field; csv's own limit is the boxes of some 8,000 defects


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
        ValueError: If it has other columns, or cannot be read as a table.
    """
    if not path.is_file():
        return
    csv.field_size_limit(LONGEST)  # of the process; there is none of a reader
    with path.open("rb") as file:
        file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
        rows = csv.reader(text.decode() for text in _whole_lines(file))
        try:
            if tuple(next(rows, ())) != Row._fields and not _is_begun(file):
                columns = ", ".join(Row._fields)
                msg = f"{path}: has other columns than {columns}: choose another folder of results"
                raise ValueError(msg)
            for number, row in enumerate(rows, 1):
                if len(row) != len(Row._fields):
                    msg = f"{path}: row {number} has {len(row)} columns of {len(Row._fields)}"
                    raise ValueError(msg)
                yield Row(*row)
        except (csv.Error, UnicodeDecodeError) as error:
            msg = f"{path}: cannot be read as a table: {error}"
            raise ValueError(msg) from error


def _is_begun(file: BinaryIO) -> bool:
    """Return whether a file without whole lines is empty, or has a part of the first one."""
    file.seek(0)
    header = line(Row._fields)
    return header.startswith(file.read(len(header)).removeprefix(BOM))


def _whole_lines(file: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yield the lines that are ended, by \r\n or, where another program saved them, by \n.

    A name within quotes may hold the end of a line itself.

    Raises:
        csv.Error: If a quote is not closed and whole rows follow: they are not lost as incomplete.
    """
    begun: list[bytes] = []
    quoted = False
    for text in file:
        begun.append(text)
        quoted ^= text.count(b'"') % 2 == 1
        if text.endswith(b"\n") and not quoted:
            yield b"".join(begun)
            begun = []
    rows = [text for text in begun[1:] if text.endswith(b"\n")]
    if any(text.count(b",") >= len(Row._fields) - 1 for text in rows):
        msg = f"a quote is not closed in {begun[0].decode(errors='backslashreplace').strip()}"
        raise csv.Error(msg)


def cut_incomplete(path: Path) -> None:
    """Remove the beginning of a line that a run was writing when it was killed.

    Raises:
        ValueError: If it is no table of ours; then nothing is removed.
    """
    if not path.is_file():
        return
    deque(read_rows(path), maxlen=0)
    with path.open("rb+") as file:
        file.truncate(sum(map(len, _whole_lines(file))))


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
