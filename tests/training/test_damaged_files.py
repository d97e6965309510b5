"""Missing and damaged files in the output folder of a training."""

import subprocess
import sys

import pytest
from helpers import require
from output_folders import SLOW_STEPS, assert_refused, config_of, results_of

from thinc_swa.errors import TrainingWarning
from thinc_swa.training.trainer import train

require("filelock")


def test_a_training_without_its_checkpoints_is_refused(output):
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


def test_a_killed_training_without_its_first_checkpoint_is_refused(tmp_path):
    """Later records were still in the memory of the process."""
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
def test_a_training_with_damaged_checkpoints_is_refused(output, name):
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
        # Records of two processes.
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
    # The error message recommends this.
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
def test_a_damaged_config_is_replaced(output, damage):
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


def test_missing_models_are_a_warning(output):
    (output / "model-best").unlink()
    with pytest.warns(TrainingWarning, match="model-best is missing"):
        train(config_of(output.parent), output=output, resume=True)
