"""Trainings in an output folder: what is saved, resumed and refused."""

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
from helpers import require, run_command
from thinc.api import Config
from tiny import ADAM, assert_same, make_arrays, weights_of, write_config

require("filelock")

from thinc_swa import apply_averages, update_batch_norm, use_averages  # noqa: E402
from thinc_swa.errors import CallbackError, TrainingWarning  # noqa: E402
from thinc_swa.training.callbacks import Callback  # noqa: E402
from thinc_swa.training.checkpoints import delete_checkpoint, find_checkpoint, load_checkpoint  # noqa: E402
from thinc_swa.training.logs import read_log  # noqa: E402
from thinc_swa.training.output_folder import MARKER, TrainingFolder  # noqa: E402
from thinc_swa.training.trainer import Trainer, train  # noqa: E402

# What is saved


def config_of(tmp_path, **settings):
    return Config().from_disk(write_config(tmp_path, **settings))


def load_model(config, path):
    trainer = Trainer.from_config(config)
    return trainer, trainer.model.from_bytes(path.read_bytes())


def test_models_are_saved_with_the_averages(tmp_path):
    config = config_of(tmp_path)
    trainer = train(config, output=tmp_path / "output")
    for name, evaluation in (
        ("model-best", trainer.state.best),
        ("model-last", trainer.state.evaluations[-1]),
    ):
        other, model = load_model(config, tmp_path / "output" / name)
        assert evaluation.averages is not None
        assert other._score() == evaluation.averages
    with use_averages(trainer.model, trainer.optimizer):
        assert_same(weights_of(model), weights_of(trainer.model))


