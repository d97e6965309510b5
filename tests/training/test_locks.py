"""Locks on folders, with several processes."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers import require

require("filelock")

from thinc_swa.errors import describe_error  # noqa: E402
from thinc_swa.training import locks  # noqa: E402
from thinc_swa.training.locks import lock_folder  # noqa: E402

HOLD = """
import runpy, sys
from pathlib import Path
{before}
# Without the package, which imports Thinc.
lock_folder = runpy.run_path({module!r})["lock_folder"]
with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""
# Simulates a file system without locks.
NO_FLOCK = """
import errno, fcntl
def flock(*arguments):
    raise OSError(errno.{name}, "not here")
fcntl.flock = flock
"""


@pytest.fixture
def hold():
    """Start a process that locks a folder until its standard input is closed."""
    holders = []

    def start(folder, before=""):
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                HOLD.format(before=before, module=locks.__file__),
                str(folder),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        holders.append(holder)
        return holder

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate(timeout=20)


def is_locked(holder):
    return holder.stdout.readline() == "locked\n"


@pytest.mark.parametrize("before", ["", NO_FLOCK.format(name="ENOLCK")])
def test_a_locked_folder_is_an_error_that_names_the_holder(tmp_path, hold, before):
    folder = tmp_path / "made" / "here"
    first = hold(folder, before)
    assert is_locked(first)
    second = hold(folder, before)
    assert not is_locked(second)
    message = second.communicate(timeout=20)[1].splitlines()[-1]
    assert message.startswith(
        f"BlockingIOError: {folder} is in use by another thinc-swa process (pid {first.pid} on "
        f"{socket.gethostname()}, since "
    )
    first.communicate("", timeout=20)
    assert is_locked(hold(folder, before))


@pytest.mark.parametrize("name", [None, "ENOLCK", "ENOSYS"])
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, hold, name):
    before = NO_FLOCK.format(name=name) if name else ""
    first = hold(tmp_path, before)
    assert is_locked(first)
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=20)
    start = time.monotonic()
    second = hold(tmp_path, before)
    assert is_locked(second)
    assert time.monotonic() - start < 10
    third = hold(tmp_path, before)
    assert f"(pid {second.pid} on " in third.communicate(timeout=20)[1]


def test_one_of_many_processes_gets_the_lock(tmp_path, hold):
    holders = [hold(tmp_path) for _ in range(4)]
    assert sum(is_locked(holder) for holder in holders) == 1


def test_only_the_lock_file_remains(tmp_path):
    with lock_folder(tmp_path):
        pass
    with pytest.raises(RuntimeError, match="inside"), lock_folder(tmp_path):
        raise RuntimeError("inside")
    assert [path.name for path in tmp_path.iterdir()] == [".thinc-swa.lock"]


def test_a_process_cannot_lock_a_folder_twice(tmp_path):
    with lock_folder(tmp_path):
        with pytest.raises(BlockingIOError, match=f"pid {os.getpid()} on "):
            with lock_folder(tmp_path):
                pass
        # The failed attempt has not changed the holder.
        with pytest.raises(BlockingIOError, match=f"pid {os.getpid()} on "):
            with lock_folder(tmp_path):
                pass


def test_errors_name_the_folder(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="file"), lock_folder(blocked):
        pass
    fcntl = pytest.importorskip("fcntl")

    def flock(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError) as caught, lock_folder(tmp_path):
        pass
    assert describe_error(caught.value) == f"{tmp_path} cannot be locked: Input/output error"
