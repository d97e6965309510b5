"""Start of workers on this machine."""

import dataclasses
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import WorkerError
from .torch_communicator import NEEDS_TORCH

# In the environment of workers that `run_workers` has started.
LAUNCHED = "THINC_SWA_LAUNCHED"
# Set by torch.distributed: where a worker writes its error.
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
# Seconds for the workers to save a checkpoint after Ctrl-C.
SHUTDOWN_TIMEOUT = 600


class WorkerFailure(RuntimeError):
    """A worker has failed.

    exit_code (int): The exit code of the worker, or of a process that was ended by that signal.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_workers(n_workers: int, arguments: Sequence[str]) -> None:
    """Run a command as several workers on this machine, with the elastic launcher of
    torch.distributed, and wait for their end. If one fails, the others are ended.

    n_workers (int): The number of processes.
    arguments (Sequence[str]): The arguments for Python.
    RAISES: ImportError if PyTorch is not installed; WorkerFailure if a worker fails.
    """
    try:
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch
    except ImportError:
        raise ImportError(NEEDS_TORCH) from None
    options: dict[str, Any] = {}
    if "shutdown_timeout" in {field.name for field in dataclasses.fields(LaunchConfig)}:
        options["shutdown_timeout"] = SHUTDOWN_TIMEOUT
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n_workers,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(),
        **options,
    )
    with _worker_environment(n_workers), _without_logging():
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            raise _find_cause(error.failures) from None
        except SignalException as error:
            # It was sent to the workers too. After Ctrl-C they stop by themselves, and say so.
            number = int(error.sigval)
            text = f"Stopped by {signal.Signals(number).name}"
            text = "" if number == signal.SIGINT else text
            raise WorkerFailure(text, 128 + number) from None


def report_error(error: BaseException, text: str) -> bool:
    """Report an error of this worker to `run_workers`, which shows one error for all workers.

    text (str): What to show.
    RETURNS (bool): Whether this process is such a worker.
    """
    path = os.environ.get(ERROR_FILE)
    if LAUNCHED not in os.environ or not path:
        return False
    details = {
        "timestamp": str(int(time.time())),
        # The failure of another worker is the cause.
        "is_consequence": has_worker_error(error),
        "error_type": type(error).__name__,
    }
    with open(path, "w", encoding="utf8") as file:
        json.dump({"message": {"message": text, "extraInfo": details}}, file)
    return True


def has_worker_error(error: BaseException | None) -> bool:
    """Whether an error or its cause is a `WorkerError`."""
    return error is not None and (
        isinstance(error, WorkerError) or has_worker_error(error.__cause__)
    )


def _find_cause(failures: dict[int, Any]) -> WorkerFailure:
    """The failure of the worker that failed first, not because of another one."""

    def describe(rank: int, failure: Any) -> tuple[int, int, str, int]:
        message = failure.error_file_data.get("message", "")
        if isinstance(message, dict):
            is_consequence = bool(message["extraInfo"].get("is_consequence"))
            # It may have been ended while it exited.
            exit_code = max(1, failure.exitcode)
            return (3 if is_consequence else 0), rank, message["message"], exit_code
        if failure.exitcode < 0:
            name = failure.signal_name()
            text = f"Worker {rank} was ended by {name}"
            if name == "SIGKILL":
                text += " (the system does so when memory runs out)"
            # The launcher ends the others by SIGTERM. gloo may abort when a connection ends.
            is_consequence = name in ("SIGTERM", "SIGABRT")
            return (2 if is_consequence else 1), rank, text, 128 - failure.exitcode
        # Its error is on the standard error already.
        return 1, rank, "", failure.exitcode

    *_, message, exit_code = min(describe(*item) for item in failures.items())
    return WorkerFailure(message, exit_code)


@contextmanager
def _worker_environment(n_workers: int) -> Iterator[None]:
    """Context manager with the environment variables for workers."""
    # Otherwise each of them would start as many threads as there are cores.
    n_threads = max(1, (os.cpu_count() or 1) // n_workers)
    added = {
        LAUNCHED: "1",
        "OMP_NUM_THREADS": str(n_threads),
        # PyTorch's warnings about connections, beside the error that results.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    added = {name: value for name, value in added.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _without_logging() -> Iterator[None]:
    """Context manager that mutes the launcher's log, which repeats errors of workers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
