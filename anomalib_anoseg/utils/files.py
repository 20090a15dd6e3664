"""Files that appear under their names once they are complete."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

NEARLY_FULL = 2**24  # bytes, more than these libraries write at a time


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Give a name to write to, beside the file, whose place it takes if nothing goes wrong."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def complete_files(folder: Path) -> Iterator[Path]:
    """Give a folder to write to; its files appear in the other one once all of them are complete.

    Args:
        folder: Made if needed. Files of the same names are replaced.

    Raises:
        OSError: If a file cannot be written, also where a library hides that its disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".export-") as part:
        try:
            yield Path(part)
        except (OSError, RuntimeError) as error:
            told = getattr(error, "errno", None) is not None
            if not told and shutil.disk_usage(folder).free < NEARLY_FULL:
                reason = os.strerror(errno.ENOSPC)
                raise OSError(errno.ENOSPC, reason, str(folder)) from error
            raise
        files = [path for path in Path(part).rglob("*") if path.is_file()]
        # Weights before what refers to them.
        for path in sorted(files, key=lambda path: path.suffix in {".xml", ".onnx"}):
            final = folder / path.relative_to(part)
            final.parent.mkdir(parents=True, exist_ok=True)
            path.replace(final)
