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

from .communicator import WorkerError
from .torch_communicator import NEEDS_TORCH

# In the environment of workers that `run_workers` has started.
LAUNCHED = "THINC_SWA_LAUNCHED"
# Set by torch.distributed: where a worker writes its error.
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
# Signals that end all workers. Ctrl-C is not among them: a terminal sends it to the workers
# too, which then stop after the same step.
SIGNALS = "SIGTERM,SIGHUP,SIGQUIT"


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
    if "signals_to_handle" in {field.name for field in dataclasses.fields(LaunchConfig)}:
        options["signals_to_handle"] = SIGNALS
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
    with _worker_environment(n_workers), _without_logging(), _outliving_interrupts():
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            raise _find_cause(error.failures) from None
        except SignalException as error:
            number = int(error.sigval)
            name = signal.Signals(number).name
            raise WorkerFailure(f"Stopped by {name}", 128 + number) from None


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
        "is_consequence": isinstance(error, WorkerError),
    }
    with open(path, "w", encoding="utf8") as file:
        json.dump({"message": {"message": text, "extraInfo": details}}, file)
    return True


def _find_cause(failures: dict[int, Any]) -> WorkerFailure:
    """The failure of the worker that failed first, not because of another one."""

    def describe(rank: int, failure: Any) -> tuple[int, int, str, int]:
        message = failure.error_file_data.get("message", "")
        if isinstance(message, dict):
            is_consequence = bool(message["extraInfo"].get("is_consequence"))
            return (2 if is_consequence else 0), rank, message["message"], failure.exitcode
        if failure.exitcode < 0:
            name = failure.signal_name()
            text = f"Worker {rank} was ended by {name}"
            if name == "SIGKILL":
                text += " (the system does so when memory runs out)"
            return 1, rank, text, 128 - failure.exitcode
        # Its error is on the standard error already.
        return 1, rank, "", failure.exitcode

    *_, message, exit_code = min(describe(*item) for item in failures.items())
    return WorkerFailure(message, exit_code)


@contextmanager
def _worker_environment(n_workers: int) -> Iterator[None]:
    """Context manager with the environment variables for workers."""
    # Otherwise each of them would start as many threads as there are cores.
    n_threads = max(1, (os.cpu_count() or 1) // n_workers)
    added = {LAUNCHED: "1"}
    if "OMP_NUM_THREADS" not in os.environ:
        added["OMP_NUM_THREADS"] = str(n_threads)
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


@contextmanager
def _outliving_interrupts() -> Iterator[None]:
    """Context manager in which Ctrl-C only reaches the workers, for whose end this process
    waits. For the main thread only."""
    # Not SIG_IGN, which the workers would inherit.
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
