"""Function calls in forked processes, beside the training (Linux, CPU only)."""

import json
import os
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from thinc.compat import has_cupy

from ..models.parameters import ModelT, component_models


def can_fork(model: ModelT) -> bool:
    """Whether a function that uses a model can be called in a forked process: on Linux, without
    a GPU and without threads, and if the model has no layers of other libraries, whose thread
    pools do not survive a fork.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    """
    if not sys.platform.startswith("linux") or has_cupy or threading.active_count() > 1:
        return False
    return not any(node.shims for _, root in component_models(model) for node in root.walk())


class ForkedCall:
    """Call of a function in a forked process. It sees all objects as they are now, and changes
    none of this process.

    function (Callable): Called without arguments. Returns JSON values.
    RAISES: OSError if the process cannot be started.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._pipe, writer = os.pipe()
        self._data = b""
        with warnings.catch_warnings():
            # Python 3.12 warns of the idle threads of BLAS, which registers handlers for forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            os.close(self._pipe)
            _call(function, writer)
        os.close(writer)

    def is_done(self) -> bool:
        """Whether `result` returns at once."""
        while select.select([self._pipe], [], [], 0.0)[0]:
            data = os.read(self._pipe, 1 << 16)
            if not data:
                return True
            self._data += data
        return False

    def result(self) -> Any:
        """Wait for the end of the process. Called once.

        RETURNS (Any): What the function has returned.
        RAISES: RuntimeError if it has failed. Its error is on the standard error.
        """
        while data := os.read(self._pipe, 1 << 16):
            self._data += data
        os.close(self._pipe)
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if code:
            raise RuntimeError(f"The process of an evaluation ended with exit code {code}")
        return json.loads(self._data)

    def cancel(self) -> None:
        """Kill the process. Called instead of `result`."""
        os.close(self._pipe)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _call(function: Callable[[], Any], pipe: int) -> None:
    """Call the function, write its result, and end this process."""
    code = 1
    try:
        data = json.dumps(function()).encode()
        while data:
            data = data[os.write(pipe, data) :]
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # Without the exit handlers and buffered files of the process that was forked.
        os._exit(code)
