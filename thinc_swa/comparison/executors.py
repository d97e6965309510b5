"""Executors: run each training of a comparison in a process of its own.

A new process per run keeps the results independent of earlier runs: Thinc seeds some layers by
counting them.
"""

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol

from thinc.compat import has_cupy

from . import run_worker
from .run_worker import kill_group

# Seconds between polls of the processes.
POLL_INTERVAL = 0.05
# Seconds that a server has to kill its processes.
GRACE = 1.0
# Reported instead of an exit code if the process of a run was lost with its node.
LOST = 256
# Modules that the runs import: always, and if a config contains the text. Each import takes a
# second or more.
MODULES = (
    ("", ["thinc_swa.comparison.shared_training"]),
    ("[nlp]", ["spacy"]),
    ("digits.v1", ["sklearn.datasets", "sklearn.model_selection"]),
)


@dataclass(frozen=True)
class SharedRun:
    """Description of a further run of a job, which is trained together with the first one.

    config (str): The config, with its seed, interpolated.
    inputs (dict[str, str]): Fingerprints of what the config depends on, for the log.
    folder (str): An existing folder for the log.
    """

    config: str
    inputs: dict[str, str]
    folder: str


@dataclass(frozen=True)
class Job:
    """Description of a run for its process.

    config (str): The config, with its seed, interpolated.
    inputs (dict[str, str]): Fingerprints of what the config depends on, for the log.
    folder (str): An existing folder for the log and the output.
    gpu_id (int): GPU id; -1 for the CPU.
    code (str | None): A Python file that registers what the config names.
    only_dataset (bool): Log the fingerprint of the dataset instead of training.
    shared (tuple[SharedRun, ...]): Further runs with the same `sharing_key`.
    n_cores (int): Number of cores that the process may use for further processes and for
        itself.
    output (str | None): Output folder of the comparison.
    checkpoint (str | None): Checkpoint from which the training is resumed. The logs end there.
    """

    config: str
    inputs: dict[str, str]
    folder: str
    gpu_id: int = -1
    code: str | None = None
    only_dataset: bool = False
    shared: tuple[SharedRun, ...] = ()
    n_cores: int = 1
    output: str | None = None
    checkpoint: str | None = None


class Executor(Protocol):
    """Interface of executors, which start each run in a process of its own. Progress and
    results are in the logs of the runs."""

    def start(self, job: Job) -> None:
        """Start a run.

        RAISES: OSError if the process cannot be started.
        """

    def poll(self, timeout: float) -> dict[str, int]:
        """Wait until a run has ended.

        timeout (float): Maximum time in seconds.
        RETURNS (dict[str, int]): Exit codes, by folder, of the runs that have ended since the
            last call; negative for a signal, `LOST` if the process was lost with its node.
        """

    def cancel(self, folder: str) -> None:
        """Kill a run and all processes that it has started."""

    def close(self) -> None:
        """Kill all runs, and wait for their end."""


def make_executor(jobs: Sequence[Job], *, environment: Mapping[str, str]) -> Executor:
    """Make the fastest executor that this platform supports.

    jobs (Sequence[Job]): The jobs that will be started.
    environment (Mapping[str, str]): Environment variables of the processes.
    """
    # Forked processes cannot use a GPU, and many libraries support forks on Linux only.
    if not sys.platform.startswith("linux") or has_cupy:
        return SubprocessExecutor(environment=environment)
    modules = [
        name
        for text, names in MODULES
        if any(text in job.config for job in jobs)
        for name in names
    ]
    return ForkExecutor(modules, environment=environment)


