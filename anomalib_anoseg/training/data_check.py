"""Say which file is at fault, where anomalib would go on or not tell."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.utils import ValSplitMode
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

SUBSETS = ("train_data", "val_data", "test_data", "predict_data")


class DataCheck(Callback):
    """Refuse masks that cannot be meant, and name the image that cannot be read."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the masks of the test set before hours of training, not after.

        Raises:
            ValueError: If a mask has another size than its image, or more than two values.
        """
        del pl_module
        if stage in ("fit", "test"):
            for dataset in _datasets(trainer):
                for image, mask in _masks_of(dataset):
                    check_mask(image, mask)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Put the name of the file before what Pillow or torch say about its content."""
        if not isinstance(exception, Exception):
            return  # somebody pressed Ctrl-C
        checkpoint = trainer.ckpt_path
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
            return
        if not isinstance(exception, OSError | SyntaxError):
            return
        for dataset in _datasets(trainer):
            for path in dataset.samples.image_path:
                reason = _unreadable(path)
                if reason is not None and str(path) not in str(exception):
                    _say(exception, f"cannot read {path}: {reason}")
                    return


def check_mask(image_path: str, mask_path: str) -> None:
    """Compare a mask with its image: anomalib would stretch it, and take every grey for a defect.

    Raises:
        ValueError: If the mask has another size than the image, or more than two values.
    """
    with Image.open(image_path) as image, Image.open(mask_path) as mask:
        if image.size != mask.size:
            (width, height), (mask_width, mask_height) = image.size, mask.size
            msg = (
                f"mask {mask_path} has {mask_height} x {mask_width} pixels, its image {image_path} "
                f"has {height} x {width}"
            )
            raise ValueError(msg)
        values = mask.convert("L").histogram()
    levels = [level for level, count in enumerate(values) if count]
    if len(levels) > 2:
        msg = (
            f"mask {mask_path} has {len(levels)} grey values from {levels[0]} to {levels[-1]}, of "
            "which every one above 0 would count as a defect: save it with two values, as PNG"
        )
        raise ValueError(msg)


def _datasets(trainer: Trainer) -> Iterator[AnomalibDataset]:
    datamodule: Any = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, AnomalibDataModule):
        found = {id(d): d for d in (getattr(datamodule, name, None) for name in SUBSETS)}
        yield from (d for d in found.values() if isinstance(d, AnomalibDataset))


def _masks_of(dataset: AnomalibDataset) -> Iterator[tuple[str, str]]:
    samples = dataset.samples
    # Some data sets have several masks per image and read them in their own way.
    if "mask_path" in samples:
        for image, mask in zip(samples.image_path, samples.mask_path, strict=True):
            if isinstance(mask, str) and mask:
                yield image, mask


def _splits_nothing(data: Any) -> bool:
    return (
        isinstance(data, AnomalibDataModule)
        and data.val_split_mode == ValSplitMode.FROM_TEST
        and len(getattr(data, "test_data", [0])) == 0
    )


def _say(exception: BaseException, message: str) -> None:
    if isinstance(exception, OSError) and exception.errno is not None:
        exception.strerror = message  # what it prints, whatever its arguments are
    else:
        exception.args = (message,)


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


def _unreadable(path: str) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError) as error:
        return str(error)
    return None
