"""Entries that differ only in averages are trained once, with the results of trainings of their
own, bit for bit."""

import json

import pytest
from comparison_runs import compare, prepare, results_without_times
from thinc.api import Config
from tiny import write_config

from thinc_swa.comparison.runs import make_trainings, train_runs
from thinc_swa.training.logs import read_log

ADAM = """
[optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.02
use_averages = false
"""
THINC = ADAM.replace("false", "true")


def wrap(name, settings, inner=ADAM):
    inner = inner.replace("[optimizer", "[optimizer.optimizer")
    return f'[optimizer]\n@optimizers = "{name}.v1"\n{settings}\n{inner}'


EMA = wrap("EMA", "")
SWA = wrap("SWA", "start_step = 25\nfreq = 3")
LAWA = wrap("LAWA", "window = 2\nfreq = 5")
LOOKAHEAD = wrap("Lookahead", "freq = 4")
# All have the training of Adam.
SHARED = {
    "adam": ADAM,
    "thinc": THINC,
    "ema": EMA,
    "swa": SWA,
    "lawa": LAWA,
    "swa_late": wrap("SWA", "start_step = 1000"),
    "swa_thinc": wrap("SWA", "start_step = 35", THINC),
    "ema_thinc": wrap("EMA", "start_step = 35", THINC),
    "swa_ema": wrap("SWA", "start_step = 35", EMA),
    "ema_swa_thinc": wrap("EMA", "start_step = 45", wrap("SWA", "start_step = 35", THINC)),
    "plateau": wrap("SWA", 'start_step = "plateau"\nplateau_evals = 1'),
}
# All have the training of Lookahead.
SLOW = {
    "lookahead": LOOKAHEAD,
    "swa_lookahead": wrap("SWA", "start_step = 35", LOOKAHEAD),
    "lawa_lookahead": wrap("LAWA", "window = 2\nfreq = 5\nstart_step = 15", LOOKAHEAD),
}
RATE = wrap("SWA", "start_step = 25\nlearn_rate = 0.005", THINC)
# All have the training of SWA with a learning rate of its own.
RATES = {
    "rate": RATE,
    "swa_rate": wrap("SWA", "start_step = 15\nfreq = 7", RATE),
    "ema_rate": wrap("EMA", "start_step = 35", RATE),
}


def write(folder, optimizers, **settings):
    return [write_config(folder, name, text, **settings) for name, text in optimizers.items()]


def n_trainings(runs):
    """Number of trainings that were needed for complete runs."""
    return sum(1.0 / run.records[-1]["n_shared"] for run in runs)


@pytest.mark.parametrize(
    "optimizers, settings",
    [
        (SHARED, {}),
        pytest.param(SHARED, {"patience": 20, "max_steps": 300}, marks=pytest.mark.slow),
        pytest.param(SLOW, {}, marks=pytest.mark.slow),
        pytest.param(RATES, {}, marks=pytest.mark.slow),
    ],
    ids=["adam", "patience", "lookahead", "rates"],
)
def test_shared_trainings_have_the_results_of_single_ones(tmp_path, optimizers, settings):
    paths = write(tmp_path, optimizers, score="loss", **settings)
    shared = compare(tmp_path / "shared", paths, n_seeds=1)
    single = compare(tmp_path / "single", paths, n_seeds=1, is_shared=False)
    assert results_without_times(shared) == results_without_times(single)
    assert all(run.state == "done" for run in shared)
    assert {run.records[-1]["n_shared"] for run in shared} == {len(optimizers)}
    assert {run.records[-1]["n_shared"] for run in single} == {1}
    # The averages have started, and differ.
    scores = [[e["averages"] for e in run.evaluations] for run in shared]
    different = {json.dumps(found) for found in scores}
    if settings:
        # They stop at different steps.
        assert {run.records[-1]["n_steps"] for run in shared} == {60, 70}
    else:
        raw = [[e["raw"] for e in run.evaluations] for run in shared]
        assert all(found == raw[0] for found in raw)
        # But for an average that never starts.
        assert len(different) >= len(optimizers) - 1


def test_shared_runs_have_logs_of_their_own(tmp_path):
    paths = write(tmp_path, {"adam": ADAM, "ema": EMA})
    runs = compare(tmp_path / "output", paths, n_seeds=1)
    for run, path in zip(runs, paths, strict=True):
        start, *_, end = read_log(run.folder / "log.jsonl")
        assert Config().from_str(start["config"]) == Config().from_disk(path)
        assert end["seconds_per_step"] > 0
        assert (run.folder / "output.txt").exists()


