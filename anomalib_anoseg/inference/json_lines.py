"""Results as they come, one JSON object per line, for a program that waits for them."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

from anomalib_anoseg.inference.table import Row

STDOUT = "-"


@contextmanager
def json_lines(target: str | None, *, kept: bool) -> Iterator[Callable[[Row], None]]:
    """Give a function that writes a row at once.

    Args:
        target: A file, whose folder is made if needed, a named pipe, ``-`` for standard output, or
            None: nothing is written.
        kept: Add to a file that exists instead of replacing it.

    Raises:
        BrokenPipeError: From the function, if nobody reads any more.
    """
    if target is None:
        yield lambda _: None
        return
    if target != STDOUT:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
    file = sys.stdout.fileno() if target == STDOUT else target
    # Unbuffered: after a broken pipe nothing is left to be written when Python ends.
    with open(file, "ab" if kept else "wb", buffering=0, closefd=target != STDOUT) as stream:
        yield lambda row: _write(stream, row)


def _write(stream: RawIOBase, row: Row) -> None:
    rest = json.dumps(as_json(row)).encode() + b"\n"
    while rest:  # a signal may cut a long line in two
        rest = rest[stream.write(rest) or 0 :]


def as_json(row: Row) -> dict[str, Any]:
    """Return a row with numbers for text, boxes as lists, and None where nothing applies."""
    boxes = [[int(number) for number in box.split()] for box in row.boxes.split(";") if box]
    return {
        "file": row.file,
        "score": float(row.score) if row.score else None,
        "label": row.label or None,
        "defect_area": int(row.defect_area) if row.defect_area else None,
        "boxes": boxes if row.defect_area else None,
        "time": row.time or None,
        "error": row.error or None,
    }
