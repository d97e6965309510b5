"""Resuming of trainings: bit for bit, and only with the same settings, data and code."""

import json
import signal
import subprocess
import sys
import time

import numpy
import pytest
from helpers import require
from output_folders import SLOW_STEPS, assert_refused, config_of, results_of
from tiny import ADAM, make_arrays, write_config

from thinc_swa.errors import TrainingWarning
from thinc_swa.training.logs import read_log
from thinc_swa.training.trainer import train

require("filelock")


@pytest.mark.parametrize("step", [5, 33, 58])
def test_resuming_a_killed_training_is_bit_identical(tmp_path, step):
    config = config_of(tmp_path)
    train(config, output=tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STEPS], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    with process:
        for line in process.stdout:
            if int(line) == step:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    trainer = train(config, output=tmp_path / "output", resume=True)
    assert trainer.state.step == 60
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_resuming_a_finished_training_changes_nothing(tmp_path):
    config = config_of(tmp_path)
    train(config, output=tmp_path / "output")
    before = results_of(tmp_path / "output")
    assert train(config, output=tmp_path / "output", resume=True).state.step == 60
    assert results_of(tmp_path / "output") == before


def test_a_training_that_ended_by_patience_does_not_continue(tmp_path):
    optimizer = ADAM.replace("0.01", "0.0")
    config = config_of(tmp_path, optimizer=optimizer, patience=20, max_steps=1000)
    assert train(config, output=tmp_path / "output").state.step == 30
    assert train(config, output=tmp_path / "output", resume=True).state.step == 30


