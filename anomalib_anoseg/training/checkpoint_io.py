"""Checkpoints that are whole, or not there."""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from anomalib_anoseg.utils.files import complete_file


class WholeCheckpoints(AnomalibCheckpointIO):
    """anomalib's CheckpointIO, which writes beside the file it replaces.

    Lightning's (2.6, with fsspec 2026) writes to the folder for temporary files, moves, and does
    not wait for the disk: onto another disk the move is a copy, so a full disk or a killed process
    leaves half a file where the last good one was, and a power cut may leave an empty one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; on another than the local file system as Lightning does."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # In memory first: torch hides that a disk is full where it writes to it itself.
        content = BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with complete_file(Path(path)) as part:
            part.write_bytes(content.getbuffer())


def use_whole_checkpoints(strategy: Strategy) -> None:
    """Take the place of anomalib's or Lightning's CheckpointIO; a user's own is left alone."""
    found = strategy.checkpoint_io
    if type(found) in {TorchCheckpointIO, AnomalibCheckpointIO}:
        strategy.checkpoint_io = WholeCheckpoints(getattr(found, "extra_safe_globals", ()))
