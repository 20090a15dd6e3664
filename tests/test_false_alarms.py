"""False-alarm rates.

Oracles: values by hand, simulated scores, scipy's Beta law and exact binomial interval, and what
the exported model itself labels.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import InferenceBatch
from conftest import photographs, quiet_engine, remembering_model, segmenter
from scipy.stats import beta, binomtest
from test_export_command import save
from test_post_processor import Model, module, paths, train
from torch import Tensor
from torchvision.utils import save_image

from anomalib_anoseg import AnoSeg, PostProcessor, PreProcessor
from anomalib_anoseg.calibration import BATCH, calibrate
from anomalib_anoseg.export.command import export
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.networks.decision import Decision
from anomalib_anoseg.report.pages import Scores, model_page
from anomalib_anoseg.torch_model import image_score
from anomalib_anoseg.training.hold_out import LARGEST, HeldOut
from anomalib_anoseg.utils.cuts import ABOVE
from anomalib_anoseg.utils.false_alarms import (
    conformal_rank,
    images_needed,
    judged_by,
    promised,
    seen,
)


@pytest.mark.parametrize(
    ("images", "rate", "rank"),
    [
        (99, 0.01, 99), (98, 0.01, 99), (19, 0.05, 19), (18, 0.05, 19), (100, 0.05, 96),
        (9, 0.1, 9), (1, 0.5, 1), (1, 0.4, 2), (1, 0.999, 1), (39, 0.05, 38), (29, 0.1, 27),
    ],
)  # fmt: skip
def test_rank_by_hand(images: int, rate: float, rank: int) -> None:
    """ceil((n + 1)(1 - rate)); one more than there are where the rate cannot be kept."""
    assert conformal_rank(images, rate) == rank


@pytest.mark.parametrize("rate", [0.9, 0.5, 0.1, 0.05, 0.03, 0.01, 0.001])
def test_images_needed_are_the_fewest(rate: float) -> None:
    needed = images_needed(rate)
    assert conformal_rank(needed, rate) <= needed
    assert needed == 1 or conformal_rank(needed - 1, rate) == needed


@pytest.mark.parametrize(("images", "rank"), [(1, 1), (3, 3), (99, 99), (64, 60), (10, 1)])
def test_what_is_promised_is_vovks_law(images: int, rank: int) -> None:
    found = promised(images, rank)
    law = beta(images + 1 - rank, rank)
    assert found.expected == pytest.approx(law.mean())
    assert (found.low, found.high) == pytest.approx(law.interval(0.9))


@pytest.mark.parametrize(("images", "above"), [(1, 0), (1, 1), (3, 0), (20, 1), (64, 64)])
def test_what_was_seen_is_clopper_and_pearsons(images: int, above: int) -> None:
    found = seen(images, above)
    expected = binomtest(above, images).proportion_ci(0.9, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.expected == above / images


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("images", "rate"), [(99, 0.01), (20, 0.05), (64, 0.1)])
def test_the_rate_is_kept_by_simulation(images: int, rate: float, ties: bool) -> None:
    """20,000 sets of exchangeable scores: the mean rate and its interval are those stated."""
    draws = np.random.default_rng(0).random((20_000, images + 1))
    if ties:
        draws = np.floor(5 * draws)
    rank = conformal_rank(images, rate)
    threshold = np.sort(draws[:, :-1])[:, rank - 1]
    mean = (draws[:, -1] > threshold).mean()
    stated = promised(images, rank)
    assert stated.expected <= rate
    assert mean <= stated.expected + 0.005
    if not ties:
        assert mean == pytest.approx(stated.expected, abs=0.005)
        reached = 1 - threshold  # of uniform scores, the true rate above each threshold
        assert ((stated.low <= reached) & (reached <= stated.high)).mean() == pytest.approx(
            0.9, abs=0.01
        )


def test_any_threshold_is_judged_by_good_scores() -> None:
    assert judged_by([0.1, 0.5, 0.6, 0.7], 0.5) == seen(4, 2)  # above, not at it


def with_scores(scores: list[float], usual: float = 0.6, **arguments: Any) -> PostProcessor:
    made = PostProcessor(**arguments)
    made.good_scores = torch.tensor(scores).sort().values
    made.usual_threshold.fill_(usual)
    made.set_thresholds()
    return made.eval()


def verdicts(post_processor: PostProcessor, scores: Tensor) -> Tensor:
    answer = InferenceBatch(pred_score=scores, anomaly_map=scores[:, None, None])
    return post_processor(answer).pred_label


def test_the_threshold_is_an_order_statistic_of_good_images() -> None:
    """Of 19 scores the 18th keeps 0.1; the 19th is defective, and equal ones are all good."""
    made = with_scores([k / 100 for k in range(1, 20)], false_alarm_rate=0.1)
    assert float(made.image_threshold) == pytest.approx(0.18, rel=2 * ABOVE)
    assert made.false_alarms == promised(19, 18)
    assert verdicts(made, made.good_scores).tolist() == [False] * 18 + [True]
    tied = with_scores([0.1] * 12 + [0.2] * 7, false_alarm_rate=0.1)
    rounded = tied.good_scores + 1e-6  # as another runtime gives it
    assert not verdicts(tied, rounded).any()
    assert tied.false_alarms == promised(19, 18)


@pytest.mark.parametrize("usual", [0.02, 0.6])
def test_too_few_images_keep_what_can_be_promised(usual: float) -> None:
    """The higher of the highest good score and of the threshold without a rate; 1 / (n + 1)."""
    made = with_scores([0.1, 0.2, 0.3], usual, false_alarm_rate=0.01)
    assert float(made.image_threshold) == pytest.approx(max(0.3, usual), rel=2 * ABOVE)
    # Of a threshold that is higher than the scores ask for, they say how many are above at most.
    expected = promised(3, 3, higher=usual > 0.5)
    assert made.false_alarms == expected
    assert (expected.low == 0) == (usual > 0.5)
    with pytest.warns(UserWarning, match=r"1.00% needs 99 good .* are 3: .* promised is 25.00%"):
        made.report()


def test_one_image_promises_one_half() -> None:
    made = with_scores([0.3], 0.2, false_alarm_rate=0.5)
    assert made.false_alarms == (1, 0.5, pytest.approx(0.05), pytest.approx(0.95))
    assert float(made.image_threshold) == pytest.approx(0.3, rel=2 * ABOVE)


def test_scores_at_the_end_of_the_scale_promise_nothing() -> None:
    """A threshold stays below 1, so that images with this score are defective, and it says so."""
    made = with_scores([1.0] * 30, false_alarm_rate=0.1)
    assert verdicts(made, made.good_scores).all()
    assert made.false_alarms == (30, 1.0, 0.0, 1.0)


def test_without_a_rate_what_was_seen_is_said() -> None:
    made = with_scores([0.1, 0.2, 0.7], 0.6)
    assert float(made.image_threshold) == pytest.approx(0.6)
    assert made.false_alarms == seen(3, 1)
    made.image_sensitivity = 0.95
    assert made.false_alarms == seen(3, 3)  # at 0.05 of the scale: below all of them
    assert PostProcessor().false_alarms is None


def with_peaks(peaks: list[float], usual: float, rate: float | None) -> PostProcessor:
    made = PostProcessor(mask_false_alarm_rate=rate)
    made.good_scores = made.good_peaks = torch.tensor(peaks).sort().values
    made.usual_pixel_threshold.fill_(usual)
    made.set_thresholds()
    return made.eval()


def masked(made: PostProcessor, peaks: list[float]) -> list[bool]:
    """Whether images whose maps have these highest values have a mask with any pixel."""
    maps = 0.01 * torch.rand(len(peaks), 8, 8)
    maps[:, 3, 5] = torch.tensor(peaks)
    answer = made(InferenceBatch(pred_score=torch.rand(len(peaks)), anomaly_map=maps))
    return answer.pred_mask.flatten(1).any(1).tolist()


def test_masks_keep_a_rate_of_their_own() -> None:
    """Of 19 good images one has a mask: the 18th of their highest pixels keeps 0.1."""
    peaks = [0.5 + k / 100 for k in range(1, 20)]
    made = with_peaks(peaks, 0.5, 0.1)
    assert masked(made, peaks) == [False] * 18 + [True]
    assert made.mask_false_alarms == promised(19, 18)
    assert float(made.image_threshold) == 0.5
    usual = with_peaks(peaks, 0.5, None)
    assert masked(usual, peaks) == [True] * 19
    assert usual.mask_false_alarms == seen(19, 19)


def test_a_rate_of_masks_never_lowers_the_pixel_threshold() -> None:
    made = with_peaks([0.1, 0.2, 0.3], 0.5, 0.25)
    assert float(made.pixel_threshold) == 0.5
    # Above all three by itself: at most a quarter will be above it, and perhaps nothing.
    assert made.mask_false_alarms == promised(3, 3)._replace(low=0.0)
    with pytest.warns(UserWarning, match=r"10.00% needs 9 good .* are 3: .* The pixel threshold"):
        with_peaks([0.1, 0.2, 0.6], 0.5, 0.1).report()


@pytest.mark.parametrize("images", [19, 99])
def test_the_interval_holds_where_another_threshold_is_higher(images: int) -> None:
    """Scores up to 0.45 and a usual threshold of 0.5: the true share above it is 0."""
    scores = (0.45 * torch.rand(images)).sort().values.tolist()
    made = with_scores(scores, usual=0.5, false_alarm_rate=0.001)
    with pytest.warns(UserWarning, match="rate of 0.10% needs 999 good images"):
        made.report()
    found = made.false_alarms
    assert found is not None
    assert found.low == 0.0
    assert (found.expected, found.high) == (
        promised(images, images)[1],
        promised(images, images)[3],
    )
    kept = with_scores(scores, usual=0.3, false_alarm_rate=0.1).false_alarms
    assert kept == promised(images, conformal_rank(images, 0.1))
    assert kept is not None
    assert kept.low > 0


def test_highest_pixels_of_good_images_by_hand() -> None:
    """Model's map is 0.1 + |x - 0.2| / 2 everywhere."""
    images = [torch.full((1, 3, 96, 96), 0.2 + 0.02 * k) for k in (3, 1, 2)]
    made = PostProcessor(mask_false_alarm_rate=0.5)
    made.fit(Model(), images)
    assert made.good_peaks.tolist() == pytest.approx([0.11, 0.12, 0.13])
    expected = max(0.12, float(made.usual_pixel_threshold))
    assert float(made.pixel_threshold) == pytest.approx(expected, rel=2 * ABOVE)


