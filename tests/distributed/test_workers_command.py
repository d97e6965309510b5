"""`thinc-swa train --workers` and `torchrun`: real processes."""

import os
import subprocess
import sys

import pytest
from helpers import require, run_command
from output_folders import results_of
from processes import (
    IS_LINUX,
    assert_a_killed_worker_ends_all,
    assert_ctrl_c_stops_all_workers,
    assert_end,
    descendants,
    end_group,
    start_training,
    wait_for_checkpoint,
)
from thinc.api import Config
from tiny import ADAM, LOCAL_SGD, write_config

from thinc_swa.distributed import run_simulated
from thinc_swa.training import train

for package in ("typer", "rich", "filelock", "torch"):
    require(package)


def test_wrong_numbers_of_workers(tmp_path, run):
    path = write_config(tmp_path, optimizer=LOCAL_SGD)
    for number in ("0", "-1", "two", "2:1", "1:2:3", "1:", ""):
        result = run(tmp_path, "train", path.name, "--workers", number)
        assert result.returncode == 2
        assert "Invalid value for '--workers'" in result.stderr


def test_workers_under_torchrun_are_a_usage_error(tmp_path, run, monkeypatch):
    path = write_config(tmp_path, optimizer=LOCAL_SGD)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    result = run(tmp_path, "train", path.name, "--workers", "2")
    assert result.returncode == 2 and "leave it out under torchrun" in result.stderr


def test_without_pytorch(tmp_path, run, monkeypatch):
    path = write_config(tmp_path, optimizer=LOCAL_SGD)
    for name in list(sys.modules):
        if name == "torch.distributed" or name.startswith("torch.distributed."):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.distributed.elastic", None)
    result = run(tmp_path, "train", path.name, "--workers", "2")
    assert result.returncode == 1
    assert result.stderr == (
        "Error: Training on several workers needs PyTorch: pip install "
        '"thinc-swa[distributed]"\n'
    )


def test_one_worker_needs_no_launcher(tmp_path, run):
    path = write_config(tmp_path, optimizer=ADAM, max_steps=10)
    one, none = (run(tmp_path, "train", path.name, *more) for more in (["--workers", "1"], []))
    assert one.returncode == 0
    assert one.stdout == none.stdout


def test_workers_get_all_options(tmp_path, run, monkeypatch):
    path = write_config(tmp_path, optimizer=LOCAL_SGD)
    calls = []
    module = sys.modules["thinc_swa.cli.train"]
    monkeypatch.setattr(module, "run_workers", lambda *arguments: calls.append(arguments))
    options = ["-o", "out", "--resume", "--seed", "0", "-g", "0", "--code", "code.py"]
    options += ["--worker-timeout", "60"]
    overrides = ["--training.max_steps", "5", "--training.score=loss", "--training.a-b", "-1"]
    assert (
        run(tmp_path, "train", path.name, *overrides, "--workers=3", *options).returncode == 0
    )
    ((n_workers, arguments),) = calls
    assert n_workers == 3
    assert arguments[:4] == ["-m", "thinc_swa", "train", path.name]
    assert arguments[4:10] == [
        *("--training.max_steps", "5", "--training.score", '"loss"', "--training.a-b", "-1")
    ]
    assert set(arguments[10:]) == {
        "--output=out",
        "--resume",
        "--seed=0",
        "--gpu-id=0",
        "--code=code.py",
        "--worker-timeout=60.0",
    }


@pytest.mark.slow
def test_workers_are_simulated_workers_bit_for_bit(tmp_path):
    path = write_config(tmp_path, optimizer=LOCAL_SGD)
    result = run_command(tmp_path, "train", path, "-o", "out", "--workers", "2")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    # One table.
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == ["10", "20", "30", "40", "50", "60"]
    assert lines[7].startswith("Best score: ") and lines[8:] == ["Saved to out."]
    config = Config().from_disk(path)
    run_simulated(2, lambda c: train(config, output=tmp_path / "simulated", communicator=c))
    assert results_of(tmp_path / "out") == results_of(tmp_path / "simulated")


@pytest.mark.slow
def test_torchrun(tmp_path):
    path = write_config(tmp_path, optimizer=LOCAL_SGD)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", "thinc_swa", "train", path, "-o", tmp_path / "out"]
    result = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Saved to") == 1
    config = Config().from_disk(path)
    run_simulated(2, lambda c: train(config, output=tmp_path / "simulated", communicator=c))
    assert results_of(tmp_path / "out") == results_of(tmp_path / "simulated")


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer, n_workers, message",
    [
        (ADAM, 2, "needs an optimizer with one LocalSGD"),
        (LOCAL_SGD, 4, "4 workers, but only 3 training examples"),
    ],
    ids=["optimizer", "examples"],
)
def test_an_error_of_all_workers_is_shown_once(tmp_path, optimizer, n_workers, message):
    import numpy
    from tiny import make_arrays

    numpy.savez(tmp_path / "data.npz", **make_arrays(n_train=3))
    path = write_config(tmp_path, optimizer=optimizer)
    result = run_command(tmp_path, "train", path, "-o", "out", "--workers", n_workers)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ") and message in line


def assert_resumed_as_uninterrupted(tmp_path, path):
    """With a length that the interrupted training has not reached."""
    last = max(int(step.name.partition("-")[2]) for step in (tmp_path / "out").glob("step-*"))
    n_steps = last + 30
    arguments = ["--workers", "2", "--training.max_steps", n_steps]
    result = run_command(tmp_path, "train", path, "-o", "out", "--resume", *arguments)
    assert result.returncode == 0, result.stderr
    config = Config().from_disk(path, overrides={"training.max_steps": n_steps})
    run_simulated(2, lambda c: train(config, output=tmp_path / "whole", communicator=c))
    assert results_of(tmp_path / "out") == results_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="finds processes in /proc")
@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_worker_ends_all_and_the_training_resumes(tmp_path, which):
    path = write_config(tmp_path, optimizer=LOCAL_SGD, max_steps=1_000_000)
    assert_a_killed_worker_ends_all(tmp_path, path, which)
    assert_resumed_as_uninterrupted(tmp_path, path)


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="finds processes in /proc")
def test_ctrl_c_stops_all_workers_after_the_same_step(tmp_path, interruptible):
    path = write_config(tmp_path, optimizer=LOCAL_SGD, max_steps=1_000_000)
    assert_ctrl_c_stops_all_workers(tmp_path, path)
    assert_resumed_as_uninterrupted(tmp_path, path)


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="finds processes in /proc")
def test_sigterm_ends_all_workers(tmp_path):
    path = write_config(tmp_path, optimizer=LOCAL_SGD, max_steps=1_000_000)
    process = start_training(tmp_path, path, "--workers", "2")
    try:
        wait_for_checkpoint(process, tmp_path / "out")
        pids = descendants(process.pid)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        end_group(process)
    assert process.returncode == 143
    assert errors == "Error: Stopped by SIGTERM\n"
    assert_end(pids, seconds=5)
