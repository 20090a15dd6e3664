"""Truth and figures of images of which only a part is inspected."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from anomalib_anoseg.evaluation.metrics import OUTSIDE, Binned
from anomalib_anoseg.utils.shapes import Insides


def judge_inside(batch: Any, inside: Insides) -> None:
    """Take true defects away that lie outside; an image with no others is a good one.

    Args:
        batch: anomalib's, with images; one without masks stays as it is.
        inside: What is inspected of them.
    """
    if batch.gt_mask is not None:
        batch.gt_label, batch.gt_mask = truth_inside(batch.gt_label, batch.gt_mask, inside)


def truth_inside(labels: Any, masks: Tensor, inside: Insides) -> tuple[Any, Tensor]:
    """Return labels, (b,) or None, and masks, (b, h, w), without what lies outside."""
    marked = masks.bool()
    kept = marked & inside[:, 0].to(marked.device)
    gone = marked.flatten(1).any(1) & ~kept.flatten(1).any(1)
    return None if labels is None else labels.bool() & ~gone, kept


def update(metrics: Iterable[Any], batch: Any, inside: Insides | None) -> None:
    """Give a batch with predictions to metrics.

    Ours leave out the pixels that are not inspected. anomalib's own count them as good and found
    so, which makes those of good pixels look better; F1 and IoU are the same.
    """
    judged = batch
    if inside is not None and batch.anomaly_map is not None:
        seen = batch.anomaly_map
        where = inside.to(seen.device) if seen.ndim == inside.ndim else inside[:, 0].to(seen.device)
        judged = batch.update(in_place=False, anomaly_map=torch.where(where, seen, OUTSIDE))
    for metric in metrics:
        metric.update(judged if isinstance(metric, Binned) else batch)
