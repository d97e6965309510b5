"""Many trainings in processes of their own, and what they leave in their folders."""

import errno
import json
import math
import shutil
import subprocess
import sys

import numpy
import pytest
from helpers import require
from thinc.api import Config
from tiny import ADAM, SWA, make_arrays, write_config

from thinc_swa.comparison.entries import Entry, read_entries
from thinc_swa.comparison.folders import mark_output
from thinc_swa.comparison.results import describe_outdated, summarize
from thinc_swa.comparison.runs import make_runs, train_runs
from thinc_swa.training.configs import is_spacy_config, read_config, with_seed
from thinc_swa.training.logs import read_log
from thinc_swa.training.trainer import Trainer

EMA_BLOCK = """
[training.optimizer]
@optimizers = "EMA.v1"
half_life = ${training.batch_size}

[training.optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
"""

# Registered by a file of the user.
BROKEN = """
import os
import signal
from thinc.api import registry

@registry.datasets("broken.v1")
def make_broken(how):
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "full":
        # No file can grow beyond what the log has already.
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    raise RuntimeError("no such\\ndata")
"""


def prepare(
    folder, paths, *, n_seeds=2, optimizers=(), overrides=None, code=None, overwrite=False
):
    entries = read_entries(paths, list(optimizers), overrides or {})
    return make_runs(entries, n_seeds=n_seeds, output=folder, code=code, overwrite=overwrite)


def compare(folder, paths, *, n_jobs=1, watch=lambda runs: None, **settings):
    runs = prepare(folder, paths, **settings)
    train_runs(runs, n_jobs=n_jobs, watch=watch)
    return runs


def results_of(runs):
    return {(run.name, run.seed): run.evaluations for run in runs}


@pytest.fixture
def adam(tmp_path):
    return write_config(tmp_path, "adam", ADAM)


@pytest.fixture
def swa(tmp_path):
    return write_config(tmp_path, "swa", SWA)


def broken(tmp_path, how):
    path = write_config(tmp_path, how, ADAM)
    config = Config().from_disk(path)
    config["dataset"] = {"@datasets": "broken.v1", "how": how}
    config.to_disk(path)
    code = tmp_path / "broken_data.py"
    code.write_text(BROKEN)
    return path, code


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A config, and the output folder of a comparison of it."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_config(folder, "adam", ADAM)
    compare(folder / "output", [path], n_seeds=1)
    return path, folder / "output"


DELETED = object()


def change_record(number, name, value):
    """What changes one value of a line in a log."""

    def change(lines):
        record = json.loads(lines[number])
        record[name] = value
        if value is DELETED:
            del record[name]
        changed = list(lines)
        changed[number] = json.dumps(record) + "\n"
        return changed

    return change


# What is compared


def test_entries_are_named_after_their_files(tmp_path, adam, swa):
    entries = read_entries([adam, swa], [], {"training.max_steps": 7})
    assert [entry.name for entry in entries] == ["adam", "swa"]
    assert [entry.config["training"]["max_steps"] for entry in entries] == [7, 7]
    (tmp_path / "other").mkdir()
    same_name = write_config(tmp_path / "other", "adam", ADAM)
    names = [entry.name for entry in read_entries([adam, same_name], [], {})]
    assert names == [f"{tmp_path.name}-adam", "other-adam"]


def test_as_many_folders_are_in_the_names_as_make_them_differ(tmp_path):
    paths = []
    for folder in ("a/x", "b/x", "b/y"):
        (tmp_path / folder).mkdir(parents=True)
        paths.append(write_config(tmp_path / folder, "adam", ADAM))
    names = [entry.name for entry in read_entries(paths, [], {})]
    assert names == ["a-x-adam", "b-x-adam", "y-adam"]


def test_a_config_with_the_optimizers_of_other_files(tmp_path, adam, swa):
    block = tmp_path / "ema.cfg"
    block.write_text(EMA_BLOCK)
    entries = read_entries([adam], [swa, block], {})
    assert [entry.name for entry in entries] == ["adam", "swa", "ema"]
    optimizers = [entry.config.interpolate()["optimizer"] for entry in entries]
    names = [optimizer["@optimizers"] for optimizer in optimizers]
    assert names == ["Adam.v1", "SWA.v1", "EMA.v1"]
    # A variable of the block is one of the config.
    assert optimizers[2]["half_life"] == 8
    # All else is the one config's.
    others = [{**entry.config, "optimizer": None} for entry in entries]
    assert others[0] == others[1] == others[2]


