"""What a user may name as the input."""

import glob
import re
from pathlib import Path

from anomalib_anoseg.inference.address import without_login
from anomalib_anoseg.inference.files import Files, images_below, images_matching
from anomalib_anoseg.inference.frames import Source
from anomalib_anoseg.inference.journal import refuse_drawn
from anomalib_anoseg.inference.live import Live
from anomalib_anoseg.inference.stopping import Stop
from anomalib_anoseg.inference.video import Video, is_live
from anomalib_anoseg.inference.watch import Watch
from anomalib_anoseg.utils.image_header import holds_image
from anomalib_anoseg.utils.images import SUFFIXES

MOTION_JPEG = (".mjpeg", ".mjpg")  # videos that begin as an image does
HEIF = (b"avif", b"heic", b"heix", b"mif1")  # photographs, of which FFmpeg may show one tile
NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
PLAYED = (b"#EXTM3U", b"YUV4MPEG2")  # how text begins that FFmpeg does not draw


def open_source(source: str, output: Path | None, every: int, stop: Stop) -> Source:
    """Return the frames of a source, in order.

    Args:
        source: A folder, whose images are found at any depth; a glob; an image, whatever its
            suffix; a video; the address of a stream; or the index of a camera.
        output: The folder of results. Masks and overlays there, and in those of earlier runs, are
            no input.
        every: Of a video, stream or camera, each such frame.
        stop: Ends it.

    Raises:
        FileNotFoundError: If there is no such file, or the folder or the glob has no images.
        ValueError: If a video, stream or camera cannot be opened, a file is neither image nor
            video, infer has drawn what is named, or ``every`` cannot be used.
    """
    path = Path(source)
    if _is_moving(path) if path.exists() else is_live(source):
        return _moving(source, _checked(every), stop)
    if every != 1:
        msg = f"--every is for a video, stream or camera, which {source} is not"
        raise ValueError(msg)
    if path.is_dir():
        return Files(path, images_below(path, output), stop)
    if path.exists():
        refuse_drawn(path.parent, output)
        return Files(path.parent, [path], stop)
    if glob.has_magic(source):
        return Files(*images_matching(source, output), stop)
    msg = f"{without_login(source)}: no such file or folder"
    raise FileNotFoundError(msg)


def open_watch(folder: str, output: Path, every: int, stop: Stop) -> Source:
    """Return the images that are in a folder and those that appear in it.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If something else is asked for, or the table in output has other columns.
    """
    if every != 1:
        msg = "--every is for a video, stream or camera; --watch judges each image"
        raise ValueError(msg)
    return Watch(Path(folder), output, stop)


def _is_moving(path: Path) -> bool:
    """Return whether a file is a video; what it holds decides where its suffix is no image's.

    Raises:
        ValueError: If it is neither, though FFmpeg would show something.
    """
    suffix = path.suffix.lower()
    if not path.is_file() or suffix in SUFFIXES:
        return False
    if suffix in MOTION_JPEG:
        return True
    if holds_image(path):
        return False
    with path.open("rb") as file:
        start = file.read(4096)
    if start[4:8] == b"ftyp" and start[8:12] in HEIF:
        kind = "a photograph in HEIF: save it as JPEG or PNG"
    elif _is_text(start):
        kind = "text: give the folder of the images or a pattern such as 'parts/*.png'"
    else:
        return True
    msg = f"{path}: cannot be opened as an image or video, it is {kind}"
    raise ValueError(msg)


def _is_text(start: bytes) -> bool:
    """Return whether a file that starts so is text, of which FFmpeg makes a video of letters."""
    if start.startswith(UTF_16):
        return True
    return start != b"" and not start.startswith(PLAYED) and not NO_TEXT.search(start)


def _moving(source: str, every: int, stop: Stop) -> Source:
    video = Video(source, every, stop)
    # A file behind an address knows its length, and waits.
    return Live(video, stop) if is_live(source) and not len(video) else video


def _checked(every: int) -> int:
    if every < 1:
        msg = f"--every must be 1 or more, got {every}"
        raise ValueError(msg)
    return every
