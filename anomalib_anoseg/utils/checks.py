"""Errors for wrong arguments: the name, what it must satisfy, what came."""

import math
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

import numpy as np
from torch import Tensor


def require_within(name: str, value: float, lowest: float, highest: float) -> None:
    """Refuse values outside the bounds, NaN, and what is no number."""
    if not (_is_number(value) and lowest <= value <= highest):
        _refuse(name, f"satisfy {lowest} <= {name} <= {highest}", value)


def require_share(name: str, value: float) -> None:
    """Refuse what does not lie between 0 and 1, both themselves, NaN, and what is no number."""
    if not (_is_number(value) and 0 < value < 1):
        _refuse(name, f"satisfy 0 < {name} < 1", value)


def require_rate(name: str, rate: float, level: str, sensitivity: float | None) -> None:
    """Refuse a rate of false alarms that is none, and one beside a sensitivity.

    Args:
        name: Of the rate.
        rate: Share of good images, (0, 1).
        level: Whose threshold both move, "image" or "pixel".
        sensitivity: None where none was given.
    """
    require_share(name, rate)
    if sensitivity is not None:
        msg = (
            f"{name} and {level}_sensitivity both move the {level} threshold: give one of them, "
            f"got {rate} and {sensitivity}"
        )
        raise ValueError(msg)


def require_range(name: str, value: Sequence[float], lowest: float, highest: float) -> None:
    """Refuse what is not a pair of numbers in order and within bounds."""
    if not (_are_numbers(value, 2) and lowest <= value[0] <= value[1] <= highest):
        _refuse(name, f"satisfy {lowest} <= low <= high <= {highest}", value)


def require_positive(name: str, value: float) -> None:
    """Refuse 0, negative and infinite numbers, NaN, and what is no number."""
    if not (_is_number(value) and 0 < value < math.inf):
        _refuse(name, "be finite and greater than 0", value)


def require_not_negative(name: str, value: float) -> None:
    """Refuse negative and infinite numbers, NaN, and what is no number."""
    if not (_is_number(value) and 0 <= value < math.inf):
        _refuse(name, "be finite and at least 0", value)


def require_whole(name: str, value: int | Sequence[int]) -> None:
    """Refuse fractions, in a pair as well."""
    parts = value if isinstance(value, Sequence) else [value]
    if not all(isinstance(part, int) for part in parts):
        _refuse(name, "be whole", value)


def require_one_of(name: str, value: str, known: Collection[str]) -> None:
    """Refuse other names."""
    if not (isinstance(value, str) and value in known):
        _refuse(name, f"be one of {', '.join(map(repr, known))}", repr(value))


def require_images(images: Tensor, channels: tuple[int, ...] = (1, 3)) -> None:
    """Refuse what is not a batch of images; their values are not looked at.

    Raises:
        ValueError: If they are not floating-point numbers (b, c, h, w), or have no pixels.
    """
    if images.ndim != 4 or images.shape[1] not in channels or not images.numel():
        counts = " or ".join(map(str, channels))
        _refuse("images", f"be a batch (b, c, h, w) of {counts} channels", list(images.shape))
    if not images.is_floating_point():
        _refuse("images", "be floating-point numbers in [0, 1]", images.dtype)


def _is_number(value: Any) -> bool:
    # Checkpoints are read without unpickling and cannot hold numpy's. Yes and no are no numbers.
    return isinstance(value, int | float) and not isinstance(value, np.number | bool)


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, Sequence) and len(value) == count and all(map(_is_number, value))


def _refuse(name: str, law: str, value: object) -> NoReturn:
    kind = ", a number of numpy: give one of Python" if isinstance(value, np.number) else ""
    msg = f"{name} must {law}, got {value}{kind}"
    raise ValueError(msg)
