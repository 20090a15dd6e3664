"""One run of test_distributed.py: Lightning starts this script once per process.

python distributed_run.py OUT DATA PROCESSES EPOCHS [CHECKPOINT]

With the environment variable BAD_LOSS the second process has one in its second step; with CROP the
model is trained on crops of that side.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from anomalib.engine import Engine
from lightning.pytorch.callbacks import Callback

from anomalib_anoseg import AnoSeg, PreProcessor, SurfaceDemo


class BadLoss(Callback):
    """Gives one process weights that are no numbers."""

    def on_train_batch_start(self, trainer: Any, module: AnoSeg, *_: Any) -> None:
        """In its second step."""
        if trainer.global_rank == 1 and trainer.global_step == 1:
            module.model.map_decoder.head.bias.data.fill_(float("nan"))


class Places(Callback):
    """Notes where the crops of each step lie."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Any, module: AnoSeg, batch: Any, _: int) -> None:
        """Of whole images there is nothing to note."""
        del trainer, module
        if getattr(batch, "place", None) is not None:
            self.seen.append(batch.place.cpu())


def main(out: Path, data: Path, processes: int, epochs: int, checkpoint: str | None) -> None:
    """Train and test, then write down what this process saw."""
    seed = None if checkpoint is None else 3
    crop = int(os.environ.get("CROP", "0")) or None
    model = AnoSeg(
        backbone="mobilenetv3_small_050", image_score="map" if crop else "detector", seed=seed,
        reconstruction_weight=1.0, adversarial_weight=0.01, train_crop=crop, visualizer=False,
        pre_processor=PreProcessor((64, 64)),
    )  # fmt: skip
    masks: list[torch.Tensor] = []
    places = Places()

    def note(_module: Any, _inputs: Any, made: Any) -> None:
        if model.training:
            masks.append(made[1])

    model.anomaly_generator.register_forward_hook(note)
    engine = Engine(
        default_root_dir=out, accelerator="cpu", devices=processes, max_epochs=epochs,
        strategy="ddp" if processes > 1 else "auto", logger=False, enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[places, *([BadLoss()] if "BAD_LOSS" in os.environ else [])],
    )  # fmt: skip
    part = SurfaceDemo(data, category="part", train_batch_size=2, eval_batch_size=4, num_workers=0)
    if epochs:
        try:
            engine.fit(model, datamodule=part, ckpt_path=checkpoint)
        except FloatingPointError as error:
            torch.save({"error": str(error)}, out / f"rank{engine.trainer.global_rank}.pt")
            return
        checkpoint = engine.trainer.checkpoint_callback.best_model_path
    results = engine.test(model, datamodule=part, ckpt_path=checkpoint)
    seen = {
        "results": results[0],
        "masks": masks,
        "places": places.seen,
        "weights": {name: p.detach() for name, p in model.named_parameters()},
        "memory": model.model.memory.state_dict(),
        "remembered": model.remembered,
        "checkpoint": checkpoint,
    }
    torch.save(seen, out / f"rank{engine.trainer.global_rank}.pt")


if __name__ == "__main__":
    out, data, processes, epochs, *checkpoint = sys.argv[1:]
    main(Path(out), Path(data), int(processes), int(epochs), next(iter(checkpoint), None))