def test_wrong_entries(tmp_path, adam, swa):
    with pytest.raises(FileNotFoundError):
        read_entries([tmp_path / "none.cfg"], [], {})
    with pytest.raises(ValueError, match="need one config to go into, but got 2"):
        read_entries([adam, swa], [adam], {})
    empty = tmp_path / "empty.cfg"
    empty.write_text("[training]\nseed = 0\n")
    with pytest.raises(ValueError, match=r"has no section \[optimizer\]"):
        read_entries([empty], [], {})
    with pytest.raises(ValueError, match=r"has no section \[optimizer\] or \[training.opt"):
        read_entries([adam], [empty], {})
    with pytest.raises(ValueError, match=f"two have the name {tmp_path.name}-adam"):
        read_entries([adam, adam], [], {})
    loss = write_config(tmp_path, "loss", ADAM, score="loss")
    with pytest.raises(ValueError, match="different scores cannot be compared"):
        read_entries([adam, loss], [], {})
    with pytest.raises(ValueError, match="optimizer.learn_rate would be changed in .* alone"):
        read_entries([adam], [swa], {"optimizer.learn_rate": 0.1})
    torn = tmp_path / "torn.cfg"
    torn.write_text("[optimizer]\n@optimizers = 'Adam.v1'\n\n[initialize.after_init]\n")
    with pytest.raises(ValueError, match="torn.cfg cannot be read"):
        read_entries([adam], [torn], {})


def test_runs_are_in_the_output_folder_whatever_their_names(tmp_path, monkeypatch):
    """`compare /a.cfg x/a.cfg` wrote to /-a, and a config named "...cfg" to a folder above."""
    (tmp_path / "x").mkdir()
    names = ("a", "..", ".hidden", "Adam", "adam", "a b", "ä")
    paths = [write_config(tmp_path, name, ADAM) for name in names]
    paths.append(write_config(tmp_path / "x", "a", ADAM))
    entries = [*read_entries(paths, [], {}), Entry("/-a", read_config(paths[0], {}))]
    output = tmp_path / "deep" / "output"
    runs = make_runs(entries, n_seeds=1, output=output)
    folders = [run.folder.relative_to(output / "runs") for run in runs]
    assert all(len(folder.parts) == 2 and folder.parts[1] == "seed-1" for folder in folders)
    assert all(folder.parts[0].isascii() and folder.parts[0][0] != "." for folder in folders)
    assert len({str(folder).casefold() for folder in folders}) == len(runs) == 9


def test_what_refers_to_the_seed_has_that_of_the_run():
    text = "[training]\nseed = 5\n\n[dataset]\nseed = ${training.seed}\n"
    config = with_seed(Config().from_str(text, interpolate=False), 2)
    assert config == {"training": {"seed": 7}, "dataset": {"seed": 7}}


def test_seeds_count_from_the_configs_own(adam):
    config = Config().from_disk(adam)
    assert [with_seed(config, i)["training"]["seed"] for i in range(3)] == [1, 2, 3]
    spacy = Config({"nlp": {}, "system": {"seed": 5}, "training": {"seed": "${system.seed}"}})
    assert is_spacy_config(spacy)
    seeded = with_seed(Config().from_str(spacy.to_str(), interpolate=False), 2)
    assert (seeded["system"]["seed"], seeded["training"]["seed"]) == (7, 7)


# Thinc configs


def test_runs_are_what_a_training_is(tmp_path, adam, swa):
    runs = compare(tmp_path / "output", [adam, swa])
    assert [(run.name, run.seed) for run in runs] == [
        ("adam", 1),
        ("swa", 1),
        ("adam", 2),
        ("swa", 2),
    ]
    for run in runs:
        assert run.state == "done" and run.error is None
        config = Config().from_disk(adam if run.name == "adam" else swa)
        config["training"]["seed"] = run.seed
        trainer = Trainer.from_config(config)
        trainer.run()
        found = [(e["step"], e["raw"], e["averages"], e["score"]) for e in run.evaluations]
        assert found == [
            (e.step, e.raw, e.averages, e.score) for e in trainer.state.evaluations
        ]
        assert run.records[-1]["n_steps"] == 60


