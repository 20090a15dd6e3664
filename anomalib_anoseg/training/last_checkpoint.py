"""The last weights are on disk, however a run ends."""

import logging
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

logger = logging.getLogger(__name__)


class LastCheckpoint(Callback):
    """Lets the ModelCheckpoint that keeps the latest weights save once more when a run ends.

    Lightning's saves after validations, and a run may end anywhere: by max_steps, max_time,
    EarlyStopping, Ctrl-C or an error. One that monitors a metric keeps its meaning: it is left
    alone, but for the last checkpoint that it may keep beside the best.
    """

    def __init__(self) -> None:
        self._first_step: int | None = None  # of this run, None outside of one
        self._ending = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the run starts: there is nothing to save before its first step."""
        del pl_module
        self._first_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the run ended with."""
        del pl_module
        self._ending = True
        try:
            for keeper in _keepers(trainer):
                if not keeper._should_skip_saving_checkpoint(trainer):  # noqa: SLF001
                    _save(keeper, trainer)
                elif self._is_of_this_step(keeper, trainer):
                    trainer.save_checkpoint(keeper._last_checkpoint_saved)  # noqa: SLF001
            _save_last(trainer)
        finally:
            self._ending, self._first_step = False, None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save what an interrupted run had reached; where that fails, its own error counts."""
        del pl_module
        started, self._first_step = self._first_step, None
        if started is None or trainer.global_step == started:
            return
        for keeper in _keepers(trainer):
            if keeper._should_skip_saving_checkpoint(trainer):  # noqa: SLF001
                continue
            before = keeper.best_model_path
            try:
                _save(keeper, trainer)
            except Exception as error:  # noqa: BLE001 - a full disk, a lost GPU, broken weights
                keeper.best_model_path = before
                if not isinstance(exception, FloatingPointError):  # which says the same
                    logger.warning("the last weights could not be saved: %s", error)

    def _is_of_this_step(self, keeper: ModelCheckpoint, trainer: Trainer) -> bool:
        """Return whether it has saved this step, and not where in an epoch the run ends."""
        return (
            not keeper.save_weights_only
            and trainer.global_step != self._first_step
            and keeper._last_global_step_saved == trainer.global_step  # noqa: SLF001
        )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say where in an epoch the run is, so that one that is resumed goes on there.

        At its end Lightning has counted the epoch as completed, also one that was left in the
        middle, and not begun to count the batches of the next one.
        """
        del pl_module
        if not self._ending:
            return
        loops = checkpoint["loops"]["fit_loop"]
        if trainer.fit_loop.epoch_loop._num_ready_batches_reached():  # noqa: SLF001
            batches = loops["epoch_loop.batch_progress"]
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
        else:
            for counts in (loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]):
                counts["processed"] -= 1
                counts["completed"] -= 1


def _keepers(trainer: Trainer) -> list[ModelCheckpoint]:
    return [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
        and callback.monitor is None
        and callback.save_top_k != 0
    ]


def _save_last(trainer: Trainer) -> None:
    """Save what ``save_last`` asks for: Lightning does so after validations, which steps follow."""
    for keeper in trainer.checkpoint_callbacks:
        if isinstance(keeper, ModelCheckpoint) and keeper.save_last:
            keeper._save_last_checkpoint(trainer, keeper._monitor_candidates(trainer))  # noqa: SLF001


def _save(keeper: ModelCheckpoint, trainer: Trainer) -> None:
    # ModelCheckpoint has no public way to save now.
    metrics = keeper._monitor_candidates(trainer)  # noqa: SLF001
    if trainer.world_size == 1 or not trainer.interrupted:
        keeper._save_topk_checkpoint(trainer, metrics)  # noqa: SLF001
    elif isinstance(trainer.strategy, DDPStrategy):
        # Other processes may be anywhere: nothing here waits for them. Sharded weights could not
        # be collected without.
        path = keeper.best_model_path or keeper.format_checkpoint_name(metrics)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(keeper.save_weights_only)  # noqa: SLF001
        trainer.strategy.save_checkpoint(checkpoint, path)
        keeper.best_model_path = path
