"""What a model says of good images that training has not seen, and of anomalies made from them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from anomalib.data import ImageBatch
from torch import Tensor

from anomalib_anoseg.anomaly_generator import AnomalyGenerator
from anomalib_anoseg.evaluation.metrics import IoUMax
from anomalib_anoseg.torch_model import image_score
from anomalib_anoseg.training.crops import as_trained
from anomalib_anoseg.utils.seeds import own_seed
from anomalib_anoseg.utils.shapes import Images, Verdicts

SYNTHETIC_IMAGES = 64  # at least; few good images are used several times
BATCH, PIXELS = 16, 2**22  # at most at once, whichever is less


class Answers(NamedTuple):
    """Raw scores and maps, by which thresholds are set.

    Attributes:
        good: Scores of good images, (n,).
        bad: Scores of synthetic anomalies, (m,).
        unseen: Scores of the good images, each as if it had not been among those that standardise
            the decision, (n,); a detector's own, which says nothing of it.
        peaks: Likewise the highest value of each one's map, (n,).
        pixel_cut: The pixel threshold with the best IoU on the synthetic anomalies; None with a
            memory, whose decision has one of its own.
    """

    good: Verdicts
    bad: Verdicts
    unseen: Verdicts
    peaks: Verdicts
    pixel_cut: Tensor | None


def calibrate(module: Any, images: Sequence[Images]) -> Answers:
    """Standardise a model's decision by good images, and return what it then says of them.

    The anomalies are the same in each call, and the caller's random numbers are left alone.

    Args:
        module: AnoSeg in evaluation mode.
        images: Good images in [0, 1] as the network sees them, (1, c, h, w) each.
    """
    model = module.model
    generator = AnomalyGenerator(replace(module.anomaly_generator.anomalies, synthetic_share=1))
    good: list[Tensor] = []
    bad: list[Tensor] = []
    unseen: list[Tensor] = []
    peaks: list[Tensor] = []
    best: Any = None
    if model.memory is None:
        best = IoUMax(fields=["anomaly_map", "gt_mask"]).to(module.device)
    with own_seed(0):
        if model.memory is not None:
            sums = model.decision.fit(map(model.witnesses, _in_batches(images, module.device)))
        for batch in _in_batches(images, module.device):
            if model.memory is not None:
                said = model.witnesses(batch)
                # The decision was standardised by these images themselves.
                maps = model.decision.left_out(said, sums, sum(map(len, unseen)))
            if model.memory is not None and model.detector is None:
                good.append(image_score(model.decision(*said)))
                unseen.append(image_score(maps))
            else:
                answer = model(batch)
                good.append(answer.pred_score)
                unseen.append(answer.pred_score)
            if best is not None:
                maps = answer.anomaly_map
                nothing = torch.zeros_like(maps, dtype=torch.bool)
                best.update(ImageBatch(batch, anomaly_map=maps, gt_mask=nothing))
            peaks.append(maps.amax((1, 2, 3)))
            # An image's score is that of its worst place, however much lies around it.
            parts, place, inside = as_trained(module, batch)
            for _ in range(math.ceil(SYNTHETIC_IMAGES / len(images))):
                synthetic, masks = generator(parts, torch.zeros_like(parts[:, :1]), inside=inside)
                answer = model(synthetic, place=place)
                bad.append(answer.pred_score)
                if best is not None:
                    maps = answer.anomaly_map
                    best.update(ImageBatch(synthetic, anomaly_map=maps, gt_mask=masks > 0))
    cut = None if best is None else best.threshold()
    return Answers(_joined(good), _joined(bad), _joined(unseen), _joined(peaks), cut)


def _joined(values: list[Tensor]) -> Tensor:
    return torch.cat(values).cpu()


def _in_batches(images: Sequence[Images], device: torch.device) -> Iterator[Images]:
    """Yield images of equal size, not more than a batch, nor than fit into memory."""
    batch: list[Images] = []
    for image in images:
        size = image.shape[-2:]
        most = max(1, min(BATCH, PIXELS // size.numel()))
        if batch and (batch[0].shape[-2:] != size or len(batch) == most):
            yield torch.cat(batch).to(device)
            batch = []
        batch.append(image)
    if batch:
        yield torch.cat(batch).to(device)
