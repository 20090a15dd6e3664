"""Which pictures infer has written into a folder: its own to remove, and nobody's input."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

JOURNAL = ".pictures"  # in the folder of results: names of files, each ended by a zero byte
KINDS = ("masks", "overlays")  # folders that pictures are written to


class Appended:
    """A file to which each write adds all of its bytes or nothing.

    Args:
        path: Where. If another program replaces the file, as many do that save one, what follows
            is added to the new one.
        kept: Go on where it ends instead of emptying it.
        head: The line that it begins with, if what is added are lines.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, path: Path, *, kept: bool, head: bytes = b"") -> None:
        self._path, self._head = path, head
        self._lock = Lock()
        self._open("ab" if kept else "wb")

    def _open(self, mode: str) -> None:
        self._file: Any = self._path.open(mode, buffering=0)
        if not os.fstat(self._file.fileno()).st_size:
            self._add(self._head)
        elif self._head and not self._ends():
            self._add(b"\r\n")

    def write(self, data: bytes, *, to_disk: bool = False) -> None:
        """Add bytes; where the disk is full, raise and leave what was there before.

        Args:
            data: What to add.
            to_disk: Wait until it would survive a power cut.
        """
        with self._lock:
            if not self._is_in_place():
                before = self._file
                self._open("ab")
                before.close()
            self._add(data)
            if to_disk:
                os.fsync(self._file.fileno())

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def _ends(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _add(self, data: bytes) -> None:
        end = self._file.tell()
        if self._file.write(data) != len(data):
            self._file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Journal:
    """The pictures that infer has written into a folder of results.

    Args:
        folder: Of results.
        kept: Go on with the list of an earlier run.
    """

    def __init__(self, folder: Path, *, kept: bool) -> None:
        self._path = folder / JOURNAL
        self._list = Appended(self._path, kept=kept)
        self.close = self._list.close

    def add(self, *pictures: PurePosixPath) -> None:
        """Note pictures, named relative to the folder, that are about to be written.

        Also for after a power cut: a picture that is not noted is nobody's, and stays.
        """
        self._list.write(b"".join(map(_entry, pictures)), to_disk=True)

    def __contains__(self, picture: PurePosixPath) -> bool:
        # Asked for pictures that exist already, which are few: no memory is spent on the others.
        if not self._path.stat().st_size:
            return False
        with self._path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as names:
            entry = _entry(picture)
            return names[: len(entry)] == entry or names.find(b"\0" + entry) >= 0


def _entry(picture: PurePosixPath) -> bytes:
    return os.fsencode(str(picture)) + b"\0"


def remove_earlier(folder: Path) -> None:
    """Remove the pictures that an earlier run has written, and folders that this leaves empty."""
    emptied: set[Path] = set()
    for picture in _listed(folder):
        if picture.is_file():
            picture.unlink()
        with suppress(OSError):  # too long a name, for example: then there is none
            picture.with_name(picture.name + ".part").unlink()  # the run was killed
        below = picture.relative_to(folder).parents
        emptied.update(folder / parent for parent in below if parent.parts)
    for parent in sorted(emptied, key=lambda path: -len(path.parts)):
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def without_results(root: Path, paths: list[Path], output: Path | None) -> list[Path]:
    """Return the paths without what lies where infer draws to, anywhere below the root.

    That is masks/ and overlays/ in the folder of this run's results, and in those of earlier ones.
    """
    parents = {path.parent for path in paths}
    folders = {f for parent in parents for f in (parent, *parent.parents) if f.is_relative_to(root)}
    ours = None if output is None else output.resolve()
    results = {folder for folder in folders if holds_results(folder, ours)}
    drawn = {folder / kind for folder in results for kind in KINDS}
    kept = {parent for parent in parents if drawn.isdisjoint((parent, *parent.parents))}
    return [path for path in paths if path.parent in kept]


def refuse_drawn(folder: Path, output: Path | None) -> None:
    """Refuse pictures that infer has drawn, or will, as its input.

    Raises:
        ValueError: If the folder is, or lies in, masks/ or overlays/ of a folder of results.
    """
    ours = None if output is None else output.resolve()
    place = folder.resolve()
    for drawn in (place, *place.parents):
        if drawn.name in KINDS and holds_results(drawn.parent, ours):
            msg = f"{folder}: is where infer draws to, {drawn}: give the folder of the images"
            raise ValueError(msg)


def holds_results(folder: Path, ours: Path | None) -> bool:
    """Return whether infer has drawn into a folder, or will because it is ours (resolved)."""
    return (folder / JOURNAL).is_file() or folder.resolve() == ours


def _listed(folder: Path) -> Iterator[Path]:
    journal = folder / JOURNAL
    if journal.is_file():
        for name in journal.read_bytes().split(b"\0")[:-1]:
            picture = PurePosixPath(os.fsdecode(name))
            if picture.parts[:1] and picture.parts[0] in KINDS and ".." not in picture.parts:
                yield folder / picture
