"""Which good images the most anomalous places of an image were compared with."""

from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad
from torchvision.transforms.v2.functional import to_dtype, to_image

from anomalib_anoseg.inference.frames import reason
from anomalib_anoseg.inference.table import readable
from anomalib_anoseg.lightning_model import AnoSeg
from anomalib_anoseg.report.thumbnails import photograph, short_name, small
from anomalib_anoseg.torch_model import SCORE_WINDOW
from anomalib_anoseg.training.content import number_of
from anomalib_anoseg.training.good_images import preparation_of
from anomalib_anoseg.utils.images import read_image
from anomalib_anoseg.utils.shapes import Images

DEFECTS = 3  # that are explained, at most: those with the highest maps
SHARE = 4  # a crop shows this part of each side, so that it has the shape of the image
SIDE = 96  # pixels of the longer side of a crop, at most


class Place(NamedTuple):
    """A pixel of an image as the network sees it, and what is around it.

    Attributes:
        row: Counted from the top, the first is 0.
        column: Counted from the left.
        crop: A data URI with the place in the middle; None if the image cannot be shown.
    """

    row: int
    column: int
    crop: str | None

    def __str__(self) -> str:
        """Return where it is, as viewers of images say it."""
        return f"({self.column}, {self.row})"


class Comparison(NamedTuple):
    """The highest place of a defect, and the place of a good image that is nearest to it.

    Attributes:
        here: In the image.
        there: In the good image.
        name: Of the good image.
        problem: Why the good image cannot be shown; empty if it can.
        height: Of the image as the network sees it, in pixels.
        width: Likewise.
    """

    here: Place
    there: Place
    name: str
    problem: str
    height: int
    width: int


@torch.inference_mode()
def compare(
    model: AnoSeg, image: Images, anomaly_map: Tensor, threshold: float
) -> list[Comparison]:
    """Look up what the highest places of a map were compared with.

    Args:
        model: In evaluation mode.
        image: As it was read, (1, 3, h, w) in [0, 1].
        anomaly_map: Of the image at the size that the network sees, (1, h, w).
        threshold: From which a pixel of the map is defective.

    Returns:
        One per place, see :func:`highest`; none if the model remembers no images.
    """
    memory = model.model.memory
    if memory is None or not model.remembered:
        return []
    prepared = _as_the_network_sees(model, image)
    height, width = prepared.shape[-2:]
    most = (model.train_crop or 2 * max(height, width)) // 2  # small defects of large images
    size = max(1, min(height // SHARE, most)), max(1, min(width // SHARE, most))
    found = []
    for row, column in highest(anomaly_map, threshold):
        match = memory.look_up(model.model.inspected(prepared), row, column)
        path = model.remembered[match.owner]
        good, problem = _read_good(path, match.owner)
        if good is not None:
            good = _as_the_network_sees(model, good)
        here = _place(prepared, row, column, size)
        there = _place(good, match.row, match.column, size)
        found.append(Comparison(here, there, short_name(path), problem, height, width))
    return found


def highest(anomaly_map: Tensor, threshold: float) -> list[tuple[int, int]]:
    """Return row and column of the middle of the window that gave the score, of (1, h, w).

    And of those that would give the score of each other defect, which is a connected part of the
    mask: the highest first, no more than ``DEFECTS`` in all.
    """
    means = avg_pool2d(anomaly_map, SCORE_WINDOW, stride=1)[0].cpu()
    edge = SCORE_WINDOW // 2
    mask = anomaly_map[0, edge:-edge, edge:-edge] > threshold  # the middles of windows
    count, labels = cv2.connectedComponents(mask.cpu().numpy().astype("uint8"))
    parts = torch.from_numpy(labels)
    peaks = torch.full((count,), -1.0).scatter_reduce(
        0, parts.flatten().long(), means.flatten(), "amax"
    )
    order = peaks.argsort(descending=True).tolist()
    places = []
    for part in [part for part in order if part > 0 or part == order[0]][:DEFECTS]:
        highest_there = int(torch.where(parts == part, means, -1).argmax())
        row, column = divmod(highest_there, means.shape[-1])
        places.append((row + edge, column + edge))
    return places


def _as_the_network_sees(model: AnoSeg, image: Images) -> Images:
    prepare, image = preparation_of(model.pre_processor), image.to(model.device)
    return prepare(image) if prepare else image


def _read_good(path: str, number: int) -> tuple[Images | None, str]:
    """Return a good image, (1, 3, h, w) in [0, 1], or why there is none."""
    try:
        pixels = read_image(Path(path))
    except FileNotFoundError:  # pages are also written on other machines than trained on
        return None, "the file is not where it was in training"
    except (OSError, ValueError) as error:
        return None, readable(reason(error))
    if number_of(path) != number:
        return None, "the file has changed since training"
    return to_dtype(to_image(pixels), torch.float32, scale=True)[None], ""


def _place(image: Images | None, row: int, column: int, size: tuple[int, int]) -> Place:
    """Return a place, and what is around it if there is an image; nothing is beyond its borders."""
    if image is None:
        return Place(row, column, None)
    # What was remembered may lie in what was padded to multiples of 32.
    row, column = min(row, image.shape[-2] - 1), min(column, image.shape[-1] - 1)
    height, width = size
    image = torch.cat([image, torch.ones_like(image[:, :1])], dim=1)  # transparent outside
    image = pad(image, (width // 2, width, height // 2, height))
    crop = image[..., row : row + height, column : column + width]
    return Place(row, column, photograph(small(crop.float(), SIDE).cpu()))
