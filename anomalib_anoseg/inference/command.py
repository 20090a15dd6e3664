"""The command that runs an exported model over images."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from anomalib_anoseg.inference.frames import Frames
from anomalib_anoseg.inference.parallel import in_order
from anomalib_anoseg.inference.records import Records
from anomalib_anoseg.inference.segmenter import Segmenter


def infer(
    model: Path,
    input: str,  # noqa: A002 - what the option is called
    output: Path = Path("results/infer"),
    masks: bool = True,
    overlays: bool = True,
    device: str = "CPU",
    precision: Literal["default", "f32"] = "default",
) -> int:
    """Find the defects of images with an exported model: masks, overlays and a table.

    Args:
        model: The .xml that ``anomalib export --export_type openvino`` wrote, or an .onnx.
        input: A folder of images, a glob, an image, a video, or the index of a camera.
        output: Where results.csv, masks/ and overlays/ go.
        masks: Write a mask per image, at the image's size.
        overlays: Write each image with its defects outlined.
        device: OpenVINO's name of a device: CPU, GPU, NPU, AUTO.
        precision: "default" lets the device choose, which may be bfloat16; "f32" agrees with torch.

    Returns:
        The exit status: 1 if a file could not be read.
    """
    frames = Frames(input)
    segmenter = Segmenter(model, device, precision)
    unreadable = 0
    with closing(Records(output, masks, overlays)) as records:
        rows = in_order(records.draw, segmenter(frames))
        for row in tqdm(rows, total=len(frames) or None, unit="image"):
            records.append(row)
            name, *_, error = row
            if error:
                unreadable += 1
                tqdm.write(f"{name}: {error}", file=sys.stderr)
    print(f"{output / 'results.csv'}")  # noqa: T201
    return 1 if unreadable else 0