def test_a_training_can_be_made_longer(tmp_path):
    train(config_of(tmp_path, max_steps=30), output=tmp_path / "output")
    train(config_of(tmp_path), output=tmp_path / "output", resume=True)
    train(config_of(tmp_path), output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_a_log_with_an_incomplete_last_line_is_continued(tmp_path):
    train(config_of(tmp_path, max_steps=20), output=tmp_path / "output")
    with (tmp_path / "output" / "log.jsonl").open("a") as file:
        file.write('{"type": "step", "st')
    train(config_of(tmp_path), output=tmp_path / "output", resume=True)
    train(config_of(tmp_path), output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_a_training_stopped_by_ctrl_c_can_be_resumed(tmp_path, interruptible):
    for package in ("typer", "rich"):
        require(package)
    path = write_config(tmp_path, max_steps=20000)
    command = [sys.executable, "-m", "thinc_swa", "train", path.name, "-o", "output"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
    )
    log = tmp_path / "output" / "log.jsonl"
    while not (log.exists() and log.read_text().count('"evaluation"') > 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    assert f"Stopped after step {step}; use --resume to continue." in printed
    assert "Traceback" not in printed
    assert (tmp_path / "output" / "model-last").exists()
    # It was not stopped at an evaluation, and continues at the same step.
    longer = config_of(tmp_path, max_steps=step + 15)
    train(longer, output=tmp_path / "output", resume=True)
    train(longer, output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_a_smaller_limit_ends_a_training_that_is_resumed(tmp_path):
    """The reason is not "max_epochs", which is not set."""
    train(config_of(tmp_path, max_steps=30), output=tmp_path / "output")
    trainer = train(config_of(tmp_path, max_steps=20), output=tmp_path / "output", resume=True)
    assert (trainer.state.step, trainer.state.stop_reason) == (30, "max_steps")
    assert list(read_log(tmp_path / "output" / "log.jsonl"))[-1]["reason"] == "max_steps"


@pytest.mark.slow
def test_a_training_killed_before_its_first_checkpoint_starts_again(tmp_path):
    """At any moment between the first file and the first checkpoint."""
    config = config_of(tmp_path)
    train(config, output=tmp_path / "whole")

    class Killed(BaseException):
        pass

    moments = (
        ("thinc_swa.training.callbacks.TrainingLog.on_start", 1),  # Only the config is there.
        ("thinc_swa.training.logs.Log.write", 1),  # The log is empty.
        ("thinc_swa.training.logs.Log.write", 4),
        ("thinc_swa.training.trainer.replace_bytes", 1),  # Before model-last.
        ("thinc_swa.training.trainer.replace_bytes", 2),  # Before model-best.
        ("thinc_swa.training.trainer.replace_bytes", 3),  # The model of the checkpoint.
        ("thinc_swa.training.checkpoints.replace_text", 1),
        ("thinc_swa.training.checkpoints.os.rename", 1),
    )
    for place, count in moments:
        code = f"""
import os, signal
from pathlib import Path
from unittest.mock import patch
import pkgutil
from thinc.api import Config
from thinc_swa.training.trainer import train

module, _, name = {place!r}.rpartition(".")
whole, count = pkgutil.resolve_name({place!r}), 0

def kill(*arguments, **settings):
    global count
    count += 1
    if count == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **settings)

with patch({place!r}, kill):
    train(Config().from_disk("tiny.cfg"), output=Path("output"))
"""
        output = tmp_path / "output"
        process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert (output / "config.cfg").exists()
        assert not list(output.glob("step-*"))
        train(config, output=output, resume=True)
        assert results_of(output) == results_of(tmp_path / "whole")
        # The incomplete checkpoint is deleted.
        assert not list(output.glob(".step-*"))
        output.rename(tmp_path / f"{place}-{count}")


def test_a_training_with_other_settings_is_not_resumed(output):
    config = config_of(output.parent, max_steps=20)
    config["training"]["batch_size"] = 4
    config["model"]["*"]["hidden"]["nO"] = 9
    for what in ("training.batch_size was 8 and is 4 now", r"model.*nO was 8 and is 9 now"):
        message = f"The training in .*output has another config and .*{what}"
        assert_refused(output, ValueError, message, config, resume=True)
    # The checkpoint is compared too.
    (output / "config.cfg").unlink()
    message = r"step-00000020 is a checkpoint of another training.*training.batch_size was 8"
    assert_refused(output, ValueError, message, config, resume=True)


def test_a_training_with_other_data_is_not_resumed(output):
    data = output.parent / "data.npz"
    numpy.savez(data, **make_arrays(n_train=10))
    config = config_of(output.parent)
    message = "train_X was 50 rows, .* and is 10 rows"
    assert_refused(output, ValueError, message, config, resume=True)
    # Another file with the same data is accepted.
    numpy.savez_compressed(data, **make_arrays())
    assert train(config, output=output, resume=True).state.step == 60


def test_a_training_with_other_code_is_not_resumed(tmp_path):
    code = tmp_path / "code.py"
    code.write_text("x = 1")
    config = config_of(tmp_path, max_steps=20)
    output = tmp_path / "output"
    train(config, output=output, code=code)
    assert train(config, output=output, code=code, resume=True).state.step == 20
    code.write_text("x = 2")
    message = "the content of code has changed"
    assert_refused(output, ValueError, message, config, resume=True, code=code)
    assert_refused(output, ValueError, "code was sha256:.* absent now", config, resume=True)


def test_a_training_with_other_imported_modules_is_not_resumed(tmp_path):
    code = tmp_path / "code.py"
    code.write_text("def load():\n    import beside_the_code\n")
    (tmp_path / "beside_the_code.py").write_text("x = 1")
    config = config_of(tmp_path, max_steps=20)
    output = tmp_path / "output"
    train(config, output=output, code=code)
    (tmp_path / "beside_the_code.py").write_text("x = 2")
    message = "the content of module beside_the_code has changed"
    assert_refused(output, ValueError, message, config, resume=True, code=code)


def test_a_training_with_other_files_in_a_folder_is_not_resumed(tmp_path):
    """The output folder inside it is ignored."""
    config = config_of(tmp_path, max_steps=20)
    config["paths"] = {"data": str(tmp_path)}
    output = tmp_path / "output"
    train(config, output=output)
    assert train(config, output=output, resume=True).state.step == 20
    (tmp_path / "more.jsonl").write_text("{}")
    message = "the content of paths.data has changed"
    assert_refused(output, ValueError, message, config, resume=True)


def test_other_package_versions_are_a_warning_in_train(output, monkeypatch):
    monkeypatch.setattr("thinc_swa.about.__version__", "99")
    with pytest.warns(TrainingWarning, match="thinc-swa was .* and is 99 now"):
        assert train(config_of(output.parent), output=output, resume=True).state.step == 60
