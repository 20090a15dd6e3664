"""Random draws that depend on the seed and the place in the run alone."""

import warnings
from hashlib import sha256
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback


class RandomDraws(Callback):
    """Starts other random draws in each step, and in each of several processes.

    A seeded run that was interrupted, anywhere in an epoch, and resumed then ends with the weights
    of one that was not: the batches and their synthetic anomalies are the same.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the draws of this run start, and go on within an epoch."""
        seed: Any = pl_module.seed
        self._seed: int | None = seed
        self._start = torch.initial_seed() if seed is None else seed
        self._ordered = seed is None
        loop = trainer.fit_loop
        if seed is not None and loop.restarted_mid_epoch:
            # What Lightning warns of next is done here.
            warnings.filterwarnings("ignore", ".*your dataloader is not resumable")
            # Lightning calls no on_train_epoch_start then, and starts again with the first batch.
            self._start_epoch(trainer)
            progress = loop.epoch_loop.batch_progress.current
            seen = progress.completed + loop.epoch_loop.restarted_on_train_batch_end
            for _ in range(seen if seen < trainer.num_training_batches else 0):
                next(loop._data_fetcher.iterator)  # type: ignore[union-attr, arg-type]  # noqa: SLF001

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the order of the data from the seed and the epoch."""
        del pl_module
        self._start_epoch(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw what is done with a batch from its place in the run."""
        del pl_module, batch
        place = (self._start, trainer.current_epoch, trainer.global_rank, batch_idx)
        torch.manual_seed(mixed(*place))

    def _start_epoch(self, trainer: Trainer) -> None:
        if self._seed is not None:
            # The same in all processes: their samplers must agree on the order of the data.
            seed_everything(mixed(self._start, trainer.current_epoch), workers=True, verbose=False)
        if not self._ordered:
            # Lightning has drawn the order of a run's first epoch already, before any hook.
            iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]  # noqa: SLF001
            self._ordered = True


def mixed(*numbers: int) -> int:
    """Return a seed that neighbouring seeds, epochs, processes and batches do not share."""
    return int.from_bytes(sha256(repr(numbers).encode()).digest()[:4], "big")
