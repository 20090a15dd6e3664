"""One map of three witnesses. Oracles: hand-computed values, and what must hold for any."""

import pytest
import torch
from torch import Tensor

from anomalib_anoseg.networks.decision import (
    ANOMALOUS,
    AROUND,
    BEHIND,
    DISTANCE_WEIGHT,
    ROOT_FROM,
    WINDOW,
    Decision,
)

USUAL = (-7.5, -7.5, 0.0)


def said(*values: float) -> list[Tensor]:
    """What each of the three says of one pixel."""
    return [torch.tensor(value).view(1, 1, 1) for value in values]


def test_what_is_usual_is_no_evidence() -> None:
    decision = Decision()
    assert decision(*said(*USUAL)).item() == 0
    assert decision(*said(-20, -20, -5)).item() == 0


def test_evidence_of_one_pixel() -> None:
    """By hand: two deviations, one, and the root of nine."""
    decision = Decision()
    decision.mean.copy_(torch.tensor([-4.0, -6.0, 1.0]))
    decision.std.copy_(torch.tensor([0.5, 2.0, 1.0]))
    evidence = 2 + 1 + DISTANCE_WEIGHT * 3
    distance = 1 + (3 + ROOT_FROM**0.5) ** 2 - ROOT_FROM
    assert decision(*said(-3, -4, distance)).item() == pytest.approx(
        evidence / (evidence + ANOMALOUS)
    )


@pytest.mark.parametrize("witness", range(3))
def test_more_of_one_witness_never_lowers_the_map(witness: int) -> None:
    others = torch.randn(3, 1000, 1, 1) * 10
    rising = others.repeat(1, 2, 1, 1)
    rising[witness, 1000:] += torch.rand(1000, 1, 1) * 20
    low, high = Decision()(*rising).chunk(2)
    assert (high >= low).all()
    assert (high > low).float().mean() > 0.2


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("logits", [-1e4, -7.5, 0.0, 1e4])
def test_a_place_far_from_everything_remembered_is_never_good(
    threshold: float, logits: float
) -> None:
    """The distance that a threshold asks for, by hand: evidence e gives e / (e + ANOMALOUS)."""
    evidence = ANOMALOUS * threshold / (1 - threshold)
    far = (evidence / DISTANCE_WEIGHT + ROOT_FROM**0.5) ** 2
    assert Decision()(*said(logits, logits, 1.01 * far)).item() > threshold


def test_what_a_runtime_rounds_is_not_seen() -> None:
    """Where the distance is usual the root of it would be a hundred times what was rounded."""
    distance = torch.tensor([-1e-5, 0.0, 1e-4, 0.1, 1.0, 50.0]).view(-1, 1, 1)
    usual = torch.full_like(distance, USUAL[0])
    exact, rounded = (Decision()(usual, usual, distance + error) for error in (0.0, 1e-5))
    torch.testing.assert_close(rounded, exact, atol=1e-4, rtol=0)


def test_maps_stay_within_their_range() -> None:
    extreme = torch.tensor([-3e38, -1.0, 0.0, 1.0, 1e3, 1e6])
    witnesses = torch.cartesian_prod(extreme, extreme, extreme).T[..., None, None]
    maps = Decision()(*witnesses)
    assert maps.shape == (6**3, 1, 1, 1)
    assert ((maps >= 0) & (maps < 1)).all()


def test_half_precision_is_decided_in_full() -> None:
    half = (torch.randn(3, 2, 4, 4) * 50).bfloat16()
    torch.testing.assert_close(Decision()(*half), Decision()(*half.float()), rtol=0, atol=0)


def test_standardised_by_good_images() -> None:
    """Oracle: the mean and deviation of 1, 2, 3, 6, by hand; batches of two sizes."""
    decision = Decision()
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([6.0])
    batches = [
        torch.stack([values, 10 * values, values - 1]).view(3, 1, 1, -1)
        for values in (first, second)
    ]
    decision.fit(batches)
    deviation = (14 / 3) ** 0.5
    torch.testing.assert_close(decision.mean, torch.tensor([3.0, 30.0, 2.0]))
    torch.testing.assert_close(decision.std, deviation * torch.tensor([1.0, 10.0, 1.0]))


