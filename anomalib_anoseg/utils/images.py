"""One reader for every image: in training, inspection and reports alike.

- **Format**: what a file holds decides, not its suffix. Suffixes say only which files of a folder
  are images; they are those that anomalib's data modules look for.
- **Colour**: grey is repeated, CMYK and palettes are converted, alpha and colour profiles dropped:
  what Pillow's ``convert("RGB")`` gives, bit for bit, for every file of 8 bits.
- **Depth**: deeper files are divided by the largest value that their format can hold,
  2 ** bits - 1 with the bits per sample that the file states (PNM: its maximum value), never by
  their own brightest pixel: the same grey is then the same number in every image. PNG's sBIT and
  TIFF's MaxSampleValue change nothing, as both standards ask. Floats must lie in [0, 1].
- **Orientation**: images are turned upright as EXIF says.
- **Size**: Pillow's limit of pixels, which is for files of strangers, does not hold.
- **Refused**, by name: signed and 32-bit integers, half floats, deep TIFFs in other colours than
  grey and RGB, in planes, or compressed other than by LZW, Deflate or PackBits, and deep images in
  other formats than PNG, PNM and TIFF.
"""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from anomalib_anoseg.utils.files import files_below
from anomalib_anoseg.utils.image_header import (
    TIFF_MAGIC,
    TURNS,
    Depth,
    naming_file,
    parse_header,
    read_header,
)
from anomalib_anoseg.utils.pixel_limit import any_size

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
Pixels = NDArray[np.uint8] | NDArray[np.float32]
# OpenCV gives the very pixels that Pillow does for these, in 0.5 to 0.9 of the time at 1024 px; of
# a file that does not end like this it would return what is there.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def find_images(folder: Path) -> list[Path]:
    """Return every image below a folder, sorted, and the folders that cannot be looked into.

    Who reads one of these gets the error: its images do not go missing without a word.

    Raises:
        PermissionError: If it is the folder itself that cannot be looked into.
    """
    unread: list[Path] = []
    found = files_below(folder, lambda path: path.suffix.lower() in SUFFIXES, unread)
    return sorted([*found, *unread])


def read_image(path: Path, page: int = 0) -> Pixels:
    """Read an image; of a file with several pages, the given one.

    Returns:
        RGB, (h, w, 3): uint8, or float32 in [0, 1] where the file has more than 8 bits.

    Raises:
        OSError: If there is no such file.
        ValueError: If it cannot be read rightly; the message names the file.
    """
    return decode(path, path.read_bytes(), page)


def decode(path: Path, data: bytes, page: int = 0) -> Pixels:
    """Return what read_image does, from what was read of the file: once for all of its pages."""
    with naming_file(path):
        header = parse_header(io.BytesIO(data), page)
        if header.depth is None:
            return _read_shallow(data, page, header.orientation)
        return _read_deep(data, page, header.orientation, header.depth)


def count_pages(path: Path) -> int:
    """Return how many pages a TIFF has, or frames an animation; 1 for everything else.

    Raises:
        OSError: If there is no such file.
        ValueError: If it cannot be read rightly; the message names the file.
    """
    return read_header(path).pages


def to_8_bits(pixels: Pixels) -> NDArray[np.uint8]:
    """Return what a picture shows of what read_image gives."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    return (pixels * 255).round().astype(np.uint8)


def _read_shallow(data: bytes, page: int, orientation: int) -> NDArray[np.uint8]:
    with any_size, Image.open(io.BytesIO(data)) as image:
        image.seek(page)
        end = ENDS.get(image.format or "")
        if page == 0 and image.mode in ("RGB", "L") and end and data.endswith(end):
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            if decoded is not None:  # else Pillow has the words for what is wrong
                return _turned(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), orientation)
        if image.format != "TIFF":  # which Pillow turns as it decodes it
            return _turned(np.array(image.convert("RGB")), orientation)
        ImageOps.exif_transpose(image, in_place=True)
        return np.array(image.convert("RGB"))


def _read_deep(data: bytes, page: int, orientation: int, depth: Depth) -> NDArray[np.float32]:
    pixels = _decode(data, page)
    if pixels.dtype.kind == "f":
        lowest, highest = pixels.min(), pixels.max()
        if not (lowest >= 0 and highest <= 1):
            msg = f"float values must lie in [0, 1], got {lowest:.4g} to {highest:.4g}"
            raise ValueError(msg)
    elif depth.shift:
        pixels = pixels >> depth.shift
    scaled = np.divide(pixels, depth.highest, dtype=np.float32)
    if depth.inverted:
        scaled = 1 - scaled
    if scaled.ndim == 2:
        scaled = scaled[..., None].repeat(3, -1)
    scaled = scaled[..., 2::-1]  # OpenCV's order is blue, green, red, alpha
    # OpenCV itself turns TIFFs, and only these.
    return _turned(scaled, 1 if data[:4] in TIFF_MAGIC else orientation)


def _decode(data: bytes, page: int) -> NDArray[Any]:
    encoded = np.frombuffer(data, np.uint8)
    if page:
        _, pages = cv2.imdecodemulti(encoded, cv2.IMREAD_UNCHANGED, range=(page, page + 1))
        pixels = pages[0] if pages else None
    else:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        msg = "damaged or incomplete"
        raise ValueError(msg)
    return pixels


def _turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn pixels upright, as EXIF says."""
    transposed, rows, columns = TURNS.get(orientation, (False, 1, 1))
    upright = pixels.swapaxes(0, 1) if transposed else pixels
    return np.ascontiguousarray(upright[::rows, ::columns])
