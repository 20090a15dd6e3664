"""Files that appear under their names once they are complete."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

NEARLY_FULL = 2**24  # bytes, more than these libraries write at a time
# Some network file systems answer so where a folder is to be synced: they cannot, nothing is lost.
NO_SYNC_OF_FOLDERS = {errno.EBADF, errno.EINVAL, errno.ENOTSUP}


def files_below(folder: Path, wanted: Callable[[Path], bool], unread: list[Path]) -> Iterator[Path]:
    """Yield the files below a folder that are wanted; links to folders are not followed.

    Args:
        folder: Where to look; without it there are none.
        wanted: Asked by the path alone; a file that is not is not looked at.
        unread: Gets the folders below it that cannot be looked into, but not those of the system.

    Raises:
        PermissionError: If it is the folder itself.
    """

    def failed(error: OSError) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):  # gone meanwhile
            return
        if Path(error.filename) == folder:
            raise error
        if not is_of_the_system(Path(error.filename).name):
            unread.append(Path(error.filename))

    for place, _, names in os.walk(folder, onerror=failed):
        for path in filter(wanted, (Path(place, name) for name in names)):
            try:
                is_file = stat.S_ISREG(path.stat().st_mode)
            except FileNotFoundError:
                is_file = False
            except OSError:  # in a folder that can be listed and nothing else
                is_file = True
            if is_file:
                yield path


@contextmanager
def complete_file(path: Path, *, to_disk: bool = True) -> Iterator[Path]:
    """Give a name to write to, beside the file, whose place it takes if nothing goes wrong.

    Args:
        path: The file.
        to_disk: Wait until it would survive a power cut.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        if to_disk:
            _to_disk(part)
        part.replace(path)
        if to_disk:
            _to_disk(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def is_of_the_system(name: str) -> bool:
    """Return whether a folder is one that systems make on their disks, for themselves alone."""
    return name.startswith((".", "$")) or name in {"lost+found", "System Volume Information"}


def require_place(output: Path) -> None:
    """Refuse where a file cannot be written, before minutes are spent on what goes into it.

    Raises:
        OSError: If its folder cannot be made or written to.
        ValueError: If it is a folder.
    """
    if output.is_dir():
        msg = f"output must be a file, got the folder {output}"
        raise ValueError(msg)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + ".part")
    part.touch()
    part.unlink()


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
            known = getattr(error, "errno", None) is not None
            if not known and shutil.disk_usage(folder).free < NEARLY_FULL:
                reason = os.strerror(errno.ENOSPC)
                raise OSError(errno.ENOSPC, reason, str(folder)) from error
            raise
        files = [path for path in Path(part).rglob("*") if path.is_file()]
        for path in files:
            _to_disk(path)
        # Weights before what refers to them.
        for path in sorted(files, key=lambda path: path.suffix in {".xml", ".onnx"}):
            final = folder / path.relative_to(part)
            final.parent.mkdir(parents=True, exist_ok=True)
            path.replace(final)
            _to_disk(final.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's names, would survive a power cut.

    A renamed file whose content was still on its way is empty after one, where the old file was.
    Names are waited for where the file system can: the file is complete and in its place anyway.
    """
    if os.name == "nt":  # no folders there, and only files that are open for writing
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC_OF_FOLDERS or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
