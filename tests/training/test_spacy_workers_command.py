"""`thinc-swa train --workers` with spaCy configs: real processes."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
from helpers import require, run_command
from processes import (
    IS_LINUX,
    assert_a_killed_worker_ends_all,
    assert_ctrl_c_stops_all_workers,
)

require("spacy", "typer", "rich", "filelock", "torch")

from spacy.util import load_config  # noqa: E402
from spacy_config_cases import LOWER, ner  # noqa: E402
from spacy_trainings import ADAM, differing, files_of, results_of  # noqa: E402

from thinc_swa.distributed import run_simulated  # noqa: E402
from thinc_swa.training.spacy_training import train_spacy  # noqa: E402

LOCAL_SGD = {"@optimizers": "LocalSGD.v1", "freq": 5, "optimizer": ADAM}


def write_config(folder, **settings):
    """A stream with an augmenter: both workers must draw the same numbers for it."""
    settings = {"training__max_epochs": -1, "corpora__train__augmenter": LOWER, **settings}
    ner(folder, training__optimizer=LOCAL_SGD, **settings)
    return folder / "config.cfg"


def train_simulated(path, output, **overrides):
    config = load_config(
        path,
        overrides={name.replace("__", "."): value for name, value in overrides.items()},
        interpolate=False,
    )
    run_simulated(2, lambda c: train_spacy(config, output=output, communicator=c))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["--workers", "torchrun"])
def test_workers_are_simulated_workers_bit_for_bit(tmp_path, launcher):
    path = write_config(tmp_path, training__max_steps=29)
    if launcher == "--workers":
        result = run_command(tmp_path, "train", path, "-o", "out", "--workers", "2")
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command += ["--standalone", "-m", "thinc_swa", "train", str(path), "-o", "out"]
        result = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stderr
    if launcher == "--workers":
        assert result.stderr == ""
    # One table.
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["1", "11", "21"]
    assert lines[4].startswith("Best score: ") and lines[5:] == ["Saved to out."]
    train_simulated(path, tmp_path / "simulated")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "simulated")
    # Step 30 is a synchronisation. Scores are in the pipeline of rank 0.
    last = tmp_path / "out" / "step-00000030"
    first, second = (files_of(last / name) for name in ("model", "rank-1-model"))
    assert "ner/model" in first and differing(first, second) == ["meta.json"]


def assert_resumed_as_uninterrupted(tmp_path, path):
    """With a length that the interrupted training has not reached."""
    last = max(int(step.name.partition("-")[2]) for step in (tmp_path / "out").glob("step-*"))
    n_steps = last + 19
    arguments = ["--workers", "2", "--training.max_steps", n_steps]
    result = run_command(tmp_path, "train", path, "-o", "out", "--resume", *arguments)
    assert result.returncode == 0, result.stderr
    train_simulated(path, tmp_path / "whole", training__max_steps=n_steps)
    assert results_of(tmp_path / "out") == results_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="finds processes in /proc")
@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_worker_ends_all_and_the_training_resumes(tmp_path, which):
    path = write_config(tmp_path, training__max_steps=1_000_000)
    assert_a_killed_worker_ends_all(tmp_path, path, which)
    assert_resumed_as_uninterrupted(tmp_path, path)


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="finds processes in /proc")
def test_ctrl_c_stops_all_workers_after_the_same_step(tmp_path, interruptible):
    path = write_config(tmp_path, training__max_steps=1_000_000)
    assert_ctrl_c_stops_all_workers(tmp_path, path)
    assert_resumed_as_uninterrupted(tmp_path, path)


@pytest.mark.slow
def test_an_error_of_all_workers_is_shown_once(tmp_path):
    path = write_config(tmp_path, training__max_epochs=0, corpora__train__limit=2)
    result = run_command(tmp_path, "train", path, "-o", "out", "--workers", "3")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ") and "3 workers, but only 2 training examples" in line


@pytest.mark.slow
def test_different_corpora_on_two_machines(tmp_path):
    """Two folders instead, with the same relative paths."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        config = load_config(write_config(folder), interpolate=False)
        config["paths"].update(train="train.spacy", dev="dev.spacy")
        config.to_disk(folder / "config.cfg")
    shutil.copy(folders[1] / "dev.spacy", folders[1] / "train.spacy")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "thinc_swa", "train", "config.cfg", "-o", tmp_path / "out"],
            cwd=folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "WORLD_SIZE": "2",
                "RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate(folders)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 1
            (line,) = errors.splitlines()
            assert "The files of the workers differ: rank 0 has 'paths.train: sha256:" in line
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
