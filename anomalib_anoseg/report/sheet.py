"""See what the generator makes of your own images."""

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype, to_image
from torchvision.utils import make_grid, save_image

from anomalib_anoseg.anomaly_generator import AnomalyGenerator
from anomalib_anoseg.inference.files import images_below
from anomalib_anoseg.inference.frames import reason
from anomalib_anoseg.networks.region import Polygons, Region, plain_region
from anomalib_anoseg.pre_processor import MatrixResize
from anomalib_anoseg.report.thumbnails import outlined
from anomalib_anoseg.synthesis.laws import Anomalies
from anomalib_anoseg.training.crops import cut_randomly
from anomalib_anoseg.training.region_check import fit_mask
from anomalib_anoseg.utils.checks import require_positive
from anomalib_anoseg.utils.files import complete_file
from anomalib_anoseg.utils.images import read_image
from anomalib_anoseg.utils.inside import inside_of
from anomalib_anoseg.utils.seeds import own_seed
from anomalib_anoseg.utils.shapes import Images, Places

EPILOG = """Laws of the anomalies are given one by one, such as --anomalies.patches [1,3]. Here
every image is made synthetic, in training four of five are.

exit status: 0 every chosen image is drawn; 1 some could not be read; 2 wrong arguments or input.
"""


def sheet(
    folder: Path,
    output: Path = Path("sheet.png"),
    rows: int = 8,
    columns: int = 3,
    size: int = 256,
    train_crop: int | None = None,
    region: Polygons | str | None = None,
    seed: int = 0,
    anomalies: Anomalies = Anomalies(synthetic_share=1.0),  # noqa: B008  # frozen
) -> int:
    """Draw synthetic anomalies of the images of a folder, each as image, synthetic image and mask.

    Args:
        folder: Folder with good images.
        output: The picture to write.
        rows: Images below each other.
        columns: Images beside each other; each takes three pictures.
        size: Side of a picture in pixels, what the network would see.
        train_crop: Show random crops of this side of the images at their own size instead, what a
            model with the same train_crop is trained on.
        region: The part of the images that is inspected, outlined in yellow, as for the model: a
            mask image of their size, or polygons. Anomalies are drawn inside alone.
        seed: Seed of the draws.
        anomalies: The laws of the synthetic anomalies.

    Returns:
        The exit status: 0, or 1 if an image could not be read.

    Raises:
        FileNotFoundError: If the folder holds no images, or the mask is missing.
        ValueError: If none of those that were chosen can be read, a number is not positive, or the
            region cannot be that of the images.
    """
    for name, value in {"rows": rows, "columns": columns, "size": size}.items():
        require_positive(name, value)
    if train_crop is not None:
        require_positive("train_crop", train_crop)
    paths = [path for path in images_below(folder) if path.resolve() != output.resolve()]
    count = min(len(paths), rows * columns)
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    given = plain_region(region)
    inspected = None if given is None else Region(given)
    with own_seed(seed):
        read = [_read(path, size, train_crop, given, inspected) for path in chosen]
        images = [one for one in read if one is not None]
        if not images:
            msg = f"{folder}: no image could be read"
            raise ValueError(msg)
        good, place = (torch.cat(parts) for parts in zip(*images, strict=True))
        inside = inside_of(inspected, good, place)
        if inside is not None and not inside.any():
            msg = f"nothing of the region is left at {size} x {size} pixels: give a larger --size"
            raise ValueError(msg)
        nothing = torch.zeros_like(good[:, :1])
        synthetic, masks = AnomalyGenerator(anomalies)(good, nothing, inside=inside)
    if inside is not None:
        good, synthetic = outlined(good, inside), outlined(synthetic, inside)
    triples = torch.stack([good, synthetic, masks.expand_as(good)], dim=1).flatten(0, 1)
    output.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(output) as part:
        save_image(make_grid(triples, nrow=3 * columns, padding=4), part, _format(output))
    print(f"{len(images)} images of {folder}: {output}")  # noqa: T201
    return 1 if len(images) < len(chosen) else 0


def _format(output: Path) -> str:
    known = Image.registered_extensions()  # which also loads what can save
    if known.get(output.suffix.lower()) not in Image.SAVE:
        msg = f"output must end as a picture does, such as .png, got {output.name}"
        raise ValueError(msg)
    return known[output.suffix.lower()]


def _read(
    path: Path, size: int, crop: int | None, given: Any, region: Region | None
) -> tuple[Images, Places] | None:
    """Return what the network would see of an image, (1, 3, side, side), and where it lies.

    None if the file cannot be read.
    """
    try:
        image = to_dtype(to_image(read_image(path)), torch.float32, scale=True)[None]
    except Exception as error:  # noqa: BLE001 - one image never ends a run
        print(f"{path}: {reason(error).removeprefix(f'cannot read {path}: ')}", file=sys.stderr)  # noqa: T201
        return None
    if region is not None and isinstance(given, str):
        fit_mask(given, region.inside.shape, {tuple(image.shape[-2:]): path})
    if crop is not None:
        return cut_randomly([image], crop, crop, None, region)
    resized: Tensor = MatrixResize((size, size))(image)
    return resized.as_subclass(Tensor), torch.tensor([[0.0, 0.0, size, size]])
