"""Masks, overlays and a table of what was found, complete whenever one looks."""

import csv
import errno
import io
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_anoseg.inference.frames import Frame
from anomalib_anoseg.inference.segmenter import Prediction
from anomalib_anoseg.utils.files import complete_file

COLUMNS = ("file", "score", "label", "defect_area", "boxes", "error")
RED = (0, 0, 255)  # OpenCV's order of channels


class Finding(NamedTuple):
    """The defects of one image.

    Attributes:
        mask: (h, w) at the image's size, 255 where it is defective. Empty if the image as a whole
            is good.
        area: Defective pixels.
        boxes: Left, top, width, height in pixels of each connected defect, the largest first.
    """

    mask: NDArray[np.uint8]
    area: int
    boxes: list[tuple[int, int, int, int]]


def find_defects(prediction: Prediction, height: int, width: int) -> Finding:
    """Return the defects where the map, enlarged to the image, exceeds its threshold of 0.5."""
    if not prediction.anomalous:
        return Finding(np.zeros((height, width), np.uint8), 0, [])
    enlarged = cv2.resize(prediction.anomaly_map, (width, height))
    mask = np.multiply(enlarged > 0.5, 255, dtype=np.uint8)
    # Most of an image is good: looking where it is not takes a twentieth of the time.
    left, top, width, height = cv2.boundingRect(mask)
    if width == 0:
        return Finding(mask, 0, [])
    part = mask[top : top + height, left : left + width]
    _, _, regions, _ = cv2.connectedComponentsWithStats(part)
    regions = regions[1:]  # the first is what is not defective
    regions = regions[np.argsort(-regions[:, cv2.CC_STAT_AREA], kind="stable")]
    boxes = [(int(x) + left, int(y) + top, int(w), int(h)) for x, y, w, h, _ in regions]
    return Finding(mask, int(regions[:, cv2.CC_STAT_AREA].sum()), boxes)


class Records:
    """A folder with results.csv, masks/ and overlays/.

    Pictures appear under their names when they are complete, rows one by one.

    Args:
        folder: Made if needed; a results.csv in it is replaced.
        masks: Write a mask per image, PNG, 255 is defective.
        overlays: Write each image with its defects outlined, JPEG.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, folder: Path, masks: bool, overlays: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._masks, self._overlays = folder, masks, overlays
        self._table = (folder / "results.csv").open("wb", buffering=0)
        self.append(COLUMNS)

    def close(self) -> None:
        """Close the table."""
        self._table.close()

    def draw(self, seen: tuple[Frame, Prediction | None]) -> tuple[str, ...]:
        """Write the pictures of one image and return its row; threads may do this."""
        frame, prediction = seen
        if frame.image is None or prediction is None:
            return (frame.name, "", "", "", "", frame.error)
        finding = find_defects(prediction, *frame.image.shape[:2])
        if self._masks:
            _write(self._folder / "masks" / _named(frame.name, ".png"), finding.mask)
        if self._overlays:
            overlay = _outline(frame.image, finding.mask)
            _write(self._folder / "overlays" / _named(frame.name, ".jpg"), overlay)
        return (
            frame.name,
            f"{prediction.score:.6f}",
            "anomalous" if prediction.anomalous else "normal",
            str(finding.area),
            ";".join(" ".join(map(str, box)) for box in finding.boxes),
            "",
        )

    def append(self, row: tuple[str, ...]) -> None:
        """Add a row to the table, all of it or nothing."""
        line = io.StringIO()
        csv.writer(line).writerow(row)
        data = line.getvalue().encode()
        end = self._table.tell()
        if self._table.write(data) != len(data):  # the disk is full
            self._table.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._table.name)


def _named(name: str, suffix: str) -> str:
    """Return the picture's name; a.png and a.jpg of one folder get different ones."""
    return name if name.lower().endswith(suffix) else name + suffix


def _outline(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image in OpenCV's order of channels with the outlines of the mask in red."""
    overlay = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(min(mask.shape) / 256))
    cv2.drawContours(overlay, outlines, -1, RED, thickness)
    return overlay.astype(np.uint8, copy=False)


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(path.suffix, picture)
    with complete_file(path) as part:
        part.write_bytes(data.tobytes())
