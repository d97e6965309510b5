"""Interrupted trainings of a comparison are resumed from their checkpoints, with the results of
uninterrupted ones, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from comparison_runs import compare, prepare, results_without_times
from helpers import require
from processes import IS_LINUX
from thinc.api import Config
from tiny import write_config

from thinc_swa.comparison.results import describe_restarted, describe_resumed
from thinc_swa.comparison.runs import make_trainings
from thinc_swa.training.fingerprints import digest_file

# The training pauses once at a step, and lists the steps that it trains. There is a checkpoint
# at every evaluation.
CODE = """
import os, time
from pathlib import Path
from thinc.api import Model, registry
from thinc_swa.comparison import run_checkpoints

run_checkpoints.MIN_INTERVAL, run_checkpoints.MAX_PART = 0.0, float("inf")
FOLDER = Path(__file__).parent
STEP = {step}

def train_step(step):
    with (FOLDER / "steps").open("a") as file:
        file.write(f"{{step}}\\n")
    if step == STEP and not (FOLDER / "reached").exists():
        (FOLDER / "reached").write_text(str(os.getpid()))
        {action}

@registry.layers("pausing.v1")
def make_layer():
    def forward(model, X, is_train):
        step = model.attrs.get("step", 0) + is_train
        since = 0 if is_train else model.attrs.get("since", 0) + 1
        model.attrs.update(step=step, since=since)
        if is_train:
            train_step(step)
        # The second evaluation is that of averages.
        is_nan = {diverges} and step > 25 and since > 1
        return X * float("nan") if is_nan else X, lambda dY: dY

    return Model("pausing", forward)

try:
    import spacy
except ImportError:
    pass
else:
    @spacy.registry.callbacks("pausing.v1")
    def make_callback():
        return lambda nlp, info: train_step(info["step"] + 1)
