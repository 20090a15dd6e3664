"""Train and test a model on categories of MVTec AD, or on data laid out like it.

Writes one JSON file per run, and prints a Markdown table of all runs in the folder:

    python benchmarks/accuracy.py --root DATASETS --config configs/cpu.yaml --seeds 0 1 2

Categories that are not under the root are listed as not run; the demo's part is drawn. Nothing is
chosen by the test images: every run is tested once, with the weights of its last epoch and the
thresholds of its held-out images. What the best threshold for these test images would have given
stands beside it.

With --model the same for one of anomalib's models, see peers.py, on images of the configuration's
size. Its thresholds are anomalib's, fitted on the test images, so its F1 and IoU look better than a
user's would; AUROC, AP, AUPRO and the best IoU need none.
"""

import argparse
import json
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.metrics import F1Max
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from lightning.pytorch import seed_everything
from lightning.pytorch.trainer.states import TrainerFn
from peers import BATCH, PEERS, peer
from record import about, cell, commit_of_code, stem, used, write
from torch import get_num_threads

from anomalib_anoseg import AnoSeg, SurfaceDemo
from anomalib_anoseg.evaluation.evaluator import Evaluator, default_metrics
from anomalib_anoseg.evaluation.metrics import IoUPerImage

CATEGORIES = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill",
    "screw", "tile", "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
THRESHOLDED = ("image_F1Score", "pixel_F1Score", "pixel_IoU")  # figures that depend on thresholds
COLUMNS = {
    "image_AUROC": "image AUROC",
    "pixel_AUROC": "pixel AUROC",
    "pixel_AUPR": "AP",
    "pixel_AUPRO": "AUPRO",
    "pixel_F1Score": "F1",
    "pixel_IoU": "IoU",
    "pixel_IoUMax": "best IoU",
    "threshold_gap": "kept",
    "image_F1Score": "image F1",
    "image_F1Max": "image F1-max",
    "minutes": "minutes",
}


def main() -> None:
    """Run what was asked for and print the table."""
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for category in arguments.categories:
        if category == "part":
            SurfaceDemo(arguments.root).prepare_data()
        if not (arguments.root / category / "train").is_dir():
            continue
        for seed in arguments.seeds:
            file = stem(arguments.name or arguments.model, category, arguments.images, seed)
            write(arguments.out / f"{file}.json", run(arguments, category, seed))
    print(markdown(arguments.out, arguments.categories))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the categories")
    parser.add_argument("--model", choices=["AnoSeg", *PEERS], default="AnoSeg")
    parser.add_argument("--config", type=Path, default=Path("configs/cpu.yaml"))
    parser.add_argument("--categories", nargs="+", default=[*CATEGORIES])
    parser.add_argument("--images", type=int, help="good images drawn by the seed; without it all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--batch", type=int, default=8, help="AnoSeg's training images in a batch")
    parser.add_argument(
        "--host-thresholds",
        action="store_true",
        help="also test with the thresholds that anomalib's own post-processor finds",
    )
    parser.add_argument(
        "--latency", action="store_true", help="also time the exported model on single images"
    )
    parser.add_argument("--name", help="what to call these settings; without it by the model")
    parser.add_argument("--set", nargs="*", default=[], metavar="model.init_args.X=Y")
    parser.add_argument("--out", type=Path, default=Path("results/accuracy"))
    parser.add_argument("--runs", type=Path, help="where checkpoints go; without it OUT/runs")
    parser.add_argument("--at-once", type=int, default=1, help="how many runs share the machine")
    return parser.parse_args()


def prepare(
    arguments: argparse.Namespace, category: str, seed: int
) -> tuple[AnomalibModule, int, MVTecAD, dict[str, Any]]:
    """Return the model, the height of its images, the data, and the arguments of the trainer."""
    overrides = dict(item.split("=", 1) for item in arguments.set)
    overrides |= {"model.init_args.seed": seed, "model.init_args.visualizer": "false"}
    trainer, batch = yaml.safe_load(arguments.config.read_text())["trainer"], arguments.batch
    changed = {
        key.removeprefix("trainer."): yaml.safe_load(overrides.pop(key))
        for key in [key for key in overrides if key.startswith("trainer.")]
    }
    model: AnomalibModule = AnoSeg.from_config(arguments.config, **overrides)
    resize = model.pre_processor.transform
    if resize is None and (arguments.latency or arguments.model != "AnoSeg"):
        msg = f"--latency and --model need images of one size, {arguments.config} takes any"
        raise ValueError(msg)
    height, width = resize.size if resize else (0, 0)
    if arguments.model != "AnoSeg":
        seed_everything(seed, workers=True)
        model, trainer = peer(arguments.model, (height, width))
        batch = BATCH
    data = MVTecAD(
        arguments.root, category, train_batch_size=batch, eval_batch_size=16, num_workers=0
    )
    if arguments.images is not None:
        keep(data, arguments.images, seed)
    return model, height, data, trainer | changed