def test_a_witness_that_says_the_same_of_all_good_pixels() -> None:
    """It does not become infinitely sure, nor undefined."""
    decision = Decision()
    decision.fit([[value.expand(2, 4, 4) for value in said(-5, -5, 0)]])
    assert decision(*said(-5, -5, 0)).item() == 0
    assert decision(*said(-4, -5, 0)).item() == pytest.approx(10 / (10 + ANOMALOUS))


def test_evidence_of_22_deviations_is_the_threshold() -> None:
    """Oracle: by hand. Two networks, 12 and 10 deviations above good images, and no distance."""
    decision = Decision()
    decision.mean.copy_(torch.tensor([-7.0, -8.0, 0.0]))
    decision.std.copy_(torch.tensor([0.5, 0.4, 1.0]))
    undecided = said(-7.0 + 12 * 0.5, -8.0 + 10 * 0.4, 0.0)
    assert decision(*undecided).item() == pytest.approx(0.5)


def beside(high: float, low: float, pixels: int, along: int) -> float:
    """Return what is left of low evidence so many pixels beside high evidence, in a direction."""
    drawn, *others = (torch.full((1, 40, 40), value) for value in USUAL)
    places = torch.tensor([[20, 5], [20, 5 + pixels]])
    if along == 0:
        places = places.flip(1)
    for (row, column), evidence in zip(places.tolist(), (high, low), strict=True):
        drawn[0, row, column] += 0.6 * evidence  # in deviations of an unfitted decision
    row, column = places[1].tolist()
    odds = Decision()(drawn, *others)[0, 0, row, column].logit().exp()
    return ANOMALOUS * odds.item()


@pytest.mark.parametrize("along", [0, 1])
def test_a_border_counts_less_than_its_defect(along: int) -> None:
    """Oracle: by hand. 30 of the 40 that would still be expected beside 46."""
    left = beside(40 + BEHIND, 30, WINDOW // 2, along)
    assert left == pytest.approx(30 * 0.75**3, rel=1e-4)


@pytest.mark.parametrize("along", [0, 1])
@pytest.mark.parametrize(
    ("high", "low", "pixels"),
    [(30, 30 - BEHIND, 1), (1e5, 10, WINDOW // 2 + 1)],
    ids=["within a defect", "outside the window"],
)
def test_what_is_no_border_keeps_its_evidence(
    high: float, low: float, pixels: int, along: int
) -> None:
    assert beside(high, low, pixels, along) == pytest.approx(low, rel=1e-4)


@pytest.mark.parametrize("low", [9.0, 20.0, 60.0])
def test_no_dark_ring_around_a_defect(low: float) -> None:
    """Surroundings that are all alike stay so, however much more anomalous their middle is."""
    drawn, *others = (torch.full((1, 40, 40), value) for value in USUAL)
    side = AROUND + 4
    drawn[0, 10 : 10 + side, 10 : 10 + side] += 0.6 * low
    middle = 10 + side // 2
    drawn[0, middle, middle] += 1e4
    anomaly_map = Decision()(drawn, *others)[0, 0]
    for seen in (anomaly_map, anomaly_map.T):
        beside = seen[middle, middle + 1 : 10 + side - AROUND // 2]
        torch.testing.assert_close(beside, torch.full_like(beside, low / (low + ANOMALOUS)))
    assert anomaly_map[middle, middle] > 0.9


@pytest.mark.parametrize("sizes", [(1,), (1, 1), (2, 2, 1)])
def test_an_image_left_out_is_judged_by_the_others(sizes: tuple[int, ...]) -> None:
    """Oracle: fitting anew for each image."""
    batches = [list(3 * torch.randn(3, size, 40, 56) - 7) for size in sizes]
    images = [
        [kind[k : k + 1] for kind in batch] for batch in batches for k in range(len(batch[0]))
    ]
    decision = Decision()
    sums = decision.fit(batches)
    firsts = [sum(sizes[:k]) for k in range(len(sizes))]
    maps = torch.cat(
        [decision.left_out(batch, sums, k) for batch, k in zip(batches, firsts, strict=True)]
    )
    assert len(maps) == sum(sizes)
    for index, image in enumerate(images):
        slow = Decision()
        slow.fit(images[:index] + images[index + 1 :] or images)
        torch.testing.assert_close(maps[index], slow(*image)[0], rtol=1e-4, atol=1e-4)
