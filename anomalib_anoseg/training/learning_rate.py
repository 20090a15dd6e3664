"""The learning rate over a run."""

import math
from collections.abc import Callable, Mapping
from typing import Any


def warmup_cosine(total_steps: float, warmup: int = 20) -> Callable[[int], float]:
    """Return the factor of the learning rate for each step: up in a line, down to 1 % in a cosine.

    Not torch's own schedulers: a resumed run with more epochs must follow the longer curve, and
    theirs restore the old length from the checkpoint. A run without an end keeps the full rate, and
    so does one whose length Lightning does not know and calls -1.
    """

    def factor(step: int) -> float:
        progress = min(1.0, step / total_steps) if total_steps > 0 else 0.0
        return min(1.0, (step + 1) / warmup) * (0.505 + 0.495 * math.cos(math.pi * progress))

    return factor


def resume_with(
    checkpoint: dict[str, Any], saved: Mapping[str, Any], arguments: Mapping[str, Any]
) -> None:
    """Let a resumed run's own learning rate count.

    torch's optimizers and schedulers restore the old ones with their state.
    """
    factor = arguments["learning_rate"] / saved.get("learning_rate", arguments["learning_rate"])
    for state in checkpoint.get("optimizer_states", []):
        for group in state["param_groups"]:
            for name in {"lr", "initial_lr"} & set(group):
                group[name] *= factor
    for state in checkpoint.get("lr_schedulers", []):
        for name in {"base_lrs", "_last_lr"} & set(state):
            state[name] = [factor * rate for rate in state[name]]
