"""Images to judge a model by, with what is known of them: a folder, or a data module in YAML."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomalib_anoseg.utils.images import find_images

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule

GOOD = "good"  # MVTec AD's name of the folder of good images
OTHER_GOOD = {"good", "ok", "normal", "pass"}  # what others call it


class Case(NamedTuple):
    """An image and the truth about it.

    Attributes:
        path: Its file.
        defective: None if nobody says.
        mask: The file of its defects, if there is one.
    """

    path: Path
    defective: bool | None = None
    mask: Path | None = None


def read_cases(data: Path) -> list[Case]:
    """Return the images of a folder, or the test images of a data module.

    Args:
        data: A folder as MVTec AD's, of which ``test/good`` and ``test/<kind>`` are taken, with
            masks below ``ground_truth/<kind>``; any other folder, without labels; or a YAML file
            with class_path and init_args of a data module of anomalib.

    Raises:
        FileNotFoundError: If it is not there, or holds no images.
        ValueError: If a data module has no table of test images, or cannot be made or set up, or a
            folder of good images is not called as MVTec AD calls it.
    """
    if data.suffix in {".yaml", ".yml"}:
        cases = _of_datamodule(data)
    elif not data.is_dir():
        msg = f"{data}: no such folder"
        raise FileNotFoundError(msg)
    elif (data / "test").is_dir():
        cases = _of_mvtec_layout(data)
    else:
        cases = [Case(path) for path in find_images(data)]
    if not cases:
        msg = f"{data}: no images to judge"
        if (data / "test").is_dir():
            msg += " in test/good or in test/<kind of defect>"
        raise FileNotFoundError(msg)
    return cases


def datamodule(path: Path) -> "AnomalibDataModule":
    """Return the good images of a folder, or the data module that a YAML file describes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it describes no data module, or the folder is that of a whole data set.
    """
    from anomalib.data import Folder, get_datamodule
    from omegaconf import OmegaConf

    if path.suffix not in {".yaml", ".yml"}:
        for other in ("test", "ground_truth"):
            if (path / other).is_dir():
                msg = (
                    f"{path} is a data set, with {other}/: give its folder of good images, such as "
                    f"{path / 'train' / GOOD}"
                )
                raise ValueError(msg)
        return Folder(
            name=path.name, normal_dir=path.resolve(), test_split_mode="none", val_split_mode="none"
        )
    try:
        config = OmegaConf.load(path)
        return get_datamodule(config if "data" in config else OmegaConf.create({"data": config}))
    except FileNotFoundError:
        raise
    except Exception as error:  # of the parser, of anomalib, and of the class
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"{path}: no data module with class_path and init_args: {reason}"
        raise ValueError(msg) from error


def set_up(module: "AnomalibDataModule", stage: str) -> None:
    """Find the images of a data module.

    Raises:
        OSError: If a folder is missing.
        ValueError: If there are no images, or masks do not belong to them.
    """
    try:
        module.prepare_data()
        module.setup(stage)
    except (OSError, ValueError):
        raise
    except Exception as error:  # what anomalib raises has many types
        msg = f"data {module.name}: {' '.join(str(error).split()) or type(error).__name__}"
        raise ValueError(msg) from error


def _of_datamodule(path: Path) -> list[Case]:
    module = datamodule(path)
    set_up(module, "test")
    samples: Any = getattr(module.test_data, "samples", {})
    if not {"image_path", "label_index"} <= {*samples}:
        msg = f"{path}: {module.name} has no table of test images with image_path and label_index"
        raise ValueError(msg)
    masks = samples.get("mask_path", [None] * len(samples))
    return [
        Case(Path(image), bool(label), Path(mask) if isinstance(mask, str) and mask else None)
        for image, label, mask in zip(
            samples["image_path"], samples["label_index"], masks, strict=True
        )
    ]


def _of_mvtec_layout(folder: Path) -> list[Case]:
    cases = []
    for kind in sorted(path for path in (folder / "test").iterdir() if path.is_dir()):
        if kind.name != GOOD and kind.name.casefold() in OTHER_GOOD:
            msg = f"{kind} would be a kind of defect: good images are in test/{GOOD}, rename it"
            raise ValueError(msg)
        masks = {
            path.stem.removesuffix("_mask"): path
            for path in find_images(folder / "ground_truth" / kind.name)
        }
        cases += [Case(path, kind.name != GOOD, masks.get(path.stem)) for path in find_images(kind)]
    return cases
