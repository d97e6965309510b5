"""Runs of a comparison: results, failures, and the runs that are repeated."""

import errno
import json
import math
import sys

import pytest
from comparison_runs import compare, prepare, results_of
from thinc.api import Config
from tiny import ADAM, write_config

from thinc_swa.comparison.results import describe_outdated, summarize
from thinc_swa.comparison.runs import train_runs
from thinc_swa.training.logs import read_log
from thinc_swa.training.trainer import Trainer

# A dataset that fails.
BROKEN = """
import os
import signal
from thinc.api import registry

@registry.datasets("broken.v1")
def make_broken(how):
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "full":
        # No file can grow, as on a full disk.
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    raise RuntimeError("no such\\ndata")
"""


def broken(tmp_path, how):
    """A config whose dataset cannot be loaded, and the code that registers it."""
    path = write_config(tmp_path, how, ADAM)
    config = Config().from_disk(path)
    config["dataset"] = {"@datasets": "broken.v1", "how": how}
    config.to_disk(path)
    code = tmp_path / "broken_data.py"
    code.write_text(BROKEN)
    return path, code


DELETED = object()


def change_record(number, name, value):
    """Function that changes one value of a line in a log."""

    def change(lines):
        record = json.loads(lines[number])
        record[name] = value
        if value is DELETED:
            del record[name]
        changed = list(lines)
        changed[number] = json.dumps(record) + "\n"
        return changed

    return change


def test_runs_have_the_results_of_single_trainings(tmp_path, adam, swa):
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


@pytest.mark.slow
def test_parallel_processes_do_not_change_results(tmp_path, adam, swa):
    one = compare(tmp_path / "one", [adam, swa])
    two = compare(tmp_path / "two", [swa, adam], n_jobs=3)
    assert results_of(one) == results_of(two)


@pytest.mark.slow
def test_only_missing_runs_are_trained(tmp_path, adam, swa):
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


@pytest.mark.slow
def test_runs_of_another_config_are_repeated(tmp_path, adam):
    first = compare(tmp_path / "output", [adam], n_seeds=1)
    second = compare(
        tmp_path / "output", [adam], n_seeds=1, overrides={"training.eval_frequency": 30}
    )
    assert len(first[0].evaluations) == 6
    assert len(second[0].evaluations) == 2


@pytest.mark.slow
def test_incomplete_runs_are_repeated(tmp_path, adam):
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
def test_runs_with_a_damaged_log_are_repeated(finished, damage):
    """Two processes may have written to one log, or the disk may be damaged."""
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


def test_settings_that_differ_are_named(finished):
    adam, output = finished
    overrides = {"training.eval_frequency": 30}
    (run,) = prepare(output, [adam], n_seeds=1, overrides=overrides)
    assert run.outdated == "training.eval_frequency was 10 and is 30 now"
    assert list(describe_outdated([run])) == [
        f"Trained again: adam with seed 1: {run.outdated}"
    ]


@pytest.mark.slow
def test_overwrite_repeats_all_runs(tmp_path, adam):
    (first,) = compare(tmp_path / "output", [adam], n_seeds=1)
    log = first.folder / "log.jsonl"
    before = log.stat().st_mtime_ns
    (run,) = prepare(tmp_path / "output", [adam], n_seeds=1)
    assert run.state == "done"
    (second,) = compare(tmp_path / "output", [adam], n_seeds=1, overwrite=True)
    assert log.stat().st_mtime_ns > before
    assert second.evaluations == first.evaluations


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes")
def test_a_full_disk_in_one_run_does_not_affect_the_others(tmp_path, adam, swa):
    path, code = broken(tmp_path, "full")
    runs = compare(tmp_path / "output", [adam, path, swa], n_seeds=1, code=code)
    assert [run.state for run in runs] == ["done", "failed", "done"]
    assert "could not be written: is the disk full?" in runs[1].error


def test_a_run_that_cannot_start_does_not_affect_the_others(tmp_path, adam, swa, monkeypatch):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, error",
    [
        ("raises", "RuntimeError: no such data"),
        ("killed", "the process ended with exit code -9"),
    ],
)
def test_a_run_that_fails_does_not_affect_the_others(tmp_path, adam, swa, how, error):
    path, code = broken(tmp_path, how)
    runs = compare(tmp_path / "output", [adam, path, swa], n_seeds=1, code=code)
    assert [run.state for run in runs] == ["done", "failed", "done"]
    assert runs[1].error == error
    # The error is logged, and the run is repeated.
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


def test_a_run_that_diverges_does_not_affect_the_others(tmp_path):
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


def test_watch_is_called_in_all_states(tmp_path, adam):
    seen = []
    compare(
        tmp_path / "output",
        [adam],
        watch=lambda runs: seen.append(tuple(run.state for run in runs)),
    )
    order = list(dict.fromkeys(seen))
    assert order[0] == ("running", "waiting") and order[-1] == ("done", "done")


def test_invalid_numbers_of_seeds_and_jobs_are_errors(tmp_path, adam):
    with pytest.raises(ValueError, match="seeds must be an int >= 1, but was 0"):
        compare(tmp_path / "output", [adam], n_seeds=0)
    with pytest.raises(ValueError, match="jobs must be an int >= 1, but was 0"):
        compare(tmp_path / "output", [adam], n_jobs=0)
