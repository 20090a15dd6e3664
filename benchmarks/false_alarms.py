"""How often good images are called defective, against what the post-processor states.

Usage: python benchmarks/false_alarms.py --root DATASETS --categories tile [--runs RUNS]
From the newest checkpoint of each category that accuracy.py left. Good images that training has not
seen, those held out and those of the test set, are split at random into some that set the threshold
and some that are judged, 50 times: what is stated holds for these, because nothing tells the two
apart. Then the held-out ones alone set it, as in a training, and the test set is judged: there the
statement also depends on whether test images are like training images. Last, what infer says of
drift in 20 runs over good test images, under the lamp as it was and under others. Rates of images
by their score, rates of masks by the highest pixel of their map. Writes
results/bench/false_alarms.json.
"""

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from anomalib.data import MVTecAD
from anomalib.data.utils import LabelName
from record import command, trained
from side_by_side import save, where
from tables import drawn
from torch import Tensor

from anomalib_anoseg import AnoSeg, PostProcessor
from anomalib_anoseg.inference.drift import Drift
from anomalib_anoseg.torch_model import image_score
from anomalib_anoseg.training.good_images import read_good_images
from anomalib_anoseg.training.hold_out import HeldOut
from anomalib_anoseg.utils.false_alarms import FalseAlarms
from anomalib_anoseg.utils.seeds import own_seed

SPLITS = 50
RATES = (0.01, 0.05, 0.1)
LAMPS = {  # factors of red, green and blue
    "as it was": (1.0, 1.0, 1.0), "red + 10 %": (1.1, 1.0, 1.0), "blue + 10 %": (1.0, 1.0, 1.1),
    "20 % darker": (0.8, 0.8, 0.8), "20 % brighter": (1.2, 1.2, 1.2),
}  # fmt: skip
RUNS, RUN = 20, 15  # at most so many images in a run


