"""`thinc-swa average` and `thinc-swa interpolate`: tables, pictures, saved models, errors."""

import re
import shutil
from xml.etree import ElementTree

import numpy
import pytest
from helpers import require
from thinc.api import Linear

for _package in ("typer", "rich", "matplotlib", "filelock"):
    require(_package)

from thinc_swa import average_models, interpolate_models  # noqa: E402
from thinc_swa.training.interpolation import (  # noqa: E402
    AlphaScore,
    find_best,
    lowest_old_score,
    plot_interpolation,
)


@pytest.fixture
def models(tmp_path):
    model = Linear(1, 1).initialize()
    for weight in (1, 2, 6):
        model.set_param("W", numpy.array([[weight]], dtype="f"))
        model.to_disk(tmp_path / f"model-{weight}")
    return tmp_path


def weight_of(path):
    return Linear(1, 1).initialize().from_disk(path).get_param("W").item()


def test_average_of_thinc_models(models, run):
    result = run(models, "average", "model-1", "model-2", "model-6", "--output", "mean")
    assert result == (0, "Averaged 3 models.\nSaved mean.\n", "")
    assert weight_of(models / "mean") == 3.0
    result = run(models, "average", "model-1", "model-2", "-o", "mean")
    message = "mean already exists: overwrite it, or choose another output"
    assert result == (1, "", f"Error: {message}\n")
    result = run(models, "average", "model-1", "model-2", "-o", "mean", "--overwrite")
    assert result.returncode == 0 and weight_of(models / "mean") == 1.5


def test_interpolation_of_thinc_models(models, run):
    result = run(models, "interpolate", "model-2", "model-6", "--alpha", "0.25", "-o", "out")
    assert result == (0, "Saved out.\n", "")
    assert weight_of(models / "out") == 3.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["average", "a", "b", "-o", "c", "--greedy"], "--greedy and --dev require each other"),
        (["average", "a", "b", "-o", "c", "--dev", "d"], "--greedy and --dev require each"),
        (["average", "a", "b"], "--output"),
        (["interpolate", "a", "b", "-o", "c"], "Give either --alpha or --alphas"),
        (["interpolate", "a", "-o", "c"], "TUNED"),
        (
            ["interpolate", "a", "b", "-o", "c", "--alphas", "0:1:0.5"],
            "--alphas requires --dev",
        ),
        (
            ["interpolate", "a", "b", "-o", "c", "--alpha", "0.5", "--dev", "d"],
            "--dev and --dev-old are for --alphas",
        ),
        (["interpolate", "a", "b", "-o", "c", "--alpha", "1.5"], "alpha must be a number >= 0"),
        (
            ["interpolate", "a", "b", "-o", "c", "--alphas", "1:0:0.1", "--dev", "d"],
            "--alphas must be START:STOP:STEP, such as 0:1:0.1",
        ),
        (
            ["interpolate", "a", "b", "-o", "c", "--alphas", "0:2:0.5", "--dev", "d"],
            "alpha must be a number >= 0 and <= 1, but was 1.5",
        ),
        (
            ["interpolate", "a", "b", "-o", "c", "--alpha", "0.5", "--keep", "0"],
            "--keep must be a number > 0 and <= 1",
        ),
    ],
)
def test_wrong_usage(tmp_path, run, arguments, message):
    result = run(tmp_path, *arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["average", "model-1", "missing", "-o", "c"], "missing"),
        (
            ["average", "model-1", "model-1", "-o", "c"],
            "model-1 and model-1 are the same model",
        ),
        (["average", "model-1", "-o", "c"], "paths must be at least two saved models"),
        (["interpolate", "model-1", "model-2", "--alpha", "0.5", "-o", "model-1"], "is one of"),
    ],
)
def test_errors_are_one_line(models, run, arguments, message):
    before = sorted(models.iterdir())
    result = run(models, *arguments)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert sorted(models.iterdir()) == before


# The choice


SCORES = [
    AlphaScore(0.0, 0.50, 0.80),
    AlphaScore(0.25, 0.60, 0.80),
    AlphaScore(0.5, 0.70, 0.76),
    AlphaScore(0.75, 0.70, 0.75),
    AlphaScore(1.0, 0.80, 0.40),
]


@pytest.mark.parametrize(
    "keep, alpha", [(1.0, 0.25), (0.99, 0.25), (0.95, 0.5), (0.9, 0.5), (0.5, 1.0)]
)
def test_the_best_keeps_a_share_of_the_old_score(keep, alpha):
    """Of two with the same score the one that is nearer to the base."""
    assert find_best(SCORES, keep).alpha == alpha
    assert lowest_old_score(SCORES, keep) == keep * 0.8


def test_without_old_scores_the_best_has_the_highest_new_score():
    scores = [found._replace(old=None) for found in SCORES]
    assert find_best(scores, 0.99).alpha == 1.0
    assert lowest_old_score(scores, 0.99) is None


def test_the_curve_shows_both_scores_and_the_choice():
    (panel,) = plot_interpolation(SCORES, 0.95).axes
    lines = {line.get_label(): line for line in panel.get_lines()}
    assert lines["new data"].get_ydata() == pytest.approx([50, 60, 70, 70, 80])
    assert lines["old data"].get_ydata() == pytest.approx([80, 80, 76, 75, 40])
    assert lines["95 % of the base's old score"].get_ydata() == pytest.approx([76, 76])
    assert lines["best: 0.5"].get_xdata() == [0.5, 0.5]
    assert panel.get_ylabel() == "score in %"


# Pipelines


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    require("spacy")
    from saved_pipelines import save_pipelines, write_dev

    folder = tmp_path_factory.mktemp("pipelines")
    save_pipelines(folder)
    write_dev(folder / "dev.spacy")
    return folder


