"""The command that runs an exported model over images."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from anomalib_anoseg.inference.address import without_login
from anomalib_anoseg.inference.drift import Drift
from anomalib_anoseg.inference.files import count_others
from anomalib_anoseg.inference.frames import Source
from anomalib_anoseg.inference.json_lines import STDOUT, json_lines
from anomalib_anoseg.inference.parallel import in_order
from anomalib_anoseg.inference.records import Records, refuse_watched
from anomalib_anoseg.inference.segmenter import Segmenter
from anomalib_anoseg.inference.sources import open_source, open_watch
from anomalib_anoseg.inference.stopping import Stop
from anomalib_anoseg.inference.table import Row, readable

EPILOG = """results.csv has a row per image: file (of a TIFF with several pages name.tif#1,
name.tif#2...), score in [0, 1], label (good or defective), defect_area in pixels, boxes ("left top
width height", the largest first, ";" between them), time (when the file was last written or a
camera gave the image, UTC) and error. results.json says which model and thresholds were used, how
many images were good, defective or had an error, how the run ended, and drift: whether good parts
score as they did when the thresholds were set. anomalib-anoseg history draws them as a page.

An image that cannot be read, judged or drawn is a row with an error, and the run goes on. Pictures
of an earlier run in the same folder are removed; other files stay, and are never written over.
What lies in masks/ and overlays/ of a folder of results is never inspected. Results of --watch are
not replaced by a run without it.

In a folder the files that end as an image does are inspected, and the summary says how many others
were passed over. A single file is taken by what it holds: an image, or a video.

--watch judges the images that are in a folder and those that appear there, each once: when it has
not changed for half a second, and again when it is written anew. Rows and pictures of an earlier
run with the same model, thresholds and input stay, and what it has judged is not judged again.

A stream or camera waits for nobody: frames that come while others are judged are dropped, but for
the newest two. Numbers of frames count all of them. A user and a password in the address are
written nowhere.

--jsonl - writes an object per image to standard output as soon as its row is in results.csv, with
the table's columns; numbers are numbers, boxes lists, and what does not apply is null. Everything
else then goes to standard error.

exit status: 0 every image was judged and drawn; 1 some were not; 2 wrong arguments or input, or a
full disk; 3 the source ended early: a video with fewer frames than it says or none, a stream or
camera, which has no end of its own, or a watched folder that can no longer be read; 130 Ctrl-C; 141
nobody reads what --jsonl writes; 143 SIGTERM. Ctrl-C and SIGTERM let the images in work be
finished; a second one does not.
"""
UNREAD = "nobody reads what --jsonl writes"
SUMMARISED = 200  # images after which results.json is written: a folder or camera is one round
BROKEN_PIPE = 128 + 13  # as if by SIGPIPE, which Windows does not have


def infer(
    model: Path,
    input: str,  # noqa: A002 - what the option is called
    output: Path = Path("results/infer"),
    watch: bool = False,
    every: int = 1,
    jsonl: str | None = None,
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
        watch: The input is a folder: judge also the images that appear in it, until stopped.
        every: Of a video, stream or camera judge each such frame.
        jsonl: Write a JSON object per image to this file or named pipe; - is standard output.
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
        The exit status: 0, 1 if an image has an error, 3 if the source ended early, 141 if nobody
        reads what jsonl says.

    Raises:
        OSError: If there is no such file, or the disk is full.
        ValueError: If model, device, thresholds or source cannot be used, or the folder of results
            cannot be continued, or not be replaced.
        KeyboardInterrupt: After Ctrl-C, when what was begun is done; SystemExit after SIGTERM.
    """
    if not input:
        msg = "input is empty: a variable that is not set?"
        raise ValueError(msg)
    if not watch:
        refuse_watched(output)
    stop = Stop()
    source = (open_watch if watch else open_source)(input, output, every, stop)
    others = 0 if watch else count_others(Path(input), output)
    segmenter = Segmenter(model, device, precision)
    thresholds = segmenter.model.thresholds.overridden(
        image_threshold, pixel_threshold, smallest_defect
    )
    about = {
        "model_file": readable(str(model)),
        **segmenter.model.about,
        # Resolved, so that a run that goes on knows the folder by whatever path it is given.
        "input": readable(str(Path(input).resolve()) if watch else without_login(input)),
        "watch": watch,
        "false_alarms": segmenter.model.false_alarms(thresholds.image),
    }
    drift = Drift(segmenter.model.good_scores, thresholds.image)
    with (
        json_lines(jsonl, kept=watch) as publish,
        stop.on_signals(),
        Records(output, masks, overlays, thresholds, about, drift, kept=watch) as records,
    ):
        try:
            _judge(source, segmenter, records, publish)
            early = source.missing
        except BrokenPipeError:
            early = UNREAD
        records.ended = stop.how or early or "complete"
    passed_over = f"\n{others} other files were passed over" if others else ""
    print(records.report() + passed_over, file=sys.stderr if jsonl == STDOUT else sys.stdout)
    stop.end_as_asked()
    if early:
        print(readable(early), file=sys.stderr)  # noqa: T201
        return BROKEN_PIPE if early == UNREAD else 3
    return 1 if records.counts["errors"] else 0


def _judge(
    source: Source, segmenter: Segmenter, records: Records, publish: Callable[[Row], None]
) -> None:
    """Record every image of a source, and publish its row."""
    with tqdm(total=len(source) or None, unit="image", disable=None) as progress:
        for frames in source.rounds():
            with closing(in_order(records.draw, segmenter(frames))) as rows:
                for row in rows:
                    records.append(row)
                    publish(row)
                    progress.update()
                    if row.error:
                        tqdm.write(f"{row.file}: {row.error}", file=sys.stderr)
                    if records.counts["images"] % SUMMARISED == 0:
                        records.summarise()
            records.summarise()
