import pickle

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator

from anomalib_anoseg import AnoSeg, IoU


def test_iou_by_hand_over_all_pixels() -> None:
    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    prediction = truth.clone()
    truth[0, :2], prediction[0, 1:3] = True, True  # 4 of 12 pixels in common
    prediction[1, 0, 0] = True  # a false alarm on a good image counts, too
    metric = IoU(fields=["pred_mask", "gt_mask"], prefix="pixel_")
    metric = pickle.loads(pickle.dumps(metric))  # noqa: S301
    for index in range(2):
        images = torch.rand(1, 3, 4, 4)
        one = slice(index, index + 1)
        metric.update(ImageBatch(image=images, gt_mask=truth[one], pred_mask=prediction[one]))
    assert metric.name == "pixel_IoU"
    torch.testing.assert_close(metric.compute(), torch.tensor(4 / 13))


def test_default_evaluator_can_be_pickled() -> None:
    evaluator = AnoSeg.configure_evaluator()
    assert isinstance(pickle.loads(pickle.dumps(evaluator)), Evaluator)  # noqa: S301
