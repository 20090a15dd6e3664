"""New good images for a model that is trained: they are remembered, and thresholds set again.

No weight changes, so what the networks learned of defects stays. Images of which one is remembered
and ones by which thresholds are set are never the same: a model knows what it remembers too well.
"""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from anomalib_anoseg.training.checkpoint_io import WholeCheckpoints
from anomalib_anoseg.training.content import number_of
from anomalib_anoseg.training.crops import as_trained
from anomalib_anoseg.training.good_images import preparation_of
from anomalib_anoseg.training.hold_out import count_of, kept_or_reread, spread
from anomalib_anoseg.training.region_check import check_region
from anomalib_anoseg.training.remembering import TrainingImages, remember
from anomalib_anoseg.utils.image_header import read_header
from anomalib_anoseg.utils.seeds import own_seed
from anomalib_anoseg.utils.shapes import Images, Places

SYNTHETIC_IMAGES = 32  # about; judged before and after
SHARE = 0.2  # of the new images, by which thresholds are set; ours
CHANGED = ("post_processor.", "model.decision.", "model.memory.levels.")


class Division(NamedTuple):
    """Which new images are for what, by their places in the data.

    Attributes:
        remembered: To be remembered.
        held_out: To set thresholds by.
        left_out: How many have the content of one that was remembered before, or of another.
    """

    remembered: list[int]
    held_out: list[int]
    left_out: int


class State(NamedTuple):
    """What a model remembers, where it cuts, and what it calls defective of held-out images.

    Attributes:
        rows: Of all levels of the memory together.
        image_threshold: As a probability, before scores are normalised.
        pixel_threshold: Likewise.
        false_alarms: Held-out good images that are called defective.
        found: Those with synthetic anomalies that are called defective.
        synthetic: How many there are of those.
    """

    rows: int
    image_threshold: float
    pixel_threshold: float
    false_alarms: int
    found: int
    synthetic: int


class Adaptation(NamedTuple):
    """What was done with new good images.

    Attributes:
        division: Which of them are for what.
        new_rows: Rows of the memory that are of new images.
        before: The model as it was.
        after: The model as it is.
    """

    division: Division
    new_rows: int
    before: State
    after: State


def adapt(model: Any, source: Any) -> Adaptation:
    """Remember new good images beside the others, and set decision and thresholds again.

    A model without a memory is given thresholds by the new images, and nothing else.

    Args:
        model: AnoSeg in evaluation mode, with its own post-processor.
        source: A data set of anomalib with good images.

    Raises:
        ValueError: If there are too few images that the model does not know, one cannot be read, or
            has another size than the mask of the model's region.
    """
    memory, prepare = model.model.memory, preparation_of(model.pre_processor)
    paths = [*source.samples.image_path]
    if model.model.region is not None:
        check_region(model, {Path(path): read_header(Path(path)) for path in paths})
    division = divide(paths, model.remembered, 1 if memory is None else SHARE)
    held_out = kept_or_reread(source, division.held_out, prepare)
    before = _state(model, held_out)
    new_rows = 0
    if memory is not None:
        chosen = source.subsample(division.remembered)
        images = TrainingImages(DataLoader(chosen, collate_fn=chosen.collate_fn), prepare)
        remember(memory, images, model.model.region, len(model.remembered))
        model.remembered |= images.paths
        numbers = torch.tensor([*images.paths])
        new_rows = sum(int(torch.isin(level.owner, numbers).sum()) for level in memory.levels)
    with torch.no_grad():
        model.post_processor.fit(model, held_out)
    model.post_processor.report()  # a false-alarm rate may ask for more images than these
    return Adaptation(division, new_rows, before, _state(model, held_out))


def divide(paths: Sequence[str], known: Collection[int], share: float) -> Division:
    """Hold some of the images out, evenly spread, and leave out those that are known.

    Args:
        paths: Of the images.
        known: Numbers of images that are remembered.
        share: Held out, (0, 1]; less than 1 leaves at least one image to remember.

    Raises:
        ValueError: If there are too few.
    """
    new: dict[int, int] = {}
    for index in sorted(range(len(paths)), key=lambda index: paths[index]):
        number = number_of(paths[index])
        if number not in known:
            new.setdefault(number, index)
    needed = 1 if share == 1 else 2
    if len(new) < needed:
        msg = (
            f"adapt needs at least {needed} new good images, some to remember and others to set "
            f"thresholds by; of these {len(paths)} the model does not know {len(new)}, copies apart"
        )
        raise ValueError(msg)
    places = [*new.values()]
    held_out = spread(places, count_of(len(places), share))
    remembered = [] if share == 1 else [index for index in places if index not in held_out]
    return Division(remembered, held_out, len(paths) - len(new))


def adapted_checkpoint(path: Path, model: Any) -> dict[str, Any]:
    """Return the checkpoint that a model was loaded from, with what adapting changed.

    All else stays, such as the optimiser's state: a run can be resumed from it.
    """
    checkpoint = WholeCheckpoints().load_checkpoint(path, map_location="cpu", weights_only=True)
    changed = {n: v for n, v in model.state_dict().items() if n.startswith(CHANGED)}
    checkpoint["state_dict"] |= changed
    checkpoint["anoseg_remembered"] = model.remembered
    return checkpoint


def _state(model: Any, good: Sequence[Images]) -> State:
    memory, post_processor = model.model.memory, model.post_processor
    return State(
        0 if memory is None else sum(len(level.rows) for level in memory.levels),
        float(post_processor.image_threshold),
        float(post_processor.pixel_threshold),
        *_called_defective(model, good),
    )


def _called_defective(model: Any, images: Sequence[Images]) -> tuple[int, int, int]:
    """Count the images that are called defective, and those with synthetic anomalies, of how many.

    The anomalies are always the same.
    """
    alarms = found = count = 0
    with own_seed(0), torch.no_grad():
        for image in images:
            alarms += _is_called_defective(model, image)
            for _ in range(math.ceil(SYNTHETIC_IMAGES / len(images))):
                part, place, inside = as_trained(model, image)
                nothing = torch.zeros_like(part[:, :1])
                changed, mask = model.anomaly_generator(part, nothing, inside=inside)
                if mask.any():
                    count += 1
                    found += _is_called_defective(model, changed, place)
    return alarms, found, count


def _is_called_defective(model: Any, image: Images, place: Places | None = None) -> bool:
    post_processor = model.post_processor
    score = post_processor(model.model(image, place=place)).pred_score
    return bool(score > post_processor.normalized_image_threshold)
