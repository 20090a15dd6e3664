"""The learning rate over a run."""

import math
from collections.abc import Callable


def warmup_cosine(total_steps: float, warmup: int = 20) -> Callable[[int], float]:
    """Return the factor of the learning rate for each step: up in a line, down to 1 % in a cosine.

    Not torch's own schedulers: a resumed run with more epochs must follow the longer curve, and
    theirs restore the old length from the checkpoint. An endless run keeps the full rate.
    """

    def factor(step: int) -> float:
        progress = min(1.0, step / total_steps)
        return min(1.0, (step + 1) / warmup) * (0.505 + 0.495 * math.cos(math.pi * progress))

    return factor
