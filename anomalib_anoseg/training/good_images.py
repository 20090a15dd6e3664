"""Read training images as the network sees them, without augmentations that may be random."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.utils.data import default_collate

from anomalib_anoseg.training.image_reading import datasets_of
from anomalib_anoseg.utils.shapes import Images


def preparation_of(pre_processor: Any) -> Callable[[Images], Images] | None:
    """Return what a pre-processor does to images in training and test; None for nothing.

    Not what it does when it is called: anomalib's own then resizes as its exports do, which is not
    antialiased.
    """
    return getattr(pre_processor, "transform", None)


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


class RereadImages(Sequence[Images]):
    """Images that are read whenever they are asked for, by all that ``read_good_images`` takes."""

    def __init__(self, source: Any, indices: Sequence[int], *how: Any) -> None:
        self._source, self._indices, self._how = source, indices, how

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        """Return one image, (1, c, h, w)."""
        return next(read_good_images(self._source, [self._indices[index]], *self._how))[0]


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
