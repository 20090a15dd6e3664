"""Files that are complete or not there, on file systems of any kind."""

import errno
import os
import stat
from pathlib import Path

import pytest

from anomalib_anoseg.utils.files import complete_file, complete_files


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, *, folders: bool) -> None:
    """Have fsync fail for folders, or for files, as some file systems do."""
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def write_two(folder: Path) -> None:
    with complete_file(folder / "alone") as part:
        part.write_text("new")
    with complete_files(folder / "several") as parts:
        (parts / "one").write_text("new")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP])
def test_folders_that_cannot_be_synced_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(monkeypatch, number, folders=True)
    write_two(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {
        "alone": "new", "one": "new",
    }  # fmt: skip


@pytest.mark.parametrize(("number", "folders"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_other_errors_and_those_of_files_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, folders: bool
) -> None:
    refuse(monkeypatch, number, folders=folders)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_two(tmp_path)
