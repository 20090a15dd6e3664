"""What a model inspects of images, whether it has a region or not."""

from collections.abc import Callable

from anomalib_anoseg.utils.shapes import Images, Insides, Places

Inspects = Callable[[Images, Places | None], Insides]


def inside_of(
    region: Inspects | None, images: Images, place: Places | None = None
) -> Insides | None:
    """Return which pixels a region inspects, or None where there is no region: all of them."""
    return None if region is None else region(images, place)
