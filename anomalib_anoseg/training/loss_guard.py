"""Notice a loss that is no longer a number, without making a GPU wait in every step."""

import torch
from torch import Tensor


class LossGuard:
    """Remembers on the device the first step whose losses were not finite, until it is asked."""

    def __init__(self) -> None:
        self._failed: Tensor | None = None
        self._record: Tensor | None = None
        self._names: list[str] = []

    def watch(self, step: int, losses: dict[str, Tensor]) -> None:
        """Record the losses of a step, unless an earlier one has failed already."""
        values = torch.stack([value.detach().float() for value in losses.values()])
        record = torch.cat([values.new_full((1,), step), values])
        failed = ~values.isfinite().all()
        if self._failed is None or self._record is None:
            self._failed, self._record = failed, record
        else:
            self._record = torch.where(self._failed, self._record, record)
            self._failed = self._failed | failed
        self._names = list(losses)

    def check(self) -> None:
        """Wait for the device and raise if a recorded step failed.

        Raises:
            FloatingPointError: With the step and the parts of its loss.
        """
        if self._failed is None or self._record is None or not self._failed.item():
            return
        step, *values = self._record.tolist()
        parts = ", ".join(f"{n} {v:.4g}" for n, v in zip(self._names, values, strict=True))
        msg = (
            f"the loss is not finite at step {step:.0f} ({parts}); the last checkpoint before it "
            "is kept. Try a lower learning_rate, or --trainer.precision 32."
        )
        raise FloatingPointError(msg)
