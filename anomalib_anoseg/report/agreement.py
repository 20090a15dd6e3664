"""A checkpoint and its exported file on the same images: how far apart their answers are."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data import ImageBatch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_anoseg.data.cases import Case
from anomalib_anoseg.evaluation.evaluator import default_metrics
from anomalib_anoseg.evaluation.inspected import truth_inside, update
from anomalib_anoseg.inference.frames import Frame, reason
from anomalib_anoseg.inference.parallel import in_order
from anomalib_anoseg.inference.segmenter import Prediction, Segmenter
from anomalib_anoseg.inference.table import readable
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.report.thumbnails import short_name
from anomalib_anoseg.utils.images import read_image
from anomalib_anoseg.utils.pixel_limit import any_size

SIDES = ("checkpoint", "export")


class Pair(NamedTuple):
    """What both sides say of an image; labels and masks follow by the thresholds of each."""

    case: Case
    checkpoint: Prediction
    export: Prediction


class Difference(NamedTuple):
    """How far two numbers are apart over many images.

    Attributes:
        largest: Of any image.
        mean: Of all.
        file: Where the largest is.
    """

    largest: float
    mean: float
    file: str


def answers(
    model: Any, segmenter: Segmenter, cases: list[Case], failed: Callable[[str, str], None]
) -> Iterator[Pair]:
    """Yield what both sides say; failed gets name and reason of an image that one cannot judge.

    Each file is read once, by the reader of both. From there each side goes its own way: the
    checkpoint's pre-processor, network and post-processor in torch; the compiled graph of ``infer``
    with its own conversion and resize.
    """
    frames = in_order(_frame, cases)
    for case, (frame, prediction) in zip(cases, segmenter(frames), strict=True):
        try:
            if frame.image is None or prediction is None:
                raise ValueError(frame.error)  # noqa: TRY301 - one place for both sides
            judged = _judged(model, frame.image)
        except Exception as error:  # noqa: BLE001 - one image never ends a run
            failed(short_name(str(case.path)), readable(reason(error)))
            continue
        shapes = judged.anomaly_map.shape, prediction.anomaly_map.shape
        if shapes[0] != shapes[1]:
            msg = (
                f"{segmenter.model.path} is no export of this checkpoint: its maps have "
                f"{' x '.join(map(str, shapes[1]))} pixels, those of the checkpoint "
                f"{' x '.join(map(str, shapes[0]))}"
            )
            raise ValueError(msg)
        yield Pair(case, judged, prediction)


def _frame(case: Case) -> Frame:
    try:
        return Frame(case.path.name, read_image(case.path))
    except Exception as error:  # noqa: BLE001 - decoders raise what they like
        return Frame(case.path.name, None, reason(error))


def _judged(model: Any, pixels: NDArray[Any]) -> Prediction:
    image = to_dtype(to_image(pixels), torch.float32, scale=True)
    with torch.inference_mode():
        answer = model(image.as_subclass(torch.Tensor)[None])
    score = float(answer.pred_score.flatten()[0])
    anomaly_map = answer.anomaly_map[0, 0].float().numpy()
    if not (np.isfinite(score) and np.isfinite(anomaly_map).all()):
        msg = f"the checkpoint gives no number: score {score}"
        raise ValueError(msg)
    return Prediction(score, anomaly_map)


class Agreement:
    """Gathers pairs: differences, what flips, the figures of both sides.

    Args:
        thresholds: Of the checkpoint and of the export.
        has_masks: Whether any defect has a mask; an image without defects then has an empty one.
        region: What is inspected, all if None: defects outside are none.

    Attributes:
        images: How many pairs came.
        flipped: Names of images that one side calls good and the other defective.
        scores: Of the export, by whether the image is defective; images without labels are in none.
        wrong: Misses and false alarms of each side.
    """

    def __init__(
        self, thresholds: tuple[Thresholds, Thresholds], has_masks: bool, region: Any = None
    ) -> None:
        self.images = 0
        self.flipped: list[str] = []
        self.scores: dict[bool, list[float]] = {False: [], True: []}
        self.wrong = {side: {"misses": 0, "false_alarms": 0} for side in SIDES}
        self._thresholds, self._has_masks = thresholds, has_masks
        self._region = region
        self._metrics: Any = [default_metrics() for _ in SIDES]
        self._maps = _Apart()
        self._scores = _Apart()
        self._pixels = self._flipped_pixels = 0

    def add(self, pair: Pair) -> None:
        """Count an image."""
        name = short_name(str(pair.case.path))
        sides = (pair.checkpoint, pair.export)
        first, second = sides
        self.images += 1
        self._scores.add(np.array([first.score]), np.array([second.score]), name)
        self._maps.add(first.anomaly_map, second.anomaly_map, name)
        labels, masks = zip(
            *(
                (side.score > cuts.image, side.anomaly_map > cuts.pixel)
                for side, cuts in zip(sides, self._thresholds, strict=True)
            ),
            strict=True,
        )
        if labels[0] != labels[1]:
            self.flipped.append(name)
        self._pixels += masks[0].size
        self._flipped_pixels += int((masks[0] != masks[1]).sum())
        defective = pair.case.defective
        if defective is None:
            return
        size = first.anomaly_map.shape
        truth, inside = self._mask(pair.case, size), None
        if self._region is not None:
            inside = self._region.at(*size)
        if truth is not None and inside is not None:
            label, truth = truth_inside(torch.tensor([defective]), truth, inside)
            defective = bool(label)
        self.scores[defective].append(second.score)
        rows = zip(SIDES, self._metrics, sides, labels, masks, strict=True)
        for side, metrics, prediction, label, mask in rows:
            self.wrong[side]["misses"] += defective and not label
            self.wrong[side]["false_alarms"] += label and not defective
            batch = _batch(prediction, label, mask, defective, truth)
            update(metrics, batch, inside)

    @property
    def differences(self) -> dict[str, Difference]:
        """Those of the maps and of the scores."""
        return {"map": self._maps.difference, "score": self._scores.difference}

    @property
    def flipped_pixels(self) -> float:
        """The share of pixels of all masks, at the size of the maps, in which both sides differ."""
        return self._flipped_pixels / self._pixels

    def figures(self) -> dict[str, dict[str, float]]:
        """Return anomalib's names and values of the metrics of each side that the labels define."""
        return {side: _values(metrics) for side, metrics in zip(SIDES, self._metrics, strict=True)}

    def _mask(self, case: Case, size: tuple[int, ...]) -> torch.Tensor | None:
        if case.mask is None:
            nothing = self._has_masks and not case.defective
            return torch.zeros(1, *size, dtype=torch.bool) if nothing else None
        with any_size, Image.open(case.mask) as mask:
            pixels = torch.from_numpy(np.array(mask.convert("L"), np.float32))
        return interpolate(pixels[None, None], size, mode="nearest")[0] > 0