@pytest.mark.parametrize("name", ["false_alarm_rate", "mask_false_alarm_rate"])
@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan"), "0.01"])
def test_a_rate_lies_between_0_and_1(name: str, rate: Any) -> None:
    arguments: Any = {name: rate}
    with pytest.raises(ValueError, match=f"{name} must satisfy 0 < {name} < 1"):
        PostProcessor(**arguments)


def test_arguments_that_contradict_or_make_no_sense() -> None:
    with pytest.raises(ValueError, match="both move the image threshold"):
        PostProcessor(false_alarm_rate=0.1, image_sensitivity=0.6)
    with pytest.raises(ValueError, match="both move the pixel threshold"):
        PostProcessor(mask_false_alarm_rate=0.1, pixel_sensitivity=0.6)
    with pytest.raises(ValueError, match=r"smallest_defect must be .*at least 0, got -1"):
        PostProcessor(smallest_defect=-1)
    with pytest.raises(ValueError, match=r"smallest_defect must be whole"):
        PostProcessor(smallest_defect=1.5)  # type: ignore[arg-type]


def test_fit_keeps_the_scores_of_good_images_in_order() -> None:
    images = [torch.full((1, 3, 96, 96), 0.2 + 0.02 * k) for k in (3, 1, 2)]
    model, made = Model(), PostProcessor(false_alarm_rate=0.25)
    made.fit(model, images)
    # The highest of the map 0.1 + |x - 0.2| / 2, in order: three images keep a quarter.
    assert made.good_scores.tolist() == pytest.approx([0.11, 0.12, 0.13])
    assert float(made.image_threshold) == pytest.approx(0.13, rel=2 * ABOVE)
    assert made.normalized_good_scores.tolist() == pytest.approx(
        [0.5 * k / made.image_threshold for k in (0.11, 0.12, 0.13)]
    )
    usual = PostProcessor()
    usual.fit(model, images)
    assert usual.image_threshold == made.usual_threshold == usual.usual_threshold


