"""Comparisons of spaCy configs."""

import json
import subprocess
import sys

import pytest
from comparison_runs import compare
from helpers import require
from thinc.api import Config

# Many real processes.
pytestmark = pytest.mark.slow


def test_spacy_runs_have_the_scores_of_spacy_train(tmp_path):
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
    # Averaging starts at step 45.
    assert [e["step"] for e in run.evaluations] == [0, 20, 40, 60]
    assert [e["n_averaged"] for e in run.evaluations] == [0, 0, 0, 2]
    assert [e["averages"] is None for e in run.evaluations] == [True, True, True, False]
    assert run.evaluations[-1]["averages"] == run.evaluations[-1]["score"]

    # The scores of `spacy train`, from the log of spaCy.
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


def test_raw_weights_are_evaluated_beside_the_averages(tmp_path):
    """EMA does not change the training: its raw weights are those of Adam."""
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


def test_an_error_of_spacy_is_reported(tmp_path):
    require("spacy")
    from pipelines import CONFIGS

    (run,) = compare(tmp_path / "output", [CONFIGS / "swa.cfg"], n_seeds=1)
    assert run.state == "failed"
    assert "E913" in run.error
