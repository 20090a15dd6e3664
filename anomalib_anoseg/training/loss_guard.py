"""Notice a loss that is no longer a number, without making a GPU wait in every step."""

from collections.abc import Callable, Iterable

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

    def check(self, anywhere: Callable[[bool], bool] = bool) -> None:
        """Wait for the device and raise if a recorded step failed.

        Args:
            anywhere: Tells whether a statement is true in any process of the run. One that stopped
                alone would leave the others waiting for its gradients.

        Raises:
            FloatingPointError: With the step and the parts of its loss.
        """
        failed = self._failed is not None and bool(self._failed.item())
        if not anywhere(failed):
            return
        where = "in another process"
        if failed and self._record is not None:
            step, *values = self._record.tolist()
            parts = zip(self._names, values, strict=True)
            where = f"at step {step:.0f} ({', '.join(f'{n} {v:.4g}' for n, v in parts)})"
        msg = (
            f"the loss is not finite {where}; the last checkpoint before it "
            "is kept. Try a lower learning_rate, or --trainer.precision 32."
        )
        raise FloatingPointError(msg)


def check_weights(weights: Iterable[Tensor], anywhere: Callable[[bool], bool] = bool) -> None:
    """Raise if the last step, whose own loss may have been finite, has broken a weight.

    Raises:
        FloatingPointError: If a weight is not finite.
    """
    finite = torch.stack([weight.detach().isfinite().all() for weight in weights]).all()
    if anywhere(not finite.item()):
        msg = (
            "weights are not finite after the last step; the last checkpoint before it is kept. "
            "Try a lower learning_rate, or --trainer.precision 32."
        )
        raise FloatingPointError(msg)