def test_processes_beside_each_other_do_not_matter(tmp_path, adam, swa):
    one = compare(tmp_path / "one", [adam, swa])
    two = compare(tmp_path / "two", [swa, adam], n_jobs=3)
    assert results_of(one) == results_of(two)


def test_only_what_is_missing_is_trained(tmp_path, adam, swa):
    first = compare(tmp_path / "output", [adam], n_seeds=1)
    log = first[0].folder / "log.jsonl"
    before = log.stat().st_mtime_ns
    runs = compare(tmp_path / "output", [adam, swa])
    assert all(run.state == "done" for run in runs)
    assert log.stat().st_mtime_ns == before
    assert runs[0].evaluations == first[0].evaluations


def test_a_config_without_settings_is_an_error_of_its_run(tmp_path, adam):
    config = Config().from_disk(adam)
    del config["training"]
    config.to_disk(adam)
    (run,) = compare(tmp_path / "output", [adam], n_seeds=1)
    assert run.state == "failed"
    assert "max_steps or max_epochs must be at least 1" in run.error


def test_what_belongs_to_another_config_is_trained_again(tmp_path, adam):
    first = compare(tmp_path / "output", [adam], n_seeds=1)
    second = compare(
        tmp_path / "output", [adam], n_seeds=1, overrides={"training.eval_frequency": 30}
    )
    assert len(first[0].evaluations) == 6
    assert len(second[0].evaluations) == 2


def test_a_run_that_was_cut_off_is_trained_again(tmp_path, adam):
    (first,) = compare(tmp_path / "output", [adam], n_seeds=1)
    log = first.folder / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:3]) + lines[3][:20])
    (second,) = compare(tmp_path / "output", [adam], n_seeds=1)
    assert second.evaluations == first.evaluations


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines, *lines],
        lambda lines: lines[1:],
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        lambda lines: [*lines[:3], lines[2], *lines[3:]],
        lambda lines: [*lines[:2], '{"type"\n', *lines[2:]],
        lambda lines: [*lines[:2], "3\n", *lines[2:]],
        lambda lines: [*lines[:2], '{"type": "evaluation"}\n', *lines[2:]],
        lambda lines: [*lines, lines[1]],
        lambda lines: [*lines[:3], *lines[4:]],
        lambda lines: [*lines[:-2], lines[-1]],
        *(
            change_record(number, name, value)
            for number, name, values in (
                (0, "inputs", [DELETED, 3, {"thinc": 3}, None]),
                (0, "config", [7, "[[[", "[a]\n[a]\n", "[a]\nx = ${b.c}\n"]),
                (2, "score", [None, "high", True, math.nan, 10**400, []]),
                (2, "raw", [None, "high"]),
                (2, "averages", ["high", {}]),
                (2, "n_averaged", ["x", 0.5, -1]),
                (2, "step", [True, 20.0, "20"]),
                (2, "loss", ["low", DELETED]),
                (-1, "seconds_per_step", [None, "x"]),
                (-1, "n_records", [DELETED, 3, None]),
            )
            for value in values
        ),
    ],
)
def test_a_damaged_log_is_not_believed(finished, damage):
    """As two processes leave it that write to one log, or a disk with errors."""
    adam, output = finished
    (log,) = output.glob("runs/*/*/log.jsonl")
    before = log.read_text()
    lines = [line for line in before.splitlines(keepends=True) if '"progress"' not in line]
    assert len(lines) == 9
    log.write_text("".join(damage(lines)))
    (run,) = prepare(output, [adam], n_seeds=1)
    log.write_text(before)
    assert run.state == "waiting" and run.evaluations == []
    assert run.outdated.startswith(f"its log is damaged ({log} is damaged: ")


DATA = """
# {comment}
from thinc.api import registry
"""


