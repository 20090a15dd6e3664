"""Whether infer notices that good parts look different.

Oracles: scores drawn from one law and from others, order statistics by hand, and a lamp that is
drawn into images.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from test_inference import infer, spots, summary, write, write_bright_spots

from anomalib_anoseg.export.export_mixin import write_openvino_metadata
from anomalib_anoseg.inference.drift import LATEST, Comparison, Drift
from anomalib_anoseg.inference.exported import ExportedModel

# Scores as trained models give them to good images and to defective ones, whose means are 0.25 and
# 0.8; nine tenths of the good ones lie within 0.16.
GOOD, DEFECTIVE = (20, 60), (16, 4)


def compared(good: list[float], *streams: list[float], threshold: float = 0.5) -> Comparison:
    drift = Drift(good, threshold)
    for score in (score for stream in streams for score in stream):
        drift.add(score)
    found = drift.compare()
    assert found is not None
    return found


def draw(rng: np.random.Generator, count: int, law: tuple[int, int] = GOOD) -> list[float]:
    return rng.beta(*law, count).tolist()


@pytest.mark.parametrize("good_images", [3, 21, 64])
@pytest.mark.parametrize("defective", [0, 5, 15])
def test_quiet_while_good_parts_stay_as_they_are(good_images: int, defective: int) -> None:
    """In 20 of 20 runs, with defective parts among them."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = compared(draw(rng, good_images), draw(rng, 20), draw(rng, defective, DEFECTIVE))
        assert found.verdict == "unchanged", seed
        assert str(found) == ""


