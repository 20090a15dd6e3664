"""Look at the data before hours of training, not after."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import ValSplitMode
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from anomalib_anoseg.training.good_images import preparation_of
from anomalib_anoseg.training.image_reading import ImageReading, datasets_of
from anomalib_anoseg.training.region_check import check_region
from anomalib_anoseg.training.remembering import warn_if_remembered
from anomalib_anoseg.utils.image_header import Header, read_header
from anomalib_anoseg.utils.images import find_images, read_image
from anomalib_anoseg.utils.masks import GreyMaskError, check_mask
from anomalib_anoseg.utils.shapes import SMALLEST_SIDE

SUBSETS = {
    "fit": ("train_data", "val_data", "test_data"),
    "validate": ("val_data",),
    "test": ("test_data",),
    "predict": ("test_data", "predict_data"),
}
# Pictures to anybody but anomalib's data modules; .jfif is what Windows may call a JPEG.
OTHERS = {".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pnm"}
DARK = 1 / 8  # of what a file can hold: less looks like 12 bits in a file of 16
LOOKED_AT = 8  # deep images whose brightness is measured, evenly spread; the others stay unread


class DataCheck(Callback):
    """Have data sets read their images rightly; refuse files that cannot be meant, by name.

    By their headers: 2,500 take 0.2 s (PNG) to 1.3 s (TIFF). A file that is damaged further on is
    named by the reader when its turn comes.
    """

    def __init__(self) -> None:
        self._reading = ImageReading()
        self._headers: dict[Path, Header] = {}
        self._loading = False  # the checkpoint; what goes wrong later has other reasons

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check every image and mask that the run will read.

        Raises:
            ValueError: If an image cannot be read rightly or is too small, a mask cannot be that of
                its image, or a region that of all images.
        """
        self._reading.take_back()  # a run before this one may have ended in an error
        self._loading = True
        headers = self._headers = {}
        for dataset in _datasets(trainer, stage):
            self._reading.lend(dataset)
            images = dict.fromkeys(_images(dataset))
            headers |= {path: read_header(path) for path in images if path not in headers}
            if isinstance(dataset, SyntheticAnomalyDataset):
                _refuse_misread({path: headers[path] for path in images})
        _refuse_small(pl_module, headers)
        _warn_of_pages(headers)
        if stage == "fit":
            check_region(pl_module, headers)
            _warn_of_darkness(headers)
            _warn_of_others(headers)
            _warn_of_augmentations(getattr(trainer, "datamodule", None))
        if stage in ("fit", "test"):
            masks = [pair for d in _datasets(trainer, stage) for pair in masks_of(d)]
            _check_masks(dict.fromkeys(masks), grey_is_error=stage == "test")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the checkpoint is loaded, and check the region that it may have brought."""
        del trainer
        self._loading = False
        check_region(pl_module, self._headers)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise."""
        del trainer, pl_module
        self._loading = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise, and check the region, which a checkpoint may have brought only now."""
        self._loading = False
        if trainer.state.fn != TrainerFn.FITTING:
            check_region(pl_module, self._headers)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise, and warn of images that the model was trained on."""
        self._loading = False
        check_region(pl_module, self._headers)
        if trainer.is_global_zero:
            warn_if_remembered(getattr(pl_module, "remembered", {}), self._headers)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the data sets as they were."""
        del trainer, pl_module, stage
        self._reading.take_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the data sets as they were, and name a checkpoint or a split that is at fault."""
        self._reading.take_back()
        if not isinstance(exception, Exception):
            return  # somebody pressed Ctrl-C
        checkpoint = trainer.ckpt_path if self._loading else None
        if isinstance(checkpoint, str | Path) and str(checkpoint) not in str(exception):
            reason = _unsuitable(Path(checkpoint), pl_module)
            if reason is not None:
                _say(exception, f"cannot load {checkpoint}: {reason}")
                return
        data: Any = getattr(trainer, "datamodule", None)
        if isinstance(exception, ValueError) and _splits_nothing(data):
            _say(
                exception, f"{data.name} has no test images, and val_split_mode takes some of them"
            )
        elif isinstance(exception, ValueError | MisMatchError) and all(found := _counts(data)):
            images, masks = found
            _say(
                exception,
                f"{data.name} has {images} defective images and {masks} masks: each needs one, "
                "of the same name",
            )


def _datasets(trainer: Trainer, stage: str) -> Iterator[Any]:
    loops = {
        "fit": (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop),
        "validate": (trainer.validate_loop,),
        "test": (trainer.test_loop,),
        "predict": (trainer.predict_loop,),
    }
    found: dict[int, Any] = {}
    for loop in loops[stage]:
        # Lightning's only record of loaders that were given to it, until their workers have begun.
        source: Any = loop._data_source.instance  # noqa: SLF001
        if isinstance(source, LightningDataModule):
            source = [getattr(source, name, None) for name in SUBSETS[stage]]
        if not isinstance(source, LightningModule):
            found |= {id(dataset): dataset for dataset in datasets_of(source)}
    yield from found.values()


def _images(dataset: Any) -> Iterator[Path]:
    """Yield the images of anomalib's two kinds of data sets; others read in their own way."""
    samples = dataset.samples if isinstance(dataset, AnomalibDataset) else {}
    paths = samples.get("image_path", ())
    yield from map(Path, (*paths, *getattr(dataset, "image_filenames", ())))


def masks_of(dataset: Any) -> Iterator[tuple[str, str]]:
    """Yield each image that has a mask, and the mask."""
    samples = dataset.samples if isinstance(dataset, AnomalibDataset) else {}
    # Some data sets have several masks per image and read them in their own way.
    if "mask_path" in samples:
        for image, mask in zip(samples["image_path"], samples["mask_path"], strict=True):
            if isinstance(mask, str) and mask:
                yield image, mask


