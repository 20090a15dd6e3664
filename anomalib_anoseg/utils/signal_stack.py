"""Keep OpenVINO from leaving this thread a signal stack that is no longer there.

For each ``ov.Core`` that compiles a model, OpenVINO's CPU plugin sets an alternative signal stack,
and puts the one before it back when the core ends (``SigAltStackSetup`` in its plugin.cpp, seen in
2026.4). When two cores end in the order in which they began, the second puts back the first one's,
which is unmapped by then. The next signal that has a handler, Ctrl-C or the end of a data loader's
worker, then ends the process with SIGSEGV.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DISABLED = 2  # SS_DISABLE of signal.h


class Stack(ctypes.Structure):
    """``stack_t`` of Linux's signal.h."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def current_stack() -> Stack:
    """Return the thread's alternative signal stack."""
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Afterwards handle signals on the same stack as before; cores that end later leave it alone.

    To be held around whatever makes an ``ov.Core``; compiled models may outlive it.
    """
    if sys.platform != "linux":  # where OpenVINO does nothing of the kind
        yield
        return
    before = current_stack()
    try:
        yield
    finally:
        sigaltstack = ctypes.CDLL(None).sigaltstack
        if sigaltstack(ctypes.byref(before), None):  # too small for what the CPU uses since (AMX)
            sigaltstack(ctypes.byref(Stack(flags=DISABLED)), None)
