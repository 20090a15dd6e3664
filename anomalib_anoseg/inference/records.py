"""A folder of results: a table, a summary, masks and overlays, right whenever one looks."""

import csv
import errno
import io
import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_anoseg.inference.drift import Drift
from anomalib_anoseg.inference.frames import Frame, reason
from anomalib_anoseg.inference.journal import JOURNAL, Appended, entry, remove_earlier
from anomalib_anoseg.inference.pictures import encode, find_defects, outline, overlay_suffix
from anomalib_anoseg.inference.segmenter import Prediction
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.utils.files import complete_file
from anomalib_anoseg.utils.images import SUFFIXES

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class Row(NamedTuple):
    r"""What results.csv says of an image; columns that do not apply are empty.

    Attributes:
        file: Its name; bytes of it that are not UTF-8 are written as ``\udcXX``.
        score: How defective it is, in [0, 1].
        label: ``good``, or ``defective`` if the score exceeds the image threshold and, where there
            is a smallest defect, a region is as large.
        defect_area: Pixels of the image whose map exceeds the pixel threshold; 0 of a good one.
        boxes: ``left top width height`` of each defect in pixels, the largest first, with ``;``
            between them.
        error: What went wrong. With a score, the image was judged but a picture is missing.
    """

    file: str
    score: str = ""
    label: str = ""
    defect_area: str = ""
    boxes: str = ""
    error: str = ""


class Records:
    """A folder with results.csv, results.json, masks/ and overlays/.

    Pictures appear under their names when they are complete, rows one by one. Pictures of an
    earlier run are removed; other files stay, and are never written over by a picture.

    Args:
        folder: Made if needed; results.csv and results.json in it are replaced.
        masks: Write a mask per image, PNG, 255 is defective.
        overlays: Write each image with its defects outlined, JPEG, or PNG if it is too large.
        thresholds: Above these an image and a pixel are defective.
        about: What results.json says beside the thresholds, the counts and how the run ended.
        drift: Gets every score.

    Attributes:
        counts: Images by "good", "defective" and "errors"; one that was judged but not drawn counts
            twice. Those "below_smallest_defect" are good for that reason alone.
        ended: How the run ended.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        masks: bool,
        overlays: bool,
        thresholds: Thresholds,
        about: dict[str, Any],
        drift: Drift,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.ended = "running, or killed"
        self._folder, self._masks, self._overlays = folder, masks, overlays
        self._thresholds, self._about, self._drift = thresholds, about, drift
        folder.mkdir(parents=True, exist_ok=True)
        remove_earlier(folder)
        self._journal = Appended(folder / JOURNAL)
        self._table = Appended(folder / "results.csv")
        self._table.write(_line(Row._fields))
        # Room for the summary's end: a disk that is full by then can still be written to.
        self._summary = (folder / "results.json").open("wb", buffering=0)
        self._summarise()

    def close(self, error: BaseException | None = None) -> None:
        """Close the table and write how the run ended; an error outvotes ``ended``."""
        if error is not None:
            self.ended = "interrupted" if isinstance(error, KeyboardInterrupt) else reason(error)
            # It may have come between a row and its count.
            self.counts = Counter()
            self._drift.clear()
            with (self._folder / "results.csv").open(newline="", encoding="utf-8") as table:
                for row in csv.DictReader(table):
                    self._count(Row(**row))
        self._summarise()
        for file in (self._table, self._journal, self._summary):
            file.close()

    def draw(self, seen: tuple[Frame, Prediction | None]) -> Row:
        """Write the pictures of one image and return its row; threads may do this.

        Raises:
            OSError: If the disk is full; everything else is the row's error.
        """
        frame, prediction = seen
        row = Row(readable(frame.name), error=frame.error)
        if frame.image is None or prediction is None:
            return row
        try:
            height, width = frame.image.shape[:2]
            row = row._replace(
                score=f"{prediction.score:.6f}",
                label="defective" if prediction.score > self._thresholds.image else "good",
            )
            finding = find_defects(prediction, height, width, self._thresholds)
            boxes = ";".join(" ".join(map(str, box)) for box in finding.boxes)
            label = "defective" if finding.defective else "good"
            row = row._replace(label=label, defect_area=str(finding.area), boxes=boxes)
            if self._masks:
                self._write("masks", frame.name, ".png", finding.mask)
            if self._overlays:
                overlay = outline(frame.image, finding.mask)
                self._write("overlays", frame.name, overlay_suffix(height, width), overlay)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            return row._replace(error=readable(reason(error)))
        return row

    def append(self, row: Row) -> None:
        """Add a row to the table."""
        self._table.write(_line(row))
        self._count(row)

    def _count(self, row: Row) -> None:
        self.counts.update([row.label] if row.label else [])
        self.counts.update(["errors"] if row.error else [])
        self.counts["images"] += 1
        if row.score:
            self._drift.add(float(row.score))
            above = float(row.score) > self._thresholds.image
            self.counts["below_smallest_defect"] += above and row.label == "good"

    def _write(self, kind: str, name: str, suffix: str, picture: NDArray[np.uint8]) -> None:
        relative = PurePosixPath(kind) / picture_name(name, suffix)
        path = self._folder / relative
        data = encode(suffix, picture)
        if path.exists():
            msg = f"{path} exists, and is none of infer's: choose another --output"
            raise FileExistsError(msg)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._journal.write(entry(relative))
        with complete_file(path) as part:
            part.write_bytes(data)

    def _summarise(self) -> None:
        names = ("images", "good", "defective", "errors", "below_smallest_defect")
        drift = self._drift.compare()
        summary = self._about | {
            "image_threshold": self._thresholds.image,
            "pixel_threshold": self._thresholds.pixel,
            "smallest_defect": self._thresholds.smallest_defect,
            **{name: self.counts[name] for name in names},
            "drift": drift and drift._asdict(),
            "ended": readable(self.ended),
        }
        self._summary.seek(0)
        self._summary.write(json.dumps(summary, indent=2).encode() + b"\n")
        self._summary.truncate()


def readable(text: str) -> str:
    """Return text that can be written as UTF-8, whatever bytes a file's name has."""
    return text.encode(errors="backslashreplace").decode()


def picture_name(name: str, suffix: str) -> str:
    """Return what the picture of an image is called: a.png of a.png, b.jpg.png of b.jpg.

    No two images get the same: b.jpg.png itself, which may lie beside b.jpg, gets b.jpg.png.png.
    """
    stem = PurePosixPath(name[: -len(suffix)])
    taken = stem.suffix.lower() in SUFFIXES or re.search(r"#\d+$", stem.name)
    return name if name.lower().endswith(suffix) and not taken else name + suffix


def _line(row: tuple[str, ...]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(row)
    return line.getvalue().encode()
