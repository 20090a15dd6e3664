"""A region that cannot be meant for the images, refused before training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomalib_anoseg.utils.image_header import Header

Sizes = Mapping[tuple[int, int], Path]


def check_region(model: Any, headers: Mapping[Path, Header]) -> None:
    """Hold a model's region against the images that a run will read.

    Args:
        model: AnoSeg.
        headers: Of the images.

    Raises:
        ValueError: If the mask has another size than an image, or nothing of the region is left at
            the size at which the network sees them.
    """
    region = model.model.region
    if region is None:
        return
    sizes = {(header.height, header.width): path for path, header in headers.items()}
    if isinstance(given := model.hparams["region"], str):
        fit_mask(given, region.inside.shape, sizes)
    network = getattr(getattr(model.pre_processor, "transform", None), "size", None)
    for height, width in [tuple(network)] if network else sizes:
        if not region.at(height, width).any():
            msg = (
                f"nothing of the region is left at {height} x {width} pixels, as the network sees "
                "images: make it larger, or the pre-processor's image_size"
            )
            raise ValueError(msg)


def fit_mask(mask: str, shape: tuple[int, ...], sizes: Sizes) -> None:
    """Refuse a mask of another size than an image.

    Args:
        mask: The file's name.
        shape: Its height and width.
        sizes: Heights and widths of images, and an image of each.

    Raises:
        ValueError: If they differ.
    """
    for size, path in sizes.items():
        if size != tuple(shape):
            height, width = shape
            msg = (
                f"region {mask} has {height} x {width} pixels, the image {path} has {size[0]} x "
                f"{size[1]}: draw it on an image as it was taken; polygons fit images of every size"
            )
            raise ValueError(msg)