def folder_of(count: int, root: Path) -> Path:
    (root / "good").mkdir()
    for index, image in enumerate(photographs(count, height=48, width=48)):
        save_image(image, root / f"good/{index:03}.png")
    return root / "good"


def test_images_are_left_out_of_the_decision_that_judges_them() -> None:
    """Two batches and a memory. Oracle: a decision fitted without each image."""
    model = remembering_model(seed=0, pre_processor=PreProcessor((64, 64))).eval()
    for parameter in model.parameters():  # so that images differ in what is said of them
        parameter.data.mul_(1.5)
    images = [*torch.split(photographs(BATCH + 3, height=64, width=64), 1)]
    images[4] = images[4] * 0.2
    assert model.model.memory is not None
    model.model.memory.fill([(torch.cat(images[:8]), torch.arange(8))], 8)
    with torch.no_grad():
        found = calibrate(model, images)
        said = [model.model.witnesses(image) for image in images]
        for left in range(len(images)):
            alone = Decision()
            alone.fit(said[:left] + said[left + 1 :])
            judged = alone(*said[left])
            close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-4)
            close(found.unseen[left], image_score(judged)[0])
            close(found.peaks[left], judged.amax())
        seen_by = torch.cat([image_score(model.model.decision(*one)) for one in said])
    assert not torch.allclose(found.unseen, seen_by, rtol=1e-2)  # what would be too good


