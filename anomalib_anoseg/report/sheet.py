"""See what the generator makes of your own images.

python -m anomalib_anoseg.report.sheet FOLDER --anomalies.patches [1,3] --anomalies.blob_share 1
"""

from pathlib import Path

import torch
from jsonargparse import auto_cli
from torchvision.io import ImageReadMode, decode_image
from torchvision.utils import make_grid, save_image

from anomalib_anoseg.anomaly_generator import AnomalyGenerator
from anomalib_anoseg.pre_processor import MatrixResize
from anomalib_anoseg.synthesis.laws import Anomalies
from anomalib_anoseg.utils.seeds import own_seed

SUFFIXES = {".bmp", ".jpg", ".jpeg", ".png", ".webp"}


def contact_sheet(
    folder: Path,
    output: Path = Path("sheet.png"),
    rows: int = 8,
    columns: int = 3,
    size: int = 256,
    seed: int = 0,
    anomalies: Anomalies = Anomalies(synthetic_share=1.0),  # noqa: B008  # frozen
) -> None:
    """Draw synthetic anomalies of the images of a folder, each as image, synthetic image and mask.

    Args:
        folder: Folder with good images.
        output: The picture to write.
        rows: Images below each other.
        columns: Images beside each other; each takes three tiles.
        size: Side of a tile in pixels, what the network would see.
        seed: Seed of the draws.
        anomalies: The laws of the synthetic anomalies.

    Raises:
        FileNotFoundError: If the folder holds no images.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        msg = f"no images ({', '.join(sorted(SUFFIXES))}) under {folder}"
        raise FileNotFoundError(msg)
    count = min(len(paths), rows * columns)
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    resize = MatrixResize((size, size))
    images = torch.stack(
        [resize(decode_image(str(p), ImageReadMode.RGB).float() / 255) for p in chosen]
    )
    with own_seed(seed):
        synthetic, masks = AnomalyGenerator(anomalies)(images, torch.zeros_like(images[:, :1]))
    triples = torch.stack([images, synthetic, masks.expand_as(images)], dim=1).flatten(0, 1)
    save_image(make_grid(triples, nrow=3 * columns, padding=4), output)
    print(f"{count} images of {folder}: {output}")  # noqa: T201


if __name__ == "__main__":
    auto_cli(contact_sheet)
