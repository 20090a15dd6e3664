"""What every source of images gives."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from anomalib_anoseg.utils.images import Pixels


class Frame(NamedTuple):
    """One image, or why there is none.

    Attributes:
        name: Relative to the folder, with ``#1``, ``#2``... for the pages of a file that has
            several; of a video or camera the frame's number.
        image: RGB, (h, w, 3), uint8, or float32 in [0, 1] of a file with more than 8 bits.
        error: What is wrong with it.
    """

    name: str
    image: Pixels | None
    error: str = ""


class Source(Protocol):
    """Where frames come from.

    Attributes:
        missing: What the source should have given and did not, once it was read; empty if nothing.
    """

    missing: str

    def __len__(self) -> int:
        """Return how many frames are expected; 0 where nobody knows, as with a camera."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield every frame, in an order that is always the same."""


def reason(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
