"""Errors for wrong arguments: the name, what it must satisfy, what came."""

from collections.abc import Collection


def require_within(name: str, value: float, lowest: float, highest: float) -> None:
    """Refuse values outside the bounds, and NaN."""
    if not lowest <= value <= highest:
        _refuse(name, f"satisfy {lowest} <= {name} <= {highest}", value)


def require_range(name: str, value: tuple[float, float], lowest: float, highest: float) -> None:
    """Refuse what is not a pair of values in order and within bounds."""
    if len(value) != 2 or not lowest <= value[0] <= value[1] <= highest:
        _refuse(name, f"satisfy {lowest} <= low <= high <= {highest}", value)


def require_positive(name: str, value: float) -> None:
    """Refuse 0, negative numbers and NaN."""
    if not value > 0:
        _refuse(name, "be greater than 0", value)


def require_not_negative(name: str, value: float) -> None:
    """Refuse negative numbers and NaN."""
    if not value >= 0:
        _refuse(name, "be at least 0", value)


def require_one_of(name: str, value: str, known: Collection[str]) -> None:
    """Refuse other names."""
    if value not in known:
        _refuse(name, f"be one of {', '.join(map(repr, known))}", repr(value))


def _refuse(name: str, law: str, value: object) -> None:
    msg = f"{name} must {law}, got {value}"
    raise ValueError(msg)
