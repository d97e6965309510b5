"""`thinc-swa reconstruct`: table, pictures, saved models, and errors."""

import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy
import pytest
import tiny
from helpers import require
from thinc.api import Config
from tiny import write_config

from thinc_swa import apply_averages, reconstruct_average, update_batch_norm
from thinc_swa.training.trainer import Trainer

for _package in ("typer", "rich", "matplotlib", "filelock"):
    require(_package)

TESTS = Path(__file__).parents[1]

TWO_WIDTHS = tiny.TWO_WIDTHS.format(learn_rate=0.03)
KEEP = tiny.KEEP.format(freq=10)

BATCH_NORM = {"n_inputs": 3, "n_outputs": 8, "width": 8, "dropout": 0.2}


@pytest.fixture
def output(tmp_path, run):
    """Output folder of a training with snapshots."""
    path = write_config(tmp_path, optimizer=TWO_WIDTHS, more=KEEP)
    result = run(tmp_path, "train", path.name, "-o", "output")
    assert result.returncode == 0, result.stderr
    return tmp_path / "output"


def rows_of(result):
    return re.findall(r"^ +([\d.]+) +([\d.]+) +(\S+?)(?:  (kept))?$", result.stdout, re.M)


def load(folder, path):
    trainer = Trainer.from_config(Config().from_disk(folder / "config.cfg"))
    trainer.load_model(path)
    return trainer


def test_several_widths_give_a_table_and_pictures(output, run):
    result = run(output.parent, "reconstruct", "output", "--sigma-rels", "0.04:0.2:0.02")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].split() == ["sigma_rel", "score", "profile", "error"]
    rows = rows_of(result)
    assert [float(row[0]) for row in rows] == pytest.approx(numpy.arange(0.04, 0.21, 0.02))
    assert [row[3] for row in rows] == ["", "", "", "kept", "", "", "", "", ""]
    best = max(rows, key=lambda row: float(row[1]))
    assert f"Best width: {float(best[0]):g}, score {best[1]} at step 60." in result.stdout
    for name in ("png", "svg"):
        path = output / "averages" / f"widths.{name}"
        assert f"Saved {path.relative_to(output.parent)}." in result.stdout
        assert path.stat().st_size > 5000
    words = " ".join(ElementTree.parse(path).getroot().itertext())
    assert "sigma_rel" in words or "<text" not in path.read_text()
    assert result.stderr == ""


def test_scores_are_those_of_the_training_itself(output, run):
    """A kept width has the score that the training has reported at its end."""
    result = run(output.parent, "reconstruct", "output", "--sigma-rel", "0.1")
    log = (output / "log.jsonl").read_text().splitlines()
    evaluation = [line for line in log if '"evaluation"' in line][-1]
    score = float(re.search(r'"averages": ?([\d.]+)', evaluation)[1])
    assert rows_of(result) == [("0.1", f"{100 * score:.2f}", rows_of(result)[0][2], "kept")]
    assert "Saved" not in result.stdout and not list(output.glob("averages/widths.*"))


