"""Train and test AnoSeg on categories of MVTec AD, or on data laid out like it.

One JSON file per run, and a Markdown table of all runs in the folder:

    python benchmarks/accuracy.py --root DATASETS --config configs/cpu.yaml --seeds 0 1 2

Categories that are not under the root are listed as not run. Nothing is chosen by the test images:
every run is tested once, with the weights of its last epoch and the thresholds of its held-out
images. What the best threshold for these test images would have given stands beside it.
"""

import argparse
import json
import re
import statistics
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.metrics import F1Max
from anomalib.post_processing import PostProcessor
from side_by_side import commit, device

from anomalib_anoseg import AnoSeg
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
    "pixel_IoU": "IoU@0.5",
    "pixel_IoUMax": "IoU-max",
    "threshold_gap": "kept",
    "image_F1Score": "image F1",
    "image_F1Max": "image F1-max",
    "minutes": "minutes",
}


def main() -> None:
    """Run what was asked for and write the table."""
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for category in arguments.categories:
        if not (arguments.root / category / "train").is_dir():
            continue
        for seed in arguments.seeds:
            result = run(arguments, category, seed)
            name = re.sub(r"\W+", "-", arguments.name)
            write(arguments.out / f"{name}-{category}-{seed}.json", result)
    table = markdown(arguments.out, arguments.categories)
    (arguments.out / "table.md").write_text(table)
    print(table)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the categories")
    parser.add_argument("--config", type=Path, default=Path("configs/cpu.yaml"))
    parser.add_argument("--categories", nargs="+", default=[*CATEGORIES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--batch", type=int, default=8, help="training images in a batch")
    parser.add_argument(
        "--host-thresholds",
        action="store_true",
        help="also test with the thresholds that anomalib's own post-processor finds",
    )
    parser.add_argument("--name", default="default", help="what to call these settings")
    parser.add_argument("--set", nargs="*", default=[], metavar="model.init_args.X=Y")
    parser.add_argument("--out", type=Path, default=Path("results/accuracy"))
    return parser.parse_args()


def prepare(
    arguments: argparse.Namespace, category: str, seed: int
) -> tuple[AnoSeg, MVTecAD, dict[str, Any]]:
    """Return the model, the data, and the arguments of the trainer."""
    overrides = dict(item.split("=", 1) for item in arguments.set)
    overrides |= {"model.init_args.seed": seed, "model.init_args.visualizer": "false"}
    trainer = yaml.safe_load(arguments.config.read_text()).get("trainer", {})
    for key in [key for key in overrides if key.startswith("trainer.")]:
        trainer[key.removeprefix("trainer.")] = yaml.safe_load(overrides.pop(key))
    model = AnoSeg.from_config(arguments.config, **overrides)
    data = MVTecAD(
        arguments.root,
        category,
        train_batch_size=arguments.batch,
        eval_batch_size=16,
        num_workers=0,
    )
    return model, data, trainer


def run(arguments: argparse.Namespace, category: str, seed: int) -> dict[str, Any]:
    """Train once, test once."""
    model, data, trainer = prepare(arguments, category, seed)
    metrics = [
        *default_metrics(),
        IoUPerImage(fields=["pred_mask", "gt_mask"], prefix="pixel_", strict=False),
        F1Max(fields=["pred_score", "gt_label"], prefix="image_", strict=False),
    ]
    model.evaluator = Evaluator(test_metrics=metrics)

    def engine() -> Engine:
        return Engine(default_root_dir=arguments.out / "runs", logger=False, **trainer)

    training = engine()
    start = time.perf_counter()
    training.fit(model, datamodule=data)
    minutes = (time.perf_counter() - start) / 60
    (measured,) = training.test(model, datamodule=data)
    # What share of the IoU that the best threshold gives do the masks have?
    measured["threshold_gap"] = measured["pixel_IoU"] / measured["pixel_IoUMax"]
    if arguments.host_thresholds:
        model.post_processor = PostProcessor()
        # By default anomalib's validation images are its test images.
        engine().validate(model, datamodule=data)
        (fitted,) = engine().test(model, datamodule=data)
        measured |= {f"host_{name}": fitted[name] for name in THRESHOLDED}
    return {
        "category": category,
        "name": arguments.name,
        **about(seed),
        "config": str(arguments.config),
        "set": arguments.set,
        "batch": arguments.batch,
        "training_images": len(data.train_data),
        "steps": training.trainer.global_step,
        "metrics": measured | {"minutes": minutes},
    }


def write(file: Path, result: dict[str, Any]) -> None:
    """Write what a run gave, and print its figures."""
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(file, {key: round(value, 3) for key, value in result["metrics"].items()})


def about(seed: int) -> dict[str, Any]:
    """Return where and with what a run was made."""
    versions = {name: version(name) for name in ("anomalib", "anomalib-anoseg", "torch")}
    return {"seed": seed, "commit": commit(), "device": device(), "versions": versions}


def markdown(folder: Path, categories: list[str]) -> str:
    """Return one row per settings and category, the mean over seeds, and what was not run."""
    groups = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text())
        groups[result["name"], result["category"]].append(result)
    head = ["settings", "category", *COLUMNS.values(), "seeds", "device", "commit"]
    lines = [head, ["---"] * len(head)]
    for (name, category), results in groups.items():
        cells = [cell([r["metrics"].get(key) for r in results]) for key in COLUMNS]
        seeds = " ".join(str(result["seed"]) for result in results)
        where = (", ".join(sorted({r[key] for r in results})) for key in ("device", "commit"))
        lines.append([name, category, *cells, seeds, *where])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    missing = [c for c in categories if c not in {category for _, category in groups}]
    return table + (f"\n\nNot run: {', '.join(missing)}.\n" if missing else "\n")


def cell(values: list[float | None]) -> str:
    """Return the mean, and the standard deviation where there are several values."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.3f}{spread}"


if __name__ == "__main__":
    main()
