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
    """Find the failure that caused the others: the one with the smallest `_priority`, and of
    several the one with the lowest rank.

    failures (dict[int, ProcessFailure]): The workers that failed, by rank.
    """
    rank = min(failures, key=lambda rank: (_priority(failures[rank]), rank))
    failure = failures[rank]
    report = _find_report(failure)
    if report is not None:
        # The worker may have been ended by a signal while it exited.
        return WorkerFailure(report["message"], max(1, failure.exitcode))
    if failure.exitcode >= 0:
        # Its error is on the standard error already.
        return WorkerFailure("", failure.exitcode)
    name = failure.signal_name()
    text = f"Worker {rank} was ended by {name}"
    if name == "SIGKILL":
        text += " (the system does so when memory runs out)"
    return WorkerFailure(text, 128 - failure.exitcode)


def _priority(failure: Any) -> int:
    """How likely a failure is a consequence of another one.

    RETURNS (int): 0 for an error that the worker reported; 1 for an exit code or a signal
        without a report; 2 for a signal that may be a consequence; 3 for an error that was
        reported as a consequence.
    """
    report = _find_report(failure)
    if report is not None:
        return 3 if report["extraInfo"].get("is_consequence") else 0
    # The launcher ends the others by SIGTERM. gloo may abort when a connection ends.
    return 2 if failure.signal_name() in ("SIGTERM", "SIGABRT") else 1


def _find_report(failure: Any) -> dict[str, Any] | None:
    """What the worker wrote with `report_error`; None if it did not."""
    message = failure.error_file_data.get("message")
    return message if isinstance(message, dict) else None


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
