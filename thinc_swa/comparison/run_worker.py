"""Worker process of a comparison: one process per run.

`executors.py` runs this file as a script. At first it imports nothing of the package, so that
it detects the end of the parent process within milliseconds. To debug a run, start it by hand
with a `Job` as JSON on its standard input.
"""

import atexit
import ctypes
import importlib
import json
import os
import select
import selectors
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

# Files in the folder of a run.
LOG = "log.jsonl"
OUTPUT = "output.txt"
# Exit codes of a worker that cannot write its log, nor an error to it, and of one that cannot
# resume the training.
CANNOT_WRITE = 74
CANNOT_RESUME = 75

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Train one run, or fork processes for runs until the standard input is closed.

    arguments (list[str]): "run", or "serve" and the modules to import for all runs.
    """
    if arguments[0] == "serve":
        job = serve(arguments[1:])
        if job is None:
            os._exit(0)
    else:
        job = json.loads(sys.stdin.buffer.readline())
        end_with_parent()
    _exit(run_job(job))


# A process for one run


def end_with_parent() -> None:
    """Kill this process and those that it has started when the standard input is closed: only
    the parent process has its other end."""
    pipe = os.dup(0)

    def watch() -> NoReturn:
        while os.read(pipe, 1):
            pass
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_job(job: dict[str, Any]) -> int:
    """Train the run of a job, and those that share its training. Errors are written to its log.
    A training for several runs is repeated for each run after an error, so it is not logged.

    job (dict[str, Any]): See `executors.Job`.
    RETURNS (int): The exit code.
    """
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    with open(os.path.join(job["folder"], OUTPUT), "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from pathlib import Path

    from thinc_swa.comparison.run_checkpoints import write_reason
    from thinc_swa.errors import ResumeError
    from thinc_swa.training.logs import Log, read_log

    runs = [job, *job["shared"]]
    for run in job["shared"]:
        # Not all file systems have links.
        with suppress(OSError):
            os.link(os.path.join(job["folder"], OUTPUT), os.path.join(run["folder"], OUTPUT))
    logs = [Log(Path(run["folder"], LOG)) for run in runs]
    try:
        for run, log in zip(runs, logs, strict=True):
            if job["checkpoint"] is not None:
                log.n_records = sum(1 for _ in read_log(log.path))
                continue
            log.write("start", config=run["config"], inputs=run["inputs"])
            log.flush()
        try:
            _train(job, runs, logs)
        except ResumeError as error:
            sys.stderr.write(traceback.format_exc())
            write_reason(Path(job["folder"]), error)
            return CANNOT_RESUME
        except Exception as error:
            from thinc_swa.errors import describe_error

            text = traceback.format_exc()
            if len(logs) == 1:
                logs[0].write("error", error=describe_error(error), traceback=text)
            else:
                sys.stderr.write(text)
        for log in logs:
            log.close()
    except OSError:
        # If the disk is full, this fails too.
        with suppress(OSError):
            traceback.print_exc()
        return CANNOT_WRITE
    return 0


def _exit(code: int) -> NoReturn:
    """End this process like an interpreter, but without clearing all modules, which takes most
    of a second."""
    for thread in threading.enumerate():
        if not (thread.daemon or thread is threading.current_thread()):
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _train(job: dict[str, Any], runs: list[dict[str, Any]], logs: list[Any]) -> None:
    from pathlib import Path

    from thinc.api import Config

    from thinc_swa.comparison.recording import RunOptions, log_dataset, train_config
    from thinc_swa.comparison.run_checkpoints import RunCheckpoints, name_of
    from thinc_swa.comparison.shared_training import train_shared
    from thinc_swa.training.configs import prepare_process

    code, output, checkpoint = (
        None if job[name] is None else Path(job[name])
        for name in ("code", "output", "checkpoint")
    )
    prepare_process(job["gpu_id"], code)
    configs = [Config().from_str(run["config"]) for run in runs]
    if job["only_dataset"]:
        log_dataset(configs[0], logs[0])
        return
    folders = [Path(run["folder"]) for run in runs]
    options = RunOptions(
        RunCheckpoints(folders[0], [name_of(folder) for folder in folders], checkpoint),
        gpu_id=job["gpu_id"],
        code=code,
        output=output,
        n_cores=job["n_cores"],
    )
    if len(runs) == 1:
        train_config(configs[0], logs[0], options)
    else:
        train_shared(list(zip(configs, logs, strict=True)), options)


# A server process with all imports, from which the processes of the runs are forked (Linux)


def serve(modules: list[str]) -> dict[str, Any] | None:
    """Fork a process for each job, a line of the standard input. The start and end of each
    process are reported on the standard output. When the standard input is closed, all
    processes are killed.

    modules (list[str]): Modules to import first.
    RETURNS (dict[str, Any] | None): The job in a forked process; None in the server.
    """
    with _ending_with_parent():
        for name in modules:
            # A run that needs the module reports the error.
            with suppress(Exception):
                importlib.import_module(name)
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(wakeup_writer, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakeup_writer)
    selector = selectors.DefaultSelector()
    for descriptor in (0, wakeup):
        selector.register(descriptor, selectors.EVENT_READ)
    server = os.getpid()
    processes: dict[int, str] = {}
    received = b""
    while True:
        ready = [key.fd for key, _ in selector.select()]
        if wakeup in ready:
            with suppress(BlockingIOError):
                while os.read(wakeup, 4096):
                    pass
            _report_ended(processes)
        if 0 not in ready:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            for pid in processes:
                kill_group(pid)
            return None
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "cancel" in request:
                for pid, job_id in processes.items():
                    if job_id == request["cancel"]:
                        kill_group(pid)
                continue
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                selector.close()
                os.close(wakeup)
                os.close(wakeup_writer)
                os.setpgid(0, 0)
                _die_with_parent(server)
                return dict(request)
            # Both processes do this, since either may be first to need the group.
            with suppress(OSError):
                os.setpgid(pid, pid)
            processes[pid] = request["folder"]
            _report(started=request["folder"], pid=pid)


@contextmanager
def _ending_with_parent() -> Iterator[None]:
    """Context manager for imports, which take seconds: this process ends when the standard
    input is closed. Nothing is read from it."""
    is_over = threading.Event()

    def watch() -> None:
        poll = select.poll()
        poll.register(0, 0)  # A hang-up is always reported.
        while not is_over.is_set():
            if poll.poll(20):
                os._exit(0)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        # A forked process would inherit a lock that the thread holds, but not the thread.
        thread.join()


def _report_ended(processes: dict[int, str]) -> None:
    for pid in list(processes):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        # Kill also processes that the run has started, before `waitpid`: after it another group
        # could get the same id.
        kill_group(pid)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _report(ended=processes.pop(pid), exit_code=exit_code)


def _report(**values: Any) -> None:
    # The parent process may have ended.
    with suppress(OSError):
        os.write(1, json.dumps(values).encode() + b"\n")


def kill_group(pid: int) -> None:
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # It has ended already.
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
