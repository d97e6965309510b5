"""Ctrl-C during start-up: importing Thinc and PyTorch takes more than a second, and a
KeyboardInterrupt would print a long traceback."""

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

EXIT_CODE = 130


def exit_on_interrupt() -> None:
    """Let Ctrl-C end this process with a message of one line, if it is `thinc-swa` or
    `python -m thinc_swa`. Other programs that import the package are not affected."""
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
