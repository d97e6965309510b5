"""Foreign files, links, and other processes in the output folder of a training."""

import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import require, run_command
from output_folders import SLOW_STEPS, assert_refused, config_of, results_of
from thinc.api import Config
from tiny import write_config

from thinc_swa.training.checkpoints import delete_checkpoint
from thinc_swa.training.output_folder import MARKER, TrainingFolder
from thinc_swa.training.trainer import train

require("filelock")


@pytest.mark.parametrize("name", ["config.cfg", "log.jsonl", "model-best", "model-last"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
@pytest.mark.parametrize("settings", [{}, {"resume": True}, {"overwrite": True}])
def test_foreign_files_are_never_changed(tmp_path, name, kind, settings):
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
def test_a_foreign_file_in_place_of_one_of_the_training_is_not_deleted(output, name):
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
    # In place of a future checkpoint it is an error, before any file is deleted.
    (output / "step-00000065").rename(output / "step-00000030")
    message = "step-00000030 is not a checkpoint of this training"
    assert_refused(output, FileExistsError, message, config, overwrite=True)


@pytest.mark.parametrize("kind", ["itself", "relative", "link", "hard link"])
@pytest.mark.parametrize("settings", [{"overwrite": True}, {"resume": True}, {}])
def test_the_config_of_the_training_is_never_overwritten(tmp_path, kind, settings):
    folder = tmp_path / "project"
    folder.mkdir()
    config = config_of(folder, max_steps=10)
    own = folder / ("config.cfg" if kind in ("itself", "relative") else "own.cfg")
    source = folder / ".." / "project" / "." / "config.cfg" if kind == "relative" else own
    # Also with the first line of a saved config.
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


def test_the_config_of_the_command_is_never_overwritten(tmp_path):
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
    """With the same limits."""
    path = output / "config.cfg"
    before = path.read_bytes()
    config = Config().from_disk(path)
    train(config, output=output, resume=True, source=path)
    assert path.read_bytes() == before
    config["training"]["max_steps"] = 40
    message = "is the config of this training and would be overwritten"
    assert_refused(output, FileExistsError, message, config, resume=True, source=path)
    assert_refused(output, FileExistsError, message, config, overwrite=True, source=path)


def test_resuming_after_an_interrupted_overwrite_starts_the_new_training(output, monkeypatch):
    """The results are never a mixture of both trainings."""
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


@pytest.mark.slow
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
    # The lock of a killed process is released.
    config = config_of(tmp_path, max_steps=400)
    train(config, output=tmp_path / "output", resume=True)
    train(config, output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")
