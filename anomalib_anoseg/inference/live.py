"""The newest frames of a camera or stream, which waits for nobody."""

from collections import deque
from collections.abc import Iterable, Iterator
from threading import Condition, Thread

from anomalib_anoseg.inference.frames import Frame
from anomalib_anoseg.inference.stopping import Stop
from anomalib_anoseg.inference.video import Video

WAITING = 2  # frames at most; older ones are dropped, so that a result is never late
PATIENCE = 0.2  # seconds between two looks at whether to stop
GRACE = 5.0  # seconds for the last frame of a camera to come


class Live:
    """The frames of a video that has no end of its own, read by a thread.

    Frames that come while others are judged are dropped, but for the newest; gaps in the numbers
    of the frames tell which.

    Args:
        video: A camera or a stream.
        stop: Ends it.
    """

    def __init__(self, video: Video, stop: Stop) -> None:
        self._video, self._stop = video, stop
        self._waiting: deque[Frame] = deque(maxlen=WAITING)
        self._changed = Condition()
        self._reader = Thread(target=self._read, daemon=True)  # a camera may never answer again

    @property
    def missing(self) -> str:
        """Return how it ended; a camera has no end of its own."""
        return self._video.missing

    def __len__(self) -> int:
        """Return 0: nobody knows how many frames will come."""
        return 0

    def rounds(self) -> Iterator[Iterable[Frame]]:
        """Yield frames as long as there are some, again and again."""
        self._reader.start()
        while self._has_some():
            yield self._those_there()
        self._reader.join(GRACE)

    def _read(self) -> None:
        for frame in self._video:
            with self._changed:
                self._waiting.append(frame)
                self._changed.notify()

    def _has_some(self) -> bool:
        """Wait for a frame; return False if there will be none."""
        while not self._stop.asked:
            reading = self._reader.is_alive()
            with self._changed:
                if self._waiting or self._changed.wait_for(lambda: self._waiting, PATIENCE):
                    return True
            if not reading:
                return False
        return False

    def _those_there(self) -> Iterator[Frame]:
        while self._waiting and not self._stop.asked:
            yield self._waiting.popleft()
