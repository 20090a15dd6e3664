"""Whether good parts look as they did when the thresholds were set.

A camera that moved, a lamp that ages and parts of another batch raise the scores of good parts
long before the first is called defective. A stream also holds defective parts, nobody knows how
many, so only images below the image threshold are compared, with good scores below it.
"""

from collections import deque
from collections.abc import Sequence
from importlib.util import find_spec
from math import comb
from statistics import median
from typing import Literal, NamedTuple

LATEST = 1000  # images that are remembered; drift is about now
LEAST = 5  # images to compare without which nothing is said
# Both must hold: many images make every difference significant, and few images differ by chance.
# Twenty good bottles of MVTec's test set, photographed apart from the training set, score half
# their usual scatter higher than it; with 10 % more red it is three halves.
FEW = 8  # images, up to which orders are counted
P_VALUE = 0.001
SCATTERS = 1.0

Verdict = Literal["unchanged", "changed", "unclear", "too few images"]


class Comparison(NamedTuple):
    """What comparing the images that were judged with the good ones of the training gave.

    Attributes:
        verdict: "unclear" where most images score above the threshold, so that nobody knows whether
            they are defective; "too few images", judged or good, for any change to show.
        images: Images below the threshold that were compared.
        good_images: Good images they were compared with.
        p_value: That good parts score no higher than then, by Mann and Whitney's test, one-sided;
            None without images.
        shift: How much higher the median is now, in units of the score.
        usual_low: 5th percentile of the good images then.
        usual_high: Their 95th percentile.
        defective: Share of the images that are above the threshold.
    """

    verdict: Verdict
    images: int
    good_images: int
    p_value: float | None
    shift: float | None
    usual_low: float
    usual_high: float
    defective: float

    @property
    def usual_scatter(self) -> float:
        """The scores of nine tenths of the good images lie so close together."""
        return self.usual_high - self.usual_low

    def __str__(self) -> str:
        """Return a line for who runs the camera, empty where nothing has changed."""
        if self.verdict == "changed":
            return (
                f"drift: images called good score {self.shift:.2f} higher than good ones did when "
                f"the thresholds were set, where a scatter of {self.usual_scatter:.2f} is usual "
                f"(p = {self.p_value:.1g}): look at camera, lamp and parts"
            )
        if self.verdict == "unclear":
            return (
                f"{self.defective:.0%} of the images score above the threshold: if most of these "
                "parts are good, camera, lamp or parts have changed since the thresholds were set"
            )
        return ""


class Drift:
    """Compares the latest scores with those of the good images that set the thresholds.

    Args:
        good_scores: In the units of the scores to come; without any nothing is compared.
        threshold: Of the image score; above it an image may be defective.
    """

    def __init__(self, good_scores: Sequence[float], threshold: float) -> None:
        self._threshold = threshold
        self._good = sorted(score for score in good_scores if score <= threshold)
        self._latest: deque[float] = deque(maxlen=LATEST)

    def add(self, score: float) -> None:
        """Take the score of an image."""
        self._latest.append(score)

    def clear(self) -> None:
        """Forget all images."""
        self._latest.clear()

    def compare(self) -> Comparison | None:
        """Return what the latest images show; None without any, good scores of the model or scipy.

        An installation for this command alone may do without scipy.
        """
        if not self._good or not self._latest or not _has_scipy():
            return None
        now = [score for score in self._latest if score <= self._threshold]
        usual = self._quantile(0.05), self._quantile(0.95)
        defective = 1 - len(now) / max(1, len(self._latest))
        shift = median(now) - median(self._good) if now else None
        p_value = _p_value(now, self._good) if now else None
        # With fewer the test cannot find anything: its least value is one order of them among all.
        enough = len(now) >= LEAST and comb(len(now) + len(self._good), len(now)) >= 1 / P_VALUE
        verdict: Verdict = "unchanged" if enough else "too few images"
        if enough and (p_value or 0) < P_VALUE and (shift or 0) > SCATTERS * (usual[1] - usual[0]):
            verdict = "changed"
        elif defective > 0.5 and len(self._latest) >= 2 * LEAST:
            verdict = "unclear"
        return Comparison(verdict, len(now), len(self._good), p_value, shift, *usual, defective)

    def report(self) -> str:
        """Return a line where something has changed or could not be looked at, else nothing."""
        if self._good and self._latest and not _has_scipy():
            return (
                "drift was not compared, nor false alarms at another threshold estimated: "
                "scipy is not installed"
            )
        return str(self.compare() or "")

    def _quantile(self, share: float) -> float:
        place = share * (len(self._good) - 1)
        low = int(place)
        high = min(low + 1, len(self._good) - 1)
        return self._good[low] + (place - low) * (self._good[high] - self._good[low])


def _has_scipy() -> bool:
    return find_spec("scipy") is not None


def _p_value(now: list[float], good: list[float]) -> float:
    from scipy.stats import mannwhitneyu  # takes a second to import

    # Of few by counting orders, also where two scores are equal: the normal law that scipy then
    # takes has no value as small as P_VALUE for them.
    method = "exact" if min(len(now), len(good)) <= FEW else "asymptotic"
    return float(mannwhitneyu(now, good, alternative="greater", method=method).pvalue)
