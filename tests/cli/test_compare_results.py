"""`thinc-swa compare`: tables, files and messages."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from helpers import require, run_command
from thinc.api import Config
from tiny import ADAM, SWA, make_arrays, write_config

require("typer")
require("rich")
require("matplotlib")
require("plotly")
require("scipy")
from rich.console import Console  # noqa: E402

from thinc_swa.cli.compare import rich_table  # noqa: E402

ROOT = Path(__file__).parents[2]


# Parts of a traceback, which error messages do not have.
TRACES = ("Traceback", 'File "', "site-packages")


def test_compare_prints_and_saves_the_same_results(tmp_path):
    adam = write_config(tmp_path, "adam", ADAM)
    swa = write_config(tmp_path, "swa", SWA)
    result = run_command(
        tmp_path, "compare", adam, swa, "--seeds", "2", "--jobs", "2", "-o", "output"
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    output = tmp_path / "output"
    names = {"results.md", "results.csv", "results.json", "report.html"}
    names |= {
        f"{name}.{kind}"
        for name in ("learning_curves", "final_scores")
        for kind in ("png", "svg")
    }
    names |= {"runs", ".thinc-swa.lock", ".thinc-swa-comparison"}
    assert {path.name for path in output.iterdir()} == names
    content = json.loads((output / "results.json").read_text())
    assert [summary["n_runs"] for summary in content["summaries"]] == [2, 2]
    # The printed table has the numbers of the files.
    for summary in content["summaries"]:
        score = f"{100 * summary['score']:.2f} ± {100 * summary['score_sd']:.2f}"
        assert any(
            line.startswith(summary["name"]) and score in line
            for line in result.stdout.splitlines()
        )
    # A line per run, because the output is not a terminal.
    assert sum(", seed " in line for line in result.stdout.splitlines()) == 4


@pytest.mark.parametrize(
    "width, dropped",
    [
        (200, []),
        (102, []),
        (100, ["ms/step"]),
        (80, ["ms/step", "swing", "raw weights"]),
        (60, ["ms/step", "swing", "raw weights", "95 % interval"]),
    ],
)
def test_a_narrow_terminal_omits_columns(width, dropped):
    header = (
        "optimizer|final score|raw weights|difference to baseline|95 % interval|swing|"
        "steps to baseline|ms/step|runs"
    )
    row = "lookahead_swa|98.11 ± 0.39|97.77 ± 0.39|+0.83|-1.07 to +2.74|0.22|500|0.301|3"
    rows = [header.split("|"), row.split("|")]
    file = io.StringIO()
    console = Console(file=file, width=width)
    console.print(rich_table(rows, console))
    lines = file.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    # Headers may be broken into several lines, cells may not.
    cells = [cell for name, cell in zip(*rows, strict=True) if name not in dropped]
    assert lines[-1].split() == " ".join(cells).split()


@pytest.mark.slow
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


def test_entries_that_are_averages_of_one_training_are_trained_once(tmp_path, run):
    write_config(tmp_path, "adam", ADAM)
    inner = ADAM.replace("[optimizer", "[optimizer.optimizer")
    for name in ("EMA", "LAWA"):
        optimizer = f'[optimizer]\n@optimizers = "{name}.v1"\n{inner}'
        write_config(tmp_path, name.lower(), optimizer)
    command = ("compare", "adam.cfg", "ema.cfg", "lawa.cfg", "--seeds", "2")
    first = run(tmp_path, *command)
    assert first.returncode == 0, first.stderr
    line, *others = first.stdout.splitlines()
    assert line == (
        "ema and lawa are averages of the same training as adam: trained once per seed"
    )
    # The same line once, and marked in the table.
    assert line not in others
    summaries = json.loads((tmp_path / "comparison" / "results.json").read_text())["summaries"]
    assert [summary["n_shared"] for summary in summaries] == [2, 2, 2]
    assert (tmp_path / "comparison" / "results.md").read_text().count(" (shared) |") == 3
    # Nothing is left to train.
    again = run(tmp_path, *command, "--no-sharing").stdout.splitlines()
    assert line not in again and not any(", seed " in line for line in again)
    alone = run(tmp_path, *command, "--no-sharing", "--overwrite").stdout.splitlines()
    assert alone[0].startswith("adam, seed 1: ")
    content = json.loads((tmp_path / "comparison" / "results.json").read_text())
    assert [summary["n_shared"] for summary in content["summaries"]] == [0, 0, 0]
    assert [s["score"] for s in content["summaries"]] == [s["score"] for s in summaries]
    assert " (shared) |" not in (tmp_path / "comparison" / "results.md").read_text()


@pytest.mark.slow
def test_threads_per_process_are_limited(tmp_path):
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


@pytest.mark.slow
def test_repeated_runs_are_explained_in_one_line(tmp_path, run):
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


def test_a_failed_run_is_reported_with_the_other_results(tmp_path, run):
    adam = write_config(tmp_path, "adam", ADAM)
    unknown = write_config(tmp_path, "unknown", ADAM.replace("Adam", "Adamant"))
    result = run(tmp_path, "compare", adam, unknown, "--seeds", "2", "-o", "output")
    assert result.returncode == 1
    assert "unknown failed with seed 1, 2: Cant't find 'Adamant.v1'" in result.stderr
    assert not any(trace in result.stderr + result.stdout for trace in TRACES)
    report = (tmp_path / "output" / "results.md").read_text()
    assert "0, 2 failed" in report and "Adamant.v1" in report


def test_scores_are_shown_when_results_cannot_be_written(tmp_path, run):
    """The logs of the runs keep the scores."""
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


@pytest.mark.slow
def test_compare_the_configs_of_the_digits(tmp_path, run):
    """The first command of the README."""
    require("sklearn")
    paths = sorted((ROOT / "configs" / "digits").glob("*.cfg"))
    result = run(tmp_path, "compare", *paths, "--seeds", "1")
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "comparison" / "results.json").read_text())
    found = {summary["name"]: summary for summary in content["summaries"]}
    assert list(found) == [path.stem for path in paths]
    assert all(summary["score"] > 0.9 for summary in found.values())
    # These do not change the training.
    averages = ("adam", "ema", "lawa", "swa")
    assert len({found[name]["raw"] for name in averages}) == 1
    assert all(summary["n_shared"] == (name in averages) for name, summary in found.items())
    # After step 1500 and then every 10 steps to 2000, and at every step.
    assert (found["swa"]["n_averaged"], found["ema"]["n_averaged"]) == (51, 2000)


def test_results_are_saved_when_a_plot_fails(tmp_path, run):
    write_config(tmp_path, "adam", ADAM)
    for kind in ("png", "svg"):
        (tmp_path / "comparison" / f"learning_curves.{kind}").mkdir(parents=True)
    (tmp_path / "comparison" / ".thinc-swa-comparison").touch()
    result = run(tmp_path, "compare", "adam.cfg", "--seeds", "1")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: The plots could not be written to comparison: Is a")
    assert len(result.stderr.splitlines()) == 1
    saved = "results.md, results.csv, results.json, report.html"
    assert f"Saved to comparison: {saved}." in result.stdout
    assert (tmp_path / "comparison" / "results.json").exists()
