"""Scores and maps of a checkpoint and of its export on one scale.

An export with a rate of false alarms of its own has other thresholds, and what its threshold is
becomes 0.5: the same image has another score there.
"""

import math
from typing import Any, NamedTuple

from anomalib_anoseg.inference.exported import ExportedModel
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.post_processor import PostProcessor


class Scale(NamedTuple):
    """Which raw score and which raw value of a map become 0.5, both in (0, 1)."""

    image: float
    pixel: float

    def to(self, other: "Scale", cuts: Thresholds) -> Thresholds:
        """Return thresholds that cut the same on another scale."""
        return cuts._replace(
            image=_moved(cuts.image, self.image, other.image),
            pixel=_moved(cuts.pixel, self.pixel, other.pixel),
        )


class Scales(NamedTuple):
    """Those of a checkpoint and of its export, where they differ."""

    own: Scale
    exported: Scale


def other_scales(post_processor: Any, model: ExportedModel) -> Scales | None:
    """Return both scales if a file's thresholds were set for other rates than its checkpoint's.

    None where they were not: other thresholds are then those of another checkpoint. And where one
    of the two has no scale: the post-processor is not AnoSeg's own, or the file does not say.
    """
    own, (image, pixel) = _scale_of(post_processor), model.at_half
    if own is None or image is None or pixel is None or not _has_other_rates(model, post_processor):
        return None
    return Scales(own, Scale(image, pixel))


def _scale_of(post_processor: Any) -> Scale | None:
    if not isinstance(post_processor, PostProcessor) or not post_processor.enable_normalization:
        return None
    return Scale(float(post_processor.image_threshold), float(post_processor.pixel_threshold))


def _has_other_rates(model: ExportedModel, post_processor: PostProcessor) -> bool:
    own = post_processor.false_alarm_rate, post_processor.mask_false_alarm_rate
    return any(
        (said is None) != (asked is None)
        or (said is not None and asked is not None and not math.isclose(said, asked, rel_tol=1e-6))
        for said, asked in zip(model.rates, own, strict=True)
    )


def rescale(post_processor: PostProcessor, scale: Scale) -> None:
    """Let a checkpoint answer on another scale."""
    post_processor.get_buffer("_image_threshold").fill_(scale.image)
    post_processor.get_buffer("_pixel_threshold").fill_(scale.pixel)


def _moved(value: float, half: float, other: float) -> float:
    if math.isclose(half, other, rel_tol=1e-6):  # a file rounds what it says
        return value
    raw = 2 * value * half if value <= 0.5 else half + (2 * value - 1) * (1 - half)
    return 0.5 * raw / other if raw <= other else 0.5 + 0.5 * (raw - other) / (1 - other)
