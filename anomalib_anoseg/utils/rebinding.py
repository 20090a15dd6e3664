"""Another's function with one of its own calls replaced, and nothing else."""

from types import FunctionType
from typing import Any


def rebound(function: FunctionType, **names: Any) -> FunctionType:
    """Return a copy of a function that finds these objects under some of its global names."""
    copy = FunctionType(
        function.__code__,
        function.__globals__ | names,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def calls(function: Any, name: str) -> bool:
    """Return whether a function of Python's looks up a global or an attribute of this name."""
    return isinstance(function, FunctionType) and name in function.__code__.co_names
