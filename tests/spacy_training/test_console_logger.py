"""`thinc_swa.ConsoleLogger.v1` in plain `spacy train`."""

import json

import pytest
from helpers import require

require("spacy")
from pipelines import CONFIGS, as_arguments, run_spacy  # noqa: E402
from spacy_cases import SMALL  # noqa: E402

LOGGER = "training.logger.@loggers"


def train(tmp_path, corpus, name, settings):
    """RETURNS (tuple[Path, str]): The output folder, and the standard output."""
    settings = {**SMALL, **corpus, "training.max_steps": 120, **settings}
    settings["training.eval_frequency"] = 40
    settings["training.optimizer.optimizer.learn_rate"] = 0.005
    output = tmp_path / name
    result = run_spacy(
        tmp_path, "train", CONFIGS / "ema.cfg", "--output", output, *as_arguments(settings)
    )
    assert result.returncode == 0, result.stderr
    return output, result.stdout


@pytest.fixture(scope="module")
def trainings(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logger")
    ours = {LOGGER: "thinc_swa.ConsoleLogger.v1"}
    ours["training.logger.output_file"] = str(folder / "log.jsonl")
    return (
        folder,
        train(folder, corpus, "plain", {LOGGER: "spacy.ConsoleLogger.v1"}),
        train(folder, corpus, "ours", ours),
    )


@pytest.mark.slow
def test_the_training_is_the_same(trainings):
    _, (plain, _), (ours, _) = trainings
    for model in ("model-best", "model-last"):
        files = sorted(path for path in (plain / model).rglob("*") if path.is_file())
        assert files
        for path in files:
            if path.name != "config.cfg":  # It names the logger.
                assert (ours / path.relative_to(plain)).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_raw_scores_are_shown_beside_those_of_the_averages(trainings, corpus):
    folder, (plain, plain_table), (_, table) = trainings
    header = next(line for line in table.splitlines() if "SCORE" in line)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    raw = [row["scores"]["raw_score"] for row in rows]
    scores = [100 * row["score"] for row in rows]
    # The first evaluation comes after one update, of which the average is a copy.
    assert raw[0] == scores[0]
    assert raw[1:] != scores[1:]
    assert header.split()[-2:] == ["RAW_SCORE", "SCORE"]
    lines = [line.split() for line in table.splitlines() if line.split()[:1] == ["0"]]
    assert [line[-2] for line in lines] == [f"{score:.2f}" for score in raw]
    assert "RAW_SCORE" not in plain_table


@pytest.mark.slow
def test_without_averages_both_scores_are_the_same(corpus, tmp_path):
    settings = {
        LOGGER: "thinc_swa.ConsoleLogger.v1",
        "training.logger.output_file": str(tmp_path / "log.jsonl"),
        "training.optimizer.start_step": 10_000,
    }
    train(tmp_path, corpus, "raw", settings)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert rows[-1]["score"] > 0
    for row in rows:
        assert row["scores"]["raw_score"] == pytest.approx(100 * row["score"])
