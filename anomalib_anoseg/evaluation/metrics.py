"""Metrics in anomalib's form that need the same memory for ten thousand masks as for ten.

anomalib's own pixel metrics keep every pixel. These count pixels per threshold instead; how the
counts become a figure is left to torchmetrics. Where a test set lacks a class the figure does not
exist, and ``compute`` returns None, which Lightning leaves out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from anomalib.metrics import AnomalibMetric
from anomalib.utils.cv import connected_components_cpu
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryJaccardIndex,
    BinaryPrecisionRecallCurve,
)

# Evenly spaced log odds, because trained maps crowd near 0 and 1, where evenly spaced probabilities
# would throw them together. From the smallest to the largest float32 below 1, in steps of 1/512.
_LOG_ODDS = torch.linspace(-87, 17, 104 * 512 + 1, dtype=torch.float64)
# The first threshold is passed by every pixel, the last by none: curves start and end as they must.
THRESHOLDS = torch.tensor([0.0, *_LOG_ODDS.sigmoid().float().tolist(), 2.0])
OUTSIDE = -1.0  # in the place of a value: a pixel that is not inspected, which no figure counts
AT_ONCE = 2**22  # pixels that are counted at once: counting takes five times their memory


def _parts(*planes: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same pixels of each, no more than are counted at once."""
    yield from zip(*(torch.split(plane.flatten(), AT_ONCE) for plane in planes), strict=True)


def _checked(preds: Tensor, target: Tensor) -> Tensor:
    """Return predictions in the shape of their targets: the scores of anomalib's Padim are (b, 1).

    Raises:
        ValueError: If they are of other things, or NaN.
    """
    if preds.squeeze().shape != target.squeeze().shape:
        shapes = f"{list(preds.shape)} and {list(target.shape)}"
        msg = f"predictions and targets must have the same shape, got {shapes}"
        raise ValueError(msg)
    if preds.isnan().any():
        msg = "predictions must not be NaN"
        raise ValueError(msg)
    return preds.reshape(target.shape)


