"""What an image's anomaly map shows: its mask, its regions, and an overlay."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_anoseg.inference.segmenter import Prediction
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.utils.images import Pixels, to_8_bits

RED = (0, 0, 255)  # OpenCV's order of channels
JPEG_SIDE = 65_500  # pixels; JPEG has no longer ones


class Finding(NamedTuple):
    """The defects of one image.

    Attributes:
        defective: The verdict on the image as a whole: its score is above the threshold and, if
            there is a smallest defect, at least one region is as large.
        mask: (h, w) at the image's size, 255 where it is defective. Empty if the image is good.
        area: Defective pixels.
        boxes: Left, top, width, height in pixels of each connected defect, the largest first.
    """

    defective: bool
    mask: NDArray[np.uint8]
    area: int
    boxes: list[tuple[int, int, int, int]]


def find_defects(
    prediction: Prediction, height: int, width: int, thresholds: Thresholds
) -> Finding:
    """Return the defects where the map, enlarged to the image, exceeds the threshold.

    Pixels that touch by a corner are of one region.
    """
    if not prediction.score > thresholds.image:
        return Finding(False, np.zeros((height, width), np.uint8), 0, [])
    enlarged = cv2.resize(prediction.anomaly_map, (width, height))
    mask = np.multiply(enlarged > thresholds.pixel, 255, dtype=np.uint8)
    # Most of an image is good: looking where it is not takes a twentieth of the time.
    left, top, width, height = cv2.boundingRect(mask)
    if width == 0:
        return Finding(thresholds.smallest_defect == 0, mask, 0, [])
    part = mask[top : top + height, left : left + width]
    _, labels, regions, _ = cv2.connectedComponentsWithStats(part)
    large = regions[:, cv2.CC_STAT_AREA] >= thresholds.smallest_defect
    large[0] = False  # what is not defective
    if not large[1:].all():
        part[~large[labels]] = 0
    regions = regions[large]
    regions = regions[np.argsort(-regions[:, cv2.CC_STAT_AREA], kind="stable")]
    boxes = [(int(x) + left, int(y) + top, int(w), int(h)) for x, y, w, h, _ in regions]
    return Finding(bool(boxes), mask, int(regions[:, cv2.CC_STAT_AREA].sum()), boxes)


def outline(image: Pixels, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image in OpenCV's order of channels with the outlines of the mask in red."""
    overlay = cv2.cvtColor(to_8_bits(image), cv2.COLOR_RGB2BGR)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(min(mask.shape) / 256))
    cv2.drawContours(overlay, outlines, -1, RED, thickness)
    return overlay.astype(np.uint8, copy=False)


def overlay_suffix(height: int, width: int) -> str:
    """Return the format of an overlay: JPEG, or PNG where a side is too long for it."""
    return ".jpg" if max(height, width) <= JPEG_SIDE else ".png"


def encode(suffix: str, picture: NDArray[np.uint8]) -> bytes:
    """Return the picture as a file.

    Raises:
        ValueError: If the format cannot hold it.
    """
    done, data = cv2.imencode(suffix, picture)
    if not done:
        msg = f"{suffix} cannot hold a picture of {picture.shape[0]} x {picture.shape[1]} pixels"
        raise ValueError(msg)
    return data.tobytes()
