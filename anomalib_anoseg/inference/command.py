"""The command that runs an exported model over images."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from anomalib_anoseg.inference.drift import Drift
from anomalib_anoseg.inference.parallel import in_order
from anomalib_anoseg.inference.records import Records, readable
from anomalib_anoseg.inference.segmenter import Segmenter
from anomalib_anoseg.inference.sources import open_source
from anomalib_anoseg.inference.thresholds import Thresholds

EPILOG = """results.csv has a row per image: file (of a TIFF with several pages name.tif#1,
name.tif#2...), score in [0, 1], label (good or defective), defect_area in pixels, boxes ("left top
width height", the largest first, ";" between them) and error. results.json says which model and
thresholds were used, how many images were good, defective or had an error, how the run ended, and
drift: whether good parts score as they did when the thresholds were set.

An image that cannot be read, judged or drawn is a row with an error, and the run goes on. Pictures
of an earlier run in the same folder are removed; other files stay, and are never written over.
What lies in masks/ and overlays/ of a folder of results is never inspected.

exit status: 0 every image was judged and drawn; 1 some were not; 2 wrong arguments or input, or a
full disk; 3 the source ended early: a video with fewer frames than it says, or a stream or camera,
which has no end of its own; 130 interrupted.
"""


def infer(
    model: Path,
    input: str,  # noqa: A002 - what the option is called
    output: Path = Path("results/infer"),
    image_threshold: float | None = None,
    pixel_threshold: float | None = None,
    smallest_defect: int | None = None,
    masks: bool = True,
    overlays: bool = True,
    device: str = "CPU",
    precision: Literal["default", "f32"] = "default",
) -> int:
    """Find the defects of images with an exported model: masks, overlays and a table.

    Args:
        model: The .xml that ``anomalib export --export_type openvino`` wrote, or an .onnx.
        input: A folder of images, a glob, an image, a video, a stream (rtsp://, http://), or the
            index of a camera.
        output: Where results.csv, results.json, masks/ and overlays/ go.
        image_threshold: An image is defective above this score. Default: the model's own.
        pixel_threshold: A pixel of the map is defective above this. Default: the model's own.
        smallest_defect: Pixels of the image that a connected region needs to count: smaller ones
            are in no mask, box or area, and an image that has no other is good. Default: the
            model's own, 0 if it has none, which also leaves an image defective whose score alone
            is.
        masks: Write a mask per image, at the image's size.
        overlays: Write each image with its defects outlined.
        device: OpenVINO's name of a device: CPU, GPU, NPU, AUTO.
        precision: "default" lets the device choose, which may be bfloat16; "f32" agrees with torch.

    Returns:
        The exit status: 0, 1 if an image has an error, 3 if the source ended early.

    Raises:
        OSError: If there is no such file, or the disk is full.
        ValueError: If model, device, thresholds or source cannot be used.
    """
    source = open_source(input, output)
    segmenter = Segmenter(model, device, precision)
    thresholds = segmenter.model.thresholds.overridden(
        image_threshold, pixel_threshold, smallest_defect
    )
    about = {
        "model_file": readable(str(model)),
        **segmenter.model.about,
        "input": readable(input),
        "false_alarms": segmenter.model.false_alarms(thresholds.image),
    }
    drift = Drift(segmenter.model.good_scores, thresholds.image)
    records = Records(output, masks, overlays, thresholds, about, drift)
    try:
        with closing(in_order(records.draw, segmenter(source))) as rows:
            for row in tqdm(rows, total=len(source) or None, unit="image"):
                records.append(row)
                if row.error:
                    tqdm.write(f"{row.file}: {row.error}", file=sys.stderr)
        records.ended = source.missing or "complete"
    finally:
        records.close(sys.exc_info()[1])
    _report(records, thresholds, output)
    if (found := drift.compare()) and str(found):
        print(found)  # noqa: T201
    if source.missing:
        print(readable(source.missing), file=sys.stderr)  # noqa: T201
        return 3
    return 1 if records.counts["errors"] else 0


def _report(records: Records, thresholds: Thresholds, output: Path) -> None:
    counts = records.counts
    small = counts["below_smallest_defect"]
    table = readable(str(output / "results.csv"))
    specks = f" ({small} of them for the smallest defect alone)" if small else ""
    print(  # noqa: T201
        f"{counts['images']} images: {counts['good']} good{specks}, "
        f"{counts['defective']} defective, {counts['errors']} with errors; thresholds "
        f"{thresholds.image:g} (image) and {thresholds.pixel:g} (pixel)\n{table}"
    )
