"""Good images that training does not see, to set thresholds by."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import LabelName, ValSplitMode

from anomalib_anoseg.training.content import number_of
from anomalib_anoseg.training.good_images import RereadImages
from anomalib_anoseg.utils.shapes import Images

SHARE, MOST = 0.1, 64  # of the training images; ours
# The same where somebody wants more: training and the memory get what is left.
LARGEST_SHARE, LARGEST = 0.2, 256
KEPT = 2**28  # bytes; more than these are read anew for each use


class HeldOut:
    """Keep a tenth of a data module's training images out of training, until released.

    Not the data module's validation images: by default these are its test images. Only if they were
    split off the training images (``val_split_mode`` "from_train" or "synthetic") their good ones
    are used, at most 64, and nothing is held out. The choice depends on the order of the images
    alone, so that a run that is resumed keeps the same images out. Copies of those that are held
    out are not trained on either: a memory would know the held-out ones by them.

    Args:
        datamodule: A data module that has been set up; its ``train_data`` is replaced.
        prepare: Applied to each image before it is kept: the pre-processor, so that large images
            do not fill the memory.
        wanted: Images that a false-alarm rate asks for; for these up to a fifth are held out, at
            most 256.

    Attributes:
        images: What prepare makes of the images in [0, 1] of the data module, (1, c, h, w) each. A
            single training image is used for both.
        copies: Training images that are left out for having the content of one that is held out.
    """

    def __init__(
        self,
        datamodule: AnomalibDataModule,
        prepare: Callable[[Images], Images] | None,
        wanted: int = 0,
    ) -> None:
        self._datamodule = datamodule
        self._training = source = datamodule.train_data
        others = [*range(len(source))]
        good: list[int] = []
        if datamodule.val_split_mode in (ValSplitMode.FROM_TRAIN, ValSplitMode.SYNTHETIC):
            validation = datamodule.val_data.samples.label_index == LabelName.NORMAL
            good = validation.to_numpy().nonzero()[0].tolist()
        if good:
            source = datamodule.val_data
            chosen = spread(good, max(MOST, min(wanted, LARGEST)))
        else:
            asked = min(wanted, LARGEST, int(LARGEST_SHARE * len(others)))
            chosen = spread(others, max(count_of(len(others)), asked))
            others = sorted(set(others) - set(chosen))
        # Of several with one content the first: the others tell nothing of the next good image.
        by_number = {number: i for i, number in reversed(_numbers(source, chosen).items())}
        chosen = sorted(by_number.values()) or chosen
        known = {*by_number}
        numbers = _numbers(self._training, others)
        left = [index for index in others if numbers.get(index) not in known] or others
        copies = sorted({*others} - {*left})
        self.copies = [self._training.samples.image_path.iloc[index] for index in copies]
        remaining = self._training
        if 0 < len(left) < len(remaining):
            remaining = remaining.subsample(left)
        # The tiled ensemble's collate_fn resizes; it has none of the data set's own.
        how = source, prepare, datamodule.external_collate_fn
        both = {*left} if source is self._training else set()  # a single image serves both
        self._by_number = {n: i for n, i in by_number.items() if i not in both}
        self._how = how
        self.images = kept_or_reread(source, chosen, *how[1:])
        datamodule.train_data = remaining

    def leave_out(self, remembered: Collection[int]) -> tuple[int, int]:
        """Leave out images that a memory knows, unless it knows all of them.

        A run that is resumed may have its images drawn or ordered otherwise than the first one.

        Args:
            remembered: Numbers of their contents.

        Returns:
            How many it knows, and how many others there are.
        """
        unknown = [i for number, i in self._by_number.items() if number not in remembered]
        known = len(self._by_number) - len(unknown)
        if known and unknown:
            source, *how = self._how
            self.images = kept_or_reread(source, sorted(unknown), *how)
        return known, len(unknown)

    def release(self) -> None:
        """Give the data module its training images back."""
        self._datamodule.train_data = self._training


def _numbers(source: Any, chosen: Sequence[int]) -> dict[int, int]:
    """Return the number of the content of each; of none where a data set has no table of files."""
    samples = getattr(source, "samples", None)
    if samples is None:
        return {}
    return {index: number_of(samples.image_path.iloc[index]) for index in chosen}


def kept_or_reread(source: Any, chosen: Sequence[int], *how: Any) -> Sequence[Images]:
    """Return images of a data set, read now, or if they are large whenever they are asked for.

    Args:
        source: The data set.
        chosen: Which of its images.
        how: What else ``read_good_images`` takes.
    """
    images = RereadImages(source, chosen, *how)
    first = images[0]
    if first.nbytes * len(chosen) > KEPT:
        return images
    return [first, *(images[index] for index in range(1, len(chosen)))]


def count_of(images: int, share: float = SHARE) -> int:
    """Return how many of so many images are held out: a share, at least one, at most 64."""
    return max(1, min(MOST, round(share * images)))


def spread(indices: Sequence[int], count: int) -> list[int]:
    """Return so many of the indices, or all, evenly spread over them."""
    count = min(count, len(indices))
    return [indices[(2 * k + 1) * len(indices) // (2 * count)] for k in range(count)]
