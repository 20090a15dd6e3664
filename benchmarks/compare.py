"""Train AnoSeg, Draem and Ganomaly on the same images for the same time, and test them alike.

Usage: python benchmarks/compare.py --root DATASETS --categories bottle --minutes 4
These are the models of anomalib that need no download. Each trains at its own recommended settings,
256 x 256 pixels, with as many steps as fit into the minutes; AnoSeg lowers its learning rate over
them. The time is that of steps alone: filling AnoSeg's memory before the first and setting its
thresholds after the last come on top. The thresholds of the others are anomalib's, fitted on the
test images, AnoSeg's are not: their F1 and IoU look better than a user's would. One JSON file per
run, for ``anomalib-anoseg report results/compare``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import Draem, Ganomaly
from anomalib.models.components import AnomalibModule
from lightning.pytorch import seed_everything
from record import about, stem, used, write
from side_by_side import commit_checked_out
from training import Clock

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.evaluation.evaluator import Evaluator

PROBE = 2  # steps by which the time of one is measured, after a first one


def models(textures: Path) -> dict[str, tuple[int, Callable[[], AnomalibModule]]]:
    """Return the batch size and the model by name."""
    textures.mkdir(parents=True, exist_ok=True)
    return {
        # As in configs/cpu.yaml.
        "AnoSeg": (8, lambda: AnoSeg(evaluator=Evaluator(), visualizer=False)),
        # Its authors' batch; without textures it pastes noise, as anomalib provides for.
        "Draem": (8, lambda: Draem(dtd_dir=textures, evaluator=Evaluator(), visualizer=False)),
        "Ganomaly": (32, lambda: Ganomaly(evaluator=Evaluator(), visualizer=False)),
    }


def main() -> None:
    """Run every model on every category."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the categories")
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, each")
    parser.add_argument("--models", nargs="+", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="32-true", help="of training, for all")
    parser.add_argument("--out", type=Path, default=Path("results/compare"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    known = models(arguments.out / "textures")
    for category in arguments.categories:
        for name in arguments.models or known:
            batch, build = known[name]
            result = run(build, batch, category, arguments)
            file = f"{stem(name, category, None, arguments.seed)}.json"
            write(arguments.out / file, {"name": name, "category": category} | result)


def run(
    build: Callable[[], AnomalibModule], batch: int, category: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure a step, then train as many as fit, then test."""

    def fit(model: AnomalibModule, steps: int) -> tuple[Engine, Clock]:
        clock = Clock()
        engine = Engine(
            max_steps=steps * optimisers(model),
            max_epochs=-1,
            check_val_every_n_epoch=10**6,
            precision=arguments.precision,
            logger=False,
            default_root_dir=arguments.out / "runs",
            enable_model_summary=False,
            callbacks=[clock],
        )
        engine.fit(model, datamodule=data)
        return engine, clock

    where = about(arguments.seed, commit_checked_out())  # before anybody changes a file
    data = MVTecAD(arguments.root, category, train_batch_size=batch, num_workers=0)
    seed_everything(arguments.seed, workers=True)
    _, clock = fit(build(), 1 + PROBE)
    step = sum(clock.working[-PROBE:] + clock.waiting[-PROBE:]) / PROBE
    steps = max(1, round(60 * arguments.minutes / step))
    seed_everything(arguments.seed, workers=True)
    model = build()
    engine, clock = fit(model, steps)
    seconds = sum(clock.working + clock.waiting[1:])
    # The peers' thresholds are fitted here, on the test images: anomalib's default.
    engine.validate(model, datamodule=data)
    (measured,) = engine.test(model, datamodule=data)
    return {
        **where,
        **used(engine.trainer),
        "steps": steps,
        "batch": batch,
        "metrics": measured | {"minutes": seconds / 60},
    }


def optimisers(model: AnomalibModule) -> int:
    """Return how many of Lightning's steps a batch takes: it counts those of every optimiser."""
    return 2 if isinstance(model, Ganomaly) else 1


if __name__ == "__main__":
    main()
