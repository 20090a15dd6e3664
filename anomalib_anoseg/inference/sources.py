"""What a user may name as the input."""

import glob
from pathlib import Path

from anomalib_anoseg.inference.files import Files, images_below, images_matching
from anomalib_anoseg.inference.frames import Source
from anomalib_anoseg.inference.video import Video, is_live
from anomalib_anoseg.utils.images import SUFFIXES


def open_source(source: str, output: Path | None = None) -> Source:
    """Return the frames of a source, in order.

    Args:
        source: A folder, whose images are found at any depth; a glob; an image; a video; the
            address of a stream; or the index of a camera.
        output: The folder of results. Masks and overlays there, and in those of earlier runs, are
            no input.

    Raises:
        FileNotFoundError: If there is no such file, or the folder or the glob has no images.
        ValueError: If a video, stream or camera cannot be opened.
    """
    path = Path(source)
    if path.is_dir():
        return Files(path, images_below(path, output))
    if path.exists():
        is_image = path.suffix.lower() in SUFFIXES
        return Files(path.parent, [path]) if is_image else Video(source)
    if is_live(source):
        return Video(source)
    if glob.has_magic(source):
        return Files(*images_matching(source, output))
    msg = f"{source}: no such file or folder"
    raise FileNotFoundError(msg)
