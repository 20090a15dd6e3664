"""Where scores are cut: between good images and anomalies, or for a rate of false alarms."""

import torch
from torch import Tensor

from anomalib_anoseg.utils.false_alarms import FalseAlarms, conformal_rank, promised, seen
from anomalib_anoseg.utils.shapes import Verdicts

# In log odds, what a threshold is above the score that it is set by: another runtime rounds, and
# many good images may have this same score.
ABOVE = 1e-3


def halfway(good: Verdicts, bad: Verdicts, most: float = 1.0) -> Tensor:
    """Return the score halfway between good images and synthetic anomalies, in log odds.

    From the 95th percentile of the good ones, because of many some are odd, to the median of the
    anomalies, because some can hardly be seen. Both classes' accuracies, which see no width of a
    gap, would ask for a threshold just above the good images: too low for the next ones.

    Args:
        good: Scores of good images, (n,).
        bad: Likewise of synthetic anomalies.
        most: A score that is anomalous in itself; the cut is above it only where more than one good
            image of twenty is.
    """
    usual = good.double().logit(1e-12).quantile(0.95)
    middle = (usual + bad.double().logit(1e-12).median()) / 2
    enough = usual.new_tensor(most).logit(1e-12)
    return torch.minimum(middle, torch.maximum(usual, enough)).sigmoid()


def separate(good: Verdicts, bad: Verdicts) -> Tensor:
    """Return the score with the best mean of both classes' accuracies.

    Where several are best, halfway in log odds between the scores around the widest gap.
    """
    cuts = torch.cat([good, bad]).sort().values.double().logit(1e-12)
    middle = (cuts[1:] + cuts[:-1]) / 2
    accuracy = (good.logit(1e-12)[:, None] <= middle).double().mean(0) + (
        bad.logit(1e-12)[:, None] > middle
    ).double().mean(0)
    gap = torch.where(accuracy == accuracy.max(), cuts[1:] - cuts[:-1], -1)
    return middle[gap.argmax()].sigmoid()


def for_rate(good: Verdicts, rate: float) -> tuple[Tensor, bool]:
    """Return the lowest cut that keeps a rate of false alarms, and whether there is one.

    Without one, too few images for the rate, it is that of the highest score.

    Args:
        good: Scores of good images in order, (n,), at least one.
        rate: Share of good images that may be above, (0, 1).
    """
    rank = conformal_rank(len(good), rate)
    score = good[min(rank, len(good)) - 1].cpu().double()
    return (score.logit(1e-12) + ABOVE).sigmoid(), rank <= len(good)


def for_rate_or_usual(
    good: Verdicts, rate: float, usual: Tensor, *, only_in_need: bool
) -> tuple[Tensor, bool]:
    """Return the cut for a rate, or the one without where that is higher, and whether it is.

    Args:
        good: Scores of good images in order, (n,), at least one.
        rate: Share of good images that may be above, (0, 1).
        usual: The cut without a rate.
        only_in_need: Whether it counts only where there are too few images for the rate.
    """
    cut, kept = for_rate(good, rate)
    raised = bool(usual.cpu() > cut) and not (kept and only_in_need)
    return (usual if raised else cut.to(usual)), raised


def expected_above(
    good: Verdicts, cut: Tensor, rate: float | None, raised: bool
) -> FalseAlarms | None:
    """Return how many good images will be above a cut; None if there are none to judge it by.

    Args:
        good: Scores of good images in order, (n,).
        cut: That they are held against.
        rate: That it was made for, if for one.
        raised: Whether it is higher than the rate asks for.
    """
    if not len(good):
        return None
    within = int((good <= cut).sum())
    if rate is None:
        return seen(len(good), len(good) - within)
    rank = within if raised else min(within, conformal_rank(len(good), rate))
    return promised(len(good), rank, higher=raised)
