import pickle

import numpy as np
import pytest
import torch
from anomalib import metrics as anomalib_metrics
from anomalib.data import ImageBatch
from anomalib.metrics import AnomalibMetric
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score
from torch.nn.functional import avg_pool2d

from anomalib_anoseg.evaluation import metrics
from anomalib_anoseg.evaluation.evaluator import default_metrics

MAPS, MASKS = ["anomaly_map", "gt_mask"], ["pred_mask", "gt_mask"]
SCORES = ["pred_score", "gt_label"]


def batches(sharpness: float, offset: float = 0.0) -> list[ImageBatch]:
    """Maps that find most of their blobs; sharpness 20 saturates them, 0.1 keeps them near 0.5."""
    made = []
    for _ in range(4):
        blobs = avg_pool2d(torch.randn(3, 1, 78, 70), 15, stride=1)
        masks = (blobs > 0.12)[:, 0]
        masks[0] = False
        logits = 20 * blobs[:, 0] - 3 + torch.randn(3, 64, 56) + offset
        maps = (sharpness * logits).sigmoid()
        made.append(
            ImageBatch(
                image=torch.zeros(3, 3, 64, 56),
                anomaly_map=maps,
                pred_mask=maps > 0.5,
                gt_mask=masks,
                pred_score=maps.amax((1, 2)),
                pred_label=maps.amax((1, 2)) > 0.5,
                gt_label=masks.any(-1).any(-1),
            )
        )
    return made


def value(metric: AnomalibMetric, data: list[ImageBatch]) -> float:
    for batch in data:
        metric.update(batch)
    return float(metric.compute())


def pixels(data: list[ImageBatch]) -> tuple[np.ndarray, np.ndarray]:
    return (
        torch.cat([batch.gt_mask for batch in data]).flatten().numpy(),
        torch.cat([batch.anomaly_map for batch in data]).flatten().numpy(),
    )


def best_iou(truth: np.ndarray, maps: np.ndarray) -> float:
    order = np.argsort(-maps, kind="stable")
    last = np.append(np.flatnonzero(np.diff(maps[order])), len(maps) - 1)  # ties go together
    found = np.cumsum(truth[order])[last]
    return float((found / (truth.sum() + last + 1 - found)).max())


@pytest.mark.parametrize(
    ("sharpness", "offset"), [(0.1, 0.0), (1.0, 0.0), (20.0, 0.0), (1.0, -20.0), (1.0, 10.0)]
)
def test_binned_metrics_are_close_to_the_exact_ones(sharpness: float, offset: float) -> None:
    data = batches(sharpness, offset)
    truth, maps = pixels(data)
    exact = {
        metrics.AUROC: roc_auc_score(truth, maps),
        metrics.AUPR: average_precision_score(truth, maps),
        metrics.IoUMax: best_iou(truth, maps),
        metrics.AUPRO: value(anomalib_metrics.AUPRO(fields=MAPS), data),
    }
    for metric, expected in exact.items():
        assert value(metric(fields=MAPS), data) == pytest.approx(expected, abs=0.002), metric


