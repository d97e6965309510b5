"""Atomic file writes: permissions, links, long names, and files of killed processes."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
from thinc.api import Adam, Linear

from thinc_swa import load_optimizer, save_optimizer
from thinc_swa.serialization import files
from thinc_swa.serialization.files import (
    MAX_NAME_BYTES,
    STALE_AGE,
    atomic_write,
    remove_stale_files,
    replace_bytes,
    replace_text,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


def save_state(path):
    save_optimizer(path, Adam(0.1), Linear(2, 2).initialize())


WRITERS = {
    "bytes": lambda path: replace_bytes(path, b"new"),
    "text": lambda path: replace_text(path, "new"),
    "optimizer": save_state,
}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


@pytest.fixture
def umask():
    """A function that sets the umask until the end of the test."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
def test_new_files_have_the_mode_of_the_umask(write, mask, umask, tmp_path):
    umask(mask)
    write(tmp_path / "file")
    assert mode_of(tmp_path / "file") == 0o666 & ~mask
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666, 0o000])
def test_files_keep_their_mode(write, mode, umask, tmp_path):
    umask(0o077)
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert mode_of(path) == mode
    path.chmod(0o600)
    assert path.read_bytes() != b"old"


def test_temporary_file_of_a_private_file_is_private(umask, tmp_path):
    umask(0)
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)
    with atomic_write(path) as temporary:
        assert mode_of(temporary) == 0o600


