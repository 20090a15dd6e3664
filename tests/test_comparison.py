"""The page about several models: what models cost, learning curves, and marks that are read out."""

import json
import re
from pathlib import Path

import pytest

from anomalib_anoseg.report.comparison import compare, learning_curves, minutes
from anomalib_anoseg.report.pages import comparison_page
from anomalib_anoseg.report.runs import Results, Run, read_results


def run(model: str, iou: float, images: int | None = None, cost: float = 1.0, seed: int = 0) -> Run:
    return Run(model, "tile", str(seed), {"pixel_IoU": iou}, cost, "a CPU", images=images)


def test_learning_curves_and_minutes_by_hand() -> None:
    runs = [
        run("A", 0.5, 10, seed=0), run("A", 0.7, 10, seed=1), run("A", 0.4, 5), run("A", 0.9),
        run("B", 0.3, 10, cost=3.0), run("B", 0.3, cost=5.0),
    ]  # fmt: skip
    curves = learning_curves(runs, "pixel_IoU")
    assert curves == {"A, tile": [(5, 0.4), (10, pytest.approx(0.6))]}  # one point is no curve
    assert minutes(runs) == {"A": 1.0, "B": 4.0}
    (table,) = compare(runs)
    # Fewer images are other data; their order is that of numbers, not of letters.
    assert table.columns == ["tile, 5 good images", "tile, 10 good images", "tile", "mean"]
    assert [str(cell) for cell in table.rows["B"]] == ["not run", "0.300", "0.300", "-"]


def test_the_curve_ends_at_all_images(tmp_path: Path) -> None:
    """A run on all images has no number in its settings, only the one that they had."""
    about = {"name": "A", "category": "tile", "seed": 0, "device": "CPU", "commit": "abc"}
    for images, used, value in ((5, 5, 0.4), (None, 209, 0.9)):
        metrics = {"pixel_IoU": value, "minutes": 1.0}
        counts = {"images": images, "training_images": used}
        (tmp_path / f"{used}.json").write_text(json.dumps(about | counts | {"metrics": metrics}))
    found = read_results([tmp_path]).runs
    assert learning_curves(found, "pixel_IoU") == {"A, tile": [(5, 0.4), (209, 0.9)]}
    assert {run.column for run in found} == {"tile, 5 good images", "tile"}


def test_the_page_has_what_the_results_have() -> None:
    nasty = "<b>&"
    runs = [run(nasty, 0.5, cost=1.0), run("B", 0.7, cost=2.0), run("C", 0.6, cost=0.0)]

    def page(*more: Run, **latency: float) -> str:
        return comparison_page(Results([*runs, *more], latency), compare([*runs, *more]))

    plain = page()
    assert re.findall(r"<h2>Accuracy against (.*?)</h2>", plain) == ["minutes of training"]
    assert "Accuracy against latency" in page(B=1.0, C=2.0)
    few = page(*(run(nasty, 0.1 * n, n) for n in (2, 3)))
    assert "<h2>Accuracy against good images</h2>" in few
    assert nasty not in few
    # Not by colour alone, and not only to be seen.
    best, second = re.findall(r'class="number (?:best|second)">(.*?)</td>', plain)[:2][::-1]
    assert "second best" in second + best
    assert re.search(r"0\.700<span[^>]*> best</span>", plain)
    assert re.search(r"0\.600<span[^>]*> second best</span>", plain)


def test_latency_is_read_from_runs(tmp_path: Path) -> None:
    for seed, milliseconds in enumerate((2.0, 4.0)):
        metrics = {"pixel_IoU": 0.5, "minutes": 1.0, "milliseconds": milliseconds}
        about = {"name": "A", "category": "tile", "seed": seed, "device": "CPU", "commit": "abc"}
        file = tmp_path / f"{seed}.json"
        file.write_text(json.dumps(about | {"images": 5, "metrics": metrics}))
    found = read_results([tmp_path])
    assert found.latency == {"A": 3.0}
    assert {run.column for run in found.runs} == {"tile, 5 good images"}
