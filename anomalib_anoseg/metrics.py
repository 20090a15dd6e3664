"""Pixel IoU, the paper's metric, as an anomalib metric."""

from anomalib.metrics import AnomalibMetric
from torchmetrics.classification import BinaryJaccardIndex


class IoU(AnomalibMetric, BinaryJaccardIndex):  # type: ignore[misc]
    """Intersection over union of predicted and true defect pixels, over all pixels of a test set.

    torchmetrics' Jaccard index; a class of its own, because what ``create_anomalib_metric`` returns
    cannot be pickled.
    """
