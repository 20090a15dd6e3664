"""What an image threshold does to images with labels, and which one would do better."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from anomalib_anoseg.utils.cuts import separate

DIGITS = range(2, 9)  # of a threshold that a person reads and types


class Choice(NamedTuple):
    """A threshold of scores and its price.

    Attributes:
        name: Why one would take it.
        threshold: Above it an image is defective.
        misses: Defective images that pass as good.
        false_alarms: Good images that are called defective.
    """

    name: str
    threshold: float
    misses: int
    false_alarms: int


def choices(good: list[float], bad: list[float], threshold: float) -> list[Choice]:
    """Return the threshold as it is and the others there are to choose from.

    "proposed" has the best mean of both classes' accuracies, in the middle of the widest gap where
    several have it. Where it has misses, "no miss" is the highest threshold without; where it has
    false alarms, "no false alarm" the lowest without. Without good or without defective images
    there is nothing to choose.

    Args:
        good: Scores of good images, [0, 1].
        bad: Scores of defective images, [0, 1].
        threshold: What is used now.
    """
    found = [_counted("now", good, bad, threshold)]
    if good and bad:
        scores = torch.tensor(good), torch.tensor(bad)
        proposed = _shortest("proposed", good, bad, float(separate(*scores)))
        found.append(proposed)
        cuts = [_shortest("", good, bad, cut) for cut in _between(*scores)]
        if proposed.misses:
            found += [c._replace(name="no miss") for c in cuts if c.misses == 0][-1:]
        if proposed.false_alarms:
            found += [c._replace(name="no false alarm") for c in cuts if c.false_alarms == 0][:1]
    return found


def _between(good: Tensor, bad: Tensor) -> Iterator[float]:
    """Yield what lies halfway in log odds between scores in their order, the lowest first."""
    odds = torch.cat([good, bad]).sort().values.double().logit(1e-12)
    yield from ((odds[1:] + odds[:-1]) / 2).sigmoid().tolist()


def _counted(name: str, good: list[float], bad: list[float], threshold: float) -> Choice:
    return Choice(
        name,
        threshold,
        sum(not score > threshold for score in bad),
        sum(score > threshold for score in good),
    )


def _shortest(name: str, good: list[float], bad: list[float], threshold: float) -> Choice:
    """Return the threshold with as few digits as change no verdict."""
    exact = _counted(name, good, bad, threshold)
    for digits in DIGITS:
        rounded = _counted(name, good, bad, round(threshold, digits))
        if rounded[2:] == exact[2:]:
            return rounded
    return exact
