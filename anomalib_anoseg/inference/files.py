"""Images out of files: of a folder, of a pattern, or a single one."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from anomalib_anoseg.inference.address import without_login
from anomalib_anoseg.inference.frames import Frame, reason
from anomalib_anoseg.inference.journal import holds_results, refuse_drawn, without_results
from anomalib_anoseg.inference.parallel import in_order
from anomalib_anoseg.inference.stopping import Stop
from anomalib_anoseg.utils.files import files_below
from anomalib_anoseg.utils.images import (
    SUFFIXES,
    Pixels,
    count_pages,
    decode,
    find_images,
    read_image,
)


class Files:
    """The frames of image files, decoded by threads.

    Args:
        root: What names are relative to.
        paths: Files below it.
        stop: Ends it, after the last page of a file.
    """

    missing = ""

    def __init__(self, root: Path, paths: list[Path], stop: Stop) -> None:
        self._root, self._paths, self._stop = root, paths, stop

    def __len__(self) -> int:
        """Return the number of files; some may have several pages."""
        return len(self._paths)

    def rounds(self) -> Iterator[Iterable[Frame]]:
        """Yield all files: they wait for nothing."""
        yield self

    def __iter__(self) -> Iterator[Frame]:
        """Yield every page of every file."""
        for path, (pages, first) in zip(
            self._paths, in_order(self._first_page, self._paths), strict=True
        ):
            if self._stop.asked:
                return
            yield first
            if pages > 1:
                rest = partial(self._page, path, pages, first.time, _reader(path))
                yield from in_order(rest, range(1, pages))

    def _first_page(self, path: Path) -> tuple[int, Frame]:
        time = 0
        try:
            time = written(path.stat())
            pages = count_pages(path)
        except Exception as error:  # noqa: BLE001 - as when it is read
            return 1, _unread(self._name(path), path, error, time)
        return pages, self._page(path, pages, time, partial(read_image, path), 0)

    def _page(
        self, path: Path, pages: int, time: int, read: Callable[[int], Pixels], page: int
    ) -> Frame:
        name = self._name(path) + (f"#{page + 1}" if pages > 1 else "")
        try:
            return Frame(name, read(page), time=time)
        except Exception as error:  # noqa: BLE001 - decoders raise what they like
            return _unread(name, path, error, time)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _reader(path: Path) -> Callable[[int], Pixels]:
    """Return what gives a page: the file is read now, and not again for each of them."""
    try:
        return partial(decode, path, path.read_bytes())
    except (OSError, MemoryError):  # which each page then says
        return partial(read_image, path)


def written(status: os.stat_result) -> int:
    """Return when a file was last written, as in a frame."""
    return status.st_mtime_ns // 1000


def images_below(folder: Path, output: Path | None = None) -> list[Path]:
    """Return every image below a folder, but none that infer has drawn or will draw to output.

    Raises:
        FileNotFoundError: If there is no such folder, or it has no images.
        ValueError: If infer has drawn all of them.
    """
    if not folder.is_dir():
        msg = f"{folder}: no such folder"
        raise FileNotFoundError(msg)
    refuse_drawn(folder, output)
    return _some(without_results(folder, find_images(folder), output), str(folder))


def images_matching(pattern: str, output: Path | None = None) -> tuple[Path, list[Path]]:
    """Return the deepest folder of the images that match a pattern, and the images.

    Raises:
        FileNotFoundError: If none does.
        ValueError: If infer has drawn all of them.
    """
    # A folder that is there is meant, whatever brackets its name has.
    parents = Path(pattern).parents
    folder = next(filter(Path.is_dir, parents), parents[-1])
    below = str(Path(pattern).relative_to(folder))
    names = glob.glob(below, root_dir=folder, recursive=True)  # noqa: PTH207 - ** finds files too
    found = (folder / name for name in names)
    paths = sorted({p for p in found if p.suffix.lower() in SUFFIXES and p.is_file()})
    root = Path(os.path.commonpath([path.parent for path in _some(paths, pattern)]))
    refuse_drawn(root, output)
    return root, _some(without_results(root, paths, output), pattern)


def count_others(folder: Path, output: Path) -> int:
    """Return how many files below a folder infer passes over; 0 if it is none.

    Hidden files do not count, nor what lies where infer has drawn to or will draw to.
    """
    if not folder.is_dir():
        return 0

    def is_other(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return path.suffix.lower() not in SUFFIXES and not hidden

    others = [*files_below(folder, is_other, [])]
    ours = output.resolve()
    results = {parent for parent in {path.parent for path in others} if holds_results(parent, ours)}
    return sum(path.parent not in results for path in without_results(folder, others, output))


def _some(paths: list[Path], source: str) -> list[Path]:
    if not paths:
        msg = f"{without_login(source)}: no images ({', '.join(sorted(SUFFIXES))})"
        raise FileNotFoundError(msg)
    return paths


def _unread(name: str, path: Path, error: Exception, time: int) -> Frame:
    why = reason(error).removeprefix(f"cannot read {path}: ")
    return Frame(name, None, why, time, unopened=isinstance(error, OSError))
