"""Starting processes, waiting for them, and finding processes."""

import os
import signal
import subprocess
import sys
import time

IS_LINUX = sys.platform.startswith("linux")


def wait_for_files(*paths, timeout=60.0):
    end = time.monotonic() + timeout
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < end, f"no {paths}"
        time.sleep(0.02)
    return [int(path.read_text()) for path in paths]


def is_alive(pid):
    """Whether a process is running; zombies are not."""
    fields = _stat_of(pid)
    return fields is not None and fields[0] not in "ZX"


def assert_end(pids, seconds=2.0):
    end = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        assert time.monotonic() < end, f"{[pid for pid in pids if is_alive(pid)]} are alive"
        time.sleep(0.02)


def start_training(folder, path, *arguments):
    """`thinc-swa train` with the output folder "out", in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "thinc_swa", "train", str(path), "-o", "out", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_checkpoint(process, folder):
    end = time.monotonic() + 90
    while not list(folder.glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def end_group(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def assert_a_killed_worker_ends_all(folder, path, which):
    """Kill one of two workers of a training after its first checkpoint."""
    process = start_training(folder, path, "--workers", "2")
    try:
        wait_for_checkpoint(process, folder / "out")
        pids = descendants(process.pid)
        os.kill(sorted(pids[1:])[which], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        end_group(process)
    assert process.returncode in (1, 137), (process.returncode, errors)
    (line,) = errors.splitlines()
    assert f"Worker {which} was ended by SIGKILL" in line
    assert_end(pids, seconds=5)


def assert_ctrl_c_stops_all_workers(folder, path):
    """After the first checkpoint of a training on two workers."""
    process = start_training(folder, path, "--workers", "2")
    try:
        wait_for_checkpoint(process, folder / "out")
        pids = descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        end_group(process)
    assert process.returncode == 130, errors
    assert errors == ""
    assert "use --resume to continue" in output
    assert_end(pids, seconds=5)


def descendants(pid):
    """Ids of a process and of all its descendants (Linux)."""
    found = [pid]
    others = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    stats = {other: _stat_of(other) for other in others}
    parents = {other: int(fields[1]) for other, fields in stats.items() if fields is not None}
    for ancestor in found:
        found += [other for other, parent in parents.items() if parent == ancestor]
    return found


def _stat_of(pid):
    """The state of a process, the id of its parent and so on; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        # The second one if it ends between opening and reading.
        return None
