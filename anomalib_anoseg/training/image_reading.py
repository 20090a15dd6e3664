"""Make anomalib's data sets read their images as everything else here does.

Their own reader cuts more than 8 bits off at white and ignores EXIF's orientation. anomalib's
inferencers, given a path, use it as well, and are not ours to change: give them arrays.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import new_class
from typing import Any

import torch
from anomalib.data.utils import read_image as anomalib_reader
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_anoseg.utils.images import read_image
from anomalib_anoseg.utils.rebinding import calls, rebound

READER = "read_image"  # anomalib's function, by the name its data sets call it


class ImageReading:
    """Lends data sets our reader, and takes it back."""

    def __init__(self) -> None:
        self._changed: list[tuple[Any, type]] = []

    def lend(self, dataset: Any) -> None:
        """Let a data set that reads its images with anomalib's reader use ours."""
        kind: Any = type(dataset)
        ours = _with_our_reader(kind)
        if ours is not kind:
            self._changed.append((dataset, kind))
            dataset.__class__ = ours

    def take_back(self) -> None:
        """Leave all data sets as they were: another model may use them next."""
        for dataset, kind in reversed(self._changed):
            dataset.__class__ = kind
        self._changed.clear()


@contextmanager
def read_by_ours(source: Any) -> Iterator[None]:
    """Lend the data sets of a source our reader for as long as the block runs."""
    reading = ImageReading()
    try:
        for dataset in datasets_of(source):
            reading.lend(dataset)
        yield
    finally:
        reading.take_back()


@cache
def _with_our_reader(kind: Any) -> Any:
    """Return a subclass whose images are read by ours; or the class, if that is not possible.

    A copy of anomalib's own ``__getitem__``, which finds our function under the name of theirs: so
    masks, labels and augmentations stay as they are in whatever version of anomalib. It comes right
    before theirs in the order of classes, where a user's own ``super().__getitem__`` finds it.
    """
    for owner in kind.__mro__:
        theirs = vars(owner).get("__getitem__")
        if calls(theirs, READER) and theirs.__globals__.get(READER) in (_read, anomalib_reader):
            break
    else:
        return kind
    if theirs.__globals__[READER] is _read:
        return kind
    ours = rebound(theirs, **{READER: _read})
    reading = _subclass("Reading", (owner,), __getitem__=ours)
    bases = (reading,) if owner is kind else (kind, reading)
    members = {"__module__": __name__, "__reduce_ex__": _reduce, "_theirs": kind}
    return _subclass(kind.__name__, bases, **members)


def _subclass(name: str, bases: tuple[type, ...], **members: Any) -> type:
    return new_class(name, bases, exec_body=lambda namespace: namespace.update(members))


def _reduce(dataset: Any, protocol: int) -> tuple[Any, ...]:
    """Pickle for the workers of a data loader, and copy: a class made here has no name to find."""
    del protocol
    return _restore, (dataset._theirs,), dataset.__getstate__()  # noqa: SLF001


def _restore(kind: Any) -> Any:
    ours = _with_our_reader(kind)
    return ours.__new__(ours)


def _read(path: str | Path, as_tensor: bool = False) -> Tensor:
    """Read an image as anomalib's function does: (3, h, w), float32 in [0, 1]."""
    assert as_tensor  # what its data sets ask for
    image: Tensor = to_dtype(to_image(read_image(Path(path))), torch.float32, scale=True)
    return image


def datasets_of(source: Any) -> Iterator[Any]:
    """Yield the data sets of a loader, of a list of loaders, or of what wraps a data set."""
    if isinstance(source, dict):
        source = list(source.values())
    if isinstance(source, list | tuple):
        for part in source:
            yield from datasets_of(part)
        return
    for name in ("dataset", "datasets"):
        inner = getattr(source, name, None)
        if inner is not None:
            yield from datasets_of(inner)
            return
    if source is not None:
        yield source