def test_other_inputs_are_trained_again(tmp_path, adam, monkeypatch):
    """The text of the config is the same every time."""
    code = tmp_path / "code.py"
    code.write_text(DATA.format(comment="one"))
    output = tmp_path / "output"

    def state():
        (run,) = prepare(output, [adam], n_seeds=1, code=code)
        return run.state, run.outdated

    assert state() == ("waiting", None)
    (first,) = compare(output, [adam], n_seeds=1, code=code)
    # Other data under the same path.
    data = tmp_path / "data.npz"
    before = data.read_bytes()
    numpy.savez(data, **make_arrays(seed=1))
    outdated = "the content of train_X has changed; the content of dev_X has changed"
    assert state() == ("waiting", outdated)
    (second,) = compare(output, [adam], n_seeds=1, code=code)
    assert second.evaluations != first.evaluations and state() == ("done", None)
    data.write_bytes(before)
    (third,) = compare(output, [adam], n_seeds=1, code=code)
    assert third.evaluations == first.evaluations
    # Other code, and none.
    code.write_text(DATA.format(comment="two"))
    assert state() == ("waiting", "the content of code has changed")
    code.write_text(DATA.format(comment="one"))
    (run,) = prepare(output, [adam], n_seeds=1)
    assert run.state == "waiting" and run.outdated.startswith("code was sha256:")
    # Another version of the package, as it is written in the log.
    log = third.folder / "log.jsonl"
    text = log.read_text()
    for name in ("thinc-swa", "thinc", "numpy"):
        now = third.inputs[name]
        changed = text.replace(f'"{name}": "{now}"', f'"{name}": "0.0.1"')
        assert changed != text
        log.write_text(changed)
        assert state() == ("waiting", f"{name} was 0.0.1 and is {now} now")