def test_more_images_are_held_out_where_a_rate_needs_them(tmp_path: Path) -> None:
    data = module(folder_of(40, tmp_path), test_split_mode="none", val_split_mode="none")
    data.setup()
    counts = {}
    for wanted in (0, 3, 6, 99):
        held_out = HeldOut(data, torch.clone, wanted)
        counts[wanted] = len(held_out.images)
        assert len(data.train_data) + counts[wanted] == 40
        held_out.release()
    assert counts == {0: 4, 3: 4, 6: 6, 99: 8}
    assert LARGEST > 99  # one in a hundred can be promised


def test_images_split_off_for_validation_are_all_used(tmp_path: Path) -> None:
    good = folder_of(40, tmp_path)
    data = module(good, test_split_mode="none", val_split_mode="from_train", val_split_ratio=0.5)
    data.setup()
    kept = paths(data.train_data)
    assert len(HeldOut(data, torch.clone).images) == 20
    assert paths(data.train_data) == kept


@pytest.mark.slow
def test_from_training_to_every_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate goes from the constructor to checkpoint, test, export and rt_info; and to another."""
    data = module(folder_of(40, tmp_path), test_split_mode="none", val_split_mode="none")
    post_processor = PostProcessor(
        false_alarm_rate=0.15, smallest_defect=7, mask_false_alarm_rate=0.3
    )
    model = segmenter(seed=1, post_processor=post_processor)
    engine = train(model, data, tmp_path, max_epochs=1)
    path = Path(engine.trainer.checkpoint_callback.best_model_path)
    saved: Any = AnoSeg.load_from_checkpoint(path).post_processor
    assert (saved.false_alarm_rate, saved.smallest_defect) == (0.15, 7)
    assert saved.mask_false_alarm_rate == 0.3
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(value, post_processor.state_dict()[name])
    assert (
        len(saved.good_scores) == len(saved.good_peaks) == 6
    )  # that keep 0.15, instead of a tenth of 40

    def said(**options: Any) -> dict[str, str]:
        capsys.readouterr()
        assert export(path, output=tmp_path / "out", input_size=(64, 64), **options) == 0
        file = capsys.readouterr().out.strip().splitlines()[-1]
        return dict(ov.Core().read_model(file).get_rt_info(["anoseg"]).value)

    first = said()
    scores = [float(score) for score in first["good_scores"].split()]
    assert scores == sorted(scores)
    assert max(scores) == pytest.approx(0.5, abs=2 * ABOVE)
    assert (first["false_alarm_rate_asked"], first["smallest_defect"]) == ("0.15", "7")
    assert float(first["false_alarm_rate"]) == pytest.approx(promised(6, 6).expected)
    assert first["mask_false_alarm_rate_asked"] == "0.3"
    assert float(first["mask_false_alarm_rate"]) <= 0.3
    strict = said(mask_false_alarm_rate=0.15)
    assert float(strict["mask_false_alarm_rate"]) == pytest.approx(promised(6, 6).expected)
    assert float(strict["pixel_threshold"]) >= float(first["pixel_threshold"])
    assert strict["image_threshold"] == first["image_threshold"]
    moved_pixels = said(pixel_sensitivity=0.6)
    assert "mask_false_alarm_rate_asked" not in moved_pixels
    other = said(false_alarm_rate=0.5, smallest_defect=0)
    # ceil(7 * 0.5) = 4 of six scores keep one half: two are above the threshold now.
    assert float(other["false_alarm_rate"]) == pytest.approx(promised(6, 4).expected)
    assert (other["false_alarm_rate_asked"], other["smallest_defect"]) == ("0.5", "0")
    moved = [float(score) > 0.5 for score in other["good_scores"].split()]
    assert moved == [False] * 4 + [True] * 2
    assert float(other["image_threshold"]) < float(first["image_threshold"])

    resumed: Any = segmenter(seed=1)  # the checkpoint says what is held out
    quiet_engine(tmp_path, max_epochs=2).fit(resumed, datamodule=data, ckpt_path=path)
    assert resumed.post_processor.false_alarm_rate == 0.15
    assert len(resumed.post_processor.good_scores) == 6
    assert len(data.train_data) == 40  # released


def test_a_page_says_what_to_expect() -> None:
    nothing = Scores(good=[], defective=[])
    html = model_page("part", {}, {}, [], [], Thresholds(0.5, 0.5), nothing, promised(99, 99))
    assert "By 99 good images that training has not seen" in html
    assert "1.0% (0.1% to 3.0%, 90% interval)" in html


def test_export_names_what_it_lacks(tmp_path: Path) -> None:
    path = save(segmenter(seed=0), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="the checkpoint has none: train with a data module"):
        export(path, output=tmp_path, false_alarm_rate=0.1)
    with pytest.raises(ValueError, match=r"0 < false_alarm_rate < 1, got 1\.0"):
        export(path, output=tmp_path, false_alarm_rate=1.0)
    with pytest.raises(ValueError, match="both move the image threshold: give one"):
        export(path, output=tmp_path, false_alarm_rate=0.1, image_sensitivity=0.6)
    with pytest.raises(ValueError, match="both move the pixel threshold: give one"):
        export(path, output=tmp_path, mask_false_alarm_rate=0.1, pixel_sensitivity=0.6)
