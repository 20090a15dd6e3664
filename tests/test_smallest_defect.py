"""The smallest defect that counts.

Oracle: regions that are drawn, counted by hand.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_inference import infer, spots, summary, table, write, write_bright_spots

from anomalib_anoseg.export.export_mixin import write_openvino_metadata
from anomalib_anoseg.inference.pictures import find_defects
from anomalib_anoseg.inference.segmenter import Prediction
from anomalib_anoseg.inference.thresholds import Thresholds


def map_with_regions() -> NDArray[np.float32]:
    """Return regions of 1, 2 (that touch by a corner), 6 and 20 pixels."""
    anomaly_map = np.zeros((30, 40), np.float32)
    anomaly_map[2, 2] = 1
    anomaly_map[5, 5] = anomaly_map[6, 6] = 1
    anomaly_map[10:12, 10:13] = 1
    anomaly_map[20:24, 30:35] = 1
    return anomaly_map


@pytest.mark.parametrize(
    ("smallest", "areas"),
    [(0, [20, 6, 2, 1]), (1, [20, 6, 2, 1]), (2, [20, 6, 2]), (6, [20, 6]), (7, [20]), (21, [])],
)
def test_smaller_regions_are_nowhere(smallest: int, areas: list[int]) -> None:
    anomaly_map = map_with_regions()
    finding = find_defects(Prediction(0.9, anomaly_map), 30, 40, Thresholds(0.5, 0.5, smallest))
    assert len(finding.boxes) == len(areas)
    assert finding.area == sum(areas) == (finding.mask == 255).sum()
    assert finding.defective == bool(areas)
    for x, y, width, height in finding.boxes:
        assert (finding.mask[y : y + height, x : x + width] > 0).any()
    assert (anomaly_map[finding.mask > 0] == 1).all()


@pytest.mark.parametrize("smallest", [0, 1])
def test_an_image_without_a_region(smallest: int) -> None:
    """Without a smallest defect the score alone decides."""
    nothing = np.zeros((30, 40), np.float32)
    finding = find_defects(Prediction(0.9, nothing), 30, 40, Thresholds(0.5, 0.5, smallest))
    assert finding.defective == (smallest == 0)


def test_pixels_are_those_of_the_image() -> None:
    """A pixel of a map of half the size covers four of the image, a little less with its slopes."""
    anomaly_map = np.zeros((15, 20), np.float32)
    anomaly_map[5:7, 5:7] = 1
    areas = {}
    for scale in (1, 2, 4):
        seen = Prediction(0.9, anomaly_map)
        areas[scale] = find_defects(seen, 15 * scale, 20 * scale, Thresholds(0.5, 0.5, 5)).area
    assert areas[1] == 0  # 4 pixels
    assert areas[2] == pytest.approx(16, abs=4)
    assert areas[4] == pytest.approx(64, abs=16)


def test_infer_takes_the_models_own_or_another(tmp_path: Path) -> None:
    write(tmp_path / "in/both.png", spots((10, 20, 2, 2), (60, 40, 20, 10)))
    write(tmp_path / "in/speck.png", spots((10, 20, 2, 2)))
    model = write_bright_spots(tmp_path / "model.xml")
    write_openvino_metadata(model, {"smallest_defect": "5"})
    out = tmp_path / "out"
    done = infer(model=model, input=tmp_path / "in", output=out, precision="f32")
    assert done.returncode == 0, done.stderr
    assert "1 good (1 of them for the smallest defect alone), 1 defective" in done.stdout
    both, speck = table(out)
    assert (both["label"], both["boxes"], both["defect_area"]) == (
        "defective",
        "60 40 20 10",
        "200",
    )
    assert (speck["label"], speck["boxes"], speck["defect_area"]) == ("good", "", "0")
    assert float(speck["score"]) == 1.0
    assert not np.asarray(Image.open(out / "masks/speck.png")).any()
    found = summary(out)
    assert (found["smallest_defect"], found["below_smallest_defect"]) == (5, 1)
    assert (found["good"], found["defective"]) == (1, 1)
    infer(model=model, input=tmp_path / "in", output=out, smallest_defect=0)
    assert [row["label"] for row in table(out)] == ["defective", "defective"]
    refused = infer(model=model, input=tmp_path / "in", output=out, smallest_defect=-1)
    assert refused.returncode == 2
    assert "smallest_defect must be at least 0 pixels, got -1" in refused.stderr
