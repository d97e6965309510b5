"""Ctrl-C while the program starts: importing Thinc and PyTorch takes more than a second, in
which there is nothing to clean up, and no command that could catch a KeyboardInterrupt."""

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

EXIT_CODE = 130


def exit_on_interrupt() -> None:
    """Make Ctrl-C end this process with one line, if it is `thinc-swa` or `python -m
    thinc_swa`. Where the package is imported by another program nothing changes."""
    arguments = sys.orig_argv[1:3]
    is_script = bool(arguments) and Path(arguments[0]).stem == "thinc-swa"
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if (is_script or arguments == ["-m", "thinc_swa"]) and is_default:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Undo `exit_on_interrupt`: Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: Any) -> NoReturn:
    try:
        os.write(2, b"Error: Stopped\n")
    finally:
        os._exit(EXIT_CODE)
