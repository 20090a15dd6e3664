"""A trained model's answers to test images, small enough for a page."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AnomalibMetric
from anomalib.models.components import AnomalibModule
from torch import Tensor
from torch.nn.functional import interpolate

from anomalib_anoseg.evaluation.inspected import judge_inside, update
from anomalib_anoseg.inference.frames import reason
from anomalib_anoseg.inference.parallel import in_order
from anomalib_anoseg.inference.table import readable
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.lightning_model import AnoSeg
from anomalib_anoseg.report.nearest import Comparison, compare
from anomalib_anoseg.report.thumbnails import (
    levels,
    outlined,
    photograph,
    short_name,
    small,
)
from anomalib_anoseg.utils.inside import inside_of


class Example(NamedTuple):
    """What the page shows of one image. Pictures are data URIs.

    Attributes:
        name: The last folder and the file's name.
        kind: The folder, in MVTec AD's layout the kind of defect.
        defective: The truth.
        called_defective: The verdict.
        score: In [0, 1].
        image: Before the resize to the network's size.
        ratio: Its width over its height, in which everything is shown.
        mask: The truth, None if there is none.
        anomaly_map: Grey; a value v of the map is stored as the whole part of 256 v.
        area: Pixels of the map above the pixel threshold, as a share of the image.
        comparisons: Which good images the highest places of the map were compared with, if any.
    """

    name: str
    kind: str
    defective: bool
    called_defective: bool
    score: float
    image: str
    ratio: float
    mask: str | None
    anomaly_map: str
    area: float
    comparisons: Sequence[Comparison] = ()

    @property
    def error(self) -> float:
        """How wrong the score is, [0, 1]."""
        return 1 - self.score if self.defective else self.score

    @property
    def outcome(self) -> str:
        """The verdict against the truth."""
        if self.defective == self.called_defective:
            return "correct"
        return "miss" if self.defective else "false alarm"


class Failure(NamedTuple):
    """An image that could not be read or judged, and why."""

    name: str
    reason: str


def thresholds_of(model: AnomalibModule) -> Thresholds:
    """Return the thresholds of a trained model's post-processor, and what infer leaves out.

    Raises:
        ValueError: If it has none.
    """
    post: Any = model.post_processor
    if post is None:
        msg = (
            "this model has no post-processor, and so no thresholds to call an image defective by: "
            "train without post_processor: false"
        )
        raise ValueError(msg)
    return Thresholds(
        float(post.normalized_image_threshold),
        float(post.normalized_pixel_threshold),
        getattr(post, "smallest_defect", 0),  # anomalib's has none
    )


def answers(
    model: AnoSeg,
    dataset: Any,
    metrics: Iterable[AnomalibMetric],
    device: torch.device,
) -> Iterator[Example | Failure]:
    """Give the images of a data set to a model as an exported one would get them.

    Args:
        model: A trained one.
        dataset: anomalib's; images may have different sizes.
        metrics: Updated with every image.
        device: Where the model runs.

    Yields:
        One example per image in the order of the data, or why there is none.

    Raises:
        ValueError: If the model has no thresholds.
    """
    model = model.eval().to(device)
    thresholds = thresholds_of(model)

    def load(index: int) -> Any:
        try:
            return dataset.collate_fn([dataset[index]])
        except Exception as error:  # noqa: BLE001 - one image never ends a run
            return error

    for index, batch in enumerate(in_order(load, range(len(dataset)))):
        try:
            if isinstance(batch, Exception):
                raise batch  # noqa: TRY301 - one place for both
            seen, mask = _judged(model, batch, device, thresholds)
            assert seen.anomaly_map is not None  # AnoSeg always gives one
            comparisons = compare(model, batch.image, seen.anomaly_map, thresholds.pixel)
        except Exception as error:  # noqa: BLE001
            name = short_name(dataset.samples.iloc[index].image_path)
            yield Failure(name, readable(reason(error)))
            continue
        region = model.model.region
        update(metrics, seen, inside_of(region, seen.anomaly_map))
        if region is not None:
            seen.image = outlined(batch.image, region(batch.image))
        for example in make_examples(seen, mask, thresholds.pixel):
            yield example._replace(comparisons=comparisons)


def _judged(
    model: AnoSeg, batch: Any, device: torch.device, thresholds: Thresholds
) -> tuple[ImageBatch, Tensor | None]:
    """Return a batch of one with its predictions, and its mask (1, 1, h, w) at the map's size."""
    with torch.inference_mode():
        answer = model(batch.image.to(device))
    found, label = answer.pred_mask, answer.pred_label
    if found is None or label is None:  # enable_thresholding: false
        found, label = answer.anomaly_map > thresholds.pixel, answer.pred_score > thresholds.image
    anomaly_map = answer.anomaly_map.float().cpu()
    mask = batch.gt_mask
    if mask is not None:
        size = anomaly_map.shape[-2:]
        mask = interpolate(mask.view(-1, 1, *mask.shape[-2:]).float(), size, mode="nearest") > 0
    seen = ImageBatch(
        image=batch.image,
        image_path=batch.image_path,
        gt_label=batch.gt_label,
        gt_mask=None if mask is None else mask[:, 0],
        anomaly_map=anomaly_map[:, 0],
        pred_mask=found.cpu().view(anomaly_map.shape)[:, 0],
        pred_score=answer.pred_score.float().cpu().flatten(),
        pred_label=label.cpu().flatten(),
    )
    if model.model.region is not None:
        judge_inside(seen, model.model.region(anomaly_map).cpu())
    kept: Any = seen.gt_mask
    return seen, None if mask is None else kept[:, None]


def make_examples(batch: Any, masks: Tensor | None, threshold: float) -> Iterator[Example]:
    """Yield what the page shows of an ImageBatch with predictions; masks are (b, 1, h, w)."""
    for index, path in enumerate(batch.image_path):
        anomaly_map = batch.anomaly_map[index][None, None]
        score = float(batch.pred_score[index])
        yield Example(
            name=short_name(path),
            kind=readable(Path(path).parent.name),
            defective=bool(batch.gt_label[index]),
            called_defective=bool(batch.pred_label[index]),
            score=score,
            image=photograph(small(batch.image[index][None].float())),
            ratio=batch.image.shape[-1] / batch.image.shape[-2],
            mask=None if masks is None else levels(small(masks[index][None].float(), highest=True)),
            anomaly_map=levels(small(anomaly_map, highest=True)),
            area=float((anomaly_map > threshold).float().mean()),
        )


def worst_first(examples: Iterable[Example], most: int) -> list[Example]:
    """Return those whose scores are most wrong, at most so many, memory for no more."""
    kept: list[Example] = []
    for example in examples:
        kept.append(example)
        if len(kept) >= 2 * most:
            kept = sorted(kept, key=lambda e: -e.error)[:most]
    return sorted(kept, key=lambda e: -e.error)[:most]
