"""A run that is asked to stop from outside, by Ctrl-C or SIGTERM."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stop:
    """Whether a run was asked to stop. Sources then give no further image.

    Attributes:
        how: "interrupted", "terminated", or empty.
    """

    def __init__(self) -> None:
        self.how = ""

    @property
    def asked(self) -> bool:
        """Whether it was."""
        return bool(self.how)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the first Ctrl-C or SIGTERM for a request; a second one has its usual effect.

        Signals that are ignored stay so, as for a command in the background of a shell. Outside of
        the main thread, where Python has no signals, this does nothing.
        """
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in SIGNALS if main}
        before = {n: old for n, old in before.items() if old not in (None, signal.SIG_IGN)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def ask(number: int, _: FrameType | None) -> None:
            # Nothing that takes a lock: the main thread may be holding it.
            self.how = SIGNALS[signal.Signals(number)]
            restore()

        for number in before:
            signal.signal(number, ask)
        try:
            yield
        finally:
            restore()

    def end_as_asked(self) -> None:
        """Raise what ends a process that was asked to stop: with 130 by Ctrl-C, 143 by SIGTERM."""
        if self.how == SIGNALS[signal.SIGINT]:
            raise KeyboardInterrupt
        if self.asked:
            raise SystemExit(128 + signal.SIGTERM)