def keep(data: MVTecAD, count: int, seed: int) -> None:
    """Train on some of the good images, the same for every model."""
    data.setup(TrainerFn.FITTING)
    there = len(data.train_data)
    if not 0 < count <= there:
        msg = f"--images must be at most the {there} good images of {data.category}, got {count}"
        raise ValueError(msg)
    data.train_data.subsample(sorted(random.Random(seed).sample(range(there), count)), inplace=True)


def run(arguments: argparse.Namespace, category: str, seed: int) -> dict[str, Any]:
    """Train once, test once."""
    where = about(seed, commit_of_code())  # before anybody changes a file
    model, size, data, trainer = prepare(arguments, category, seed)
    metrics = [
        *default_metrics(),
        IoUPerImage(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False),
        F1Max(fields=["pred_score", "gt_label"], prefix="image_", strict=False),
    ]
    model.evaluator = Evaluator(test_metrics=metrics)

    def engine() -> Engine:
        folder = arguments.runs or arguments.out / "runs"
        return Engine(**{"logger": False, "default_root_dir": folder} | trainer)

    training = engine()
    start = time.perf_counter()
    training.fit(model, datamodule=data)
    minutes = (time.perf_counter() - start) / 60
    steps = training.trainer.global_step
    if arguments.model != "AnoSeg":  # anomalib's default: thresholds from the test images
        training.validate(model, datamodule=data)
    (measured,) = training.test(model, datamodule=data)
    # What share of the IoU that the best threshold gives do the masks have?
    measured["threshold_gap"] = measured["pixel_IoU"] / measured["pixel_IoUMax"]
    if arguments.host_thresholds:
        model.post_processor = PostProcessor()
        # By default anomalib's validation images are its test images.
        engine().validate(model, datamodule=data)
        (fitted,) = engine().test(model, datamodule=data)
        measured |= {f"host_{name}": fitted[name] for name in THRESHOLDED}
    if arguments.latency:
        measured |= latency(model.cpu().eval(), size)
    return {
        "category": category,
        "name": arguments.name or arguments.model,
        **where,
        **used(training.trainer),
        "at_once": arguments.at_once,
        "config": str(arguments.config),
        "set": arguments.set,
        "batch": data.train_batch_size,
        "images": arguments.images,
        "training_images": len(data.train_data),
        "steps": steps,
        "metrics": measured | {"minutes": minutes},
    }


def latency(model: AnomalibModule, size: int) -> dict[str, float]:
    """Return the milliseconds of an image by OpenVINO in float32, and the megabytes on disk."""
    from inference import compiled  # a machine that only trains has no OpenVINO
    from side_by_side import side_by_side
    from synthesis import photographs

    image = photographs(1, model.device, size).numpy()
    with tempfile.TemporaryDirectory() as folder:
        graph, megabytes = compiled(model, size, Path(folder), get_num_threads())
        (times,) = side_by_side({"one image": lambda: graph(image)}).values()
    return {"milliseconds": 1e3 * times.median, "megabytes": megabytes}


def markdown(folder: Path, categories: list[str]) -> str:
    """Return one row per settings and category, the mean over seeds, and what was not run."""
    groups, done = defaultdict(list), set()
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text())
        done.add(result["category"])
        few = f", {result['images']} images" if result.get("images") else ""
        groups[result["name"], result["category"] + few].append(result)
    head = ["settings", "category", *COLUMNS.values(), "seeds", "device", "commit"]
    lines = [head, ["---"] * len(head)]
    for (name, category), results in groups.items():
        values = ([r["metrics"].get(key) for r in results] for key in COLUMNS)
        cells = [cell([value for value in column if value is not None]) for column in values]
        seeds = " ".join(str(result["seed"]) for result in results)
        where = (", ".join(sorted({r[key] for r in results})) for key in ("device", "commit"))
        lines.append([name, category, *cells, seeds, *where])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    missing = [category for category in categories if category not in done]
    return table + (f"\n\nNot run: {', '.join(missing)}.\n" if missing else "\n")


if __name__ == "__main__":
    main()
