"""A model of one tile of a large image, for memory that does not grow with the image."""

from typing import Any

import torch
from anomalib.data import InferenceBatch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_anoseg.torch_model import SCORE_WINDOW
from anomalib_anoseg.utils.shapes import Images, Masks, Places, Verdicts
from anomalib_anoseg.utils.tiles import MARGIN, MULTIPLE

SMALLEST_TILE = 2 * MARGIN + 4 * MULTIPLE


class TileModel(nn.Module):
    """A trained model that judges a tile of an image, knowing where it lies.

    Scores of all tiles together are the image's: their highest is that of the image in one pass.

    Args:
        model: AnoSeg, whose images keep their own size.
        side: Of the square tiles, in pixels.

    Raises:
        ValueError: If the model or its encoder sees images resized or as a whole, or the side is
            not a multiple of 32 or too small.
    """

    def __init__(self, model: Any, side: int) -> None:
        super().__init__()
        if model.pre_processor is not None and model.pre_processor.transform is not None:
            msg = (
                "tiles are cut from images of their own size, and this model resizes them first: "
                "train with the pre-processor's image_size 'native'"
            )
            raise ValueError(msg)
        if model.model.detector is not None:
            msg = "image_score 'detector' judges whole images, no tiles: export without tile_size"
            raise ValueError(msg)
        if side % MULTIPLE or side < SMALLEST_TILE:
            msg = (
                f"tile_size must be a multiple of {MULTIPLE}, {SMALLEST_TILE} or more: {MARGIN} "
                f"pixels of each side are margin. Got {side}"
            )
            raise ValueError(msg)
        if model.model.sees_far:
            msg = (
                "an encoder of this model looks at all of an image, as squeeze-and-excitation and "
                "attention do: its tiles would have other maps. Export without tile_size, or train "
                "with a backbone of plain convolutions"
            )
            raise ValueError(msg)
        self.model: Any = model.model
        self.post_processor: Any = model.post_processor

    def forward(self, tile: Images, place: Places) -> InferenceBatch:
        """Return map, score, mask and label of tiles, normalised as those of images are.

        Args:
            tile: (b, 3, side, side); beyond the image its border is repeated.
            place: Top and left of each tile, and height and width of the image.
        """
        anomaly_map = self.model(tile, place=place).anomaly_map
        score = score_within(anomaly_map, place)
        answer = InferenceBatch(pred_score=score, anomaly_map=anomaly_map)
        normalised: InferenceBatch = self.post_processor(answer) if self.post_processor else answer
        return normalised


def score_within(anomaly_map: Masks, place: Places) -> Verdicts:
    """Return the highest mean over a window that lies in the image and not in the tile's margin."""
    means = F.avg_pool2d(anomaly_map, SCORE_WINDOW, stride=1).squeeze(1)
    top, left, height, width = place[:, :, None].unbind(1)
    rows = _inside(means.shape[1], top, height)
    columns = _inside(means.shape[2], left, width)
    return torch.where(rows[:, :, None] & columns[:, None], means, 0).amax((1, 2))


def _inside(count: int, first: Tensor, length: Tensor) -> Tensor:
    """Return which windows along one side count, (b, count)."""
    windows = torch.arange(count, device=first.device)
    middle = windows + SCORE_WINDOW // 2
    side = count + SCORE_WINDOW - 1
    after_margin = (middle >= MARGIN) | (first <= 0)
    before_margin = (middle < side - MARGIN) | (first + side >= length)
    return after_margin & before_margin & (first + windows + SCORE_WINDOW <= length)