def test_after_an_error_what_was_saved_before_is_still_there(tmp_path):
    """The weights may be half updated then."""

    class Break(Callback):
        def on_step(self, trainer):
            if trainer.state.step == 17:
                raise KeyError("my key")

    config = config_of(tmp_path)
    with pytest.raises(CallbackError):
        train(config, output=tmp_path / "output", callbacks=[Break()])
    assert find_checkpoint(tmp_path / "output").name == "step-00000010"
    train(config_of(tmp_path, max_steps=10), output=tmp_path / "ten")
    saved = [(tmp_path / name / "model-last").read_bytes() for name in ("output", "ten")]
    assert saved[0] == saved[1]
    train(config, output=tmp_path / "output", resume=True)
    train(config, output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_the_log_has_everything(tmp_path):
    trainer = train(config_of(tmp_path), output=tmp_path / "output")
    records = list(read_log(tmp_path / "output" / "log.jsonl"))
    kinds = [record["type"] for record in records]
    assert kinds[0] == "start" and kinds[-1] == "end"
    assert kinds.count("step") == 60 and kinds.count("evaluation") == 6
    assert records[-1]["reason"] == "max_steps"
    steps = [record for record in records if record["type"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 61))
    assert [steps[i]["n_averaged"] for i in (18, 19, 21, 22, 59)] == [0, 1, 1, 2, 14]
    evaluations = [record for record in records if record["type"] == "evaluation"]
    assert [record["raw"] for record in evaluations] == [
        evaluation.raw for evaluation in trainer.state.evaluations
    ]


def test_an_earlier_training_is_overwritten_on_request_only(tmp_path):
    config = config_of(tmp_path, max_steps=10)
    train(config, output=tmp_path / "output")
    before = (tmp_path / "output" / "log.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="output already contains a training"):
        train(config, output=tmp_path / "output")
    assert (tmp_path / "output" / "log.jsonl").read_bytes() == before
    trainer = train(config, output=tmp_path / "output", overwrite=True)
    assert trainer.state.step == 10
    assert len(list(read_log(tmp_path / "output" / "log.jsonl"))) == 14


# Resuming


def results_of(folder):
    """What must not depend on interruptions: the models, and the log without times."""
    records = [
        {name: value for name, value in record.items() if name != "seconds"}
        for record in read_log(folder / "log.jsonl")
        if record["type"] in ("step", "evaluation")
    ]
    return records, [(folder / name).read_bytes() for name in ("model-best", "model-last")]


SLOW_STEPS = """
import os, sys, time
from pathlib import Path
from thinc.api import Config
from thinc_swa.training.callbacks import Callback
from thinc_swa.training.trainer import train

class Slow(Callback):
    def on_step(self, trainer):
        print(trainer.state.step, flush=True)
        time.sleep(0.01)

train(Config().from_disk("tiny.cfg"), output=Path("output"), resume=True, callbacks=[Slow()])
"""


@pytest.mark.parametrize("step", [5, 33, 58])
def test_a_training_that_was_killed_is_resumed_bit_for_bit(tmp_path, step):
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


def test_a_training_that_lost_patience_is_not_resumed(tmp_path):
    optimizer = ADAM.replace("0.01", "0.0")
    config = config_of(tmp_path, optimizer=optimizer, patience=20, max_steps=1000)
    assert train(config, output=tmp_path / "output").state.step == 30
    assert train(config, output=tmp_path / "output", resume=True).state.step == 30


def test_a_training_can_be_made_longer(tmp_path):
    train(config_of(tmp_path, max_steps=30), output=tmp_path / "output")
    train(config_of(tmp_path), output=tmp_path / "output", resume=True)
    train(config_of(tmp_path), output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_a_log_that_was_cut_off_is_continued(tmp_path):
    train(config_of(tmp_path, max_steps=20), output=tmp_path / "output")
    with (tmp_path / "output" / "log.jsonl").open("a") as file:
        file.write('{"type": "step", "st')
    train(config_of(tmp_path), output=tmp_path / "output", resume=True)
    train(config_of(tmp_path), output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_ctrl_c_ends_a_training_that_can_be_resumed(tmp_path, interruptible):
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
    # Not at an evaluation: it is resumed at the very step.
    longer = config_of(tmp_path, max_steps=step + 15)
    train(longer, output=tmp_path / "output", resume=True)
    train(longer, output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_a_smaller_limit_ends_a_training_that_is_resumed(tmp_path):
    """Not "max_epochs", which is not set."""
    train(config_of(tmp_path, max_steps=30), output=tmp_path / "output")
    trainer = train(config_of(tmp_path, max_steps=20), output=tmp_path / "output", resume=True)
    assert (trainer.state.step, trainer.state.stop_reason) == (30, "max_steps")
    assert list(read_log(tmp_path / "output" / "log.jsonl"))[-1]["reason"] == "max_steps"


def test_a_kill_before_the_first_checkpoint_is_no_obstacle(tmp_path):
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
        # Nothing of the half written checkpoint is left.
        assert not list(output.glob(".step-*"))
        output.rename(tmp_path / f"{place}-{count}")


# Other settings, data, code


@pytest.fixture
def output(tmp_path):
    """The output folder of a finished training, beside its config."""
    train(config_of(tmp_path, max_steps=20), output=tmp_path / "output")
    return tmp_path / "output"


def content_of(folder):
    """Without the lock."""
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".thinc-swa")
    }


def assert_refused(folder, error, message, config, **settings):
    before = content_of(folder)
    with pytest.raises(error, match=message):
        train(config, output=folder, **settings)
    assert content_of(folder) == before


def test_a_training_with_other_settings_is_not_resumed(output):
    config = config_of(output.parent, max_steps=20)
    config["training"]["batch_size"] = 4
    config["model"]["*"]["hidden"]["nO"] = 9
    for what in ("training.batch_size was 8 and is 4 now", r"model.*nO was 8 and is 9 now"):
        message = f"The training in .*output has another config and .*{what}"
        assert_refused(output, ValueError, message, config, resume=True)
    # The checkpoint says so too.
    (output / "config.cfg").unlink()
    message = r"step-00000020 is a checkpoint of another training.*training.batch_size was 8"
    assert_refused(output, ValueError, message, config, resume=True)


def test_a_training_with_other_data_is_not_resumed(output):
    data = output.parent / "data.npz"
    numpy.savez(data, **make_arrays(n_train=10))
    config = config_of(output.parent)
    message = "train_X was 50 rows, .* and is 10 rows"
    assert_refused(output, ValueError, message, config, resume=True)
    # The same data in another file are the same.
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
    """The output folder, which is in it, is no input."""
    config = config_of(tmp_path, max_steps=20)
    config["paths"] = {"data": str(tmp_path)}
    output = tmp_path / "output"
    train(config, output=output)
    assert train(config, output=output, resume=True).state.step == 20
    (tmp_path / "more.jsonl").write_text("{}")
    message = "the content of paths.data has changed"
    assert_refused(output, ValueError, message, config, resume=True)


def test_other_versions_of_packages_are_a_warning(output, monkeypatch):
    monkeypatch.setattr("thinc_swa.about.__version__", "99")
    with pytest.warns(TrainingWarning, match="thinc-swa was .* and is 99 now"):
        assert train(config_of(output.parent), output=output, resume=True).state.step == 60


# Lost and damaged files


def test_a_training_whose_checkpoints_are_lost_is_not_begun_anew(output):
    for path in output.glob("step-*"):
        path.rename(output.parent / path.name)
    config = config_of(output.parent)
    message = "log.jsonl ends at step 20, but .*output contains no checkpoint: restore"
    assert_refused(output, FileNotFoundError, message, config, resume=True)
    log = output / "log.jsonl"
    log.rename(output.parent / "log.jsonl")
    message = "contains model-best, model-last, but no checkpoint, and log.jsonl is miss"
    assert_refused(output, FileNotFoundError, message, config, resume=True)
    message = message.replace("is miss", "has no evaluation: restore")
    log.touch()
    assert_refused(output, FileNotFoundError, message, config, resume=True)
    # Both are restored.
    (output.parent / "log.jsonl").rename(log)
    (output.parent / "step-00000020").rename(output / "step-00000020")
    assert train(config, output=output, resume=True).state.step == 60


def test_a_training_that_was_killed_after_its_first_checkpoint_is_not_begun_anew(tmp_path):
    """Records of the steps since then are still in the memory of the process."""
    config = config_of(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STEPS], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    with process:
        for line in process.stdout:
            if int(line) == 11:
                process.kill()
                break
    output = tmp_path / "output"
    assert '"step", "step": 11' not in (output / "log.jsonl").read_text()
    (output / "step-00000010").rename(tmp_path / "step-00000010")
    message = "log.jsonl ends at step 10, but .*output contains no checkpoint: restore"
    assert_refused(output, FileNotFoundError, message, config, resume=True)
    (tmp_path / "step-00000010").rename(output / "step-00000010")
    assert train(config, output=output, resume=True).state.step == 60


@pytest.mark.parametrize("name", ["training.json", "checkpoint.json", "model"])
def test_a_training_whose_checkpoints_are_damaged_is_not_begun_anew(output, name):
    for path in output.glob("step-*"):
        (path / name).unlink()
    config = config_of(output.parent)
    message = f"step-00000020 is damaged: {name} is missing. Restore it"
    assert_refused(output, ValueError, message, config, resume=True)
    assert train(config, output=output, overwrite=True).state.step == 60


def test_the_checkpoint_before_a_damaged_one_is_used(output):
    (output / "step-00000020" / "model").write_bytes(b"half")
    config = config_of(output.parent)
    with pytest.warns(TrainingWarning, match="step-00000020 is damaged.*step-00000010"):
        train(config, output=output, resume=True)
    train(config, output=output.parent / "whole")
    assert results_of(output) == results_of(output.parent / "whole")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: [*lines[:4], b"{ha\n", *lines[4:]], "line 5 is not a record"),
        (lambda lines: [*lines[:4], b"\xff\n", *lines[4:]], "line 5 is not a record"),
        (lambda lines: [*lines[:4], b"[]\n", *lines[4:]], "line 5 is not a record"),
        (lambda lines: [*lines[:4], *lines[5:]], r"line 5 \(step\) has step 5, after step 3"),
        # Two processes at a time, or one after the other.
        (lambda lines: [lines[0], *lines], "line 2 is another start, after step 0"),
        (
            lambda lines: [line for line in lines for _ in (0, 1)],
            "line 2 is another start, after step 0",
        ),
        (lambda lines: [*lines[:5], *lines], "line 6 is another start, after step 4"),
        (lambda lines: lines[:7], "it ends at step 6, before the checkpoint of step 20"),
        (lambda lines: lines[1:], r"line 1 \(step\) has no start before it"),
        (
            lambda lines: [lines[0].replace(b'"run": "', b'"run": "0'), *lines[1:]],
            "it belongs to another training",
        ),
    ],
)
def test_a_damaged_log_is_refused(output, change, message):
    path = output / "log.jsonl"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    config = config_of(output.parent)
    if b'"start"' not in path.read_bytes():
        message = "contains log.jsonl, which thinc-swa has not written"
        assert_refused(output, FileExistsError, message, config, resume=True)
    else:
        message = f"log.jsonl is damaged: {message}. Move it away"
        assert_refused(output, ValueError, message, config, resume=True)
    # As the message says.
    path.unlink()
    with pytest.warns(TrainingWarning, match="log.jsonl is missing: a new log begins"):
        train(config, output=output, resume=True)
    train(config, output=output.parent / "whole")
    assert results_of(output)[1] == results_of(output.parent / "whole")[1]
    assert train(config, output=output, resume=True).state.step == 60


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2] + b"\n[half\n",
        lambda content: content + content,
        lambda content: content[: content.rindex(b"[")],
        lambda content: content[: content.index(b"\n") + 1],
        lambda content: content + b"\xff",
        lambda content: content.replace(b"batch_size = 8", b"batch_size = 9"),
        # Of an earlier version.
        lambda content: (
            b"".join(content.splitlines(True)[:1] + content.splitlines(True)[2:]) * 2
        ),
    ],
)
def test_a_damaged_config_is_written_again(output, damage):
    path = output / "config.cfg"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    config = config_of(output.parent, max_steps=20)
    with pytest.warns(TrainingWarning, match="config.cfg is damaged .* and will be replaced"):
        train(config, output=output, resume=True)
    assert path.read_bytes() == whole


