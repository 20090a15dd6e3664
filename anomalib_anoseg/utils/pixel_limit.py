"""Pillow's limit of pixels, which guards against strangers' files, lifted for a user's own."""

from threading import Lock

from PIL import Image


class AnySize:
    """A context in which Pillow opens images of any number of pixels.

    The limit is one for all threads of a process: it goes when the first of ours begins to read,
    and is back once none of them does. What other threads open meanwhile has no limit either.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._readers = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


any_size = AnySize()
