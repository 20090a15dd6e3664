"""Images that appear in a folder, each once."""

import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from anomalib_anoseg.inference.address import without_login
from anomalib_anoseg.inference.files import Files, written
from anomalib_anoseg.inference.frames import Frame, reason
from anomalib_anoseg.inference.journal import KINDS, holds_results, refuse_drawn
from anomalib_anoseg.inference.stopping import Stop
from anomalib_anoseg.inference.table import TABLE, file_of, judged_files, readable
from anomalib_anoseg.utils.files import is_of_the_system
from anomalib_anoseg.utils.images import SUFFIXES

SETTLED = 0.5  # seconds without a change after which a file is whole
POLL = 0.2  # seconds between two looks, at least
SHARE = 0.2  # of a processor, at most, that looking at many files takes
ENDINGS = tuple(SUFFIXES)
PATIENCE = 30.0  # seconds for which a file that cannot be opened is tried again, each SETTLED
ROUND = 200  # files; those that have come meanwhile are then put in order with the rest


class _State(NamedTuple):
    """A file as it was found, and since when it has been so."""

    time: int
    size: int
    since: float


class Watch:
    """The frames of images that appear in a folder or below it.

    A file is judged when it has not changed for half a second; an empty one is waited for, and for
    half a minute one that cannot be opened, as on a share that is away for a moment. A file that is
    written again is a new image. What is gone before its turn has never been there. A folder that
    cannot be looked into is an image with an error.

    Args:
        folder: Looked at again and again; links to folders are not followed.
        output: The folder of results: what its table has is not judged again.
        stop: Ends it.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the table has other columns, or the folder is where infer draws to.
    """

    def __init__(self, folder: Path, output: Path, stop: Stop) -> None:
        if not folder.is_dir():
            msg = f"{without_login(str(folder))}: no such folder to watch"
            raise FileNotFoundError(msg)
        refuse_drawn(folder, output)
        self.missing = ""
        self._folder, self._stop = folder, stop
        self._identity = _identity(folder)
        self._output = output.resolve()
        self._judged = judged_files(output / TABLE)
        self._found: dict[str, _State] = {}
        self._refused: dict[str, float] = {}  # files that could not be opened, and since when

    def __len__(self) -> int:
        """Return 0: nobody knows how many images will come."""
        return 0

    def rounds(self) -> Iterator[Iterable[Frame]]:
        """Yield the images that are whole, oldest first, until stopped or the folder is gone."""
        while not self._stop.asked:
            started = time.thread_time()
            try:
                names = self._look(time.monotonic())
            except OSError as error:
                self.missing = f"{self._folder}: can no longer be read: {reason(error)}"
                return
            took = time.thread_time() - started
            if names:
                yield self._frames(names)
            if len(names) < ROUND:
                self._wait(max(POLL, took / SHARE))

    def _look(self, now: float) -> list[str]:
        """Return some of the files that are whole and were not judged yet."""
        if _identity(self._folder) != self._identity:  # a share that is gone leaves its mount point
            msg = "another folder is there now"
            raise FileNotFoundError(msg)
        found = {}
        for name, state in self._states(self._folder, "", now):
            if state.size and state.time != self._judged.get(readable(name)):
                known = self._found.get(name, state)
                found[name] = known if known[:2] == state[:2] else state
        self._found = found
        self._refused = {name: at for name, at in self._refused.items() if name in found}
        whole = [name for name, state in found.items() if now - state.since >= SETTLED]
        return sorted(whole, key=lambda name: (found[name].time, name))[:ROUND]

    def _states(self, folder: Path, prefix: str, now: float) -> Iterator[tuple[str, _State]]:
        """Yield the images below a folder, but none that infer has drawn.

        And what cannot be looked into, of a time that it keeps.
        """
        drawn = KINDS if holds_results(folder, self._output) else ()
        with os.scandir(folder) as entries:  # one by one: with what it caches an entry takes 1 kB
            for entry in entries:
                name = prefix + entry.name
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name not in drawn:
                            yield from self._states(folder / entry.name, f"{name}/", now)
                    elif entry.name.lower().endswith(ENDINGS):
                        status = entry.stat()
                        if stat.S_ISREG(status.st_mode):
                            yield name, _State(written(status), status.st_size, now)
                except PermissionError:
                    if not is_of_the_system(entry.name):
                        yield name, _State(_time(folder / entry.name), 1, now)
                except OSError:  # gone meanwhile
                    continue

    def _frames(self, names: list[str]) -> Iterator[Frame]:
        for frame in Files(self._folder, [self._folder / name for name in names], self._stop):
            name = frame.name if frame.name in names else file_of(frame.name)
            if frame.error and not self._is_final(frame, name):
                continue
            self._judged[readable(name)] = frame.time
            yield frame

    def _is_final(self, frame: Frame, name: str) -> bool:
        """Return whether what could not be read is an error; else it is gone, or tried again."""
        if self._judged.get(readable(name)) == frame.time:  # a page after the first
            return True
        if not _exists(self._folder / name):
            return False
        now = time.monotonic()
        if frame.unopened and now - self._refused.setdefault(name, now) < PATIENCE:
            self._found[name] = self._found[name]._replace(since=now)
            return False
        return True

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stop.asked and time.monotonic() < end:
            time.sleep(min(POLL, seconds))  # a signal does not end a sleep


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # of a share that is away for a moment
    return True


def _time(path: Path) -> int:
    """Return a frame's time of a file; 0, as there, where nobody may know."""
    try:
        return written(path.stat())
    except OSError:
        return 0
