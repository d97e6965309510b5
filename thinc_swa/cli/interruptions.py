"""Signals that stop a command."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(KeyboardInterrupt):
    """The process has received a signal to stop.

    number (int): The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Context manager in which SIGTERM and SIGHUP raise `Stopped`, as Ctrl-C raises
    KeyboardInterrupt, so that subprocesses are ended and results are written. Further signals
    are ignored. Signals that are ignored before, as with `nohup`, stay ignored. For the main
    thread only."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    terminals = [descriptor for descriptor in range(3) if os.isatty(descriptor)]

    def stop(number: int, frame: Any) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        if number != signal.SIGTERM:
            # The terminal is closed, and writing to it would raise an error.
            with open(os.devnull, "r+") as nothing:
                for descriptor in terminals:
                    os.dup2(nothing.fileno(), descriptor)
        raise Stopped(number)

    handlers = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
