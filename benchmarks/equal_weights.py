"""Train and test AnoSeg beside models of anomalib that see with the same ImageNet weights.

Usage: python benchmarks/equal_weights.py --root DATASETS --categories bottle [--size 256]
The weights are those of EfficientNet-Lite0, which pip installs. Every model has its own settings
and full length: PatchCore and PaDiM look at each image once, Stfpm trains for 100 epochs,
SuperSimpleNet for 300, AnoSeg as configs/cpu.yaml says. Fastflow is not here: anomalib's has no
place for another encoder. The peers' thresholds are anomalib's, fitted on the test images, so
their F1 and IoU look better than a user's would; AUROC, AP, AUPRO and the best IoU need none. One
JSON file per run, for ``anomalib-anoseg report results/equal_weights``.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from accuracy import about, write
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore, Stfpm, Supersimplenet
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from inference import compiled
from lightning.pytorch import seed_everything
from side_by_side import side_by_side
from synthesis import photographs
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.evaluation.evaluator import Evaluator
from anomalib_anoseg.networks.pretrained import build_backbone, load_pretrained, normalisation

NAME = "tf_efficientnet_lite0"
CONFIG = Path(__file__).parents[1] / "configs/cpu.yaml"

# The maps at strides 4, 8 and 16 are what the peers call layer1 to layer3.
ALL: Any = [1, 2, 3]
COARSE: Any = [2, 3]
# Model, images in a batch, arguments of the trainer.
PEERS: dict[str, tuple[Callable[..., AnomalibModule], int, dict[str, Any]]] = {
    "Padim": (lambda **k: Padim(NAME, ALL, n_features=100, **k), 32, {}),  # as of ResNet-18
    "Patchcore": (lambda **k: Patchcore(NAME, COARSE, **k), 32, {}),
    "Stfpm": (lambda **k: Stfpm(NAME, ALL, **k), 32, {"max_epochs": 100}),
    "Supersimplenet": (
        lambda **k: Supersimplenet(backbone=NAME, layers=COARSE, **k), 32, {"max_epochs": 300},
    ),
}  # fmt: skip


@contextmanager
def installed_weights() -> Iterator[None]:
    """Let timm take pretrained weights from the installed package, not from its hub."""
    create = timm.create_model

    def create_model(name: str, *args: Any, pretrained: bool = False, **kwargs: Any) -> Any:
        network = create(name, *args, **kwargs)
        if pretrained:
            load_pretrained(network, name)
        return network

    timm.create_model = create_model
    try:
        yield
    finally:
        timm.create_model = create


def build(name: str, size: int, seed: int) -> tuple[AnomalibModule, int, dict[str, Any]]:
    """Return the model, the images of a batch, and the arguments of its trainer."""
    if name == "AnoSeg":
        changed = {
            "seed": seed, "visualizer": "false",
            "pre_processor.init_args.image_size": f"[{size},{size}]",
        }  # fmt: skip
        ours = AnoSeg.from_config(CONFIG, **{f"model.init_args.{k}": v for k, v in changed.items()})
        return ours, 8, yaml.safe_load(CONFIG.read_text())["trainer"]
    make, batch, trainer = PEERS[name]
    mean, std = (value.flatten().tolist() for value in normalisation(build_backbone(NAME)))
    transform = Compose([Resize((size, size), antialias=True), Normalize(mean, std)])
    with installed_weights():
        model = make(
            pre_processor=PreProcessor(transform=transform),
            evaluator=Evaluator(),
            visualizer=False,
        )
    return model, batch, trainer


def run(name: str, category: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once, test once, and time the exported model on single images."""
    seed_everything(arguments.seed, workers=True)
    model, batch, trainer = build(name, arguments.size, arguments.seed)
    data = MVTecAD(arguments.root, category, train_batch_size=batch, num_workers=0)
    folder = arguments.out / "runs"
    always = {
        "check_val_every_n_epoch": 10**6, "enable_model_summary": False,
        "precision": arguments.precision, "logger": False, "default_root_dir": folder,
    }  # fmt: skip
    engine = Engine(**trainer | always)
    start = time.perf_counter()
    engine.fit(model, datamodule=data)
    minutes = (time.perf_counter() - start) / 60
    if name != "AnoSeg":  # anomalib's default: thresholds from the test images
        engine.validate(model, datamodule=data)
    (measured,) = engine.test(model, datamodule=data)
    milliseconds, megabytes = latency(model.cpu().eval(), arguments.size)
    measured |= {"minutes": minutes, "milliseconds": milliseconds, "megabytes": megabytes}
    return {"name": name, "category": category, "batch": batch, "metrics": measured}


def latency(model: AnomalibModule, size: int) -> tuple[float, float]:
    """Return the milliseconds of an image by OpenVINO in float32, and the megabytes on disk."""
    image = photographs(1, torch.device("cpu"), size).numpy()
    with tempfile.TemporaryDirectory() as folder:
        graph, megabytes = compiled(model, size, Path(folder), torch.get_num_threads())
    (times,) = side_by_side({"one image": lambda: graph(image)}).values()
    return 1e3 * times.median, megabytes


def main() -> None:
    """Run every model on every category."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the categories")
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--models", nargs="+", default=["AnoSeg", *PEERS])
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--precision", default="32-true", help="of training")
    parser.add_argument("--out", type=Path, default=Path("results/equal_weights"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for category in arguments.categories:
        for name in arguments.models:
            result = run(name, category, arguments) | about(arguments.seed)
            write(arguments.out / f"{name}-{category}.json", result)


if __name__ == "__main__":
    main()
