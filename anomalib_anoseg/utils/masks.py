"""Masks that cannot be meant, told from their files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomalib_anoseg.utils.image_header import (
    Header,
    naming_file,
    orientation_of,
    read_header,
)
from anomalib_anoseg.utils.images import read_image
from anomalib_anoseg.utils.pixel_limit import any_size

LONGEST = 16384  # pixels of a side of a region; OpenVINO reckons with 32 bits
SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations that swap height and width


class GreyMaskError(ValueError):
    """A mask has more values than 0 and another one."""


def check_mask(image_path: Path, mask_path: Path) -> Header:
    """Compare a mask with its image, which is turned upright as EXIF says.

    anomalib would stretch the mask, take every grey above 0 for a defect, and not turn it.

    Returns:
        The header of the image.

    Raises:
        OSError: If there is no such image.
        GreyMaskError: If it has more values than 0 and another one, and nothing worse is wrong.
        ValueError: If it has another size than the image, an orientation, nothing but what is lost
            in grey, or cannot be read.
    """
    image = read_header(image_path)
    with naming_file(mask_path), any_size, Image.open(mask_path) as mask:
        orientation = orientation_of(mask)  # before convert(), which turns a TIFF
        width, height = mask.size
        values = mask.convert("L").histogram()
        differs = any(low != high for low, high in _extremes(mask))
    if orientation != 1:
        msg = f"mask {mask_path} has an EXIF orientation, {orientation}: save it upright, as PNG"
        raise ValueError(msg)
    if (height, width) != (image.height, image.width):
        msg = (
            f"mask {mask_path} has {height} x {width} pixels, its image {image_path} "
            f"has {image.height} x {image.width}"
        )
        if image.orientation in SIDEWAYS and (width, height) == (image.height, image.width):
            msg += (
                f" once it is turned upright (EXIF orientation {image.orientation}): "
                "turn the mask as well"
            )
        raise ValueError(msg)
    levels = [level for level, count in enumerate(values) if count]
    if len(levels) == 1 and differs:
        msg = (
            f"mask {mask_path} is {levels[0]} everywhere once it is grey, and what it shows is "
            "lost: paint the defect white on black, not in transparency or dark colours, as PNG"
        )
        raise ValueError(msg)
    _require_two_values(f"mask {mask_path}", levels, "a defect")
    return image


def read_region(path: Path) -> NDArray[np.bool_]:
    """Return which pixels of a mask are above 0, (h, w); it is turned upright as EXIF says.

    Raises:
        OSError: If there is no such file.
        GreyMaskError: If it has more values than 0 and another one.
        ValueError: If it is transparent, too large or cannot be read.
    """
    values = read_image(path).max(-1)
    with any_size, Image.open(path) as mask:
        transparent = mask.has_transparency_data
    if transparent:
        msg = f"region {path} is transparent, which says nothing: paint the outside black"
        raise ValueError(msg)
    if max(values.shape) > LONGEST:
        msg = f"region {path} has a side of more than {LONGEST} pixels: give polygons instead"
        raise ValueError(msg)
    _require_two_values(f"region {path}", np.unique(values).tolist(), "inspected")
    inside: NDArray[np.bool_] = values > 0
    return inside


def _extremes(image: Image.Image) -> list[tuple[float, float]]:
    """Return the lowest and the highest value of each band."""
    found: Any = image.getextrema()
    return [*found] if isinstance(found[0], tuple) else [found]


def _require_two_values(name: str, levels: Sequence[float], counts_as: str) -> None:
    if len(levels) > 2 or (len(levels) == 2 and levels[0] > 0):
        msg = (
            f"{name} has {len(levels)} grey values from {levels[0]} to {levels[-1]}, of "
            f"which every one above 0 counts as {counts_as}: save it with 0 and 255, as PNG"
        )
        raise GreyMaskError(msg)