class _Apart:
    """The running largest and mean distance of arrays of numbers."""

    def __init__(self) -> None:
        self._largest, self._file, self._sum, self._count = -1.0, "", 0.0, 0

    def add(self, first: NDArray[Any], second: NDArray[Any], name: str) -> None:
        apart = np.abs(first.astype(np.float64) - second)
        if apart.max() > self._largest:
            self._largest, self._file = float(apart.max()), name
        self._sum += float(apart.sum())
        self._count += apart.size

    @property
    def difference(self) -> Difference:
        return Difference(self._largest, self._sum / self._count, self._file)


def _batch(
    prediction: Prediction, label: bool, mask: NDArray[Any], defective: bool, truth: Any
) -> ImageBatch:
    anomaly_map = torch.from_numpy(prediction.anomaly_map)[None]
    return ImageBatch(
        image=anomaly_map.new_zeros(1, 3, 1, 1),  # no metric looks at it
        gt_label=torch.tensor([defective]),
        gt_mask=truth,
        anomaly_map=anomaly_map,
        pred_mask=torch.from_numpy(mask)[None],
        pred_score=torch.tensor([prediction.score]),
        pred_label=torch.tensor([label]),
    )


def _values(metrics: Iterable[Any]) -> dict[str, float]:
    values = {metric.name: metric.compute() for metric in metrics if metric.update_called}
    return {name: float(value) for name, value in values.items() if value is not None}
