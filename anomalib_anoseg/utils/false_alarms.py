"""How often good images will be called defective, judged by scores of some that nobody trained on.

Split conformal prediction: where such scores and the next one are exchangeable, the next one is
above the k-th smallest of n with probability (n + 1 - k) / (n + 1), whatever their distribution
(Vovk, Gammerman and Shafer 2005); the rate that one such threshold goes on to reach follows
Beta(n + 1 - k, k) (Vovk 2012). Equal scores only make false alarms rarer.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

CERTAINTY = 0.9  # of the intervals


class FalseAlarms(NamedTuple):
    """What is to be expected of a threshold: shares of good images, [0, 1].

    Attributes:
        images: Good images that it is judged by.
        expected: Share that is above the threshold on average, at most, or was seen above it.
        low: Lower end of an interval that holds the true share in nine of ten cases.
        high: Its upper end.
    """

    images: int
    expected: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"{self.expected:.1%} ({self.low:.1%} to {self.high:.1%}, {CERTAINTY:.0%} interval)"


def conformal_rank(images: int, rate: float) -> int:
    """Return which of the sorted scores, from 1, keeps the rate; one too many if none does."""
    return max(1, math.ceil((images + 1) * (1 - rate) - 1e-9))  # 10 * (1 - 0.9) is above 1


def images_needed(rate: float) -> int:
    """Return the fewest scores of which the highest keeps the rate."""
    return max(1, math.ceil(1 / rate - 1e-9) - 1)


def promised(images: int, rank: int, *, higher: bool = False) -> FalseAlarms:
    """Return what holds above the rank-th smallest of the scores.

    Args:
        images: Good images, at least 1.
        rank: From 0, below all scores, to images.
        higher: Of a threshold that something else has put further up: fewer will be above it, and
            how many fewer these images do not say.
    """
    if rank == 0:
        return FalseAlarms(images, 1.0, 0.0, 1.0)
    above = images + 1 - rank
    low, high = _interval((above, rank), (above, rank))
    return FalseAlarms(images, above / (images + 1), 0.0 if higher else low, high)


def seen(images: int, above: int) -> FalseAlarms:
    """Return what holds where some of the images were above a threshold: Clopper and Pearson 1934.

    If the threshold was chosen by these images, too, it is a little better than what will follow.
    """
    low, high = _interval((above, images - above + 1), (above + 1, images - above))
    return FalseAlarms(images, above / images, low, high)


def judged_by(good_scores: Sequence[float], threshold: float) -> FalseAlarms:
    """Return what good images, at least one, say of any threshold."""
    return seen(len(good_scores), sum(score > threshold for score in good_scores))


def _interval(low: tuple[int, int], high: tuple[int, int]) -> tuple[float, float]:
    """Return the lower quantile of one Beta law and the upper one of another."""
    from scipy.special import betaincinv

    tail = (1 - CERTAINTY) / 2
    lowest = float(betaincinv(*low, tail)) if low[0] > 0 else 0.0
    return lowest, float(betaincinv(*high, 1 - tail)) if high[1] > 0 else 1.0
