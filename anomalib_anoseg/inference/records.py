"""A folder of results: a table, a summary, masks and overlays, right whenever one looks."""

import errno
import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from anomalib_anoseg.inference.drift import Drift
from anomalib_anoseg.inference.frames import Frame, reason
from anomalib_anoseg.inference.journal import Appended, Journal, remove_earlier
from anomalib_anoseg.inference.pictures import encode, find_defects, outline, overlay_suffix
from anomalib_anoseg.inference.segmenter import Prediction
from anomalib_anoseg.inference.table import (
    TABLE,
    Row,
    cut_incomplete,
    line,
    read_rows,
    readable,
    to_text,
)
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.utils.files import complete_file
from anomalib_anoseg.utils.images import SUFFIXES

SUMMARY = "results.json"
# Rows can be compared where these are the same; where the model's file lies, and what another
# version or installation says beside them, changes no row.
DECIDE = ("digest", "image_threshold", "pixel_threshold", "smallest_defect", "input")
DRAWN = (("masks", ".png"), ("overlays", ".jpg"), ("overlays", ".png"))
HELD = {errno.EACCES, errno.EPERM}  # by a reader: Windows then replaces no file
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


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
        kept: Add to the rows and pictures of an earlier run instead, of the same model, thresholds
            and input. The picture of a file that was written again replaces the earlier one.

    Attributes:
        counts: Images by "good", "defective" and "errors"; one that was judged but not drawn counts
            twice. Those "below_smallest_defect" are good for that reason alone.
        ended: How the run ended.

    Raises:
        OSError: If it cannot be written.
        ValueError: If what is to be kept is of something else.
    """

    def __init__(
        self,
        folder: Path,
        masks: bool,
        overlays: bool,
        thresholds: Thresholds,
        about: dict[str, Any],
        drift: Drift,
        *,
        kept: bool = False,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.ended = "running, or killed"
        self._folder, self._masks, self._overlays = folder, masks, overlays
        self._thresholds, self._drift = thresholds, drift
        cuts = {
            "image_threshold": thresholds.image,
            "pixel_threshold": thresholds.pixel,
            "smallest_defect": thresholds.smallest_defect,
        }
        self._about = about | cuts
        folder.mkdir(parents=True, exist_ok=True)
        if kept:
            self._check_earlier()
            cut_incomplete(folder / TABLE)
            self._recount()
        else:
            remove_earlier(folder)
        self._journal = Journal(folder, kept=kept)
        self._table = Appended(folder / TABLE, kept=kept, head=line(Row._fields))
        self._kept = kept
        self.summarise()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        """Close the table and write how the run ended; an error outvotes ``ended``."""
        if error is not None:
            self.ended = "interrupted" if isinstance(error, KeyboardInterrupt) else reason(error)
            self._recount()  # it may have come between a row and its count
        self.summarise()
        for file in (self._table, self._journal):
            file.close()

    def draw(self, seen: tuple[Frame, Prediction | None]) -> Row:
        """Write the pictures of one image and return its row; threads may do this.

        Raises:
            OSError: If the disk is full; everything else is the row's error.
        """
        frame, prediction = seen
        drawn: set[PurePosixPath] = set()
        row = self._draw(frame, prediction, drawn)
        if self._kept:
            try:
                self._discard(frame.name, drawn)
            except OSError as error:  # of a name that is too long, or a picture that is looked at
                row = row._replace(error=row.error or readable(reason(error)))
        return row

    def _draw(self, frame: Frame, prediction: Prediction | None, drawn: set[PurePosixPath]) -> Row:
        row = Row(readable(frame.name), time=to_text(frame.time), error=frame.error)
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
            pictures = {}
            if self._masks:
                pictures[_place("masks", frame.name, ".png")] = encode(".png", finding.mask)
            if self._overlays:
                suffix = overlay_suffix(height, width)
                overlay = encode(suffix, outline(frame.image, finding.mask))
                pictures[_place("overlays", frame.name, suffix)] = overlay
            self._write(pictures)
            drawn.update(pictures)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            return row._replace(error=readable(reason(error)))
        return row

    def append(self, row: Row) -> None:
        """Add a row to the table."""
        self._table.write(line(row))
        self._count(row)

    def summarise(self) -> None:
        """Write results.json as of now."""
        names = ("images", "good", "defective", "errors", "below_smallest_defect")
        counts = {name: self.counts[name] for name in names}
        drift = self._drift.compare()
        found = {"drift": drift and drift._asdict(), "ended": readable(self.ended)}
        summary = self._about | counts | found
        text = json.dumps(summary, indent=2).encode() + b"\n"
        path = self._folder / SUMMARY
        try:
            # It is written after each frame of a camera, for which a disk is too slow.
            with complete_file(path, to_disk=False) as part:
                part.write_bytes(text)
        except OSError as error:
            if error.errno not in DISK_FULL | HELD or not path.exists():
                raise
            with path.open("rb+") as file:  # there is room in it, and Windows lets it be read
                file.write(text)
                file.truncate()

    def report(self) -> str:
        """Return in two lines what was found, and where it is; in a third one what has changed."""
        counts, cuts, drift = self.counts, self._thresholds, self._drift.report()
        small = counts["below_smallest_defect"]
        specks = f" ({small} of them for the smallest defect alone)" if small else ""
        return (
            f"{counts['images']} images: {counts['good']} good{specks}, "
            f"{counts['defective']} defective, {counts['errors']} with errors; thresholds "
            f"{cuts.image:g} (image) and {cuts.pixel:g} (pixel)\n"
            f"{readable(str(self._folder / TABLE))}"
        ) + (f"\n{drift}" if drift else "")

    def _check_earlier(self) -> None:
        """Refuse to mix in one table what cannot be compared."""
        path = self._folder / SUMMARY
        now = _deciding(self._about)
        for name, before in _deciding(read_summary(path)).items():
            if now.get(name) != before:
                msg = f"{path}: {name} was {before}, now {now.get(name)}: choose another --output"
                raise ValueError(msg)

    def _recount(self) -> None:
        self.counts = Counter()
        self._drift.clear()
        for row in read_rows(self._folder / TABLE):
            self._count(row)

    def _count(self, row: Row) -> None:
        self.counts.update([row.label] if row.label else [])
        self.counts.update(["errors"] if row.error else [])
        self.counts["images"] += 1
        if row.score:
            self._drift.add(float(row.score))
            above = float(row.score) > self._thresholds.image
            self.counts["below_smallest_defect"] += above and row.label == "good"

    def _discard(self, name: str, drawn: set[PurePosixPath]) -> None:
        """Remove the pictures of what an image was before that no new one has replaced."""
        for kind, suffix in DRAWN:
            relative = _place(kind, name, suffix)
            path = self._folder / relative
            if relative not in drawn and path.exists() and relative in self._journal:
                path.unlink()

    def _write(self, pictures: dict[PurePosixPath, bytes]) -> None:
        """Write the pictures of one image, all of them noted before the first."""
        new = []
        for relative in pictures:
            path = self._folder / relative
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                new.append(relative)
            elif relative not in self._journal:
                msg = f"{path} exists, and is none of infer's: choose another --output"
                raise FileExistsError(msg)
        if new:
            self._journal.add(*new)
        for relative, data in pictures.items():
            with complete_file(self._folder / relative) as part:
                part.write_bytes(data)


def read_summary(path: Path) -> dict[str, Any]:
    """Return what a results.json says; empty if there is none, or a power failure cut it short.

    A run that was killed may have left the end of an earlier, longer one behind it.
    """
    try:
        found, _ = json.JSONDecoder().raw_decode(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def refuse_watched(folder: Path) -> None:
    """Refuse to replace what a run with --watch has found: its images may be gone.

    Raises:
        ValueError: If results.json says that they are of such a run, or nothing of a table.
    """
    path = folder / SUMMARY
    found = read_summary(path)
    if found.get("watch"):
        msg = f"{path} is of infer --watch: choose another --output, or go on with --watch"
        raise ValueError(msg)
    if path.exists() and not found and any(read_rows(folder / TABLE)):
        msg = (
            f"{path} cannot be read, so whether {TABLE} is of infer --watch is not known: choose "
            f"another --output, or remove {SUMMARY}"
        )
        raise ValueError(msg)


def _deciding(about: dict[str, Any]) -> dict[str, Any]:
    """Return what decides over the rows of a run, as far as its version said it; in/ is in."""
    said = {name: about[name] for name in DECIDE if name in about}
    if "input" in said:  # as it was given, by versions that did not resolve it
        said["input"] = str(Path(str(said["input"])).resolve())
    return said


def _place(kind: str, name: str, suffix: str) -> PurePosixPath:
    return PurePosixPath(kind) / picture_name(name, suffix)


def picture_name(name: str, suffix: str) -> str:
    """Return what the picture of an image is called: a.png of a.png, b.jpg.png of b.jpg.

    No two images get the same: b.jpg.png itself, which may lie beside b.jpg, gets b.jpg.png.png.
    """
    stem = PurePosixPath(name[: -len(suffix)])
    taken = stem.suffix.lower() in SUFFIXES or re.search(r"#\d+$", stem.name)
    return name if name.lower().endswith(suffix) and not taken else name + suffix
