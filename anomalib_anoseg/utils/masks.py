"""Masks that cannot be meant, told from their files."""

from pathlib import Path

from PIL import Image

from anomalib_anoseg.utils.image_header import (
    Header,
    naming_file,
    orientation_of,
    read_header,
)

SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations that swap height and width


class GreyMaskError(ValueError):
    """A mask has more than two values."""


def check_mask(image_path: Path, mask_path: Path) -> Header:
    """Compare a mask with its image, which is turned upright as EXIF says.

    anomalib would stretch the mask, take every grey above 0 for a defect, and not turn it.

    Returns:
        The header of the image.

    Raises:
        OSError: If there is no such image.
        GreyMaskError: If the mask has more than two values, and nothing worse is wrong with it.
        ValueError: If it has another size than the image, an orientation, or cannot be read.
    """
    image = read_header(image_path)
    with naming_file(mask_path), Image.open(mask_path) as mask:
        orientation = orientation_of(mask)  # before convert(), which turns a TIFF
        width, height = mask.size
        values = mask.convert("L").histogram()
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
    if len(levels) > 2:
        msg = (
            f"mask {mask_path} has {len(levels)} grey values from {levels[0]} to {levels[-1]}, of "
            "which every one above 0 counts as a defect: save it with two values, as PNG"
        )
        raise GreyMaskError(msg)
    return image
