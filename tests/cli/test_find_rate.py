"""`thinc-swa find-rate`."""

import csv
import re

import pytest
from helpers import require
from thinc.api import Config
from tiny import write_config

require("typer")
require("rich")
require("matplotlib")

SCHEDULE = """
[optimizer]
@optimizers = "EMA.v1"

[optimizer.optimizer]
@optimizers = "Adam.v1"
use_averages = false

[optimizer.optimizer.learn_rate]
@schedules = "constant.v1"
rate = 0.01
"""
RANGE = ("--min", "1e-4", "--max", "100", "--steps", "60")


def test_the_rate_is_suggested_as_a_line_of_the_config(tmp_path, run):
    path = write_config(tmp_path)
    text = path.read_text()
    result = run(tmp_path, "find-rate", path, *RANGE, "-o", "found")
    assert result.returncode == 0, result.stderr
    assert path.read_text() == text
    assert sorted(file.name for file in (tmp_path / "found").iterdir()) == [
        "rates.csv",
        "rates.png",
        "rates.svg",
    ]
    with (tmp_path / "found" / "rates.csv").open() as file:
        rows = [
            {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
        ]
    assert rows[0]["learn_rate"] == 1e-4
    lowest = min(rows, key=lambda row: row["smoothed_loss"])
    *_, section, setting = result.stdout.splitlines()
    assert section == "[optimizer.optimizer.optimizer]"
    assert setting == f"learn_rate = {float(format(lowest['learn_rate'] / 2, '.1e')):g}"
    (line,) = [line for line in result.stdout.splitlines() if line.endswith("lowest")]
    assert line.split()[:2] == [
        f"{lowest['learn_rate']:.2e}",
        f"{lowest['smoothed_loss']:.4g}",
    ]
    # The setting is read as what it says.
    config = Config().from_str(
        f"{section}\n{setting}".replace("optimizer.optimizer.optimizer", "o")
    )
    assert config["o"]["learn_rate"] == pytest.approx(lowest["learn_rate"] / 2, rel=0.05)
    # The files are never overwritten by accident.
    result = run(tmp_path, "find-rate", path, *RANGE, "-o", "found")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: found/rates.csv already exists: use --overwrite")
    result = run(tmp_path, "find-rate", path, *RANGE, "-o", "found", "--overwrite")
    assert result.returncode == 0


def test_the_seed_and_overrides_change_the_test_and_a_schedule_is_mentioned(tmp_path, run):
    path = write_config(tmp_path, optimizer=SCHEDULE)
    outputs = []
    for arguments in ((), ("--seed", "7"), ("--training.batch_size", "16")):
        result = run(tmp_path, "find-rate", path, *RANGE, *arguments)
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
        *_, note, section, _ = result.stdout.splitlines()
        assert note == "# Instead of the schedule in [optimizer.optimizer.learn_rate]"
        assert section == "[optimizer.optimizer]"
    assert len(set(outputs)) == 3
    assert list(tmp_path.glob("rates.*")) == []


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("--min", "1", "--max", "0.1"), 2, "--max must be higher than min, but was 0.1"),
        (("--min", "0"), 2, "--min must be"),
        (("--steps", "3"), 2, "--steps must be an int >= 20, but was 3"),
        (("--overwrite",), 2, "--overwrite requires --output"),
        (("--frequency", "3"), 2, "No such option: --frequency"),
        (("--min", "1e-9", "--max", "1e-8", "--steps", "40"), 1, "No suggestion: The loss"),
        (("--training.batch_size", "0"), 1, "batch_size must be an int >= 1"),
        (("--code", "missing.py"), 1, "missing.py"),
    ],
)
def test_errors(tmp_path, run, arguments, code, message):
    result = run(tmp_path, "find-rate", write_config(tmp_path), *arguments)
    assert result.returncode == code
    assert message in " ".join(result.stderr.replace("│", " ").split())
    if code == 1:
        assert len(result.stderr.splitlines()) == 1


def test_a_config_without_optimizer_is_an_error_that_names_the_file(tmp_path, run):
    path = write_config(tmp_path, optimizer="")
    result = run(tmp_path, "find-rate", path)
    assert result.returncode == 1
    assert result.stderr == f"Error: {path}: The config has no section [optimizer]\n"


def test_spacy_config(tmp_path, run):
    require("spacy")
    from corpus import generate_records, write_corpus
    from pipelines import CONFIGS

    train_path, dev_path = write_corpus(tmp_path, 40, 5, get_records=generate_records)
    result = run(
        tmp_path,
        "find-rate",
        CONFIGS / "schedule_free.cfg",
        *("--min", "1e-4", "--max", "10", "--steps", "40", "-o", "found"),
        f"--paths.train={train_path}",
        f"--paths.dev={dev_path}",
    )
    assert result.returncode == 0, result.stderr
    *_, section, setting = result.stdout.splitlines()
    assert section == "[training.optimizer.optimizer]"
    assert re.fullmatch(r"learn_rate = [0-9.e-]+", setting)
    assert (tmp_path / "found" / "rates.png").stat().st_size > 0
