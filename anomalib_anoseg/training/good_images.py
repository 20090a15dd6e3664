"""Read training images as the network sees them, without augmentations that may be random."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import default_collate

from anomalib_anoseg.training.image_reading import datasets_of
from anomalib_anoseg.utils.shapes import Images


def read_good_images(
    source: Any,
    indices: Iterable[int],
    prepare: Callable[[Images], Images] | None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[tuple[Images, Any]]:
    """Yield each image, (1, c, h, w) in [0, 1], and the batch of one that it came in.

    Args:
        source: A data set, or what wraps some; anomalib's have ``augmentations``, which are left
            out.
        indices: Which of its images.
        prepare: Applied to each: the pre-processor, so that large images do not fill the memory;
            None leaves them as they are.
        collate: What makes a batch; by default the data set's own.
    """
    collate = collate or getattr(source, "collate_fn", None) or default_collate
    for index in indices:
        with _without_augmentations(source):
            batch = collate([source[index]])
        yield (prepare(batch.image) if prepare else batch.image), batch


@contextmanager
def _without_augmentations(source: Any) -> Iterator[None]:
    # Not a copy: one of anomalib's synthetic images deletes their files when it is collected.
    parts = [part for part in datasets_of(source) if hasattr(part, "augmentations")]
    kept = [part.augmentations for part in parts]
    for part in parts:
        part.augmentations = None
    try:
        yield
    finally:
        for part, augmentations in zip(parts, kept, strict=True):
            part.augmentations = augmentations
