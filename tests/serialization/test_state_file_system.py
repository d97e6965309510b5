"""Saving under file system errors: missing permissions, a full disk, a killed process."""

import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy
import pytest
from new_process import run_in_new_process
from optimizer_states import keys_of
from state_files import assert_clear, assert_unchanged
from thinc.api import Adam, Linear, chain
from training_cases import make_nested_swa, make_trained, train

from thinc_swa import load_optimizer, save_optimizer


def test_missing_files_and_folders_are_refused(tmp_path):
    model, optimizer = make_trained(make_nested_swa)
    for path in (tmp_path / "none", tmp_path / "no folder" / "none"):
        with assert_unchanged(optimizer, model), pytest.raises(FileNotFoundError) as caught:
            load_optimizer(path, optimizer, model)
        assert_clear(caught.value, path)
    with pytest.raises(OSError, match="none"):
        save_optimizer(tmp_path / "no folder" / "none", optimizer, model)
    assert list(tmp_path.iterdir()) == []


def test_folder_instead_of_a_file_is_refused(tmp_path):
    model, optimizer = make_trained(make_nested_swa)
    path = tmp_path / "optimizer"
    path.mkdir()
    with assert_unchanged(optimizer, model):
        for function in (save_optimizer, load_optimizer):
            with pytest.raises(OSError, match="optimizer"):
                function(path, optimizer, model)
    assert list(tmp_path.iterdir()) == [path] and list(path.iterdir()) == []


@pytest.mark.parametrize("as_path", [str, Path])
def test_string_and_path_arguments(as_path, tmp_path, monkeypatch):
    """Paths may be relative, and an existing file is replaced."""
    model, optimizer = make_trained(make_nested_swa)
    monkeypatch.chdir(tmp_path)
    Path("optimizer").write_text("older")
    save_optimizer(as_path("optimizer"), optimizer, model)
    load_optimizer(as_path("optimizer"), make_nested_swa(), model)
    assert os.listdir() == ["optimizer"]


def test_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    """The interrupt comes after the write and before the rename."""
    model, optimizer = make_trained(make_nested_swa)
    path = tmp_path / "optimizer"
    path.write_text("older")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_optimizer(path, optimizer, model)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    """A power failure then leaves no empty file. The folder is flushed after the rename."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(descriptor):
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        calls.append("folder" if is_folder else "file")
        fsync(descriptor)

    def watch_replace(*paths):
        calls.append("replace")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    model, optimizer = make_trained(make_nested_swa)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    if sys.platform == "linux":
        assert calls == ["file", "replace", "folder"]


needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


def save_and_load_without_permission(folder):
    """Run in a new process, because root has to switch to an unprivileged user."""
    folder = Path(folder)
    model, optimizer = make_trained(make_nested_swa)
    save_optimizer(folder / "optimizer", optimizer, model)
    (folder / "optimizer").chmod(0)
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    with assert_unchanged(optimizer, model):
        for function in (load_optimizer, save_optimizer):
            with pytest.raises(OSError, match="ermission denied") as caught:
                function(folder / "optimizer", optimizer, model)
            assert_clear(caught.value, folder / "optimizer")
    assert os.listdir(folder) == ["optimizer"]
    os.seteuid(os.getuid())
    folder.chmod(0o755)
    (folder / "optimizer").chmod(0o644)
    load_optimizer(folder / "optimizer", make_nested_swa(), model)
    print("denied")


@needs_posix
def test_missing_permissions_are_reported():
    # Other users have no access to pytest's temporary folder.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        assert run_in_new_process(save_and_load_without_permission, folder) == "denied\n"


def save_to_a_full_disk(folder):
    """Run in a new process. A limit on file sizes has the effect of a full disk."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = Path(folder, "optimizer")
    model, optimizer = make_trained(make_nested_swa)
    save_optimizer(path, optimizer, model)
    content = path.read_bytes()
    train(model, optimizer, 7, 9)
    refused = []
    for limit in (0, 5, 100, len(content) // 2, len(content) - 1, len(content) + 10**6):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with assert_unchanged(optimizer, model):
            try:
                save_optimizer(path, optimizer, model)
            except OSError as error:
                assert_clear(error, path)
                refused.append(limit)
                assert path.read_bytes() == content
        assert os.listdir(folder) == ["optimizer"]
    assert len(refused) == 5 and path.read_bytes() != content
    print("full")


@needs_posix
def test_full_disk_keeps_the_old_file(tmp_path):
    assert run_in_new_process(save_to_a_full_disk, tmp_path) == "full\n"


def set_version(optimizer, version):
    for moments in (optimizer.mom1, optimizer.mom2, optimizer.averages):
        for array in moments.values():
            array[...] = version
    for key in optimizer.nr_update:
        optimizer.nr_update[key] = version


def versions_in(optimizer):
    arrays = [*optimizer.mom1.values(), *optimizer.mom2.values(), *optimizer.averages.values()]
    return {float(x) for array in arrays for x in numpy.unique(array)}.union(
        map(float, optimizer.nr_update.values())
    )


def save_and_be_killed(folder, n_rounds):
    """In each round a child process saves one version after another to the same file, until it
    is killed at a random time. Then the file is loaded."""
    chooser = random.Random(0)
    path = Path(folder, "optimizer")
    model = chain(Linear(200, 300), Linear(100, 200)).initialize()
    optimizer = Adam(0.1)
    for key, weights in keys_of(model).items():
        optimizer(key, weights, numpy.ones_like(weights))
    set_version(optimizer, 1)
    started = time.perf_counter()
    for _ in range(5):
        save_optimizer(path, optimizer, model)
    duration = (time.perf_counter() - started) / 5
    found, n_temporaries = [], 0
    for number in range(1, int(n_rounds) + 1):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            for version in itertools.count(1000 * number):
                set_version(optimizer, version)
                save_optimizer(path, optimizer, model)
                os.write(writer, b".")
        os.close(writer)
        for _ in range(chooser.randint(0, 2)):
            os.read(reader, 1)
        time.sleep(chooser.uniform(0, 1.5 * duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        loaded = Adam(0.1)
        load_optimizer(path, loaded, model)
        (version,) = versions_in(loaded)
        found.append(version)
        for temporary in set(os.listdir(folder)) - {"optimizer"}:
            n_temporaries += 1
            Path(folder, temporary).unlink()
    print(json.dumps([found, n_temporaries]))


@needs_posix
def test_killed_process_leaves_a_complete_file(tmp_path):
    found, n_temporaries = json.loads(run_in_new_process(save_and_be_killed, tmp_path, 100))
    assert len(found) == 100 and found == sorted(found)
    assert found[-1] >= 50_000
    # Many processes were killed while they were saving.
    assert len(set(found)) > 20 and n_temporaries > 20