"""
ADAM = """
[optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.02
use_averages = false
"""
PAUSE = "time.sleep(100)"
END = "os.kill(os.getpid(), 9)"


def wrap(name, settings, inner=ADAM):
    inner = inner.replace("[optimizer", "[optimizer.optimizer")
    return f'[optimizer]\n@optimizers = "{name}.v1"\n{settings}\n{inner}'


THINC = {
    "ema": wrap("EMA", ""),
    "adam": ADAM,
    "swa": wrap("SWA", "start_step = 25\nfreq = 3"),
    "own": ADAM.replace("false", "true"),
    "swa_own": wrap("SWA", "start_step = 35", ADAM.replace("false", "true")),
}


def write_thinc(folder, names=tuple(THINC), **settings):
    paths = []
    for name in names:
        path = write_config(folder, name, THINC[name], score="loss", **settings)
        config = Config().from_disk(path)
        config["model"]["*"]["pausing"] = {"@layers": "pausing.v1"}
        config.to_disk(path)
        paths.append(path)
    return paths


def write_spacy(folder, names, **settings):
    from corpus import generate_records, write_corpus
    from pipelines import CONFIGS

    train, dev = write_corpus(folder, 80, 40, get_records=generate_records)
    base = Config().from_disk(CONFIGS / "ema.cfg", interpolate=False)
    adam = {**base["training"]["optimizer"]["optimizer"], "learn_rate": 0.01}
    optimizers = {
        "lawa": {"@optimizers": "LAWA.v1", "window": 3, "freq": 4, "optimizer": adam},
        "adam": adam,
        "swa": {"@optimizers": "SWA.v1", "start_step": 20, "freq": 3, "optimizer": adam},
    }
    paths = []
    for name in names:
        config = base.copy()
        config["paths"].update(train=str(train), dev=str(dev))
        components = config["components"]
        components["tok2vec"]["model"]["embed"].update(rows=[200] * 4, width=16)
        encode = {"width": 16, "depth": 1, "window_size": 1, "maxout_pieces": 2}
        components["tok2vec"]["model"]["encode"].update(encode)
        components["ner"]["model"]["tok2vec"]["width"] = 16
        config["training"].update(max_steps=60, eval_frequency=8, dropout=0.3)
        config["training"].update(settings, optimizer=optimizers[name])
        config["training"]["before_update"] = {"@callbacks": "pausing.v1"}
        config.to_disk(folder / f"{name}.cfg")
        paths.append(folder / f"{name}.cfg")
    return paths


def write_code(folder, step, action=PAUSE, diverges=False):
    text = CODE.format(step=step, action=action, diverges=diverges)
    (folder / "code.py").write_text(text)
    return folder / "code.py"


class Interruption(Exception):
    pass


def interrupt(folder, *arguments, **settings):
    """Stop a comparison as Ctrl-C does, when its training has reached the step."""

    def watch(runs):
        if (folder / "reached").exists():
            raise Interruption

    (folder / "reached").unlink(missing_ok=True)
    with pytest.raises(Interruption):
        compare(folder / "output", *arguments, watch=watch, **settings)
    (folder / "steps").unlink()


def n_trained(folder):
    return len((folder / "steps").read_text().splitlines())


def records_of(runs):
    """The logs without times and progress."""
    records = [
        [dict(record) for record in run.records if record["type"] != "progress"] for run in runs
    ]
    for record in (record for found in records for record in found):
        for name in ("seconds_per_step", "n_records"):
            record.pop(name, None)
    return records


def assert_resumed(folder, paths, whole, *, step, n_steps, **settings):
    """Run a comparison again, and compare its results."""
    is_shared = settings.pop("is_shared", True)
    trainings = make_trainings(prepare(folder / "output", paths, **settings))
    assert trainings[0].checkpoint is not None and trainings[0].step == step
    runs = compare(folder / "output", paths, is_shared=is_shared, **settings)
    assert results_without_times(runs) == results_without_times(whole)
    assert records_of(runs) == records_of(whole)
    assert n_trained(folder) == n_steps
    assert list((folder / "output").rglob("checkpoints")) == []
    again = prepare(folder / "output", paths, **settings)
    assert {run.state for run in again} == {"done"}
    return trainings


@pytest.mark.slow
@pytest.mark.parametrize("is_shared", [True, False])
def test_thinc_trainings_are_resumed(tmp_path, is_shared):
    code = write_code(tmp_path, 44)
    names = THINC if is_shared else ("swa_own",)
    paths = write_thinc(tmp_path, names)
    settings = {"n_seeds": 1, "code": code, "is_shared": is_shared}
    interrupt(tmp_path, paths, **settings)
    whole = compare(tmp_path / "whole", paths, **settings)
    (tmp_path / "steps").unlink()
    trainings = assert_resumed(tmp_path, paths, whole, step=40, n_steps=20, **settings)
    text = ", ".join(names)
    assert list(describe_resumed(trainings)) == [f"Resumed after step 40: {text} with seed 1"]


@pytest.mark.slow
def test_runs_that_are_complete_stay_so_when_the_others_are_resumed(tmp_path):
    """The first run, which has the checkpoints, is complete because of `patience`."""
    code = write_code(tmp_path, 65)
    paths = write_thinc(tmp_path, ("adam", "ema", "swa"), patience=20, max_steps=300)
    settings = {"n_seeds": 1, "code": code}
    interrupt(tmp_path, paths, **settings)
    before = prepare(tmp_path / "output", paths, **settings)
    assert [run.state for run in before] == ["done", "waiting", "waiting"]
    whole = compare(tmp_path / "whole", paths, **settings)
    (tmp_path / "steps").unlink()
    (training,) = assert_resumed(tmp_path, paths, whole, step=60, n_steps=10, **settings)
    assert [run.name for run in training.runs] == ["adam", "ema", "swa"]
    assert [run.name for run in training.open_runs] == ["ema", "swa"]


@pytest.mark.slow
def test_averages_that_have_diverged_stay_so_when_the_others_are_resumed(tmp_path):
    code = write_code(tmp_path, 44, diverges=True)
    paths = write_thinc(tmp_path, ("adam", "ema"))
    settings = {"n_seeds": 1, "code": code}
    interrupt(tmp_path, paths, **settings)
    runs = prepare(tmp_path / "output", paths, **settings)
    (training,) = make_trainings(runs)
    assert [run.name for run in training.open_runs] == ["adam"]
    runs = compare(tmp_path / "output", paths, **settings)
    assert n_trained(tmp_path) == 20
    assert [run.state for run in runs] == ["done", "failed"]
    assert runs[1].error.startswith("The training has diverged: the score after step 30 is")
    whole = compare(tmp_path / "whole", paths, **settings)
    assert results_without_times(runs) == results_without_times(whole)


@pytest.mark.slow
def test_a_killed_run_is_resumed(tmp_path):
    """For example by the kernel, for want of memory."""
    code = write_code(tmp_path, 44, END)
    paths = write_thinc(tmp_path, ("adam",))
    settings = {"n_seeds": 1, "code": code}
    (failed,) = compare(tmp_path / "output", paths, **settings)
    assert failed.error == "the process ended with exit code -9"
    whole = compare(tmp_path / "whole", paths, **settings)
    (tmp_path / "steps").unlink()
    assert_resumed(tmp_path, paths, whole, step=40, n_steps=20, **settings)


@pytest.mark.slow
def test_trainings_that_cannot_be_resumed_begin_again(tmp_path):
    code = write_code(tmp_path, 34)
    paths = write_thinc(tmp_path, ("adam", "ema"))
    settings = {"n_seeds": 1, "code": code}
    interrupt(tmp_path, paths, **settings)
    output = tmp_path / "output"

    def find(entries=paths, is_shared=True, **changed):
        runs = prepare(output, entries, **{**settings, **changed})
        return [found.checkpoint for found in make_trainings(runs, is_shared=is_shared)]

    (checkpoint,) = find()
    assert checkpoint.name == "step-00000030"
    assert find(overrides={"training.batch_size": 9}) == [None]
    assert find(overwrite=True) == [None]
    assert find(paths[1:]) == [None]
    assert find(is_shared=False) == [None, None]
    # An entry that was not trained does not matter.
    assert find([*paths, *write_thinc(tmp_path, ("swa",))]) == [checkpoint, None]
    log = output / "runs" / "ema" / "seed-1" / "log.jsonl"
    content = log.read_text()
    log.write_text("")
    assert find() == [None]
    log.write_text(content)
    (checkpoint / "optimizer.safetensors").write_bytes(b"x")
    (earlier,) = find()
    assert earlier.name == "step-00000020"
    (earlier / "optimizer.safetensors").write_bytes(b"x")
    assert find() == [None]
    runs = compare(output, paths, **settings)
    assert n_trained(tmp_path) == 60
    whole = compare(tmp_path / "whole", paths, **settings)
    assert results_without_times(runs) == results_without_times(whole)


@pytest.mark.slow
def test_checkpoints_that_do_not_fit_are_reported(tmp_path):
    """Only the process of the training notices some differences."""
    code = write_code(tmp_path, 34)
    paths = write_thinc(tmp_path, ("adam", "ema"))
    settings = {"n_seeds": 1, "code": code}
    interrupt(tmp_path, paths, **settings)
    folder = tmp_path / "output" / "runs" / "adam" / "seed-1"
    for path in folder.glob("checkpoints/step-*"):
        content = json.loads((path / "training.json").read_text())
        content["fingerprint"]["settings"]["training.seed"] = "7"
        (path / "training.json").write_text(json.dumps(content))
        manifest = json.loads((path / "checkpoint.json").read_text())
        manifest["files"]["training.json"] = digest_file(path / "training.json")
        (path / "checkpoint.json").write_text(json.dumps(manifest))
    runs = compare(tmp_path / "output", paths, **settings)
    assert n_trained(tmp_path) == 60
    whole = compare(tmp_path / "whole", paths, **settings)
    assert results_without_times(runs) == results_without_times(whole)
    for line, name in zip(describe_restarted(runs), ("adam", "ema"), strict=True):
        assert line.startswith(f"Trained from the beginning: {name} with seed 1: ")
        assert line.endswith("training.seed was 7 and is 1 now")


UNSAVABLE = """
from thinc.api import Model, Shim, registry
from thinc_swa.comparison import run_checkpoints

run_checkpoints.MIN_INTERVAL = 0.0

class Unsavable(Shim):
    def finish_update(self, optimizer):
        pass

    def to_bytes(self):
        raise RuntimeError("no bytes")

@registry.layers("pausing.v1")
def make_layer():
    shim = Unsavable(None)
    return Model("unsavable", lambda model, X, is_train: (X, lambda dY: dY), shims=[shim])
"""


@pytest.mark.slow
def test_models_that_cannot_be_saved_are_trained_without_checkpoints(tmp_path):
    code = tmp_path / "code.py"
    code.write_text(UNSAVABLE)
    (run,) = compare(tmp_path / "output", write_thinc(tmp_path, ("ema",)), n_seeds=1, code=code)
    assert run.state == "done" and len(run.evaluations) == 6
    output = (run.folder / "output.txt").read_text()
    assert output.count("continues without checkpoints, as they cannot be saved") == 1
    assert "no bytes" in output and not (run.folder / "checkpoints").exists()


# spaCy


@pytest.mark.slow
@pytest.mark.parametrize("n_cores", [1, 3])
def test_shared_spacy_trainings_are_resumed(tmp_path, monkeypatch, n_cores):
    """With evaluations in the process of the training, and in others beside it."""
    require("spacy")
    monkeypatch.setattr("thinc_swa.comparison.runs._count_cores", lambda: n_cores)
    code = write_code(tmp_path, 23)
    paths = write_spacy(tmp_path, ("lawa", "adam", "swa"), patience=11, max_steps=400)
    settings = {"n_seeds": 1, "code": code}
    interrupt(tmp_path, paths, **settings)
    before = prepare(tmp_path / "output", paths, **settings)
    assert [run.state for run in before] == ["done", "waiting", "waiting"]
    whole = compare(tmp_path / "whole", paths, **settings)
    n_steps = n_trained(tmp_path)
    (tmp_path / "steps").unlink()
    assert_resumed(tmp_path, paths, whole, step=16, n_steps=n_steps - 17, **settings)


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="kills processes")
def test_a_killed_comparison_of_a_spacy_config_continues(tmp_path):
    for package in ("spacy", "typer", "rich", "matplotlib", "scipy", "filelock"):
        require(package)
    write_code(tmp_path, 44)
    (path,) = write_spacy(tmp_path, ("swa",))
    command = [
        *(sys.executable, "-m", "thinc_swa", "compare", path.name),
        *("-c", "code.py", "--seeds", "1"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}

    def start(output):
        return subprocess.Popen(
            [*command, "-o", output],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    process = start("output")
    try:
        while not (tmp_path / "reached").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    (tmp_path / "steps").unlink()
    lines, results = [], []
    for output, n_steps in (("output", 20), ("whole", 61)):
        process = start(output)
        stdout, stderr = process.communicate(timeout=100)
        assert process.returncode == 0, stderr
        assert n_trained(tmp_path) == n_steps
        (tmp_path / "steps").unlink()
        lines.append(stdout.splitlines())
        content = json.loads((tmp_path / output / "results.json").read_text())
        for summary in content["summaries"]:
            del summary["seconds_per_step"]
        results.append((content["summaries"], content["runs"]))
    assert lines[0][0] == "Resumed after step 40: swa with seed 0"
    assert "Resumed" not in lines[1][0]
    assert results[0] == results[1]