def test_the_model_of_a_width_and_step_is_saved(output, run):
    arguments = ("--sigma-rel", "0.15", "--step", "40", "--output", "model")
    result = run(output.parent, "reconstruct", "output", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("Saved model.\n")
    trainer = load(output, output.parent / "model")
    averages = reconstruct_average(output, trainer.model, sigma_rel=0.15, step=40)
    for node in trainer.model.walk():
        for name in node.param_names:
            numpy.testing.assert_array_equal(node.get_param(name), averages[node.id, name])
    assert rows_of(result)[0][1] == f"{100 * trainer._score():.2f}"


def test_the_best_model_of_several_is_saved(output, run):
    result = run(
        output.parent, "reconstruct", "output", "--sigma-rels", "0.05:0.2:0.05", "-o", "model"
    )
    assert result.returncode == 0, result.stderr
    trainer = load(output, output.parent / "model")
    best = max(float(row[1]) for row in rows_of(result))
    assert f"{best:.2f}" == f"{100 * trainer._score():.2f}"


def test_a_rough_approximation_is_a_warning(output, run):
    result = run(output.parent, "reconstruct", "output", "--sigma-rel", "0.01")
    assert result.returncode == 0
    assert result.stderr.startswith(
        "Warning: The average with sigma_rel = 0.01 is approximated"
    )


def test_batch_norm_statistics_are_those_of_each_average(tmp_path, run):
    require("torch")
    config = Config().from_disk(write_config(tmp_path, optimizer=TWO_WIDTHS, more=KEEP))
    config["model"]["*"]["hidden"] = {"@layers": "tests.batch_norm.v1", **BATCH_NORM}
    config.to_disk(tmp_path / "norm.cfg")
    code = TESTS / "torch_layers.py"
    assert run(tmp_path, "train", "norm.cfg", "-o", "output", "-c", code).returncode == 0
    result = run(
        tmp_path,
        *(
            "reconstruct",
            "output",
            "--code",
            code,
            "--sigma-rels",
            "0.05:0.2:0.15",
            "-o",
            "model",
        ),
    )
    assert result.returncode == 0, result.stderr
    output = tmp_path / "output"
    scores = []
    for width in (0.05, 0.2):
        trainer = load(output, output / "model-last")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Few snapshots.
            apply_averages(
                trainer.model, reconstruct_average(output, trainer.model, sigma_rel=width)
            )
        update_batch_norm(trainer.model, trainer._batch_norm_data())
        scores.append(f"{100 * trainer._score():.2f}")
    assert [row[1] for row in rows_of(result)] == scores
    best = max(scores, key=float)
    assert f"{100 * load(output, tmp_path / 'model')._score():.2f}" == best


def test_other_data_are_a_warning(output, run):
    path = output.parent / "data.npz"
    arrays = dict(numpy.load(path))
    arrays["dev_X"] = -arrays["dev_X"]
    numpy.savez(path, **arrays)
    result = run(output.parent, "reconstruct", "output", "--sigma-rel", "0.1")
    assert result.returncode == 0
    assert result.stderr.startswith("Warning: The training had other data or code: ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Give either --sigma-rel or --sigma-rels"),
        (["--sigma-rel", "0.1", "--sigma-rels", "0.1:0.2:0.1"], "Give either --sigma-rel or"),
        (["--sigma-rels", "0.1:0.2"], "--sigma-rels must be START:STOP:STEP, such as"),
        (["--sigma-rels", "0.2:0.1:0.01"], "--sigma-rels must be START:STOP:STEP"),
        (["--sigma-rels", "0.1:0.2:0"], "--sigma-rels must be START:STOP:STEP"),
        (["--sigma-rels", "0.1:0.2:-0.1"], "--sigma-rels must be START:STOP:STEP"),
        (["--sigma-rels", "0.1:0.2:1e-9"], "with at most 1000 values"),
        (["--sigma-rels", "0.1:0.4:0.1"], "sigma_rel must be a number > 0 and <= 0.288675"),
        (["--sigma-rel", "0"], "sigma_rel must be a number > 0 and <= 0.288675, but was 0.0"),
    ],
)
def test_wrong_usage(tmp_path, run, arguments, message):
    result = run(tmp_path, "reconstruct", "output", *arguments)
    assert result.returncode == 2
    assert message in result.stderr


def test_errors_are_one_line(output, run):
    folder = output.parent
    (folder / "model").write_text("mine")
    width = ("--sigma-rel", "0.1")
    for arguments, message in (
        (
            ("missing", *width),
            "missing has no config.cfg: give the output folder of a training",
        ),
        (("output", *width, "-o", "model"), "model exists: delete it, or choose another file"),
        (
            ("output", *width, "--step", "7"),
            "contains no snapshots of step 7: there are 6 steps",
        ),
    ):
        result = run(folder, "reconstruct", *arguments)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: ") and message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert (folder / "model").read_text() == "mine"


def test_a_training_without_snapshots(tmp_path, run):
    path = write_config(tmp_path, max_steps=10)
    assert run(tmp_path, "train", path.name, "-o", "output").returncode == 0
    result = run(tmp_path, "reconstruct", "output", "--sigma-rel", "0.1")
    assert result.returncode == 1
    assert (
        "contains no snapshots of averages: add the callback keep_averages.v1" in result.stderr
    )


def test_snapshots_of_another_training(output, tmp_path, run):
    path = write_config(tmp_path, "other", optimizer=TWO_WIDTHS, more=KEEP)
    assert run(tmp_path, "train", path.name, "-o", "other").returncode == 0
    (output / "averages").rename(output / "old")
    (tmp_path / "other" / "averages").rename(output / "averages")
    result = run(tmp_path, "reconstruct", "output", "--sigma-rel", "0.1")
    assert result.returncode == 1
    assert "do not belong to the training in output" in result.stderr


def test_a_config_for_spacy(tmp_path, run):
    (tmp_path / "output").mkdir()
    text = '[nlp]\nlang = "en"\npipeline = []\n'
    (tmp_path / "output" / "config.cfg").write_text(text)
    result = run(tmp_path, "reconstruct", "output", "--sigma-rel", "0.1")
    assert result.returncode == 1
    assert "is a config for spaCy" in result.stderr