@pytest.mark.slow
def test_missing_runs_are_trained_with_the_results_of_all(tmp_path):
    paths = write(tmp_path, {"adam": ADAM, "ema": EMA, "swa": SWA})
    whole = compare(tmp_path / "whole", paths)
    # Those of one entry, then one seed, then all.
    compare(tmp_path / "output", paths[1:2], n_seeds=1)
    compare(tmp_path / "output", paths[::2], n_seeds=1)
    log = tmp_path / "output" / "runs" / "ema" / "seed-1" / "log.jsonl"
    before = log.stat().st_mtime_ns
    runs = compare(tmp_path / "output", paths, n_jobs=2)
    assert log.stat().st_mtime_ns == before
    assert results_without_times(runs) == results_without_times(whole)
    n_shared = {(run.name, run.seed): run.records[-1]["n_shared"] for run in runs}
    assert n_shared == {
        ("adam", 1): 2,
        ("swa", 1): 2,
        ("ema", 1): 1,
        **{(name, 2): 3 for name in ("adam", "ema", "swa")},
    }
    # Nothing is trained again, with or without sharing.
    runs = prepare(tmp_path / "output", paths, overwrite=True, n_seeds=1)
    (training,) = make_trainings(runs)
    assert len(training.runs) == 3
    assert make_trainings(prepare(tmp_path / "output", paths)) == []


@pytest.mark.slow
def test_an_incomplete_log_of_one_entry_is_repeated_alone(tmp_path):
    paths = write(tmp_path, {"adam": ADAM, "ema": EMA})
    first = compare(tmp_path / "output", paths, n_seeds=1)
    log = first[1].folder / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    runs = prepare(tmp_path / "output", paths, n_seeds=1)
    (training,) = make_trainings(runs)
    assert [run.name for run in training.runs] == ["ema"]
    train_runs(runs)
    assert results_without_times(runs) == results_without_times(first)


# Failures


def test_an_entry_with_an_invalid_setting_fails_alone(tmp_path):
    paths = write(tmp_path, {"adam": ADAM, "bad": wrap("EMA", "decay = 2.0"), "ema": EMA})
    runs = compare(tmp_path / "output", paths, n_seeds=1)
    assert [run.state for run in runs] == ["done", "failed", "done"]
    single = compare(tmp_path / "single", paths[1:2], n_seeds=1)
    assert runs[1].error == single[0].error and "decay must be" in runs[1].error
    assert [run.outdated for run in runs] == [None] * 3


CODE = """
import os
from thinc.api import Model, registry

@registry.layers("fragile.v1")
def make_fragile(how):
    # Calls of each kind, and evaluations since the last step: raw weights, then averages.
    n_steps, n_evaluations, since = 0, 0, 0

    def forward(model, X, is_train):
        nonlocal n_steps, n_evaluations, since
        if is_train:
            n_steps, since = n_steps + 1, 0
            return X, lambda dY: dY
        n_evaluations, since = n_evaluations + 1, since + 1
        if how == "kill" and n_evaluations > 8:
            os._exit(3)
        is_nan = how == "nan" and n_steps > 25 and since > 1
        return X * float("nan") if is_nan else X, None

    return Model("fragile", forward)
"""


def write_fragile(tmp_path, optimizers, how):
    paths = write(tmp_path, optimizers, score="loss")
    for path in paths:
        config = Config().from_disk(path)
        layers = config["model"]["*"]
        config["model"]["*"] = {
            **layers,
            "fragile": {"@layers": "fragile.v1", "how": how},
        }
        config.to_disk(path)
    code = tmp_path / "code.py"
    code.write_text(CODE)
    return paths, code


@pytest.mark.slow
def test_after_a_crash_entries_are_trained_one_by_one(tmp_path):
    """The shared training has more evaluations, and needs more memory, than each alone."""
    paths, code = write_fragile(tmp_path, {"adam": ADAM, "ema": EMA}, "kill")
    runs = compare(tmp_path / "output", paths, n_seeds=1, code=code)
    assert [run.state for run in runs] == ["done", "failed"]
    assert runs[0].records[-1]["n_shared"] == 1
    assert runs[1].error == "the process ended with exit code 3"


def test_averages_that_diverge_end_their_entry_only(tmp_path):
    paths, code = write_fragile(tmp_path, {"adam": ADAM, "ema": EMA}, "nan")
    shared = compare(tmp_path / "shared", paths, n_seeds=1, code=code)
    assert [run.state for run in shared] == ["done", "failed"]
    assert shared[1].error.startswith("The training has diverged: the score after step 30 is")
    assert shared[1].state == "failed" and shared[0].records[-1]["n_shared"] == 2
    assert len(shared[0].evaluations) == 6 and len(shared[1].evaluations) == 3
    single = compare(tmp_path / "single", paths, n_seeds=1, code=code, is_shared=False)
    assert results_without_times(shared) == results_without_times(single)


@pytest.mark.slow
def test_sharing_is_compatible_with_parallel_runs(tmp_path):
    paths = write(tmp_path, {"adam": ADAM, **SLOW, "ema": EMA})
    one = compare(tmp_path / "one", paths, is_shared=False)
    runs = compare(tmp_path / "two", paths, n_jobs=3)
    assert results_without_times(one) == results_without_times(runs)
    assert round(n_trainings(runs)) == 4
