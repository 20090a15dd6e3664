"""What every source of images gives."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from anomalib_anoseg.utils.images import Pixels


class Frame(NamedTuple):
    """One image, or why there is none.

    Attributes:
        name: Relative to the folder, with ``#1``, ``#2``... for the pages of a file that has
            several; of a video or camera the frame's number.
        image: RGB, (h, w, 3), uint8, or float32 in [0, 1] of a file with more than 8 bits.
        error: What is wrong with it.
        time: When its file was last written, or a camera gave it, in microseconds since 1970, UTC;
            0 where nobody knows, as in a video.
        unopened: Whether its file could not be opened, which may be over in a moment.
    """

    name: str
    image: Pixels | None
    error: str = ""
    time: int = 0
    unopened: bool = False


class Source(Protocol):
    """Where frames come from."""

    @property
    def missing(self) -> str:
        """What the source should have given and did not, once it was read; empty if nothing."""

    def __len__(self) -> int:
        """Return how many frames are expected; 0 where nobody knows, as with a camera."""

    def rounds(self) -> Iterator[Iterable[Frame]]:
        """Yield what there is to judge at a time, in an order that is always the same.

        Frames of a round are worked on together. A source that has to wait for its next frame ends
        the round, so that no result waits with it.
        """


def reason(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
