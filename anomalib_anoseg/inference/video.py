"""Images out of a video, a stream or a camera."""

import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_anoseg.inference.address import without_login
from anomalib_anoseg.inference.frames import Frame, reason
from anomalib_anoseg.inference.stopping import Stop

SILENT = 0  # OpenCV's level of logging
# Some formats state a duration and no number of frames: OpenCV's is then an estimate.
TOLERATED = 0.01
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_live(source: str) -> bool:
    """Return whether a source is the index of a camera or the address of a stream."""
    return source.isdecimal() or ADDRESS.match(source) is not None


class Video:
    """The frames of a video file, a stream such as rtsp:// or http://, or a camera.

    Args:
        source: Path, address, or the index of a camera.
        every: Give each such frame, the first one included; the others are not even converted.
        stop: Ends it.

    Raises:
        ValueError: If it cannot be opened.
    """

    def __init__(self, source: str, every: int, stop: Stop) -> None:
        self.missing = ""
        self._name, self._every, self._stop = without_login(source), every, stop
        self._is_live = is_live(source)
        self._video = _open(source)
        if not self._video.isOpened():
            kind = "as a stream or camera" if self._is_live else "as an image or video"
            msg = f"{self._name}: cannot be opened {kind}"
            if self._name != source:
                msg += "; in a user or password write # / ? @ and space as %23 %2F %3F %40 %20"
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return how many of its frames there are to judge, as far as it says."""
        return (self._expected + self._every - 1) // self._every

    @property
    def _expected(self) -> int:
        return max(0, int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)))

    def rounds(self) -> Iterator[Iterable[Frame]]:
        """Yield the video: a file waits for nothing."""
        yield self

    def __iter__(self) -> Iterator[Frame]:
        """Yield every frame that is asked for until the source ends."""
        number, last = 0, 0.0
        try:
            while not self._stop.asked:
                try:
                    found, image = self._next(wanted=number % self._every == 0)
                except Exception as error:  # noqa: BLE001 - OpenCV's and the memory's
                    self.missing = f"{self._name}: frame {number} cannot be read: {reason(error)}"
                    return
                if not found:
                    self.missing = self._not_given(number, last)
                    return
                last = self._video.get(cv2.CAP_PROP_POS_MSEC)
                if image is not None:
                    now = 0 if self._expected else time.time_ns() // 1000
                    yield Frame(f"{number:06}", image, time=now)
                number += 1
        finally:
            self._video.release()

    def _next(self, *, wanted: bool) -> tuple[bool, NDArray[np.uint8] | None]:
        """Return whether there is a next frame, and what it shows if that is wanted."""
        found = self._video.grab()
        if not (found and wanted):
            return found, None
        found, image = self._video.retrieve()
        return found, np.ascontiguousarray(image[..., ::-1], np.uint8) if found else None

    def _not_given(self, number: int, last: float) -> str:
        """Return what is missing after so many frames; the last one was shown at so many ms."""
        expected = self._expected
        if number == 0 and not self._is_live:
            return f"{self._name}: no frame of it could be read"
        if not expected:
            after = f"{self._name}: ended after {number} frames"
            return f"{after}; a stream or camera has no end of its own" if self._is_live else ""
        lost = expected - number
        rate = self._video.get(cv2.CAP_PROP_FPS) or 1.0
        early = last * rate / 1000 < expected - 1.5  # the last frame shown was not the last
        if lost > max(1, TOLERATED * expected) or (lost > 0 and early):
            return f"{self._name}: has {expected} frames, of which {number} could be read"
        return ""


def _open(source: str) -> cv2.VideoCapture:
    # What cannot be opened is one line of ours, not several of each library.
    logging: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # OpenCV 4.13 moved it
    logging.setLogLevel(SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return cv2.VideoCapture(int(source) if source.isdecimal() else source)