@pytest.mark.parametrize("good_images", [21, 64])
@pytest.mark.parametrize("defective", [0, 10])
def test_loud_when_all_good_parts_score_higher(good_images: int, defective: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        raised = [0.22 + score for score in draw(rng, 20)]
        found = compared(draw(rng, good_images), raised, draw(rng, defective, DEFECTIVE))
        assert found.verdict in {"changed", "unclear"}, seed
        assert str(found)


def test_what_is_said_is_what_a_hand_computes() -> None:
    good = [k / 100 for k in range(10, 31)]  # 0.10 to 0.30, the middle nine tenths 0.18 wide
    now = [k / 100 for k in range(35, 47)]  # twelve around 0.405
    found = compared(good, now, [0.9, 0.95])
    assert (found.verdict, found.images, found.good_images) == ("changed", 12, 21)
    assert found.shift == pytest.approx(0.205)
    assert found.usual_scatter == pytest.approx(0.18)
    assert found.defective == pytest.approx(2 / 14)
    assert found.p_value == mannwhitneyu(now, good, alternative="greater").pvalue
    assert "score 0.20 higher" in str(found) or "score 0.21 higher" in str(found)
    assert "scatter of 0.18 is usual" in str(found)


def test_a_difference_that_is_significant_and_small_is_none() -> None:
    good = [0.1 + k / 1000 for k in range(64)]
    found = compared(good, [score + 0.03 for score in good] * 10)
    assert found.p_value is not None
    assert found.p_value < 1e-6
    assert found.verdict == "unchanged"


def test_lower_scores_are_no_drift() -> None:
    assert compared([0.3, 0.32, 0.34, 0.36], [0.1] * 50).verdict == "unchanged"


def test_most_parts_defective_is_said_as_what_it_may_be() -> None:
    found = compared([0.1, 0.2, 0.3], [0.9] * 11, [0.2] * 5)
    assert found.verdict == "unclear"
    assert "69% of the images score above the threshold" in str(found)
    assert compared([0.1, 0.2], [0.9] * 30).p_value is None  # nothing to compare


def test_ties_and_single_scores() -> None:
    assert compared([0.2], [0.4] * 20).verdict == "too few images"  # 1 of 21 orders
    assert compared([0.2] * 9, [0.2] * 20).verdict == "unchanged"
    assert compared([0.2] * 9, [0.3] * 20).verdict == "changed"
    assert compared([0.2] * 9, [0.3] * 4).verdict == "too few images"
    assert compared([0.2] * 9, [0.9] * 9).verdict == "too few images"  # a few defects are shown


def test_more_good_images_than_a_float_counts_orders_of() -> None:
    good = [0.1 + k / 4000 for k in range(400)]
    assert compared(good, [0.15] * LATEST).verdict == "unchanged"
    assert compared(good, [0.4] * LATEST).verdict == "changed"


def test_nothing_to_compare_with() -> None:
    for good in ([], [0.7, 0.8]):  # none below the threshold
        drift = Drift(good, 0.5)
        drift.add(0.1)
        assert drift.compare() is None
    assert Drift([0.1], 0.5).compare() is None


def test_an_installation_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """infer alone needs no scipy, and then says that it compares nothing."""
    model = write_bright_spots(tmp_path / "model.xml")
    write_openvino_metadata(model, {"good_scores": "0.1 0.2", "false_alarm_rate": "0"})
    monkeypatch.setattr("anomalib_anoseg.inference.drift.find_spec", lambda _: None)
    monkeypatch.setattr("anomalib_anoseg.inference.exported.find_spec", lambda _: None)
    drift = Drift([0.1, 0.2], 0.5)
    assert drift.report() == ""
    drift.add(0.3)
    assert drift.compare() is None
    assert drift.report().startswith("drift was not compared")
    assert drift.report().endswith("scipy is not installed")
    assert ExportedModel(model).false_alarms(0.3) is None


def test_an_endless_stream_is_judged_by_its_latest_images() -> None:
    good = [k / 100 for k in range(10, 31)]
    drift = Drift(good, 0.5)
    for _ in range(5 * LATEST):
        drift.add(0.2)
    for _ in range(LATEST):
        drift.add(0.45)
    found = drift.compare()
    assert found is not None
    assert (found.verdict, found.images) == ("changed", LATEST)
    drift.clear()
    assert drift.compare() is None


@pytest.mark.parametrize("brighter", [0, 70])
def test_infer_says_it(tmp_path: Path, brighter: int) -> None:
    """Oracle: the model's score is the brightest green pixel."""
    model = write_bright_spots(tmp_path / "model.xml")
    said = {
        "good_scores": " ".join(f"{(10 + k) / 255:.8g}" for k in range(20)),
        "false_alarm_rate": "0.05", "false_alarm_interval": "0.002 0.14",
        "false_alarm_rate_asked": "0.05",
    }  # fmt: skip
    write_openvino_metadata(model, said)
    for index in range(12):
        image = spots()
        image[..., 1] = 12 + index + brighter
        write(tmp_path / f"in/{index}.png", image)
    done = infer(model=model, input=tmp_path / "in", output=tmp_path / "out", precision="f32")
    assert done.returncode == 0, done.stderr
    found = summary(tmp_path / "out")
    assert found["drift"]["verdict"] == ("changed" if brighter else "unchanged")
    assert ("drift: " in done.stdout) == bool(brighter)
    assert found["false_alarms"] == {
        "good_images": 20, "asked": 0.05, "expected": 0.05, "interval": [0.002, 0.14]
    }  # fmt: skip


def test_infer_with_another_threshold_counts_good_images_above_it(tmp_path: Path) -> None:
    model = write_bright_spots(tmp_path / "model.xml")
    write_openvino_metadata(model, {"good_scores": "0.1 0.2 0.3 0.4", "false_alarm_rate": "0"})
    write(tmp_path / "one.png", spots())
    out = tmp_path / "out"
    done = infer(model=model, input=tmp_path / "one.png", output=out, image_threshold=0.25)
    assert done.returncode == 0, done.stderr
    found = summary(out)["false_alarms"]
    assert (found["expected"], found["asked"]) == (0.5, None)


def test_a_model_that_names_no_good_images(tmp_path: Path) -> None:
    write(tmp_path / "one.png", spots())
    model = write_bright_spots(tmp_path / "model.xml")
    infer(model=model, input=tmp_path / "one.png", output=tmp_path / "out")
    found = summary(tmp_path / "out")
    assert found["drift"] is None
    assert found["false_alarms"] is None


@pytest.mark.parametrize(("good", "now"), [(3, 20), (9, 5), (7, 7)])
def test_two_equal_scores_hide_nothing(good: int, now: int) -> None:
    """Of few images the normal law has no value as small as what a verdict needs."""
    drift = Drift([0.1 + k / 1000 for k in range(good)], 0.9)
    scores = [0.4 + k / 1000 for k in range(now)]
    for score in [*scores[:-1], scores[0]]:
        drift.add(score)
    found = drift.compare()
    assert found is not None
    assert found.verdict == "changed"