def test_symbolic_links_are_followed(write, tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir(), elsewhere.mkdir()
    (elsewhere / "file").write_text("old")
    (folder / "link").symlink_to("../elsewhere/file")
    (folder / "link of a link").symlink_to("link")
    write(folder / "link of a link")
    assert os.readlink(folder / "link of a link") == "link"
    assert os.readlink(folder / "link") == "../elsewhere/file"
    assert (elsewhere / "file").read_bytes() != b"old"
    assert not (elsewhere / "file").is_symlink()
    assert os.listdir(elsewhere) == ["file"] and len(os.listdir(folder)) == 2


def test_target_of_a_dangling_link_is_created(write, tmp_path):
    (tmp_path / "link").symlink_to("file")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").is_file()


def test_cyclic_links_and_special_files_are_refused(write, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("a", "fifo", "folder"):
        with pytest.raises(OSError, match=name):
            write(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "fifo", "folder"]
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


NAMES = [
    "x" * 255,
    "ü" * 127,
    "x" * MAX_NAME_BYTES,
    "x" * (MAX_NAME_BYTES + 1),
    "\udcff",
    "a\nb",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_file_names_of_maximum_length(write, name, tmp_path):
    path = tmp_path / name
    for _ in range(2):
        write(path)
    assert os.listdir(tmp_path) == [name]


# Temporary files of killed processes

WRITE_AND_WAIT = """
import os, signal, sys
from pathlib import Path
from thinc_swa.serialization.files import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("written", flush=True)
    {}
"""


def start_writer(path, then="sys.stdin.read()"):
    """Start a process that writes half a file and then waits for the end of its input."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT.format(then), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"written\n"
    return process


def kill_writers(*paths):
    processes = [start_writer(path) for path in paths]
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)


@pytest.mark.parametrize("name", ["file", "x" * 255], ids=["short", "long"])
def test_next_write_removes_temporary_files_of_killed_processes(name, tmp_path):
    path = tmp_path / name
    kill_writers(path, path)
    assert len(os.listdir(tmp_path)) == 2 and not path.exists()
    save_state(path)
    assert os.listdir(tmp_path) == [name]


def test_remove_stale_files_removes_files_of_killed_processes(tmp_path):
    """All temporary files in a folder are removed, for any target."""
    kill_writers(*(tmp_path / name for name in ("a", "b", "x" * 200)))
    (tmp_path / "own").write_text("mine")
    assert len(os.listdir(tmp_path)) == 4
    remove_stale_files(tmp_path)
    assert os.listdir(tmp_path) == ["own"]
    remove_stale_files(tmp_path / "none")


SAVE_UNTIL_KILLED = """
import resource, signal, sys
from pathlib import Path
import numpy
from thinc_swa.serialization.state_file import write_state
# A file that grows beyond the limit kills the process.
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
write_state(Path(sys.argv[1]), {}, {"W": numpy.zeros(1 << 20, dtype="float32")})
"""


def test_next_write_removes_the_file_of_a_killed_save(tmp_path):
    path = tmp_path / "state"
    process = subprocess.run([sys.executable, "-c", SAVE_UNTIL_KILLED, str(path)], timeout=60)
    assert process.returncode == -signal.SIGXFSZ
    (left,) = os.listdir(tmp_path)
    assert files.TEMPORARY_NAME.fullmatch(left)
    save_state(path)
    assert os.listdir(tmp_path) == ["state"]


def test_files_of_running_processes_are_kept(tmp_path):
    path = tmp_path / "file"
    process = start_writer(path)
    try:
        save_state(path)
        remove_stale_files(tmp_path)
        assert len(os.listdir(tmp_path)) == 2
    finally:
        process.communicate(b"", timeout=60)
    assert process.returncode == 0
    assert os.listdir(tmp_path) == ["file"] and path.read_bytes() == b"half"


def test_other_files_are_kept(write, tmp_path):
    """Neither files with similar names nor temporary files of other targets are removed."""
    host, unused_pid = files._host(), find_unused_pid()
    kept = [
        "file.tmp",
        ".file.tmp",
        f"file.{host}-{unused_pid}-00000000.tmp",
        f".file.{host}-{unused_pid}-0000000.tmp",
        f".file.{host}-{unused_pid}-0000000g.tmp",
        f".file.{host}-{unused_pid}-00000000.tmp~",
        f".other.{host}-{unused_pid}-00000000.tmp",
        f".other.file.{host}-{unused_pid}-00000000.tmp",
        f".file.{host}-{os.getpid()}-00000000.tmp",
        f".file.{host}-1-00000000.tmp",
        f".file.00000000-{unused_pid}-00000000.tmp",
        ".file.0123456789abcdef0123456789abcdef.tmp",
    ]
    for name in kept:
        (tmp_path / name).write_text("x")
    (tmp_path / f".file.{host}-{unused_pid}-11111111.tmp").mkdir()
    (tmp_path / f".file.{host}-{unused_pid}-22222222.tmp").symlink_to("file.tmp")
    (tmp_path / f".file.{host}-{unused_pid}-33333333.tmp").write_text("x")
    write(tmp_path / "file")
    left = {*kept, "file"} | {f".file.{host}-{unused_pid}-{n * 8}.tmp" for n in "12"}
    assert set(os.listdir(tmp_path)) == left


def find_unused_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=60)
    return process.pid


@pytest.mark.parametrize(
    "name", [".file.00000000-1-00000000.tmp", ".file.0123456789abcdef0123456789abcdef.tmp"]
)
def test_files_of_other_machines_and_earlier_versions_are_removed_by_age(write, name, tmp_path):
    temporary = tmp_path / name
    temporary.write_text("x")
    for age, is_there in ((STALE_AGE - 60, True), (STALE_AGE + 60, False)):
        if temporary.exists():
            os.utime(temporary, (time.time() - age,) * 2)
        write(tmp_path / "file")
        assert temporary.exists() == is_there


def test_errors_remove_the_temporary_file(tmp_path):
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_state_is_saved_and_loaded_through_a_link(tmp_path):
    """The link has a long name."""
    model, optimizer = Linear(2, 2).initialize(), Adam(0.1)
    weights = model.get_param("W")
    optimizer((model.id, "W"), weights, numpy.ones_like(weights))
    link = tmp_path / ("x" * 250)
    link.symlink_to(tmp_path / "file")
    save_optimizer(link, optimizer, model)
    for path in (link, Path(tmp_path, "file")):
        other = Adam(0.1)
        load_optimizer(path, other, model)
        assert other.nr_update == optimizer.nr_update