def test_pixels_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of large images are; oracle: counted at once."""
    data = batches(1.0)
    expected = [value(metric, data) for metric in default_metrics()]
    monkeypatch.setattr(metrics, "AT_ONCE", 1000)
    assert data[0].anomaly_map.numel() > 3000
    assert [value(metric, data) for metric in default_metrics()] == pytest.approx(expected)


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_few_image_scores_are_ranked_as_they_are(sharpness: float) -> None:
    """Oracle: scikit-learn. Most of the scores are close to 0 and 1, as trained ones are."""
    labels = torch.arange(80) % 3 > 0
    scores = (sharpness * (4 * labels - 2 + 3 * torch.randn(80))).sigmoid()
    batch = ImageBatch(image=torch.zeros(80, 3, 8, 8), pred_score=scores, gt_label=labels)
    expected = roc_auc_score(labels, scores)
    assert value(metrics.AUROC(fields=SCORES), [batch]) == pytest.approx(expected, abs=0.002)


def test_iou_is_over_all_pixels_and_per_image_over_defective_ones() -> None:
    data = batches(1.0)
    truth = torch.cat([batch.gt_mask for batch in data])
    masks = torch.cat([batch.pred_mask for batch in data])
    whole = jaccard_score(truth.flatten(), masks.flatten())
    each = [
        jaccard_score(t.flatten(), m.flatten())
        for t, m in zip(truth, masks, strict=True)
        if t.any()
    ]
    assert 0 < len(each) < len(truth)
    assert value(metrics.IoU(fields=MASKS), data) == pytest.approx(whole, abs=1e-6)
    per_image = value(metrics.IoUPerImage(fields=MASKS), data)
    assert per_image == pytest.approx(np.mean(each), abs=1e-6)
    assert abs(per_image - whole) > 0.01  # they are not the same thing


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_ends_at_its_limit(limit: float) -> None:
    data = batches(0.3)
    exact = value(anomalib_metrics.AUPRO(fields=MAPS, fpr_limit=limit), data)
    assert value(metrics.AUPRO(fields=MAPS, fpr_limit=limit), data) == pytest.approx(
        exact, abs=2e-3
    )


def test_aupro_of_a_perfect_and_of_a_blind_map() -> None:
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 2:5, 2:5] = True
    mask[:, 5, 5] = True  # touches by a corner: one region
    mask[:, 10:12, 10:12] = True
    for maps, expected in [(mask.float(), 1.0), (torch.full((1, 16, 16), 0.5), 0.15)]:
        batch = ImageBatch(image=torch.zeros(1, 3, 16, 16), anomaly_map=maps, gt_mask=mask)
        metric = metrics.AUPRO(fields=MAPS)
        # A map without information is the diagonal: half of the limit.
        assert value(metric, [batch]) == pytest.approx(expected, abs=1e-4)
        assert metric.regions == 2


def all_of(kind: str) -> ImageBatch:
    (batch, *_) = batches(1.0)
    if kind == "no masks":
        batch.gt_mask = None
    else:
        batch.gt_mask = torch.zeros_like(batch.pred_mask)
        batch.gt_label = torch.zeros(3, dtype=torch.bool)
    return batch


@pytest.mark.parametrize("kind", ["no masks", "only good"])
def test_what_a_test_set_does_not_define_is_none(kind: str) -> None:
    batch = all_of(kind)
    left = {}
    for metric in [*default_metrics(), metrics.IoUPerImage(fields=MASKS, strict=False)]:
        metric.update(batch)
        left[metric.name] = metric.compute()
    for name, result in left.items():
        expected = kind == "no masks" and name.startswith("image_")
        assert (result is not None) == expected, name


def state(metric: AnomalibMetric) -> int:
    return sum(getattr(metric, name).nbytes for name in metric._defaults)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.AUROC(fields=SCORES),
        *(kind(fields=MAPS) for kind in (metrics.AUROC, metrics.AUPR, metrics.AUPRO)),
        metrics.IoUMax(fields=MAPS),
        *(kind(fields=MASKS) for kind in (metrics.F1Score, metrics.IoU, metrics.IoUPerImage)),
    ],
    ids=lambda metric: metric.name,
)
def test_memory_does_not_grow_with_the_test_set(metric: AnomalibMetric) -> None:
    data = batches(1.0)
    metric.update(data[0])
    once = state(metric)
    for batch in data * 3:
        metric.update(batch)
    assert state(metric) == once < 3_000_000


def test_two_halves_merge_into_the_whole() -> None:
    """What a run on two devices does: every state is a sum."""
    data = batches(1.0)
    for metric in default_metrics():
        whole, a, b = (pickle.loads(pickle.dumps(metric)) for _ in range(3))  # noqa: S301
        expected = value(whole, data)
        for part, half in ((a, data[:2]), (b, data[2:])):
            for batch in half:
                part.update(batch)
        a.merge_state(b)
        assert float(a.compute()) == pytest.approx(expected, abs=1e-6), metric.name


def test_half_precision_maps() -> None:
    data = batches(1.0)
    exact = value(metrics.AUROC(fields=MAPS), data)
    for batch in data:
        batch.anomaly_map = batch.anomaly_map.half()
    assert value(metrics.AUROC(fields=MAPS), data) == pytest.approx(exact, abs=1e-3)


def test_no_state_is_of_64_bits() -> None:
    """Apple's GPU takes none: Lightning moves metrics to where the model is."""
    for metric in default_metrics():
        for name in metric._defaults:
            assert getattr(metric, name).dtype != torch.float64, (metric, name)


def test_reset_forgets() -> None:
    data = batches(1.0)
    for metric in default_metrics():
        first = value(metric, data)
        metric.reset()
        assert value(metric, data) == pytest.approx(first)


def test_curves_enclose_the_areas() -> None:
    fields = ["anomaly_map", "gt_mask"]
    precision = metrics.AUPR(fields=fields)
    overlap = metrics.AUPRO(fields=fields, fpr_limit=1.0)
    for metric in (precision, overlap):
        for batch in batches(1.0):
            metric.update(batch)
    recall, height = precision.curve()
    area = ((recall[1:] - recall[:-1]) * height[1:]).sum()
    torch.testing.assert_close(area.float(), precision.compute(), atol=1e-4, rtol=0)
    rate, height = overlap.curve()
    area = torch.trapezoid(height, rate)
    torch.testing.assert_close(area.float(), overlap.compute(), atol=1e-4, rtol=0)


def test_scores_of_padim() -> None:
    """They are (b, 1), which anomalib's own metrics take. Oracle: the same as (b,)."""
    data = batches(1.0)
    expected = value(metrics.AUROC(SCORES), data)
    for batch in data:
        batch.update(pred_score=batch.pred_score[:, None])
    assert value(metrics.AUROC(SCORES), data) == expected