class SubprocessExecutor:
    """Executor with a new interpreter for each run, whose imports take one to three seconds.

    environment (Mapping[str, str]): Environment variables of the processes.
    """

    def __init__(self, *, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, job: Job) -> None:
        process = _start_worker(["run"], self._environment)
        self._processes[job.folder] = process
        # `poll` reports a process that has ended already. The pipe stays open: when it is
        # closed, the process knows that this one has ended.
        with suppress(BrokenPipeError):
            _send(process, asdict(job))

    def poll(self, timeout: float) -> dict[str, int]:
        end = time.monotonic() + timeout
        while True:
            ended = {
                folder: process.returncode
                for folder, process in self._processes.items()
                if process.poll() is not None
            }
            for folder in ended:
                self._remove(folder)
            if ended or time.monotonic() >= end:
                return ended
            time.sleep(POLL_INTERVAL)

    def cancel(self, folder: str) -> None:
        process = self._processes[folder]
        if hasattr(os, "killpg"):
            kill_group(process.pid)
        process.kill()

    def close(self) -> None:
        for folder in self._processes:
            self.cancel(folder)
        for folder in list(self._processes):
            self._remove(folder)

    def _remove(self, folder: str) -> None:
        process = self._processes.pop(folder)
        process.wait()
        if hasattr(os, "killpg"):
            # Processes that the run has started.
            kill_group(process.pid)
        _close(process.stdin)


class ForkExecutor:
    """Executor that forks the runs from a server process, in which all modules are imported
    (Linux, CPU only).

    modules (Sequence[str]): Modules to import in the server.
    environment (Mapping[str, str]): Environment variables of the processes.
    """

    def __init__(self, modules: Sequence[str], *, environment: Mapping[str, str]) -> None:
        self._arguments = ["serve", *modules]
        self._environment = dict(environment)
        self._server: Any = None
        self._received = b""
        self._folders: list[str] = []
        # Process ids of the runs, which are the ids of their process groups too.
        self._pids: dict[str, int] = {}

    def start(self, job: Job) -> None:
        if self._server is None:
            self._server = _start_worker(self._arguments, self._environment)
            self._received = b""
        self._folders.append(job.folder)
        with suppress(BrokenPipeError):
            _send(self._server, asdict(job))

    def poll(self, timeout: float) -> dict[str, int]:
        if self._server is None:
            time.sleep(timeout)
            return {}
        if not self._is_ready(timeout):
            return {}
        ended = self._receive()
        if ended is not None:
            return ended
        # The server was killed, and its runs with it.
        self._end_server()
        ended = {folder: self._server.returncode for folder in self._folders}
        self._server, self._folders = None, []
        return ended

    def _is_ready(self, timeout: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._server.stdout, selectors.EVENT_READ)
            return bool(selector.select(timeout))

    def _receive(self) -> dict[str, int] | None:
        """Read the reports of the server.

        RETURNS (dict[str, int] | None): Exit codes of runs that have ended, by folder; None if
            the server has ended.
        """
        data = os.read(self._server.stdout.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        ended = {}
        for line in lines:
            record = json.loads(line)
            if "started" in record:
                self._pids[record["started"]] = record["pid"]
                continue
            ended[record["ended"]] = record["exit_code"]
            self._folders.remove(record["ended"])
            del self._pids[record["ended"]]
        return ended

    def cancel(self, folder: str) -> None:
        with suppress(BrokenPipeError):
            _send(self._server, {"cancel": folder})

    def close(self) -> None:
        if self._server is not None:
            self._end_server()
            self._server, self._folders = None, []

    def _end_server(self) -> None:
        # When this pipe is closed, the server kills all processes.
        _close(self._server.stdin)
        try:
            self._server.wait(GRACE)
        except subprocess.TimeoutExpired:
            # It may be suspended. Its runs end with it.
            self._server.kill()
            self._server.wait()
        # Processes that the runs have started survive a server that was killed.
        while self._is_ready(0.0) and self._receive() is not None:
            pass
        for pid in self._pids.values():
            kill_group(pid)
        self._pids = {}
        _close(self._server.stdout)


def _start_worker(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start a process that runs `run_worker`, in a session of its own: Ctrl-C in the terminal
    does not reach it."""
    # With the module path of this process, which need not contain the current folder.
    program = (
        f"import sys; sys.path[:] = {sys.path!a}; import runpy; "
        f"runpy.run_path({run_worker.__file__!a}, run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if arguments[0] == "serve" else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=dict(environment),
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def _send(process: Any, request: dict[str, Any]) -> None:
    data = json.dumps(request).encode() + b"\n"
    while data:
        data = data[process.stdin.write(data) :]


def _close(file: IO[bytes] | None) -> None:
    if file is not None:
        # The receiver may have ended before all data were sent.
        with suppress(OSError):
            file.close()
