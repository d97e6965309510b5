"""`thinc-swa report`, and the reports that `train` and `compare` write."""

import json
import re

import pytest
from helpers import require, run_command
from report_folders import evaluation, start, write_log, write_training
from tiny import ADAM, SWA, write_config

for _name in ("typer", "rich", "matplotlib", "scipy", "filelock", "plotly"):
    require(_name)

from thinc_swa.cli import report as command  # noqa: E402
from thinc_swa.report import page  # noqa: E402


def data_of(path):
    text = path.read_text(encoding="utf8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A folder with the output of a comparison, of averages that share a training."""
    folder = tmp_path_factory.mktemp("compared")
    write_config(folder, "adam", ADAM, max_steps=30)
    inner = ADAM.replace("[optimizer]", "[optimizer.optimizer]")
    write_config(folder, "ema", f'[optimizer]\n@optimizers = "EMA.v1"\n{inner}', max_steps=30)
    result = run_command(folder, "compare", "adam.cfg", "ema.cfg", "--seeds", "2", "-o", "out")
    assert result.returncode == 0, result.stderr
    assert "final_scores.svg, report.html." in result.stdout
    return folder


def test_compare_writes_a_report(compared):
    data = data_of(compared / "out" / "report.html")
    results = json.loads((compared / "out" / "results.json").read_text())
    assert data["groups"] == ["adam", "ema"]
    found = {(data["groups"][run["group"]], run["seed"]): run for run in data["runs"]}
    assert len(found) == 4
    for run in results["runs"]:
        shown = found[run["name"], run["seed"]]
        assert shown["steps"] == [record["step"] for record in run["evaluations"]]
        raw = [record["raw"] for record in run["evaluations"]]
        assert shown["raw"] == pytest.approx(raw, rel=1e-5)
        assert shown["state"] == "complete" and shown["endedBy"] == "max_steps"
    cells = [cell for row in data["comparisons"][0]["table"] for cell in row]
    markdown = (compared / "out" / "results.md").read_text()
    assert all(cell in markdown for cell in cells)


def test_the_report_of_a_comparison_can_be_made_again(compared, run, tmp_path):
    result = run(compared, "report", "out", "-o", tmp_path / "again.html")
    assert (result.returncode, result.stdout, result.stderr) == (
        0,
        f"Saved {tmp_path / 'again.html'}.\n",
        "",
    )
    assert data_of(tmp_path / "again.html") == data_of(compared / "out" / "report.html")


@pytest.mark.slow
def test_compare_never_overwrites_another_file(compared, run):
    path = compared / "out" / "report.html"
    before = path.read_text(encoding="utf8")
    path.write_text("mine")
    result = run(compared, "compare", "adam.cfg", "ema.cfg", "--seeds", "2", "-o", "out")
    assert result.returncode == 1 and path.read_text() == "mine"
    assert result.stderr.startswith("Error: The report could not be written to out: out/report")
    assert len(result.stderr.splitlines()) == 1
    path.write_text(before, encoding="utf8")


def test_train_writes_a_report(tmp_path, run):
    write_config(tmp_path, "swa", SWA, max_steps=30)
    result = run(tmp_path, "train", "swa.cfg", "-o", "out")
    assert result.returncode == 0, result.stderr
    (shown,) = data_of(tmp_path / "out" / "report.html")["runs"]
    assert (shown["nSteps"], shown["optimizer"]) == (30, "SWA(Lookahead(Adam))")
    # Resumed and overwritten trainings replace it.
    run(tmp_path, "train", "swa.cfg", "-o", "out", "--resume", "--training.max_steps", "50")
    (shown,) = data_of(tmp_path / "out" / "report.html")["runs"]
    assert (shown["nSteps"], shown["resumed"]) == (50, [30])
    result = run(tmp_path, "train", "swa.cfg", "-o", "out", "--overwrite")
    assert result.returncode == 0, result.stderr
    (shown,) = data_of(tmp_path / "out" / "report.html")["runs"]
    assert (shown["nSteps"], shown["resumed"]) == (30, [])


def test_a_report_alone_is_no_training(tmp_path, run):
    write_training(tmp_path / "a")
    (tmp_path / "out").mkdir()
    assert run(tmp_path, "report", "a", "-o", "out/report.html").returncode == 0
    write_config(tmp_path, "swa", SWA, max_steps=10)
    assert run(tmp_path, "train", "swa.cfg", "-o", "out").returncode == 0
    assert data_of(tmp_path / "out" / "report.html")["groups"] == ["out"]


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_train_never_overwrites_another_file(tmp_path, run, option):
    write_config(tmp_path, "swa", SWA, max_steps=10)
    assert run(tmp_path, "train", "swa.cfg", "-o", "out").returncode == 0
    (tmp_path / "out" / "report.html").write_text("mine")
    result = run(tmp_path, "train", "swa.cfg", "-o", "out", option)
    assert result.returncode == 1
    assert "out contains report.html, which thinc-swa has not written" in result.stderr
    assert (tmp_path / "out" / "report.html").read_text() == "mine"


def test_several_folders_are_one_report(compared, run, tmp_path):
    write_training(tmp_path / "a")
    write_log(tmp_path / "b", [start(), evaluation(10)])
    result = run(tmp_path, "report", "a", "b", compared / "out")
    assert (result.returncode, result.stdout, result.stderr) == (0, "Saved report.html.\n", "")
    data = data_of(tmp_path / "report.html")
    assert data["groups"] == ["a", "b", "out: adam", "out: ema"]
    assert [run["state"] for run in data["runs"][:2]] == ["complete", "interrupted or running"]


def test_each_bad_folder_is_one_line(tmp_path, run):
    write_training(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    result = run(tmp_path, "report", "a", "empty", "missing")
    assert result.returncode == 1
    assert result.stdout == "Saved report.html.\n"
    first, second = result.stderr.splitlines()
    assert first.startswith("Error: empty is empty: give the output folder of")
    assert second == "Error: missing does not exist"
    assert data_of(tmp_path / "report.html")["groups"] == ["a"]


def test_without_a_training_there_is_no_report(tmp_path, run):
    result = run(tmp_path, "report", "missing")
    assert (result.returncode, result.stdout) == (1, "")
    assert not (tmp_path / "report.html").exists()
    result = run(tmp_path, "report")
    assert result.returncode == 2 and "Missing argument 'FOLDERS" in result.stderr


def test_without_plotly_everything_else_works(tmp_path, run, monkeypatch):
    monkeypatch.setattr(page, "has_plotly", lambda: False)
    monkeypatch.setattr(command, "has_plotly", lambda: False)
    write_config(tmp_path, "adam", ADAM, max_steps=10)
    assert run(tmp_path, "train", "adam.cfg", "-o", "out").returncode == 0
    result = run(tmp_path, "compare", "adam.cfg", "--seeds", "1")
    assert result.returncode == 0 and "final_scores.svg." in result.stdout
    assert not list(tmp_path.rglob("report.html"))
    result = run(tmp_path, "report", "out")
    assert result.returncode == 1
    assert result.stderr == (
        "Error: The report needs the library plotly, which is not installed: pip install "
        '"thinc-swa[cli]"\n'
    )
