"""What an image says about itself before it is decoded: size, orientation, pages, depth."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from anomalib_anoseg.utils.pixel_limit import any_size

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNM_MAGIC = (b"P2", b"P3", b"P5", b"P6")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Width, height, bits, compression, colours, orientation, planes, kind of numbers.
TAGS = (256, 257, 258, 259, 262, 274, 284, 339)
COMPRESSIONS = (1, 5, 8, 32773, 32946)  # none, LZW, Deflate, PackBits, an older Deflate
# By EXIF's number: swap rows and columns, then the step through each.
TURNS = {
    2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1),
    5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1),
}  # fmt: skip


class Depth(NamedTuple):
    """How a file of more than 8 bits stores a sample.

    Attributes:
        highest: The value that is white; 1 for floats.
        shift: Bits by which OpenCV moves the value up.
        inverted: Whether 0 is white.
    """

    highest: int
    shift: int = 0
    inverted: bool = False


class Header(NamedTuple):
    """What an image says about itself before it is decoded.

    Attributes:
        height: In pixels, once turned upright.
        width: Likewise.
        orientation: EXIF's number from 1, upright, to 8.
        pages: Pages of a TIFF, frames of an animation, or 1.
        depth: None for 8 bits or fewer.
    """

    height: int
    width: int
    orientation: int = 1
    pages: int = 1
    depth: Depth | None = None


def read_header(path: Path) -> Header:
    """Read what an image says about itself; refuse what read_image would, unless it is torn.

    Raises:
        OSError: If there is no such file.
        ValueError: If it cannot be read rightly; the message names the file.
    """
    with path.open("rb") as file, naming_file(path):
        return parse_header(file)


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Put the file's name before what a decoder says; theirs are errors of a dozen types."""
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image, or damaged"
        msg = f"cannot read {path}: {reason}"
        raise ValueError(msg) from error


def holds_image(path: Path) -> bool:
    """Return whether a file is an image by what it holds, be it a torn or a refused one.

    Raises:
        OSError: If there is no such file.
    """
    with path.open("rb") as file:
        if file.read(4) in TIFF_MAGIC:  # of which Pillow does not know all
            return True
        file.seek(0)
        try:
            parse_header(file)
        except UnidentifiedImageError:
            return False
        except Exception:  # noqa: BLE001 - read_image says why it cannot be read
            return True
    return True


def parse_header(file: BinaryIO, page: int = 0) -> Header:
    """Read the header of an open file; of a TIFF, that of one page."""
    start = file.read(32)
    file.seek(0)
    if start[:4] in TIFF_MAGIC:
        header = _read_tags(list(_directories(file)), page)
        if header.depth is None:  # Pillow reads it, and refuses kinds of pixels it does not know
            file.seek(0)
            with any_size:
                Image.open(file).close()
        return header
    depth = None
    if start.startswith(PNG_MAGIC) and start[24:25] == b"\x10":
        depth = Depth(2**16 - 1)
    elif start[:2] in PNM_MAGIC and (highest := _pnm_highest(file)) > 255:
        depth = Depth(highest)
    file.seek(0)
    with any_size, Image.open(file) as image:
        if image.format == "MPEG":  # whose size Pillow knows, and none of whose pictures
            msg = "a video"
            raise UnidentifiedImageError(msg)
        if depth is None and image.mode[0] in "IF":  # what convert("RGB") makes white
            msg = f"more than 8 bits in {image.format}: save it as PNG or TIFF"
            raise ValueError(msg)
        width, height = image.size
        orientation = orientation_of(image)
        if orientation in TURNS and TURNS[orientation][0]:
            width, height = height, width
        # What a phone adds to a JPEG (MPO) is a preview or a depth map, not another picture.
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    return Header(height, width, orientation, pages, depth)


def orientation_of(image: Image.Image) -> int:
    """Return EXIF's number for an image of Pillow's that is not decoded yet."""
    # Pillow would decode a whole PNG to look for EXIF data behind the pixels.
    known = image.format != "PNG" or "exif" in image.info
    return int(image.getexif().get(ExifTags.Base.Orientation, 1)) if known else 1


def _read_tags(pages: list[dict[int, Any]], page: int) -> Header:
    if page >= len(pages):
        msg = f"page {page + 1} of {len(pages)} does not exist, or the file is incomplete"
        raise ValueError(msg)
    tags = pages[page]
    (width,), (height,) = _numbers(tags, 256, 0), _numbers(tags, 257, 0)
    (orientation,) = _numbers(tags, 274, 1)
    if orientation in TURNS and TURNS[orientation][0]:
        width, height = height, width
    return Header(height, width, orientation, len(pages), _tiff_depth(tags))


def _numbers(tags: dict[int, Any], tag: int, default: int) -> list[int]:
    return np.atleast_1d(tags.get(tag, default)).tolist()


def _directories(file: BinaryIO) -> Iterator[dict[int, Any]]:
    """Yield the tags of each page of a TIFF; Pillow opens only files whose pixels it knows."""
    file.seek(0)
    start = file.read(8)
    start += file.read(8) if start[2:4] in (b"+\0", b"\0+") else b""  # BigTIFF
    tags = TiffImagePlugin.ImageFileDirectory_v2(start)
    seen = {0}
    while tags.next not in seen:
        seen.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        yield {tag: tags[tag] for tag in TAGS if tag in tags}


def _tiff_depth(tags: dict[int, Any]) -> Depth | None:
    bits = _numbers(tags, 258, 1)
    kinds = set(_numbers(tags, 339, 1))
    if max(bits) <= 8 and 2 not in kinds:  # signed ones Pillow would read as unsigned
        return None
    (colour,) = _numbers(tags, 262, -1)
    (compression,) = _numbers(tags, 259, 1)
    (planes,) = _numbers(tags, 284, 1)
    is_float = kinds == {3}
    if len(set(bits)) > 1 or not (
        (is_float and bits[0] in (32, 64)) or (kinds == {1} and bits[0] in (10, 12, 14, 16))
    ):
        names = {1: "unsigned", 2: "signed", 3: "float"}
        kind = "/".join(names.get(kind, "undefined") for kind in kinds)
        msg = f"{kind} samples of {bits} bits: save it with 8 or 16 bits, unsigned"
        raise ValueError(msg)
    if colour not in (0, 1, 2) or len(bits) not in ((3, 4) if colour == 2 else (1,)):
        msg = f"{bits[0]} bits in other colours than grey and RGB: save it as 16-bit RGB"
        raise ValueError(msg)
    if compression not in COMPRESSIONS or (planes == 2 and len(bits) > 1):
        what = "stored in planes" if planes == 2 else f"of compression {compression}"
        msg = f"a TIFF of {bits[0]} bits {what}: save it interleaved, with LZW, Deflate or none"
        raise ValueError(msg)
    if is_float:
        return Depth(1, inverted=colour == 0)
    return Depth(2 ** bits[0] - 1, 16 - bits[0], inverted=colour == 0)


def _pnm_highest(file: BinaryIO) -> int:
    """Return the fourth word of the header: magic number, width, height, maximum."""
    text = re.sub(rb"#[^\n]*", b"", file.read(4096))
    return int(text.split(maxsplit=4)[3])
