"""SurfaceDemo: a small inspection data set, drawn and written to disk when it is first used."""

import logging
import math
import shutil
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from anomalib.data import MVTecAD
from anomalib.data.utils import ValSplitMode
from numpy.typing import NDArray

from anomalib_anoseg.data.camera import Picture, expose, light_field
from anomalib_anoseg.data.defects import DEFECTS, USUAL
from anomalib_anoseg.data.part import PLACES, Assembly, render
from anomalib_anoseg.utils.checks import require_whole, require_within

logger = logging.getLogger(__name__)

LARGE = 1024  # pixels of a side from which on fewer images are drawn, of some 8 MB each
SMALLEST = 64
PART_DEFECTS = ("missing", "displaced")
# A pixel is defective if the defect changes it by more than this, before the camera's noise.
VISIBLE = 6 / 255


class Counts(NamedTuple):
    """How many images there are; the last number is of each kind of defect."""

    train: int = 100
    good: int = 20
    each: int = 8


class SurfaceDemo(MVTecAD):
    """A machined part, drawn in MVTec AD's layout under root on first use, offline.

    A plate with screws, a connector and a label, always in the same place under changing light.
    Defects are scratches, fibres, stains and holes, missing and displaced fittings.

    Args:
        root: Folder of the data; the part has a folder of its own in it, as MVTec AD's categories.
        category: ``"part"``, the only one; results are named by it.
        side: Height and width of the images in pixels, at least 64. Scratches, fibres and holes
            stay as wide and long in pixels as they are at 192. Other sides have folders and results
            of their own, "part_2048" and so on; from 1024 on there are 64 images instead of 168.
        train_batch_size: Images per training batch.
        eval_batch_size: Images per validation and test batch.
        num_workers: Worker processes of each data loader; 0 loads in the main process.
        val_split_mode: Where validation images come from, as in anomalib's other data modules.
        val_split_ratio: Share of images that validation takes.
        seed: Seed of that split.

    Raises:
        ValueError: If the category is another one, or the side is too small.
    """

    def __init__(
        self,
        root: Path | str = "./datasets/SurfaceDemo",
        category: Literal["part"] = "part",
        side: int = USUAL,
        train_batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        if category != "part":
            msg = f"category must be 'part', got {category!r}"
            raise ValueError(msg)
        require_within("side", side, SMALLEST, math.inf)
        require_whole("side", side)
        self.side = side
        super().__init__(
            root=root,
            category=category if side == USUAL else f"{category}_{side}",
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the category if it is not there yet."""
        folder = self.root / self.category
        if folder.is_dir():
            return
        logger.info("Writing the demo data to %s", folder)
        self.root.mkdir(parents=True, exist_ok=True)
        # Under another name until complete: an interrupted run leaves nothing that looks finished.
        unfinished = Path(tempfile.mkdtemp(dir=self.root, prefix=f".{self.category}-"))
        try:
            write_part(unfinished, self.side)
            unfinished.chmod(0o755)
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def write_part(folder: Path, side: int = USUAL, counts: Counts | None = None) -> None:
    """Write train, good and defective images."""
    train, good, each = counts or (Counts() if side < LARGE else Counts(30, 10, 4))
    rng = np.random.default_rng(3396)
    seeds = iter(range(10**6))  # each image is another plate
    for part, count in (("train/good", train), ("test/good", good)):
        for number in range(count):
            scene = render(next(seeds), side, Assembly())
            light = light_field(rng, side)
            _save(folder / part, f"{number:03}", expose(rng, scene, light))
    for kind in (*DEFECTS, *PART_DEFECTS):
        for number in range(each):
            seed = next(seeds)
            scene = render(seed, side, Assembly())
            if kind in DEFECTS:
                defective = DEFECTS[kind](rng, scene)
            else:
                fitting = list(PLACES)[number % len(PLACES)]
                defective = render(seed, side, _wrong_assembly(rng, kind, fitting))
            _save_defect(folder, kind, f"{number:03}", rng, scene, defective)


def _wrong_assembly(rng: np.random.Generator, kind: str, fitting: str) -> Assembly:
    if kind == "missing":
        return Assembly(missing=frozenset({fitting}))
    direction = rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(0.1, 0.14)  # about the width of a screw
    return Assembly(
        displaced={fitting: (distance * np.sin(direction), distance * np.cos(direction))}
    )


def _save_defect(
    folder: Path, kind: str, name: str, rng: np.random.Generator, scene: Picture, defective: Picture
) -> None:
    """Save the defective scene, and as its mask the pixels in which it differs from the good one.

    Pinholes, where a defect happens to have the colour of what it hides, belong to the defect.
    """
    from scipy.ndimage import binary_closing, binary_fill_holes

    light = light_field(rng, len(scene))
    differs = (np.abs(defective - scene) * light).max(-1) > VISIBLE
    mask = binary_fill_holes(differs | binary_closing(differs, iterations=2))
    _save(folder / "test" / kind, name, expose(rng, defective, light))
    _save(folder / "ground_truth" / kind, f"{name}_mask", mask.astype(np.float64))


def _save(folder: Path, name: str, picture: NDArray[np.float64]) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
