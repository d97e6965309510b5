"""The command line, as it is typed: what it prints, what it writes, how it ends."""

import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import numpy
import pytest
from helpers import require, run_command
from thinc.api import Config
from tiny import ADAM, SWA, make_arrays, write_config

require("typer")
require("tqdm")
require("matplotlib")
require("scipy")

from rich.console import Console  # noqa: E402

from thinc_swa.cli.compare import rich_table  # noqa: E402
from thinc_swa.cli.main import main, split_overrides, spread  # noqa: E402
from thinc_swa.training.trainer import Trainer  # noqa: E402

ROOT = Path(__file__).parents[2]

# What belongs to a traceback, and to no line for people.
TRACES = ("Traceback", 'File "', "site-packages")


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys, monkeypatch):
    """The same in this process, where it takes less time."""

    def run(folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("NO_COLOR", "1")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return Result(ended.value.code, *capsys.readouterr())

    return run


# The arguments


@pytest.mark.parametrize(
    "arguments, others, overrides",
    [
        (["train", "a.cfg"], ["train", "a.cfg"], {}),
        (["--training.max_steps", "5", "a"], ["a"], {"training.max_steps": 5}),
        (["--a.b=0.5", "--c.d=x y"], [], {"a.b": 0.5, "c.d": "x y"}),
        (["--a.b", "null", "--c.d", "[1, 2]"], [], {"a.b": None, "c.d": [1, 2]}),
        (["--a.b", "-1"], [], {"a.b": -1}),
        # After this there are no options.
        (["--a.b=1", "--", "--c.d=2"], ["--", "--c.d=2"], {"a.b": 1}),
        # Options with a dot in the value are no settings.
        (["--output=a.b", "-o", "c.d"], ["--output=a.b", "-o", "c.d"], {}),
    ],
)
def test_settings_are_taken_out(arguments, others, overrides):
    assert split_overrides(arguments) == (others, overrides)


@pytest.mark.parametrize("arguments", [["--a.b"], ["--a.b", "--seeds", "3"]])
def test_a_setting_needs_a_value(arguments):
    with pytest.raises(ValueError, match=r"--a\.b needs a value"):
        split_overrides(arguments)


def test_an_option_takes_all_values():
    arguments = ["a.cfg", "--optimizers", "b", "c", "--seeds", "3", "--optimizers", "d"]
    spelled = "a.cfg --optimizers b --optimizers c --seeds 3 --optimizers d".split()
    assert spread(arguments, "--optimizers") == spelled


@pytest.mark.parametrize(
    "arguments, spelled",
    [
        ("--optimizers=a b", "--optimizers a --optimizers b"),
        ("c --optimizers=a b --seeds 1 d", "c --optimizers a --optimizers b --seeds 1 d"),
        ("--optimizers a -- b --optimizers", "--optimizers a -- b --optimizers"),
        ("--optimizers-of a b", "--optimizers-of a b"),
    ],
)
def test_values_of_an_option_in_other_ways(arguments, spelled):
    assert spread(arguments.split(), "--optimizers") == spelled.split()


@pytest.mark.parametrize(
    "arguments",
    [["--optimizers"], ["a", "--optimizers", "--seeds", "1"], ["--optimizers=", "a"]],
)
def test_an_option_without_values_is_an_error(arguments):
    with pytest.raises(ValueError, match="--optimizers needs a value"):
        spread(arguments, "--optimizers")


# info


def test_info_names_everything_with_its_arguments(tmp_path):
    result = run_command(tmp_path, "info")
    assert result.returncode == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    names = 0
    for entry_point in distribution("thinc-swa").entry_points:
        is_twin = (
            entry_point.name.startswith("thinc_swa.") and entry_point.group != "spacy_callbacks"
        )
        if entry_point.group == "console_scripts" or is_twin:
            continue
        place = lines.index(entry_point.name)
        parameters = list(inspect.signature(entry_point.load()).parameters.values())
        shown = lines[place + 1 : place + 1 + len(parameters)]
        for line, parameter in zip(shown, parameters, strict=True):
            if parameter.default is parameter.empty:
                assert line == f"{parameter.name} (required)"
            else:
                name, value = line.split(" = ")
                assert (name, json.loads(value)) == (parameter.name, parameter.default)
        names += 1
    assert names >= 5
    assert any(line.startswith("thinc ") for line in lines)


def test_a_reader_that_stops_is_no_error(tmp_path):
    command = f"{sys.executable} -m thinc_swa info | head -n 1"
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.startswith("python") and "Error" not in result.stderr


# train


def test_train(tmp_path, run):
    path = write_config(tmp_path)
    result = run(tmp_path, "train", path.name, "-o", "out/put", "--training.max_steps", "40")
    assert result.returncode == 0, result.stderr
    # The header, a line for each evaluation, and how it ended.
    lines = result.stdout.splitlines()
    assert lines[0].split() == ("step epoch loss learn rate snapshots weights averages".split())
    rows = [line.split() for line in lines[1:5]]
    assert [row[0] for row in rows] == ["10", "20", "30", "40"]
    assert [row[4] for row in rows] == ["0", "1", "4", "7"]
    assert rows[0][-1] == "better"
    assert lines[5].startswith("Best: ") and lines[6] == "Saved to out/put."
    # No progress bar in a file.
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
    # What was done before is shown once more.
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


def test_a_damaged_checkpoint_is_one_line(tmp_path, run):
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


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_train_with_closed_streams(tmp_path, closed):
    write_config(tmp_path, max_steps=20)
    # What a library prints must not end up in a file either.
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


def test_train_in_the_background_ignores_interrupts(tmp_path, interruptible):
    """A shell without job control starts it with SIGINT ignored."""
    code = """
import os, signal
from thinc.api import registry
from thinc_swa.training.callbacks import Callback

class Interrupt(Callback):
    def on_step(self, training):
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
    assert "Best: " in printed and "Stopped" not in printed
    # In the foreground the first interrupt stops it.
    result = run_command(tmp_path, *command.split()[3:], "--overwrite")
    assert result.returncode == 130 and "Stopped after step 1" in result.stdout


# compare


def test_compare(tmp_path):
    adam = write_config(tmp_path, "adam", ADAM)
    swa = write_config(tmp_path, "swa", SWA)
    result = run_command(
        tmp_path, "compare", adam, swa, "--seeds", "2", "--jobs", "2", "-o", "output"
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    output = tmp_path / "output"
    names = {"results.md", "results.csv", "results.json"}
    names |= {
        f"{name}.{kind}"
        for name in ("learning_curves", "final_scores")
        for kind in ("png", "svg")
    }
    names |= {"runs", ".thinc-swa.lock", ".thinc-swa-comparison"}
    assert {path.name for path in output.iterdir()} == names
    content = json.loads((output / "results.json").read_text())
    assert [summary["n_runs"] for summary in content["summaries"]] == [2, 2]
    # The table that is printed has the numbers of the files.
    for summary in content["summaries"]:
        score = f"{100 * summary['score']:.2f} ± {100 * summary['score_sd']:.2f}"
        assert any(
            line.startswith(summary["name"]) and score in line
            for line in result.stdout.splitlines()
        )
    # A line for each run, since this is no terminal.
    assert sum(", seed " in line for line in result.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    "width, dropped",
    [
        (200, []),
        (100, []),
        (95, ["ms/step"]),
        (80, ["ms/step", "swing", "raw weights"]),
        (60, ["ms/step", "swing", "raw weights", "95 % interval"]),
    ],
)
def test_the_table_in_a_narrow_terminal(width, dropped):
    header = (
        "optimizer|final score|raw weights|difference to adam|95 % interval|swing|"
        "steps to adam's|ms/step|runs"
    )
    row = "lookahead_swa|98.11 ± 0.39|97.77 ± 0.39|+0.83|-1.07 to +2.74|0.22|500|0.301|3"
    rows = [header.split("|"), row.split("|")]
    file = io.StringIO()
    console = Console(file=file, width=width)
    console.print(rich_table(rows, console))
    lines = file.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    # Headers may be broken, cells are not.
    cells = [cell for name, cell in zip(*rows, strict=True) if name not in dropped]
    assert lines[-1].split() == " ".join(cells).split()


def test_compare_one_config_with_several_optimizers(tmp_path, run):
    adam = write_config(tmp_path, "adam", ADAM)
    for name, optimizer in (("swa", SWA), ("sgd", ADAM.replace("Adam", "SGD"))):
        (tmp_path / f"{name}.txt").write_text(optimizer)
    result = run(
        tmp_path, "compare", adam, "--optimizers", "swa.txt", "sgd.txt", "--seeds", "1"
    )
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "comparison" / "results.json").read_text())
    assert [summary["name"] for summary in content["summaries"]] == ["adam", "swa", "sgd"]


def test_processes_share_the_cores(tmp_path):
    code = """
import os
from thinc.api import registry

@registry.datasets("told.v1")
def make_told(path):
    print("threads:", os.environ["OMP_NUM_THREADS"], flush=True)
    return registry.datasets.get("npz.v1")(path)
"""
    (tmp_path / "code.py").write_text(code)
    path = write_config(tmp_path, "adam", ADAM, max_steps=2)
    config = Config().from_disk(path)
    config["dataset"]["@datasets"] = "told.v1"
    config.to_disk(path)
    command = ["compare", "adam.cfg", "-c", "code.py", "--seeds", "2", "--jobs", "1000"]
    environment = {
        name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"
    }
    result = subprocess.run(
        [sys.executable, "-m", "thinc_swa", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for output in (tmp_path / "comparison" / "runs").rglob("output.txt"):
        assert output.read_text() == "threads: 1\n"


def test_what_is_trained_again_is_said_in_a_line(tmp_path, run):
    write_config(tmp_path, "adam", ADAM)
    command = ("compare", "adam.cfg", "--seeds", "2")
    first = run(tmp_path, *command).stdout
    assert "seed 1: " in first and "seed 1: " not in run(tmp_path, *command).stdout
    assert run(tmp_path, *command, "--overwrite").stdout.startswith("adam, seed 1: ")
    numpy.savez(tmp_path / "data.npz", **make_arrays(seed=1))
    lines = run(tmp_path, *command).stdout.splitlines()
    assert lines[0] == (
        "Trained again: adam with seed 1, 2: the content of train_X has changed; the content "
        "of dev_X has changed"
    )
    assert lines[1].startswith("adam, seed 1: ")


def test_a_failed_run_is_shown_and_the_others_are_there(tmp_path, run):
    adam = write_config(tmp_path, "adam", ADAM)
    unknown = write_config(tmp_path, "unknown", ADAM.replace("Adam", "Adamant"))
    result = run(tmp_path, "compare", adam, unknown, "--seeds", "2", "-o", "output")
    assert result.returncode == 1
    assert "unknown failed with seed 1, 2: Cant't find 'Adamant.v1'" in result.stderr
    assert not any(trace in result.stderr + result.stdout for trace in TRACES)
    report = (tmp_path / "output" / "results.md").read_text()
    assert "0, 2 failed" in report and "Adamant.v1" in report


def test_results_that_cannot_be_written(tmp_path, run):
    """The scores are shown, and kept in the logs."""
    write_config(tmp_path, "adam", ADAM)
    (tmp_path / "comparison" / "results.md").mkdir(parents=True)
    (tmp_path / "comparison" / ".thinc-swa-comparison").touch()
    result = run(tmp_path, "compare", "adam.cfg", "--seeds", "1")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: The results could not be written to comparison: Is")
    assert any(line.startswith("adam  ") for line in result.stdout.splitlines())
    (tmp_path / "comparison" / "results.md").rmdir()
    result = run(tmp_path, "compare", "adam.cfg", "--seeds", "1")
    assert result.returncode == 0 and (tmp_path / "comparison" / "results.md").is_file()


def test_compare_the_digits(tmp_path, run):
    """The first command of the README."""
    require("sklearn")
    paths = sorted((ROOT / "configs" / "digits").glob("*.cfg"))
    result = run(tmp_path, "compare", *paths, "--seeds", "1")
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "comparison" / "results.json").read_text())
    found = {summary["name"]: summary for summary in content["summaries"]}
    assert list(found) == ["adam", "ema", "lookahead", "lookahead_swa", "swa"]
    assert all(summary["score"] > 0.9 for summary in found.values())
    # These two change nothing in the training.
    assert found["swa"]["raw"] == found["ema"]["raw"] == found["adam"]["raw"]
    # After step 1500 and then every 10 steps to 2000, and at every step.
    assert (found["swa"]["n_averaged"], found["ema"]["n_averaged"]) == (51, 2000)


def test_the_results_are_there_when_a_picture_fails(tmp_path, run):
    write_config(tmp_path, "adam", ADAM)
    for kind in ("png", "svg"):
        (tmp_path / "comparison" / f"learning_curves.{kind}").mkdir(parents=True)
    (tmp_path / "comparison" / ".thinc-swa-comparison").touch()
    result = run(tmp_path, "compare", "adam.cfg", "--seeds", "1")
    assert result.returncode == 1
    assert result.stderr.startswith(
        "Error: The pictures could not be written to comparison: Is a"
    )
    assert len(result.stderr.splitlines()) == 1
    assert "Saved to comparison: results.md, results.csv, results.json." in result.stdout
    assert (tmp_path / "comparison" / "results.json").exists()


# params

GROUPS = """
[optimizer]
@optimizers = "ParamGroups.v1"
groups = [
    {"name": "biases", "params": ["*/b"], "L2": 0.0},
    {"name": "first", "params": ["relu/*"], "frozen": true}
  ]

[optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
"""


def test_params(tmp_path, run):
    path = write_config(tmp_path, "groups", GROUPS)
    result = run(tmp_path, "params", path)
    assert result.returncode == 0, result.stderr
    rows = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    assert rows == [
        ["learning rate", "group", "settings", "shape", "path"],
        ["frozen", "first", "-", "8 x 3", "relu/W"],
        ["1 x", "biases", "L2 = 0.0", "8", "relu/b"],
        ["1 x", "-", "-", "3 x 8", "softmax/W"],
        ["1 x", "biases", "L2 = 0.0", "3", "softmax/b"],
        ["4 parameters, 59 weights, 24 of them frozen."],
    ]


def test_params_shows_the_paths_that_a_group_could_select(tmp_path, run):
    path = write_config(tmp_path, "groups", GROUPS.replace("relu/*", "rule/*"))
    result = run(tmp_path, "params", path)
    assert result.returncode == 1
    assert "relu/W" in result.stdout
    assert result.stderr.startswith(f"Error: {path}: No parameter of the model is selected by")
    assert len(result.stderr.splitlines()) == 1


def test_params_of_a_spacy_config(tmp_path, run):
    require("spacy")
    from corpus import generate_records, write_corpus

    train_path, dev_path = write_corpus(tmp_path, 20, 5, get_records=generate_records)
    path = ROOT / "configs" / "spacy" / "swa.cfg"
    settings = (f"--paths.train={train_path}", f"--paths.dev={dev_path}")
    result = run(tmp_path, "params", path, *settings)
    assert result.returncode == 0, result.stderr
    paths = [line.split()[-1] for line in result.stdout.splitlines()[1:-1]]
    assert "tok2vec/with_array-2/residual-3/maxout/W" in paths
    assert len(set(paths)) == len(paths) == 31


def test_a_frozen_layer_stays_as_it_is_in_train(tmp_path, run):
    path = write_config(tmp_path, "groups", GROUPS, max_steps=20)
    result = run(tmp_path, "train", path, "-o", "output")
    assert result.returncode == 0, result.stderr
    training = Trainer.from_config(Config().from_disk(path))
    model = training.model
    layers = {node.name: node for node in model.walk() if "W" in node.param_names}
    before = {name: layer.get_param("W").copy() for name, layer in layers.items()}
    model.from_bytes((tmp_path / "output" / "model-last").read_bytes())
    changed = {
        name: not numpy.array_equal(layer.get_param("W"), before[name])
        for name, layer in layers.items()
    }
    assert changed == {"relu": False, "softmax": True}


# Errors

CODE = """
import numpy
from thinc.api import registry
from thinc_swa.training.callbacks import Callback

class Breaking(Callback):
    def on_evaluate(self, training, evaluation):
        if training.step == 30:
            raise KeyError("my key")

@registry.callbacks("breaking.v1")
def make_breaking():
    return Breaking()

@registry.callbacks("no_callback.v1")
def make_none():
    return 3
"""


def prepare_errors(folder):
    write_config(folder, "good", SWA)
    write_config(folder, "adam", ADAM)
    write_config(folder, "unknown", ADAM.replace("Adam", "Adamant"))
    write_config(folder, "freq", SWA.replace("freq = 3", "freq = 5.7"))
    write_config(folder, "argument", SWA.replace("freq = 3", "frequency = 3"))
    write_config(folder, "setting", SWA, epochs=3)
    write_config(folder, "no_steps", SWA, max_steps=0)
    for name in ("breaking", "no_callback"):
        more = f'\n[callbacks]\n\n[callbacks.mine]\n@callbacks = "{name}.v1"\n'
        write_config(folder, name, SWA, more=more)
    (folder / "code.py").write_text(CODE)
    (folder / "syntax.cfg").write_text("[training\nmax_steps = 3\n")
    (folder / "latin.cfg").write_bytes("[training]\nname = 'ä'\n".encode("latin1"))
    (folder / "variable.cfg").write_text("[training]\nmax_steps = ${no.thing}\n")
    (folder / "spacy.cfg").write_text('[nlp]\nlang = "en"\n')
    (folder / "latin.cfg").write_bytes("[training]\nname = größe\n".encode("latin1"))
    (folder / "binary.cfg").write_bytes(bytes(range(256)))
    good = (folder / "good.cfg").read_text()
    (folder / "variable.cfg").write_text(good.replace("start_step = 20", "start_step = ${a.b}"))
    (folder / "truncated.cfg").write_text(good[: len(good) // 2])
    (folder / "nothing.cfg").write_text("")
    (folder / "no_loss.cfg").write_text(good.replace("[loss]", "[lose]"))
    (folder / "twice.cfg").write_text(good + good)
    (folder / "own").mkdir()
    for name in ("results.csv", "final_scores.svg"):
        (folder / "own" / name).write_text("mine")
    write_config(folder, "seed", ADAM, seed="one")
    write_config(folder, "loss", ADAM, score="loss")
    (folder / "blocked").write_text("a file where a folder should be")
    empty = make_arrays()
    empty["train_X"], empty["train_Y"] = empty["train_X"][:0], empty["train_Y"][:0]
    numpy.savez(folder / "empty.npz", **empty)
    assert run_command(folder, "train", "good.cfg", "-o", "done").returncode == 0


ERRORS = [
    ("train syntax.cfg", 1, "Error: syntax.cfg: "),
    ("train syntax.cfg", 1, "File contains no section headers"),
    ("train latin.cfg", 1, "latin.cfg is not a text file in UTF-8"),
    ("train variable.cfg", 1, "Error: variable.cfg: "),
    ("train truncated.cfg", 1, "Error: truncated.cfg: "),
    ("train nothing.cfg", 1, "Error: nothing.cfg: A config for a Thinc model needs the sect"),
    ("train no_loss.cfg", 1, "Error: no_loss.cfg: A config for a Thinc model needs the sect"),
    ("train no_loss.cfg -o new", 1, "Error: no_loss.cfg: A config for a Thinc model needs"),
    ("train twice.cfg", 1, "Error: twice.cfg: DuplicateSectionError"),
    ("train good.cfg --training.max_steps=-3", 1, "good.cfg: max_steps must be an int >= 0"),
    ("train good.cfg --training.max_steps=x", 1, "good.cfg: max_steps must be an int >= 0"),
    ("train seed.cfg", 1, "Error: seed.cfg: seed must be an int"),
    ("train none.cfg", 1, "No such file or directory: none.cfg"),
    ("train unknown.cfg", 1, "unknown.cfg: Cant't find 'Adamant.v1' in registry"),
    ("train freq.cfg", 1, "Error: freq.cfg: freq must be an int >= 1, but was 5.7"),
    ("train argument.cfg", 1, "Error: argument.cfg: "),
    ("train setting.cfg", 1, "setting.cfg: [training] has the unknown settings ['epochs']"),
    ("train no_steps.cfg", 1, "no_steps.cfg: max_steps or max_epochs must be at least 1"),
    ("train good.cfg --dataset.path none.npz", 1, "No such file or directory: none.npz"),
    ("train good.cfg --dataset.path empty.npz", 1, "has no rows in train_X"),
    ("train good.cfg --dataset.path code.py", 1, "code.py is no .npz file"),
    ("train good.cfg -o blocked/output", 1, "Not a directory: blocked/output"),
    ("train good.cfg -o done", 1, "There is a training in done already"),
    ("train good.cfg --code none.py", 1, "No such file or directory"),
    ("train breaking.cfg -c code.py", 1, "Breaking.on_evaluate failed after step 30: KeyError"),
    (
        "train no_callback.cfg -c code.py",
        1,
        "no_callback.cfg: TypeError: [callbacks.mine] must",
    ),
    ("train spacy.cfg", 1, "spacy.cfg is a config for spaCy"),
    ("train good.cfg --nothing.here 3", 1, "nothing"),
    ("train good.cfg --training.max_steps", 2, "--training.max_steps needs a value"),
    ("train good.cfg --resume", 2, "--resume and --overwrite need an --output"),
    ("train good.cfg -o done --resume --overwrite", 2, "exclude each other"),
    ("train good.cfg --unknown", 2, "--unknown"),
    ("train", 2, "config"),
    ("compare", 2, "configs"),
    ("compare good.cfg --seeds 0", 2, "--seeds"),
    ("compare good.cfg --jobs none", 2, "--jobs"),
    ("compare none.cfg", 1, "No such file or directory: none.cfg"),
    ("compare syntax.cfg", 1, "syntax.cfg: "),
    ("compare good.cfg syntax.cfg", 1, "Error: syntax.cfg: "),
    ("compare good.cfg spacy.cfg", 1, "Error: spacy.cfg: The config has no section"),
    ("compare good.cfg variable.cfg", 1, "Error: variable.cfg: "),
    ("compare good.cfg seed.cfg", 1, "Error: seed.cfg: seed in [training] must be an int"),
    ("compare good.cfg loss.cfg", 1, "compared: loss.cfg is for Thinc with the score 'loss'"),
    ("compare good.cfg latin.cfg", 1, "Error: latin.cfg is not a text file in UTF-8"),
    ("compare good.cfg --optimizers binary.cfg", 1, "binary.cfg is not a text file in UTF-8"),
    ("compare good.cfg --optimizers=none.cfg", 1, "No such file or directory: none.cfg"),
    ("compare done", 1, "Is a directory: done"),
    ("compare good.cfg --code none.py", 1, "No such file or directory: none.py"),
    ("compare .", 1, "Error: Is a directory: ."),
    ("compare good.cfg --optimizers .", 1, "Error: Is a directory: ."),
    ("compare good.cfg -o own", 1, "There is results.csv, final_scores.svg in own, which no"),
    ("params freq.cfg", 1, "Error: freq.cfg: freq must be an int >= 1"),
    ("params nothing.cfg", 1, "Error: nothing.cfg: The config has no section [optimizer]"),
    ("params latin.cfg", 1, "Error: latin.cfg is not a text file in UTF-8"),
    ("compare good.cfg -o blocked/output", 1, "Not a directory: blocked/output"),
    ("compare good.cfg adam.cfg --optimizers adam.cfg", 1, "need one config to go into"),
    ("unknown", 2, "unknown"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    prepare_errors(folder)
    return folder


@pytest.mark.parametrize("command, code, message", ERRORS)
def test_an_error_is_one_line(folder, command, code, message, run):
    before = {path: path.read_bytes() for path in (folder / "done").rglob("*.*")}
    result = run(folder, *command.split())
    assert result.returncode == code
    assert message in result.stderr
    assert not any(trace in result.stderr for trace in TRACES)
    lines = [line for line in result.stderr.splitlines() if line]
    assert lines[-1].startswith("Error: ")
    # With wrong usage the usage is shown before it.
    assert code == 2 or len(lines) == 1
    # What was written before is as it was.
    assert {path: path.read_bytes() for path in (folder / "done").rglob("*.*")} == before


def test_results_of_others_are_refused_before_the_training(folder, run):
    result = run(folder, "compare", "good.cfg", "-o", "own")
    assert result.returncode == 1
    contents = {path.name: path.read_text() for path in (folder / "own").glob("[!.]*")}
    assert contents == {"results.csv": "mine", "final_scores.svg": "mine"}


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("program", ["module", "script"])
def test_ctrl_c_while_the_program_starts(tmp_path, program, interruptible):
    """While Thinc is imported: one line, and no traceback."""
    (tmp_path / "thinc").mkdir()
    (tmp_path / "thinc" / "__init__.py").write_text(
        "import time; print('importing', flush=True); time.sleep(60)"
    )
    script = tmp_path / "thinc-swa"
    script.write_text("from thinc_swa.__main__ import main; main()")
    command = [script] if program == "script" else ["-m", "thinc_swa"]
    process = subprocess.Popen(
        [sys.executable, *command, "info"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (130, "Error: Stopped\n")


def test_an_import_by_another_program_leaves_ctrl_c_alone():
    code = """
import signal, sys
handler = signal.getsignal(signal.SIGINT)
import thinc_swa
assert signal.getsignal(signal.SIGINT) is handler
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_debug_shows_where(folder):
    result = run_command(folder, "train", "freq.cfg", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "freq must be an int" in result.stderr


def test_what_was_done_before_a_callback_broke_is_saved(folder, run):
    run(folder, "train", "breaking.cfg", "-c", "code.py", "-o", "broken")
    names = {path.name for path in (folder / "broken").iterdir()}
    assert {"model-best", "model-last", "log.jsonl", "step-00000030"} <= names
    # Without the callback it can be resumed.
    result = run(folder, "train", "good.cfg", "-c", "code.py", "-o", "broken", "--resume")
    assert result.returncode == 0, result.stderr
    whole = (folder / "done" / "model-last").read_bytes()
    assert (folder / "broken" / "model-last").read_bytes() == whole


def test_without_the_extra_it_says_what_to_install(tmp_path):
    for name in ("typer", "rich"):
        (tmp_path / name).mkdir()
        missing = f"raise ModuleNotFoundError('no {name}', name='{name}')"
        (tmp_path / name / "__init__.py").write_text(missing)
    result = run_command(tmp_path, "info", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.strip() == (
        'The command line needs more packages: pip install "thinc-swa[cli]"'
    )
