"""Errors of commands: one line, or the traceback with `--debug`."""

import numpy
import pytest
from helpers import require, run_command
from tiny import ADAM, SWA, make_arrays, write_config

require("typer")
require("rich")
require("matplotlib")
require("scipy")


# Parts of a traceback, which error messages do not have.
TRACES = ("Traceback", 'File "', "site-packages")


CODE = """
import numpy
from thinc_swa.training import Callback, registry

class Breaking(Callback):
    def on_evaluate(self, trainer, evaluation):
        if trainer.state.step == 30:
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
    ("train good.cfg --dataset.path code.py", 1, "code.py is not an .npz file"),
    ("train good.cfg -o blocked/output", 1, "Not a directory: blocked/output"),
    ("train good.cfg -o done", 1, "done already contains a training"),
    ("train good.cfg --code none.py", 1, "No such file or directory"),
    ("train breaking.cfg -c code.py", 1, "Breaking.on_evaluate failed after step 30: KeyError"),
    (
        "train no_callback.cfg -c code.py",
        1,
        "no_callback.cfg: TypeError: [callbacks.mine] must",
    ),
    ("train good.cfg --nothing.here 3", 1, "nothing"),
    ("train good.cfg --training.max_steps", 1, "max_steps must be an int >= 0, but was True"),
    ("train good.cfg adam.cfg", 2, "override 'adam.cfg': name should start with --"),
    ("train --training.max_steps 3", 2, "Missing argument 'CONFIG'"),
    ("compare --training.max_steps 3", 2, "Missing argument 'CONFIGS"),
    ("train good.cfg --resume", 2, "--resume, --overwrite and --save-all require --output"),
    ("train good.cfg --save-all", 2, "--resume, --overwrite and --save-all require --output"),
    ("train good.cfg -o done --resume --overwrite", 2, "exclude each other"),
    ("train good.cfg --unknown", 2, "No such option: --unknown"),
    ("compare good.cfg --unknown 3", 2, "No such option: --unknown"),
    ("info --unknown", 2, "No such option: --unknown"),
    ("train", 2, "Missing argument 'CONFIG'"),
    ("compare", 2, "Missing argument 'CONFIGS"),
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
    (
        "compare good.cfg -o own",
        1,
        "own contains results.csv, final_scores.svg, which thinc-swa",
    ),
    ("params freq.cfg", 1, "Error: freq.cfg: freq must be an int >= 1"),
    ("params nothing.cfg", 1, "Error: nothing.cfg: The config has no section [optimizer]"),
    ("params latin.cfg", 1, "Error: latin.cfg is not a text file in UTF-8"),
    ("compare good.cfg -o blocked/output", 1, "Not a directory: blocked/output"),
    (
        "compare good.cfg adam.cfg --optimizers adam.cfg",
        1,
        "need exactly one config, but got 2",
    ),
    ("unknown", 2, "unknown"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    prepare_errors(folder)
    return folder


@pytest.mark.parametrize("command, code, message", ERRORS)
def test_errors_print_one_line(folder, command, code, message, run):
    before = {path: path.read_bytes() for path in (folder / "done").rglob("*.*")}
    result = run(folder, *command.split())
    assert result.returncode == code
    assert message in result.stderr
    assert not any(trace in result.stderr for trace in TRACES)
    lines = [line for line in result.stderr.splitlines() if line]
    assert lines[-1].startswith("Error: ")
    # Errors of usage show the usage first.
    assert code == 2 or len(lines) == 1
    # Existing files are unchanged.
    assert {path: path.read_bytes() for path in (folder / "done").rglob("*.*")} == before


def test_foreign_results_are_not_overwritten(folder, run):
    result = run(folder, "compare", "good.cfg", "-o", "own")
    assert result.returncode == 1
    contents = {path.name: path.read_text() for path in (folder / "own").glob("[!.]*")}
    assert contents == {"results.csv": "mine", "final_scores.svg": "mine"}


def test_debug_prints_the_traceback(folder):
    result = run_command(folder, "train", "freq.cfg", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "freq must be an int" in result.stderr


def test_results_before_a_failing_callback_are_saved(folder, run):
    run(folder, "train", "breaking.cfg", "-c", "code.py", "-o", "broken")
    names = {path.name for path in (folder / "broken").iterdir()}
    assert {"model-best", "model-last", "log.jsonl", "step-00000030"} <= names
    # The training can be resumed without the callback.
    result = run(folder, "train", "good.cfg", "-c", "code.py", "-o", "broken", "--resume")
    assert result.returncode == 0, result.stderr
    whole = (folder / "done" / "model-last").read_bytes()
    assert (folder / "broken" / "model-last").read_bytes() == whole