def test_a_config_of_an_earlier_version_is_compared(output):
    """It has no digest."""
    path = output / "config.cfg"
    first, _, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, *rest]))
    config = config_of(output.parent, max_steps=20, batch_size=4)
    message = "training.batch_size was 8 and is 4 now"
    assert_refused(output, ValueError, message, config, resume=True)


def test_lost_models_are_named(output):
    (output / "model-best").unlink()
    with pytest.warns(TrainingWarning, match="model-best is missing"):
        train(config_of(output.parent), output=output, resume=True)


# Files of others


@pytest.mark.parametrize("name", ["config.cfg", "log.jsonl", "model-best", "model-last"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.parametrize("settings", [{}, {"resume": True}, {"overwrite": True}])
def test_files_that_are_not_of_a_training_are_never_changed(tmp_path, name, kind, settings):
    output = tmp_path / "output"
    output.mkdir()
    path = output / name
    if kind == "file":
        path.write_text("mine\n")
    elif kind == "folder":  # As spaCy's models are.
        path.mkdir()
        (path / "meta.json").write_text("mine")
    else:
        (tmp_path / "mine").write_text("mine\n")
        path.symlink_to(tmp_path / "mine")
    message = f"output contains {name}, which thinc-swa has not written: move"
    assert_refused(output, FileExistsError, message, config_of(tmp_path), **settings)


def test_links_are_kept_when_a_training_is_overwritten(output):
    """Also if the new training is killed before it has saved a model."""
    elsewhere = output.parent / "elsewhere"
    elsewhere.mkdir()
    names = ("model-best", "model-last", "log.jsonl")
    for name in names:
        (output / name).rename(elsewhere / name)
        (output / name).symlink_to(elsewhere / name)
    whole = output.parent / "whole"
    config = config_of(output.parent, max_steps=10, seed=7)
    train(config, output=whole)
    TrainingFolder(output, config).begin()
    assert not list(elsewhere.iterdir())
    for settings in ({"resume": True}, {"overwrite": True}):
        train(config, output=output, **settings)
        assert all((output / name).is_symlink() for name in names)
        assert all((elsewhere / name).is_file() for name in names)
        assert results_of(output) == results_of(whole)


@pytest.mark.parametrize("name", ["config.cfg", "log.jsonl"])
def test_a_file_that_has_replaced_one_of_the_training_is_not_deleted(output, name):
    (output / name).write_text("mine\n")
    message = f"output contains {name}, which thinc-swa has not written"
    for settings in ({"resume": True}, {"overwrite": True}):
        assert_refused(output, FileExistsError, message, config_of(output.parent), **settings)


def test_folders_named_like_checkpoints_are_not_deleted(output):
    others = {"step-20250101": "model", "step-by-step": "a", "step-00000005": "notes.txt"}
    for name, file in others.items():
        (output / name).mkdir()
        (output / name / file).write_text("mine")
    config = config_of(output.parent)
    train(config, output=output, resume=True)
    (output / "step-00000005").rename(output / "step-00000065")
    train(config, output=output, overwrite=True)
    for name, file in others.items():
        name = name.replace("05", "65") if name == "step-00000005" else name
        assert (output / name / file).read_text() == "mine"
    assert {path.name for path in output.glob("step-*")} == {
        "step-20250101",
        "step-by-step",
        "step-00000065",
        "step-00000050",
        "step-00000060",
    }
    # Where a checkpoint has to go, it is named before anything is deleted.
    (output / "step-00000065").rename(output / "step-00000030")
    message = "step-00000030 is not a checkpoint of this training"
    assert_refused(output, FileExistsError, message, config, overwrite=True)


@pytest.mark.parametrize("kind", ["itself", "relative", "link", "hard link"])
@pytest.mark.parametrize("settings", [{"overwrite": True}, {"resume": True}, {}])
def test_the_own_config_is_never_overwritten(tmp_path, kind, settings):
    folder = tmp_path / "project"
    folder.mkdir()
    config = config_of(folder, max_steps=10)
    own = folder / ("config.cfg" if kind in ("itself", "relative") else "own.cfg")
    source = folder / ".." / "project" / "." / "config.cfg" if kind == "relative" else own
    # Under the first line that marks a saved config too.
    for marker in ("", MARKER + "\n"):
        own.write_text(f"{marker}# mine\n{config.to_str()}")
        if kind == "link":
            (folder / "config.cfg").symlink_to("own.cfg")
        elif kind == "hard link":
            os.link(own, folder / "config.cfg")
        message = "config.cfg is the config of this training and would be overwritten"
        settings["source"] = source
        assert_refused(folder, FileExistsError, message, config, **settings)
        for path in folder.glob("*.cfg"):
            path.unlink()


def test_the_own_config_is_never_overwritten_by_the_command(tmp_path):
    for package in ("typer", "rich"):
        require(package)
    path = tmp_path / "config.cfg"
    write_config(tmp_path).rename(path)
    path.write_text(f"# mine\n{path.read_text()}")
    before = path.read_text()
    result = run_command(tmp_path, "train", "./config.cfg", "-o", ".", "--overwrite")
    assert result.returncode == 1
    assert "config.cfg is the config of this training and would be overwritten" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert path.read_text() == before


def test_the_saved_config_resumes_the_training(output):
    """It is what a reader of the folder has at hand."""
    path = output / "config.cfg"
    before = path.read_bytes()
    config = Config().from_disk(path)
    train(config, output=output, resume=True, source=path)
    assert path.read_bytes() == before
    config["training"]["max_steps"] = 40
    message = "is the config of this training and would be overwritten"
    assert_refused(output, FileExistsError, message, config, resume=True, source=path)
    assert_refused(output, FileExistsError, message, config, overwrite=True, source=path)


# Two at a time


def test_an_interrupted_overwriting_begins_the_new_training(output, monkeypatch):
    """Never a mixture of the two, wherever it was interrupted."""
    config = config_of(output.parent, seed=7)
    train(config, output=output.parent / "whole")
    for n_deleted in range(7):
        train(config_of(output.parent, max_steps=20), output=output, overwrite=True)
        count = itertools.count()

        def fail(path, delete, count=count, n_deleted=n_deleted, **settings):
            if next(count) == n_deleted:
                raise KeyboardInterrupt
            delete(path, **settings)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", functools.partialmethod(fail, Path.unlink))
            patched.setattr(
                "thinc_swa.training.output_folder.delete_checkpoint",
                functools.partial(fail, delete=delete_checkpoint),
            )
            with pytest.raises(KeyboardInterrupt):
                train(config, output=output, overwrite=True)
        train(config, output=output, resume=True)
        assert results_of(output) == results_of(output.parent / "whole")


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    """The lock names the process that holds it."""
    write_config(tmp_path, max_steps=20000)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STEPS], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline()
        config = config_of(tmp_path)
        for settings in ({}, {"resume": True}, {"overwrite": True}):
            message = rf"in use by .*\(pid {process.pid} on "
            with pytest.raises(BlockingIOError, match=message):
                train(config, output=tmp_path / "output", **settings)
    finally:
        process.kill()
        process.communicate(timeout=60)
    # The lock of a process that was killed is released.
    config = config_of(tmp_path, max_steps=400)
    train(config, output=tmp_path / "output", resume=True)
    train(config, output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


# BatchNorm


def test_averages_with_batch_norm_are_those_made_by_hand(tmp_path):
    """From a config and a file with code, to the models and the log."""
    require("torch")
    import torch_layers
    from chains import LAYER

    config = config_of(tmp_path, score="loss")
    config["model"]["*"]["hidden"] = LAYER
    config["model"]["*"]["output"]["nI"] = 8
    output, code = tmp_path / "output", Path(torch_layers.__file__)
    train(config, output=output, code=code)
    (evaluation,) = [
        record
        for record in read_log(output / "log.jsonl")
        if record["type"] == "evaluation" and record["step"] == 60
    ]

    trainer = Trainer.from_config(config, code=code)
    load_checkpoint(find_checkpoint(output), trainer)
    assert trainer._score() == evaluation["raw"]
    apply_averages(trainer.model, trainer.optimizer)
    stale = trainer._score()
    (X, _), _ = trainer.dataset
    rows = numpy.random.default_rng((1, 0, 1)).choice(50, 48, replace=False)
    update_batch_norm(trainer.model, [X[rows[i : i + 8]] for i in range(0, 48, 8)])
    assert trainer._score() == evaluation["averages"] != stale

    # What is saved is as good as the log says.
    for name, step in (("model-last", 60), ("model-best", best_step(output))):
        saved, model = load_model(config, output / name)
        assert saved._score() == score_at(output, step)
    assert (output / "model-last").read_bytes() == trainer.model.to_bytes()


def score_at(output, step):
    records = list(read_log(output / "log.jsonl"))
    (found,) = [r for r in records if r["type"] == "evaluation" and r["step"] == step]
    return found["raw"] if found["averages"] is None else found["averages"]


def best_step(output):
    records = list(read_log(output / "log.jsonl"))
    return max(r["step"] for r in records if r["type"] == "evaluation" and r["is_best"])
