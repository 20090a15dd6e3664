"""Draw how pixel AUROC grows with the minutes of training, in one run per category.

Usage: python benchmarks/time_to_quality.py --root DATASETS --categories bottle
Takes the arguments of accuracy.py. The clock stands still while the test images are looked at; they
choose nothing, every run goes on to its last step, and all its metrics are measured there.
"""

import time
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
from accuracy import parse, prepare
from anomalib.engine import Engine
from lightning.pytorch.callbacks import Callback
from side_by_side import commit, device, save

from anomalib_anoseg.evaluation.evaluator import Evaluator, default_metrics
from anomalib_anoseg.evaluation.metrics import AUROC

GOAL = 0.95
POINTS = 24  # of a curve


class Curve(Callback):
    """Note minutes of training, and pixel AUROC after them."""

    def __init__(self) -> None:
        self.minutes: list[float] = []
        self.auroc: list[float] = []
        self._spent = self._since = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock."""
        self._spent += time.perf_counter() - self._since

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        """Note what was reached, and start the clock again."""
        self.minutes.append(self._spent / 60)
        self.auroc.append(trainer.callback_metrics["pixel_AUROC"].item())
        self._since = time.perf_counter()

    def reached(self) -> float | None:
        """Return the minutes at which the curve first crosses the goal, None if it does not."""
        points = [(0.0, 0.5), *zip(self.minutes, self.auroc, strict=True)]
        for (start, low), (end, high) in pairwise(points):
            if high >= GOAL:
                return start + (end - start) * (GOAL - low) / (high - low)
        return None


def main() -> None:
    """Train, draw, and write results/bench/time_to_quality.json and .png."""
    arguments = parse()
    results = {}
    for category in arguments.categories:
        model, data, trainer = prepare(arguments, category, arguments.seeds[0])
        auroc = AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_", strict=False)
        model.evaluator = Evaluator(val_metrics=[auroc], test_metrics=default_metrics())
        curve = Curve()
        trainer |= {
            "val_check_interval": max(1, trainer["max_steps"] // POINTS),
            "check_val_every_n_epoch": None,
        }
        folder = arguments.out / "runs"
        engine = Engine(default_root_dir=folder, logger=False, callbacks=[curve], **trainer)
        engine.fit(model, datamodule=data)
        (measured,) = engine.test(model, datamodule=data)
        results[category] = {
            "minutes": curve.minutes,
            "pixel_AUROC": curve.auroc,
            "goal_after": curve.reached(),
            "at the end": measured,
        }
        plt.plot(curve.minutes, curve.auroc, marker=".", label=category)
        print(f"{category}: pixel AUROC {GOAL} after {curve.reached()} minutes")
    plt.axhline(GOAL, color="grey", linestyle=":")
    plt.xlabel(f"minutes of training, {device()}")
    plt.ylabel("pixel AUROC")
    plt.legend()
    where = {"commit": commit(), "device": device(), "settings": arguments.set}
    save("time to quality", where | {"goal": GOAL, "seed": arguments.seeds[0], "curves": results})
    plt.savefig("results/bench/time_to_quality.png", dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
