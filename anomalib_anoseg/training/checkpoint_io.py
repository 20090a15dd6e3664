"""Checkpoints that are whole, or not there."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO

from anomalib_anoseg.utils.files import complete_file


class WholeCheckpoints(CheckpointIO):
    """Lets another CheckpointIO write beside the file, and puts it in place when it is complete.

    Lightning's own writes to the folder for temporary files and moves: onto another disk that is a
    copy, and a full disk or a killed process leaves half of one where the last good file was.

    Args:
        inner: What reads, writes and removes.
    """

    def __init__(self, inner: CheckpointIO) -> None:
        self.inner = inner

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; on another than the local file system as the inner one does."""
        if "://" in str(path):
            self.inner.save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with complete_file(Path(path)) as part:
            self.inner.save_checkpoint(checkpoint, part, storage_options)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Read a checkpoint."""
        return self.inner.load_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, path: Path | str) -> None:
        """Remove a checkpoint."""
        self.inner.remove_checkpoint(path)