def _check_masks(pairs: Any, *, grey_is_error: bool) -> None:
    checked = {image: _header_or_grey(image, mask) for image, mask in pairs}
    grey = [found for found in checked.values() if isinstance(found, GreyMaskError)]
    if grey and grey_is_error:
        raise grey[0]
    if grey:
        warnings.warn(f"{grey[0]} ({len(grey)} such masks); `test` refuses them", stacklevel=2)
    turned = [
        image
        for image, found in checked.items()
        if isinstance(found, Header) and found.orientation != 1
    ]
    if turned:
        msg = (
            f"{len(turned)} images with masks are turned upright as their EXIF orientation says, "
            f"such as {turned[0]}: their masks must be drawn upright too, which no size tells"
        )
        warnings.warn(msg, stacklevel=2)


def _header_or_grey(image: str, mask: str) -> Header | GreyMaskError:
    try:
        return check_mask(Path(image), Path(mask))
    except GreyMaskError as error:
        return error


def _refuse_misread(headers: dict[Path, Header]) -> None:
    """Refuse what anomalib has already made from images that it reads otherwise."""
    for path, header in headers.items():
        reason = None
        if header.depth is not None:
            reason = (
                "has more than 8 bits, from which anomalib makes synthetic images that are white"
            )
        elif header.orientation != 1:
            reason = (
                f"is turned upright (EXIF orientation {header.orientation}), and anomalib makes "
                "synthetic images that are not"
            )
        if reason is not None:
            msg = f'{path} {reason}: split otherwise than by "synthetic"'
            raise ValueError(msg)


def _refuse_small(model: Any, headers: dict[Path, Header]) -> None:
    """Refuse images that the network cannot see, before they end a run after its last step."""
    if preparation_of(getattr(model, "pre_processor", None)) is not None:
        return
    for path, header in headers.items():
        if min(header.height, header.width) < SMALLEST_SIDE:
            msg = (
                f"{path} has {header.height} x {header.width} pixels, and images that keep their "
                f"own size need {SMALLEST_SIDE} x {SMALLEST_SIDE}: leave it out"
            )
            raise ValueError(msg)


def _warn_of_others(headers: dict[Path, Header]) -> None:
    """Name pictures beside the images that no data module takes, for their suffix."""
    folders = {path.parent for path in headers}
    others = sorted(
        path for folder in folders for path in folder.iterdir() if path.suffix.lower() in OTHERS
    )
    if others:
        msg = (
            f"{len(others)} pictures, such as {others[0]}, are passed over for their suffix: save "
            "them as PNG or JPEG (.jfif is JPEG, and need only be renamed)"
        )
        warnings.warn(msg, stacklevel=2)


def _warn_of_augmentations(data: Any) -> None:
    """Warn where images that are judged are changed, and those that they are held against not."""
    if any(getattr(data, f"{part}_augmentations", None) is not None for part in ("val", "test")):
        msg = (
            "the augmentations of this data module change images that are judged, while "
            "thresholds and the memory are of images without: give random ones as "
            "train_augmentations, and to the pre-processor what every image needs, such as a crop"
        )
        warnings.warn(msg, stacklevel=2)


def _warn_of_pages(headers: dict[Path, Header]) -> None:
    longer = [path for path, header in headers.items() if header.pages > 1]
    if longer:
        msg = (
            f"{longer[0]} has {headers[longer[0]].pages} pages, of which only the first is used "
            f"({len(longer)} such files): save each page as a file of its own"
        )
        warnings.warn(msg, stacklevel=2)


def _warn_of_darkness(headers: dict[Path, Header]) -> None:
    deep = [path for path, header in headers.items() if header.depth is not None]
    chosen = deep[:: -(-len(deep) // LOOKED_AT)] if deep else []
    highest = max((float(read_image(path).max()) for path in chosen), default=1.0)
    if highest < DARK:
        msg = (
            f"{deep[0]} and {len(deep) - 1} other images use {highest:.1%} of the range of their "
            "files: 12 bits stored in 16? They would be trained on nearly black. Multiply them "
            "by 2 ** (16 - bits of the camera), here and in production"
        )
        warnings.warn(msg, stacklevel=2)


def _say(exception: BaseException, message: str) -> None:
    if isinstance(exception, OSError) and exception.errno is not None:
        exception.strerror = message  # what it prints, whatever its arguments are
    else:
        exception.args = (message,)


def _splits_nothing(data: Any) -> bool:
    return (
        isinstance(data, AnomalibDataModule)
        and data.val_split_mode == ValSplitMode.FROM_TEST
        and len(getattr(data, "test_data", [0])) == 0
    )


def _counts(data: Any) -> tuple[int, int]:
    """Return how many defective images and masks a Folder names, where that is what is wrong.

    anomalib compares their names only where there are as many.
    """
    if not isinstance(data, Folder) or hasattr(data, "test_data"):
        return 0, 0
    images, masks = (
        sum(len(find_images(Path(data.root or ".", folder))) for folder in _as_list(folders))
        for folders in (data.abnormal_dir, data.mask_dir)
    )
    return (images, masks) if images != masks else (0, 0)


def _as_list(folders: Any) -> Sequence[Any]:
    return [folders] if isinstance(folders, str | Path) else [*(folders or ())]


def _unsuitable(path: Path, module: LightningModule) -> str | None:
    """Return why the weights of a checkpoint cannot be those of the module."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # noqa: BLE001 - torch's are of a dozen types
        return f"not a checkpoint that can be read ({str(error).partition(chr(10))[0]})"
    shapes, expected = (
        {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}
        for state in (weights, module.state_dict())
    )
    if shapes != expected:
        return "its weights are of another model, or of AnoSeg with other arguments"
    return None