@pytest.fixture
def pipelines(originals, tmp_path):
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    return tmp_path


def score_of(path, dev):
    """As spaCy does: the default weights of ner, textcat and sentencizer are a third each."""
    import spacy
    from spacy.training import Corpus

    nlp = spacy.load(path)
    scores = nlp.evaluate(list(Corpus(dev)(nlp)))
    names = ("ents_f", "cats_score", "sents_f")
    assert [nlp.config["training"]["score_weights"][name] for name in names] == [0.33] * 3
    return 33 * sum(scores[name] or 0.0 for name in names)


def test_interpolations_are_evaluated(pipelines, run):
    arguments = ("--alphas", "0.5:1:0.5", "--dev", "dev.spacy", "--dev-old", "dev.spacy")
    result = run(pipelines, "interpolate", "seed-0", "seed-1", *arguments, "-o", "new/best")
    assert result.returncode == 0, result.stderr
    header, *rows = [line.split() for line in result.stdout.splitlines()[:4]]
    assert header == ["alpha", "new", "in", "%", "old", "in", "%"]
    # The base is what the old score is compared with.
    assert [row[0] for row in rows] == ["0", "0.5", "1"]
    assert all(row[1] == row[2] for row in rows)
    dev = pipelines / "dev.spacy"
    for row, name in ((rows[0], "seed-0"), (rows[2], "seed-1")):
        assert float(row[1]) == pytest.approx(score_of(pipelines / name, dev), abs=0.006)
    (best,) = [row for row in rows if row[-1] == "best"]
    assert float(best[1]) == max(float(row[1]) for row in rows)
    rule = "the highest new score of those that keep 99 % of the base's old score"
    assert f"Best alpha: {best[0]}, {rule}." in " ".join(result.stdout.split())
    assert float(best[1]) == pytest.approx(score_of(pipelines / "new/best", dev), abs=0.006)
    for name in ("png", "svg"):
        assert f"Saved new/best.{name}." in result.stdout
        assert (pipelines / "new" / f"best.{name}").stat().st_size > 5000
    ElementTree.parse(pipelines / "new" / "best.svg")
    assert result.stdout.endswith("Saved new/best.\n") and result.stderr == ""
    assert len(list((pipelines / "new").iterdir())) == 3
    interpolate_models(
        pipelines / "seed-0", pipelines / "seed-1", float(best[0]), pipelines / "same"
    )
    model = (pipelines / "new" / "best" / "ner" / "model").read_bytes()
    assert model == (pipelines / "same" / "ner" / "model").read_bytes()
    # Nothing is evaluated where nothing can be saved.
    result = run(pipelines, "interpolate", "seed-0", "seed-1", *arguments, "-o", "new/best")
    assert result.returncode == 1 and "alpha" not in result.stdout
    assert result.stderr.startswith("Error: new/best already exists")


def test_a_greedy_soup(pipelines, run):
    names = ("seed-0", "seed-1", "seed-2")
    result = run(pipelines, "average", *names, "-o", "soup", "--greedy", "--dev", "dev.spacy")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["model", "score", "in", "%", "in", "the", "average"]
    rows = [line.split() for line in lines[1:4]]
    dev = pipelines / "dev.spacy"
    for name, score, _ in rows:
        assert float(score) == pytest.approx(score_of(pipelines / name, dev), abs=0.006)
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True) and rows[0][2] == "yes"
    taken = [pipelines / row[0] for row in rows if row[2] == "yes"]
    found = re.fullmatch(r"Averaged (\d) of 3 models, score ([\d.]+)\.", lines[4])
    assert int(found[1]) == len(taken) and float(found[2]) >= scores[0]
    assert float(found[2]) == pytest.approx(score_of(pipelines / "soup", dev), abs=0.006)
    if len(taken) > 1:
        average_models(taken, pipelines / "mean")
        model = (pipelines / "soup" / "ner" / "model").read_bytes()
        assert model == (pipelines / "mean" / "ner" / "model").read_bytes()


@pytest.mark.parametrize(
    "dev, message", [("missing.spacy", "missing.spacy"), ("text.spacy", "text.spacy cannot be")]
)
def test_dev_data_that_cannot_be_read(pipelines, run, dev, message):
    (pipelines / "text.spacy").write_text("text")
    before = sorted(pipelines.iterdir())
    result = run(
        pipelines, "average", "seed-0", "seed-1", "-o", "soup", "--greedy", "--dev", dev
    )
    assert result.returncode == 1 and message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(pipelines.iterdir()) == before


def test_thinc_models_cannot_be_evaluated(pipelines, run):
    for name in "ab":
        Linear(1, 1).initialize().to_disk(pipelines / name)
    message = "Error: a is not a spaCy pipeline: only pipelines can be evaluated\n"
    options = ("--dev", "dev.spacy", "-o", "c")
    assert run(pipelines, "average", "a", "b", "--greedy", *options) == (1, "", message)
    alphas = ("--alphas", "0:1:0.5")
    assert run(pipelines, "interpolate", "a", "b", *alphas, *options) == (1, "", message)


def test_custom_code_and_missing_factories(pipelines, run):
    """Evaluation loads pipelines, averaging does not."""
    from spacy.tokens import DocBin

    DocBin().to_disk(pipelines / "empty.spacy")
    (pipelines / "code.py").write_text("raise ValueError('imported')")
    options = ("--greedy", "--dev", "empty.spacy")
    result = run(pipelines, "average", "seed-0", "seed-1", "-o", "soup", *options)
    assert result.returncode == 1 and "empty.spacy has no documents" in result.stderr
    result = run(pipelines, "average", "seed-0", "seed-1", "-o", "x", "--code", "code.py")
    assert result.returncode == 1 and result.stderr == "Error: imported\n"