class _BothClasses(Metric):
    """Makes a metric of predictions and targets None until normal and anomalous were both seen."""

    seen: Tensor

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.add_state("seen", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        for some, truth in _parts(_checked(preds, target), target):
            self.seen += torch.bincount(truth.long(), minlength=2)
            super().update(some, truth)  # type: ignore[safe-super]  # of the metric it is mixed into

    def compute(self) -> Any:
        if not self.seen.all():
            return None
        return super().compute()  # type: ignore[safe-super]


class Binned(_BothClasses):
    """Fills torchmetrics' counts per threshold, (t, 2, 2), from a histogram.

    torchmetrics compares every pixel with every threshold, which takes a thousand times as long.
    A value below 0, as ``OUTSIDE``, reaches no threshold and is not counted.
    """

    confmat: Tensor
    thresholds: Any

    def __init__(self, **arguments: Any) -> None:
        super().__init__(thresholds=THRESHOLDS, **arguments)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count pixels."""
        bins = len(self.thresholds) + 1
        histogram = self.seen.new_zeros(2 * bins)
        for some, truth in _parts(_checked(preds, target), target):
            histogram += (truth.long() * bins + self._passed(some)).bincount(minlength=2 * bins)
        counts = histogram.view(2, bins)
        counted = counts[:, 1:].sum(1)
        self.seen += counted
        accepted = _at_least(counts)
        rejected = counted[:, None] - accepted
        self.confmat += torch.stack([rejected, accepted], dim=-1).movedim(1, 0)

    def _passed(self, preds: Tensor) -> Tensor:
        """Return how many thresholds each value reaches."""
        return torch.bucketize(preds.float(), self.thresholds, right=True)


def _at_least(histogram: Tensor) -> Tensor:
    """Turn counts by number of thresholds passed, (..., t + 1), into counts per threshold."""
    return histogram.flip(-1).cumsum(-1).flip(-1)[..., 1:]


class _AUROC(Binned, BinaryAUROC):
    pass


class _AUPR(Binned, BinaryAveragePrecision):
    def curve(self) -> tuple[Tensor, Tensor]:
        """Return recall and precision, from the highest threshold to the lowest."""
        accepted, correct = (self.confmat[:, k, 1].cpu().double().flip(0) for k in (0, 1))
        # Nothing exceeds the last threshold: by convention its precision is 1.
        precision = torch.where(correct + accepted > 0, correct / (correct + accepted), 1.0)
        return correct / self.seen[1].cpu(), precision


class _IoUMax(Binned, BinaryPrecisionRecallCurve):
    def compute(self) -> Any:
        return self._curve().max() if self.seen.all() else None

    def threshold(self) -> Tensor:
        """Return the threshold with the highest IoU, in the middle if there are several."""
        curve = self._curve()
        best = (curve >= curve.max()).nonzero().flatten()
        threshold: Tensor = self.thresholds[best[len(best) // 2]]
        return threshold

    def _curve(self) -> Tensor:
        true_positive = self.confmat[:, 1, 1]
        union = true_positive + self.confmat[:, 0, 1] + self.confmat[:, 1, 0]
        return true_positive / union


class _AUPRO(Binned, BinaryPrecisionRecallCurve):
    overlap: Tensor
    regions: Tensor

    def __init__(self, fpr_limit: float = 0.3, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.fpr_limit = fpr_limit
        self.add_state("overlap", torch.zeros(len(THRESHOLDS)), dist_reduce_fx="sum")
        self.add_state("regions", torch.zeros(1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds, target)
        height, width = target.shape[-2:]
        masks = target.reshape(-1, 1, height, width).float()
        labels = connected_components_cpu(masks).cpu()
        count = int(labels.max()) + 1
        sizes = torch.stack([some.bincount(minlength=count) for (some,) in _parts(labels)]).sum(0)
        weights = 1 / sizes.double()
        weights[0] = 0  # good pixels
        for some, regions in _parts(preds, labels):
            # A GPU adds weights in no fixed order, which deterministic runs refuse; Apple's has no
            # float64.
            passed = self._passed(some).cpu()
            found = passed.bincount(weights[regions], minlength=len(self.thresholds) + 1)
            self.overlap += _at_least(found).to(self.overlap)
        self.regions += len(sizes) - 1

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return false positive rate and mean overlap, from the highest threshold to the lowest."""
        false_positive = self.confmat[:, 0, 1].cpu().double().flip(0)
        overlap = (self.overlap / self.regions).cpu().double().flip(0)
        return false_positive / self.seen[0].cpu(), overlap

    def compute(self) -> Any:
        if not self.seen.all():
            return None
        rate, overlap = self.curve()
        within = rate <= self.fpr_limit
        last = int(within.sum()) - 1
        span = rate[last + 1] - rate[last] if last + 1 < len(rate) else torch.ones(())
        share = (self.fpr_limit - rate[last]) / span
        end = torch.lerp(overlap[last], overlap[min(last + 1, len(rate) - 1)], share)
        x = torch.cat([rate[within], rate.new_tensor([self.fpr_limit])])
        y = torch.cat([overlap[within], end[None]])
        return (torch.trapezoid(y, x) / self.fpr_limit).float()


class _F1Score(_BothClasses, BinaryF1Score):
    pass


class _IoU(_BothClasses, BinaryJaccardIndex):
    pass


class _IoUPerImage(Metric):
    total: Tensor
    images: Tensor

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        preds = _checked(preds, target)
        preds, target = preds.flatten(1).bool(), target.flatten(1).bool()
        overlap, union = (preds & target).sum(1), (preds | target).sum(1)
        defective = target.any(1)
        self.total += torch.where(defective, overlap / union, 0.0).sum()
        self.images += defective.sum()

    def compute(self) -> Tensor | None:
        return self.total / self.images if self.images else None


class AUROC(AnomalibMetric, _AUROC):  # type: ignore[misc]
    """Area under the ROC curve, of image scores or over all pixels, both in [0, 1]."""


class AUPR(AnomalibMetric, _AUPR):  # type: ignore[misc]
    """Average precision, the AP of the literature; anomalib calls the same figure AUPR."""


class AUPRO(AnomalibMetric, _AUPRO):  # type: ignore[misc]
    """Area under the per-region overlap of anomaly maps in [0, 1] (Bergmann et al. 2021).

    Args:
        fpr_limit: False positive rate at which the area ends, (0, 1).
    """


class F1Score(AnomalibMetric, _F1Score):  # type: ignore[misc]
    """F1 score of labels, or of masks over all pixels of a test set."""


class IoU(AnomalibMetric, _IoU):  # type: ignore[misc]
    """Intersection over union of predicted and true defect pixels, over all pixels of a test set.

    AnoSeg's headline metric, at the threshold that made the masks.
    """


class IoUMax(AnomalibMetric, _IoUMax):  # type: ignore[misc]
    """Highest intersection over union that any one threshold of the anomaly maps gives.

    Over all pixels of a test set. It needs the true masks to find its threshold: a bound for
    :class:`IoU`, not something a user could have.
    """


class IoUPerImage(AnomalibMetric, _IoUPerImage):  # type: ignore[misc]
    """Mean over the defective images of each image's intersection over union."""