# Datasets of which the config does not say where they come from. The helper has the same size
# before and after, so nothing but its content can tell.
LOADERS = """
import random
from pathlib import Path

import numpy
from helper_of_loaders import SCALE
from thinc.api import registry

def read(path):
    arrays = numpy.load(path)
    train, dev = ([arrays[f"{name}_{x}"] for x in "XY"] for name in ("train", "dev"))
    return (train[0] * SCALE, train[1]), dev

@registry.datasets("own.suffix.v1")
def read_with_suffix(path: str):
    return read(path + ".npz")

@registry.datasets("own.fixed.v1")
def read_fixed():
    Path("loads.txt").open("a").write("x")
    return read("data.npz")

@registry.datasets("own.random.v1")
def read_random():
    Path("loads.txt").open("a").write("x")
    (X, Y), dev = read("data.npz")
    rows = random.sample(range(len(X)), 40)
    return (X[rows], Y[rows]), dev

@registry.datasets("own.objects.v1")
def read_objects(path: str):
    (X, Y), dev = read(path + "/train.npz")
    return (X, Rows(Y)), dev

# An object without a digest.
class Rows:
    def __init__(self, rows):
        self.rows = rows
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, i):
        return self.rows[i]
"""


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """Configs with datasets of the user's code, and a way to look at what is done."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "loaders.py").write_text(LOADERS)
    (tmp_path / "helper_of_loaders.py").write_text("SCALE = 1.0\n")

    def make(dataset, **settings):
        path = write_config(tmp_path, "own", ADAM)
        config = Config().from_disk(path)
        config["dataset"] = dataset
        config["training"]["max_steps"] = 10
        config.to_disk(path)
        arguments = (tmp_path / "output", [path])
        settings = {"n_seeds": 1, "code": tmp_path / "loaders.py", **settings}
        runs = compare(*arguments, **settings)
        assert [run.state for run in runs] == ["done"] * len(runs), runs[0].error
        (tmp_path / "loads.txt").write_text("")
        return lambda: [(r.state, r.outdated) for r in prepare(*arguments, **settings)]

    return make


CHANGED = [("waiting", "the content of train_X has changed; the content of dev_X has changed")]
DONE = [("done", None)]


@pytest.mark.parametrize(
    "dataset",
    [{"@datasets": "own.suffix.v1", "path": "data"}, {"@datasets": "own.fixed.v1"}],
)
def test_data_that_the_config_does_not_name_are_compared(tmp_path, own_data, dataset):
    states = own_data(dataset)
    numpy.savez(tmp_path / "data.npz", **make_arrays(seed=1))
    assert states() == CHANGED


def test_the_content_of_a_dataset_decides_and_not_its_file(tmp_path, adam):
    compare(tmp_path / "output", [adam], n_seeds=1)
    arrays = make_arrays()
    numpy.savez_compressed(tmp_path / "data.npz", **dict(reversed(arrays.items())))
    (run,) = prepare(tmp_path / "output", [adam], n_seeds=1)
    assert (run.state, run.outdated) == ("done", None)


def test_a_module_that_the_code_imports_is_compared(tmp_path, own_data):
    states = own_data({"@datasets": "own.fixed.v1"})
    (tmp_path / "helper_of_loaders.py").write_text("SCALE = 2.0\n")
    assert states() == [("waiting", "the content of module helper_of_loaders has changed")]


def test_a_dataset_without_a_digest_is_compared_by_its_files(tmp_path, own_data):
    (tmp_path / "folder").mkdir()
    numpy.savez(tmp_path / "folder" / "train.npz", **make_arrays())
    states = own_data({"@datasets": "own.objects.v1", "path": "folder"})
    numpy.savez(tmp_path / "folder" / "train.npz", **make_arrays(seed=1))
    assert states() == [("waiting", "the content of dataset.path has changed")]


def test_every_dataset_is_loaded_once_and_only_to_use_complete_runs(tmp_path, own_data):
    states = own_data({"@datasets": "own.fixed.v1"}, n_seeds=3)
    assert states() == DONE * 3
    assert (tmp_path / "loads.txt").read_text() == "x"
    shutil.rmtree(tmp_path / "output" / "runs")
    assert states() == [("waiting", None)] * 3
    assert (tmp_path / "loads.txt").read_text() == "x"


def test_a_loader_that_draws_random_numbers_is_called_with_each_seed(tmp_path, own_data):
    states = own_data({"@datasets": "own.random.v1"}, n_seeds=2)
    assert states() == DONE * 2
    assert (tmp_path / "loads.txt").read_text() == "xx"


def test_a_run_whose_data_cannot_be_loaded_is_not_used(tmp_path, own_data):
    states = own_data({"@datasets": "own.fixed.v1"})
    (tmp_path / "data.npz").unlink()
    ((state, outdated),) = states()
    assert state == "waiting"
    assert outdated.startswith("its data cannot be loaded (No such file or directory: ")


def test_a_log_without_the_dataset_is_of_an_earlier_version(tmp_path, adam):
    (run,) = compare(tmp_path / "output", [adam], n_seeds=1)
    log = run.folder / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    records[-1]["n_records"] -= 1
    kept = [record for record in records if record["type"] != "dataset"]
    log.write_text("".join(json.dumps(record) + "\n" for record in kept))
    (run,) = prepare(tmp_path / "output", [adam], n_seeds=1)
    assert (run.state, run.outdated) == (
        "waiting",
        "it is of an earlier version of thinc-swa",
    )


def test_settings_that_differ_are_named(finished):
    adam, output = finished
    overrides = {"training.eval_frequency": 30}
    (run,) = prepare(output, [adam], n_seeds=1, overrides=overrides)
    assert run.outdated == "training.eval_frequency was 10 and is 30 now"
    assert list(describe_outdated([run])) == [
        f"Trained again: adam with seed 1: {run.outdated}"
    ]


def test_overwrite_trains_everything_again(tmp_path, adam):
    (first,) = compare(tmp_path / "output", [adam], n_seeds=1)
    log = first.folder / "log.jsonl"
    before = log.stat().st_mtime_ns
    (run,) = prepare(tmp_path / "output", [adam], n_seeds=1)
    assert run.state == "done"
    (second,) = compare(tmp_path / "output", [adam], n_seeds=1, overwrite=True)
    assert log.stat().st_mtime_ns > before
    assert second.evaluations == first.evaluations


# Only our own folders are deleted


@pytest.mark.parametrize("kind", ["folder", "file", "link", "log"])
def test_what_no_comparison_has_made_is_refused(tmp_path, adam, kind):
    output = tmp_path / "output"
    (run,) = prepare(output, [adam], n_seeds=1)
    run.folder.parent.mkdir(parents=True)
    precious = run.folder / "precious.txt"
    if kind == "file":
        run.folder.write_text("precious")
        precious = run.folder
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        precious = tmp_path / "elsewhere" / ".thinc-swa-run"
        run.folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        precious.write_text("precious")
    else:
        run.folder.mkdir()
        precious.write_text("precious")
        if kind == "log":
            # Of `train -o`, or of anything else.
            (run.folder / "log.jsonl").write_text('{"type": "start", "step": 0, "seed": 1}\n')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=f"{run.folder} was not made by thinc-swa"):
            compare(output, [adam], n_seeds=1, overwrite=overwrite)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("kind", ["empty", "marked", "earlier version"])
def test_what_a_comparison_has_made_is_replaced(tmp_path, adam, kind):
    """Wherever it was killed."""
    output = tmp_path / "output"
    (run,) = prepare(output, [adam], n_seeds=1)
    run.folder.mkdir(parents=True)
    if kind == "marked":
        (run.folder / ".thinc-swa-run").touch()
        (run.folder / "of the user's code").mkdir()
    elif kind == "earlier version":
        (run.folder / "log.jsonl").write_text('{"type": "start", "fingerprint": "a1"}\n')
    (run,) = compare(output, [adam], n_seeds=1)
    assert run.state == "done"
    names = {path.name for path in run.folder.iterdir()}
    assert names == {".thinc-swa-run", "log.jsonl", "output.txt"}


# Only our own results are overwritten

RESULTS = ("results.csv", "learning_curves.png")


@pytest.mark.parametrize("present", [RESULTS, RESULTS[:1]])
def test_results_that_no_comparison_has_written_are_refused(tmp_path, present):
    for name in present:
        (tmp_path / name).write_text("precious")
    (tmp_path / "runs" / "a" / "b").mkdir(parents=True)
    message = f"There is {', '.join(present)} in {tmp_path}, which no comparison has written"
    with pytest.raises(FileExistsError, match=message):
        mark_output(tmp_path, RESULTS)
    assert {path.name for path in tmp_path.iterdir()} == {*present, "runs"}


@pytest.mark.parametrize("kind", ["marked", "earlier version"])
def test_results_of_a_comparison_are_written_again(tmp_path, kind):
    if kind == "marked":
        mark_output(tmp_path, RESULTS)
    else:
        (tmp_path / "runs" / "adam" / "seed-1").mkdir(parents=True)
        (tmp_path / "runs" / "adam" / "seed-1" / ".thinc-swa-run").touch()
    (tmp_path / "results.csv").write_text("old")
    mark_output(tmp_path, RESULTS)
    assert (tmp_path / ".thinc-swa-comparison").is_file()


# Failures


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes")
def test_a_full_disk_in_one_run_leaves_the_others_alone(tmp_path, adam, swa):
    path, code = broken(tmp_path, "full")
    runs = compare(tmp_path / "output", [adam, path, swa], n_seeds=1, code=code)
    assert [run.state for run in runs] == ["done", "failed", "done"]
    assert "could not be written: is the disk full?" in runs[1].error


def test_a_run_that_cannot_be_started_leaves_the_others_alone(tmp_path, adam, swa, monkeypatch):
    runs = prepare(tmp_path / "output", [adam, swa], n_seeds=1)
    mkdir = type(runs[0].folder).mkdir

    def full(path, *arguments, **settings):
        if path == runs[0].folder:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        mkdir(path, *arguments, **settings)

    monkeypatch.setattr(type(runs[0].folder), "mkdir", full)
    train_runs(runs)
    assert [run.state for run in runs] == ["failed", "done"]
    assert runs[0].error == f"No space left on device: {runs[0].folder}"


@pytest.mark.parametrize(
    "how, error",
    [
        ("raises", "RuntimeError: no such data"),
        ("killed", "the process ended with exit code -9"),
    ],
)
def test_a_run_that_fails_leaves_the_others_alone(tmp_path, adam, swa, how, error):
    path, code = broken(tmp_path, how)
    runs = compare(tmp_path / "output", [adam, path, swa], n_seeds=1, code=code)
    assert [run.state for run in runs] == ["done", "failed", "done"]
    assert runs[1].error == error
    # It says so to whoever looks later, and is tried once more.
    records = list(read_log(runs[1].folder / "log.jsonl"))
    assert records[-1]["type"] == "error"
    again = compare(tmp_path / "output", [adam, path, swa], n_seeds=1, code=code)
    assert [run.state for run in again] == ["done", "failed", "done"]


DIVERGING = """
[optimizer]
@optimizers = "SGD.v1"
learn_rate = 1e39
grad_clip = 0.0
"""


def test_a_run_that_diverges_leaves_the_others_alone(tmp_path):
    paths = [
        write_config(tmp_path, "diverging", DIVERGING, score="loss"),
        write_config(tmp_path, "adam", ADAM, score="loss"),
    ]
    runs = compare(tmp_path / "output", paths, n_seeds=2)
    assert [run.state for run in runs] == ["failed", "done", "failed", "done"]
    assert runs[0].error == (
        "The training has diverged: the score after step 10 is nan, that of the raw weights nan"
    )
    failed, adam = summarize(runs)
    assert (failed.n_failed, failed.score) == (2, None)
    assert adam.n_runs == 2 and adam.score < 0


def test_watchers_see_all_states(tmp_path, adam):
    seen = []
    compare(
        tmp_path / "output",
        [adam],
        watch=lambda runs: seen.append(tuple(run.state for run in runs)),
    )
    order = list(dict.fromkeys(seen))
    assert order[0] == ("running", "waiting") and order[-1] == ("done", "done")


def test_wrong_numbers(tmp_path, adam):
    with pytest.raises(ValueError, match="seeds must be an int >= 1, but was 0"):
        compare(tmp_path / "output", [adam], n_seeds=0)
    with pytest.raises(ValueError, match="jobs must be an int >= 1, but was 0"):
        compare(tmp_path / "output", [adam], n_jobs=0)


# spaCy configs


def test_spacys_own_training_is_what_is_compared(tmp_path):
    require("spacy")
    from corpus import generate_records, write_corpus
    from pipelines import CONFIGS, as_arguments

    train_path, dev_path = write_corpus(tmp_path, 100, 40, get_records=generate_records)
    settings = {
        "paths.train": str(train_path),
        "paths.dev": str(dev_path),
        "training.max_steps": 60,
        "training.eval_frequency": 20,
    }
    config = CONFIGS / "swa.cfg"
    (run,) = compare(tmp_path / "output", [config], n_seeds=1, overrides=settings)
    assert run.error is None
    # Before and at the start of averaging, at step 45, and then twice after it.
    assert [e["step"] for e in run.evaluations] == [0, 20, 40, 60]
    assert [e["n_averaged"] for e in run.evaluations] == [0, 0, 0, 2]
    assert [e["averages"] is None for e in run.evaluations] == [True, True, True, False]
    assert run.evaluations[-1]["averages"] == run.evaluations[-1]["score"]

    # The same from the command line of spaCy, which writes a log of its own.
    log = tmp_path / "spacy.jsonl"
    logger = {
        "training.logger": {
            "@loggers": "spacy.ConsoleLogger.v3",
            "output_file": str(log),
            "progress_bar": None,
        }
    }
    text = Config().from_disk(config, interpolate=False)
    text["training"]["logger"] = logger["training.logger"]
    text.to_disk(tmp_path / "logged.cfg")
    result = subprocess.run(
        [sys.executable, "-m", "spacy", "train", "logged.cfg", *as_arguments(settings)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["score"] for record in logged] == pytest.approx(
        [e["score"] for e in run.evaluations], abs=1e-9
    )


def test_plain_weights_are_evaluated_beside_the_averages(tmp_path):
    """EMA leaves the training alone: its raw weights are those of Adam."""
    require("spacy")
    from corpus import generate_records, write_corpus
    from pipelines import CONFIGS

    train_path, dev_path = write_corpus(tmp_path, 100, 40, get_records=generate_records)
    block = tmp_path / "adam.cfg"
    ema = Config().from_disk(CONFIGS / "ema.cfg", interpolate=False)
    adam = ema["training"]["optimizer"]["optimizer"]
    block.write_text(Config({"training": {"optimizer": adam}}).to_str())
    settings = {
        "paths.train": str(train_path),
        "paths.dev": str(dev_path),
        "training.max_steps": 30,
        "training.eval_frequency": 15,
    }
    runs = compare(
        tmp_path / "output",
        [CONFIGS / "ema.cfg"],
        optimizers=[block],
        n_seeds=1,
        overrides=settings,
    )
    ema, adam = (run.evaluations for run in runs)
    assert [e["raw"] for e in ema] == [e["score"] for e in adam]
    assert [e["raw"] for e in adam] == [e["score"] for e in adam]
    assert ema[-1]["averages"] != ema[-1]["raw"]


def test_an_error_of_spacy_is_told(tmp_path):
    require("spacy")
    from pipelines import CONFIGS

    (run,) = compare(tmp_path / "output", [CONFIGS / "swa.cfg"], n_seeds=1)
    assert run.state == "failed"
    assert "E913" in run.error
