"""Images out of a folder, a glob, a file, a video or a camera."""

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_anoseg.inference.parallel import in_order

# For each format a decoder that gives the very pixels that Pillow does, in half the time or less,
# and how complete files end: of torn ones it would return what is there.
FAST: dict[str | None, tuple[Callable[[bytes], Any], bytes]] = {
    "PNG": (imagecodecs.png_decode, b"IEND\xaeB`\x82"),
    "JPEG": (imagecodecs.jpeg8_decode, b"\xff\xd9"),
}
SILENT = 0  # OpenCV's level of logging
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Frame(NamedTuple):
    """One image, or why there is none.

    Attributes:
        name: Relative to the folder; of a video or camera the frame's number.
        image: RGB, (h, w, 3), uint8.
        error: What is wrong with the file.
    """

    name: str
    image: NDArray[np.uint8] | None
    error: str = ""


class Frames:
    """The frames of a source, in order.

    Args:
        source: A folder, whose images are found at any depth; a glob; an image; a video; or the
            index of a camera.

    Raises:
        FileNotFoundError: If there is no such file, or the folder or the glob has no images.
        ValueError: If a video or camera cannot be opened.
    """

    def __init__(self, source: str) -> None:
        path = Path(source)
        self._root, self._paths = path.parent, [path]
        self._video: cv2.VideoCapture | None = None
        if path.is_dir():
            self._root = path
            self._paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif glob.has_magic(source) and not path.exists():
            found = map(Path, glob.glob(source, recursive=True))  # noqa: PTH207 - may be absolute
            self._paths = sorted(path for path in found if path.is_file())
            self._root = _common_folder(self._paths)
        elif not source.isdecimal() and not path.exists():
            msg = f"{source}: no such file or folder"
            raise FileNotFoundError(msg)
        elif path.suffix.lower() not in SUFFIXES:
            self._video = _open_video(source)
            if not self._video.isOpened():
                msg = f"{source}: not an image, and cannot be opened as a video or camera"
                raise ValueError(msg)
        if not self._paths:
            msg = f"{source}: no images ({', '.join(sorted(SUFFIXES))})"
            raise FileNotFoundError(msg)

    def __len__(self) -> int:
        """Return how many there are; 0 where nobody knows, as with a camera."""
        if self._video is None:
            return len(self._paths)
        return max(0, int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[Frame]:
        """Yield every frame; files are decoded by threads."""
        if self._video is None:
            return in_order(self._read, self._paths)
        return self._play(self._video)

    def _read(self, path: Path) -> Frame:
        name = path.relative_to(self._root).as_posix()
        try:
            return Frame(name, read_image(path))
        except Exception as error:  # noqa: BLE001 - PIL's decoders raise what they like
            return Frame(name, None, str(error).partition("\n")[0] or type(error).__name__)

    @staticmethod
    def _play(video: cv2.VideoCapture) -> Iterator[Frame]:
        number = 0
        try:
            while True:
                found, image = video.read()
                if not found:
                    return
                yield Frame(f"{number:06}", image[..., ::-1].astype(np.uint8))
                number += 1
        finally:
            video.release()


def _open_video(source: str) -> cv2.VideoCapture:
    # What cannot be opened is one line of ours, not several of each library.
    logging: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # OpenCV 4.13 moved it
    logging.setLogLevel(SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return cv2.VideoCapture(int(source) if source.isdecimal() else source)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image the way anomalib reads those it trains on, without turning it by EXIF.

    Returns:
        RGB, (h, w, 3). Grey is repeated, CMYK converted, an alpha channel dropped.

    Raises:
        ValueError: If it has more than 8 bits, which anomalib's reader cuts off at white.
        OSError: If it cannot be read.
    """
    with Image.open(path) as image:
        if image.mode[0] in "IF":
            msg = f"more than 8 bits per channel (mode {image.mode}): convert it to 8 bits"
            raise ValueError(msg)
        if image.mode in ("RGB", "L") and image.format in FAST:
            pixels = _decode(path.read_bytes(), *FAST[image.format])
            if pixels is not None:
                return pixels
        return np.array(image.convert("RGB"))


def _decode(data: bytes, decode: Callable[[bytes], Any], end: bytes) -> NDArray[np.uint8] | None:
    """Return RGB, or None for a damaged file: Pillow has the words for what is wrong."""
    if not data.endswith(end):
        return None
    try:
        pixels: NDArray[np.uint8] = decode(data)
    except RuntimeError:
        return None
    colours = pixels[..., None].repeat(3, -1) if pixels.ndim == 2 else pixels[..., :3]
    return np.ascontiguousarray(colours)


def _common_folder(paths: list[Path]) -> Path:
    """Return the deepest folder that holds all paths."""
    parents = [path.parent.parts for path in paths]
    shared = [parts[0] for parts in zip(*parents, strict=False) if len(set(parts)) == 1]
    return Path(*shared)