def main() -> None:
    """Measure each category and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the categories")
    parser.add_argument("--runs", type=Path, default=Path("results/accuracy/runs"))
    parser.add_argument("--categories", nargs="+", required=True)
    arguments = parser.parse_args()
    here = where("cpu")  # before anybody changes a file
    newest = {c: newest_checkpoint(arguments.runs, c) for c in arguments.categories}
    found = {c: measure(arguments.root, c, path) for c, path in newest.items()}
    of_tests = [test_table(found, name) for name in READ]
    print(splits_table(found), *of_tests, drift_table(found), sep="\n\n")
    save("false_alarms", here, {"command": command(sys.argv), "categories": found})


def newest_checkpoint(runs: Path, category: str) -> Path:
    """Return what accuracy.py has trained last.

    Raises:
        SystemExit: If it has trained nothing.
    """
    paths = [*runs.glob(f"AnoSeg/*/{category}/v*/weights/lightning/model.ckpt")]
    if not paths:
        sys.exit(f"no checkpoint of {category} in {runs}: train it with benchmarks/accuracy.py")
    return max(paths, key=lambda file: file.stat().st_mtime)


def measure(root: Path, category: str, path: Path) -> dict[str, Any]:
    """Return the figures of one category by a checkpoint."""
    model = AnoSeg.load_from_checkpoint(path, map_location="cpu").eval()
    data = MVTecAD(root, category, num_workers=0)
    data.setup()
    held_out = HeldOut(data, model.pre_processor).images
    test: Any = data.test_data
    is_good = (test.samples.label_index == LabelName.NORMAL).to_numpy()

    def images(chosen: Any) -> Any:
        indices = chosen.nonzero()[0].tolist()
        return (image for image, _ in read_good_images(test, indices, model.pre_processor))

    with torch.no_grad():
        post_processor = PostProcessor()
        post_processor.fit(model, held_out)
        said = [model.model.witnesses(image) for image in held_out]
        count = len(said)
        said += [model.model.witnesses(image) for image in images(is_good)]
        bad = [model.model.witnesses(image) for image in images(~is_good)]
        drift = drifts(model, post_processor, test, is_good.nonzero()[0].tolist())
        good, defective = (read(model, which) for which in (said[count:], bad))
        return trained(path, model) | {
            "held_out": count,
            "unseen": len(said),
            "splits": splits(model, said),
            "test": {
                name: judge(post_processor, name, good[name], defective[name]) for name in READ
            },
            "drift": drift,
        }


def highest(anomaly_map: Tensor) -> Tensor:
    """Return the highest pixel of each map, (b,)."""
    return anomaly_map.amax((1, 2, 3))


READ = {"image": image_score, "mask": highest}


def read(model: AnoSeg, said: list[list[Tensor]]) -> dict[str, Tensor]:
    """Return score and highest pixel of each image, (n,), from what the witnesses said of it."""
    maps = [model.model.decision(*one) for one in said]
    return {name: torch.cat([value(one) for one in maps]) for name, value in READ.items()}


def splits(model: AnoSeg, said: list[list[Tensor]]) -> dict[str, dict[str, dict[str, float]]]:
    """Set thresholds by half of the good images and judge the others, 50 times."""
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = {
        (name, str(rate)): [] for name in READ for rate in RATES
    }
    for seed in range(SPLITS):
        with own_seed(seed):
            order = torch.randperm(len(said)).tolist()
        calibration = [said[index] for index in order[: len(said) // 2]]
        decision = model.model.decision
        sums = decision.fit(calibration)  # the map, too, follows from these images
        apart = [decision.left_out(one, sums, index) for index, one in enumerate(calibration)]
        seen = {name: torch.cat(list(map(value, apart))) for name, value in READ.items()}
        new = read(model, [said[index] for index in order[len(said) // 2 :]])
        for rate in RATES:
            made = PostProcessor(false_alarm_rate=rate, mask_false_alarm_rate=rate)
            made.usual_threshold.zero_()  # what they promise alone
            made.usual_pixel_threshold.zero_()
            made.good_scores, made.good_peaks = (seen[name].sort().values for name in READ)
            made.set_thresholds()
            for name in READ:
                threshold, stated = cut_of(made, name)
                reached = float((new[name] > threshold).float().mean())
                limits = stated.expected, stated.low, stated.high
                rows[name, str(rate)].append((reached, *limits))
    return {name: {str(rate): _summary(rows[name, str(rate)]) for rate in RATES} for name in READ}


def _summary(found: list[tuple[float, ...]]) -> dict[str, float]:
    return {
        "reached": statistics.mean(row[0] for row in found),
        "deviation": statistics.stdev(row[0] for row in found),
        **dict(zip(("stated", "low", "high"), found[0][1:], strict=True)),
    }


def drifts(
    model: AnoSeg, post_processor: PostProcessor, test: Any, good: list[int]
) -> dict[str, dict[str, int]]:
    """Return how often each verdict on drift was given, of random parts of the good images."""
    threshold = float(post_processor.image_threshold)
    verdicts = {}
    for lamp, factors in LAMPS.items():
        colour = torch.tensor(factors).view(1, 3, 1, 1)
        lit = [
            model.pre_processor((image * colour).clamp(0, 1))
            for image, _ in read_good_images(test, good[:60], None)
        ]
        seen = read(model, [model.model.witnesses(image) for image in lit])["image"]
        given: Counter[str] = Counter()
        for seed in range(RUNS):
            with own_seed(seed):
                order = torch.randperm(len(seen))
            drift = Drift(post_processor.good_scores.tolist(), threshold)
            for score in seen[order[:RUN]].tolist():
                drift.add(score)
            result = drift.compare()
            given.update([result.verdict] if result else [])
        verdicts[lamp] = dict(given)
    return verdicts


def cut_of(post_processor: PostProcessor, name: str) -> tuple[Tensor, FalseAlarms]:
    """Return the threshold of scores or of highest pixels, and what is stated of it."""
    if name == "image":
        threshold, stated = post_processor.image_threshold, post_processor.false_alarms
    else:
        threshold, stated = post_processor.pixel_threshold, post_processor.mask_false_alarms
    assert stated is not None
    return threshold, stated


def judge(
    post_processor: PostProcessor, name: str, good: Tensor, bad: Tensor
) -> dict[str, dict[str, float]]:
    """Return what each rule does to the test set."""
    judged = {}
    for rate in (None, *RATES):
        post_processor.false_alarm_rate = post_processor.mask_false_alarm_rate = rate
        post_processor.set_thresholds()
        threshold, stated = cut_of(post_processor, name)
        alarms, misses = int((good > threshold).sum()), int((bad <= threshold).sum())
        found = len(bad) - misses
        judged[str(rate or "usual")] = {
            "threshold": float(threshold), "false_alarms": alarms, "good": len(good),
            "misses": misses, "defective": len(bad),
            "f1": 2 * found / (2 * found + misses + alarms),
            **stated._asdict(),
        }  # fmt: skip
    return judged


def splits_table(found: dict[str, Any]) -> str:
    """Return a row per category and rate."""
    lines = [["data", "good images for it", "asked", "stated", "90 % interval", "images", "masks"]]
    for category, result in found.items():
        for rate, row in result["splits"]["image"].items():
            lines.append([
                category, str(result["unseen"] // 2), f"{float(rate):.0%}", f"{row['stated']:.1%}",
                f"{row['low']:.1%} to {row['high']:.1%}",
                *(f"{result['splits'][name][rate]['reached']:.1%}" for name in READ),
            ])  # fmt: skip
    return drawn(lines)


def test_table(found: dict[str, Any], name: str) -> str:
    """Return a row per category and rule, of images by their score or by their mask."""
    head = ["held out", "rule", "threshold", "stated", "false alarms", "misses", "F1"]
    lines = [[f"data, {name}", *head]]
    for category, result in found.items():
        for rule, row in result["test"][name].items():
            lines.append([
                category, str(result["held_out"]), rule, f"{row['threshold']:.3f}",
                f"{row['low']:.1%} to {row['high']:.1%}",
                f"{row['false_alarms']} of {row['good']}", f"{row['misses']} of {row['defective']}",
                f"{row['f1']:.3f}",
            ])  # fmt: skip
    return drawn(lines)


def drift_table(found: dict[str, Any]) -> str:
    """Return a row per category and a column per lamp."""
    lines = [["data", *LAMPS]]
    for category, result in found.items():
        given = (result["drift"][lamp].items() for lamp in LAMPS)
        cells = (", ".join(f"{verdict} {count}" for verdict, count in one) for one in given)
        lines.append([category, *cells])
    return drawn(lines)


if __name__ == "__main__":
    main()
