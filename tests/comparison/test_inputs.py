"""Inputs of runs: data, code and versions, whose changes repeat a run."""

import json
import shutil

import numpy
import pytest
from comparison_runs import compare, prepare
from thinc.api import Config
from tiny import ADAM, make_arrays, write_config

# Many real processes.
pytestmark = pytest.mark.slow

DATA = """
# {comment}
from thinc.api import registry
"""


def test_runs_with_other_inputs_are_repeated(tmp_path, adam, monkeypatch):
    """The text of the config is always the same."""
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
    # Another version of a package in the log.
    log = third.folder / "log.jsonl"
    text = log.read_text()
    for name in ("thinc-swa", "thinc", "numpy"):
        now = third.inputs[name]
        changed = text.replace(f'"{name}": "{now}"', f'"{name}": "0.0.1"')
        assert changed != text
        log.write_text(changed)
        assert state() == ("waiting", f"{name} was 0.0.1 and is {now} now")


# Datasets from files that the config does not name. The helper module keeps its size, so that
# only its content differs.
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
    """Run a comparison with a dataset of the user's code. The result is a function for the
    states of the runs and the reasons why they are repeated."""
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


def test_the_content_of_a_dataset_is_compared_instead_of_its_file(tmp_path, adam):
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


def test_a_dataset_is_loaded_once_and_only_for_complete_runs(tmp_path, own_data):
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
        "an earlier version of thinc-swa has written its log",
    )
