"""Images and their names as a page shows them: small, and within the page."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, max_pool2d
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_anoseg.inference.table import readable
from anomalib_anoseg.report.data_uri import QUALITY, SIDE, data_uri
from anomalib_anoseg.utils.shapes import Images, Insides

OUTLINE = (1.0, 0.85, 0.0)  # yellow; maps and masks are drawn in other colours


def short_name(path: str) -> str:
    """Return the last folder and the file's name."""
    return readable(f"{Path(path).parent.name}/{Path(path).name}")


def small(images: Images, side: int = SIDE, *, highest: bool = False) -> Tensor:
    """Return (c, h, w) of (1, c, h, w), reduced to so many pixels of the longer side.

    To means, or to the highest values: a defect of a few pixels is then still seen.
    """
    height, width = images.shape[-2:]
    scale = side / max(height, width)
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        images = adaptive_max_pool2d(images, size) if highest else adaptive_avg_pool2d(images, size)
    return images[0]


def outlined(images: Images, inside: Insides) -> Images:
    """Return images, (b, 3, h, w), with the outline of what is inspected of them, just outside."""
    width = max(1, round(max(images.shape[-2:]) / SIDE))  # a pixel of a page's picture
    grown = max_pool2d(inside.float(), 2 * width + 1, stride=1, padding=width) > 0
    yellow = images.new_tensor(OUTLINE)[:, None, None]
    return torch.where(grown & ~inside, yellow, images)


def photograph(image: Tensor) -> str:
    """Return the data URI of an image, (c, h, w) in [0, 1]; a fourth channel is its opacity."""
    return data_uri(to_pil_image(image.clamp(0, 1)), quality=QUALITY)


def levels(values: Tensor) -> str:
    """Return the data URI of a map, (1, h, w): a value v is stored as the whole part of 256 v."""
    return data_uri(to_pil_image((values * 256).clamp(0, 255).to(torch.uint8)), lossless=True)
