"""`thinc-swa train`: output, files, resuming, and streams."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import require, run_command
from processes import IS_LINUX
from thinc.api import Config
from tiny import write_config

require("typer")
require("rich")
require("matplotlib")
require("plotly")
require("scipy")


ROOT = Path(__file__).parents[2]


def test_train_prints_scores_and_saves_files(tmp_path, run):
    path = write_config(tmp_path)
    result = run(tmp_path, "train", path.name, "-o", "out/put", "--training.max_steps", "40")
    assert result.returncode == 0, result.stderr
    # The header, a line per evaluation, and two lines at the end.
    lines = result.stdout.splitlines()
    assert lines[0].split() == ("step epoch loss learn rate snapshots raw averages".split())
    rows = [line.split() for line in lines[1:5]]
    assert [row[0] for row in rows] == ["10", "20", "30", "40"]
    assert [row[4] for row in rows] == ["0", "1", "4", "7"]
    assert rows[0][-1] == "best"
    assert lines[5].startswith("Best score: ") and lines[6] == "Saved to out/put."
    # The progress bar is shown on terminals only.
    assert result.stderr == ""
    config = Config().from_disk(tmp_path / "out" / "put" / "config.cfg")
    assert config["training"]["max_steps"] == 40
    names = {file.name for file in (tmp_path / "out" / "put").iterdir()}
    assert names == {
        ".thinc-swa.lock",
        "config.cfg",
        "log.jsonl",
        "model-best",
        "model-last",
        "report.html",
        "step-00000030",
        "step-00000040",
    }


def test_train_with_another_seed(tmp_path, run):
    path = write_config(tmp_path, max_steps=20)
    outputs = [
        run(tmp_path, "train", path, *seed).stdout
        for seed in ([], ["--seed", "1"], ["--seed", "2"])
    ]
    assert outputs[0] == outputs[1] != outputs[2]


def test_train_can_be_resumed(tmp_path, run):
    path = write_config(tmp_path, max_steps=20)
    assert run(tmp_path, "train", path, "-o", "output").returncode == 0
    result = run(tmp_path, "train", path, "-o", "output", "--resume", "--training.max_steps=40")
    assert result.returncode == 0, result.stderr
    # Earlier evaluations are shown again.
    steps = [line.split()[0] for line in result.stdout.splitlines()[1:5]]
    assert steps == ["10", "20", "30", "40"]


def test_train_does_not_resume_with_other_code(tmp_path, run):
    path = write_config(tmp_path, max_steps=20)
    code = tmp_path / "code.py"
    code.write_text("x = 1")
    assert run(tmp_path, "train", path, "-o", "output", "-c", code).returncode == 0
    code.write_text("x = 2")
    result = run(tmp_path, "train", path, "-o", "output", "-c", code, "--resume")
    assert result.returncode == 1
    assert "step-00000020 is a checkpoint of another training" in result.stderr
    assert "the content of code has changed" in result.stderr


def test_a_damaged_checkpoint_is_a_warning_of_one_line(tmp_path, run):
    path = write_config(tmp_path, max_steps=20)
    assert run(tmp_path, "train", path, "-o", "output").returncode == 0
    (tmp_path / "output" / "step-00000020" / "model").unlink()
    result = run(tmp_path, "train", path, "-o", "output", "--resume")
    assert result.returncode == 0
    assert result.stderr == (
        "Warning: The checkpoint output/step-00000020 is damaged: model is missing. Using the "
        "one before it, output/step-00000010\n"
    )


def test_train_loads_pytorch_layers_on_request(tmp_path, run, monkeypatch):
    require("torch")
    import torch
    from chains import LAYER

    path = write_config(tmp_path, max_steps=20)
    config = Config().from_disk(path)
    config["model"]["*"]["hidden"] = LAYER
    config["model"]["*"]["output"]["nI"] = 8
    config.to_disk(path)
    command = ("train", path, "-c", ROOT / "tests" / "torch_layers.py", "-o", "output")
    assert run(tmp_path, *command).returncode == 0
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    result = run(tmp_path, *command, "--resume")
    assert result.returncode == 1
    assert "step-00000020 is not loaded. The model has PyTorch layers" in result.stderr
    result = run(tmp_path, *command, "--resume", "--trust-checkpoint")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_train_with_closed_streams(tmp_path, closed):
    write_config(tmp_path, max_steps=20)
    # Output of a subprocess must not end up in a file either.
    (tmp_path / "code.py").write_text("import os; os.system('echo printed; echo printed >&2')")
    command = f"{sys.executable} -m thinc_swa train tiny.cfg -o output -c code.py {closed}"
    result = subprocess.run(
        ["bash", "-c", f"{command}; echo $? >code.txt"],
        cwd=tmp_path,
        timeout=120,
        capture_output=True,
    )
    assert (tmp_path / "code.txt").read_text() == "0\n", result.stderr
    lines = (tmp_path / "output" / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert records[-1]["type"] == "end" and records[-1]["step"] == 20


@pytest.mark.slow
def test_train_in_the_background_ignores_sigint(tmp_path, interruptible):
    """A shell without job control starts background processes with SIGINT ignored."""
    code = """
import os, signal
from thinc_swa.training import Callback, registry

class Interrupt(Callback):
    def on_step(self, trainer):
        os.kill(os.getpid(), signal.SIGINT)

@registry.callbacks("interrupt.v1")
def make_interrupt():
    return Interrupt()
"""
    (tmp_path / "code.py").write_text(code)
    more = '\n[callbacks]\n\n[callbacks.mine]\n@callbacks = "interrupt.v1"\n'
    write_config(tmp_path, more=more, max_steps=20)
    command = f"{sys.executable} -m thinc_swa train tiny.cfg -o output -c code.py"
    subprocess.run(
        ["sh", "-c", f"{command} >output.txt 2>&1 & wait"], cwd=tmp_path, timeout=120
    )
    printed = (tmp_path / "output.txt").read_text()
    assert "Best score: " in printed and "Stopped" not in printed
    # In the foreground the first SIGINT stops the training.
    result = run_command(tmp_path, *command.split()[3:], "--overwrite")
    assert result.returncode == 130 and "Stopped after step 1" in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="terminals")
def test_train_in_a_terminal_shows_progress_above_the_table(tmp_path):
    from terminals import read_terminal

    write_config(tmp_path, max_steps=400, eval_frequency=200)
    text, code = read_terminal(tmp_path, "train", "tiny.cfg", columns=120)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n")
    lines = [line.rstrip() for line in plain.splitlines()]
    assert any("/400" in line and "learn rate 0.01, snapshots" in line for line in lines)
    rows = [line.split() for line in lines if line.split()[:1] in (["step"], ["200"], ["400"])]
    assert [row[0] for row in rows] == ["step", "200", "400"]
    assert all(len(row) >= 7 for row in rows)
    # With a table in a file, the terminal shows only the progress bar.
    command = f"{sys.executable} -m thinc_swa train tiny.cfg > table.txt"
    text, code = read_terminal(tmp_path, "-c", command, program="bash", columns=120)
    assert code == 0 and "/400" in text and "snapshots  " not in text
    table = (tmp_path / "table.txt").read_text().splitlines()
    assert [line.split()[0] for line in table[:3]] == ["step", "200", "400"]
