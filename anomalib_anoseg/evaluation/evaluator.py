"""What AnoSeg reports about a test set by default."""

import warnings
from typing import Any

from anomalib.metrics import AnomalibMetric
from anomalib.metrics import Evaluator as AnomalibEvaluator
from lightning.pytorch import LightningModule, Trainer
from torch.nn import ModuleList

from anomalib_anoseg.evaluation.inspected import update
from anomalib_anoseg.evaluation.metrics import AUPR, AUPRO, AUROC, F1Score, IoU, IoUMax
from anomalib_anoseg.utils.inside import inside_of


class Evaluator(AnomalibEvaluator):
    """anomalib's evaluator, which says once what it had to leave out.

    Args:
        val_metrics: Metrics of each validation; none by default.
        test_metrics: Metrics of a test; by default :func:`default_metrics`.
        compute_on_cpu: Keep what metrics collect in the memory of the CPU.
    """

    def __init__(
        self,
        val_metrics: AnomalibMetric | list[AnomalibMetric] | None = None,
        test_metrics: AnomalibMetric | list[AnomalibMetric] | None = None,
        compute_on_cpu: bool = True,
    ) -> None:
        test_metrics = default_metrics() if test_metrics is None else test_metrics
        super().__init__(val_metrics, test_metrics, compute_on_cpu)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics with what is inspected."""
        del trainer, outputs, batch_idx, dataloader_idx
        update(self.val_metrics, batch, _inside(pl_module, batch))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics with what is inspected."""
        del trainer, outputs, batch_idx, dataloader_idx
        update(self.test_metrics, batch, _inside(pl_module, batch))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics, and warn about those that this test set does not define."""
        metrics: Any = self.test_metrics
        left_out = [m for m in metrics if not m.update_called or m.compute() is None]
        # Logging one without a value would make torchmetrics and Lightning warn about each. By
        # identity: == of two metrics is a third one.
        others = {id(metric) for metric in left_out}
        self.test_metrics = ModuleList(metric for metric in metrics if id(metric) not in others)
        try:
            super().on_test_epoch_end(trainer, pl_module)
        finally:
            self.test_metrics = metrics
        if left_out:
            names = ", ".join(metric.name for metric in left_out)
            msg = f"the test set lacks masks, or good or defective images: left out {names}"
            warnings.warn(msg, stacklevel=1)


def _inside(module: Any, batch: Any) -> Any:
    region = getattr(getattr(module, "model", None), "region", None)
    return inside_of(region, batch.image)


def default_metrics() -> list[AnomalibMetric]:
    """Return the paper's metrics and those its successors are compared by.

    F1Score and IoU judge the labels and masks that a user gets; the others no single threshold.
    """
    scores, labels = ["pred_score", "gt_label"], ["pred_label", "gt_label"]
    maps, masks = ["anomaly_map", "gt_mask"], ["pred_mask", "gt_mask"]
    return [
        AUROC(fields=scores, prefix="image_", strict=False),
        F1Score(fields=labels, prefix="image_", strict=False),
        AUROC(fields=maps, prefix="pixel_", strict=False),
        AUPR(fields=maps, prefix="pixel_", strict=False),
        AUPRO(fields=maps, prefix="pixel_", strict=False),
        F1Score(fields=masks, prefix="pixel_", strict=False),
        IoU(fields=masks, prefix="pixel_", strict=False),
        IoUMax(fields=maps, prefix="pixel_", strict=False),
    ]
