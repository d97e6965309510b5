"""What the studies train. That takes long, so here are only their configs: each optimizer is
made as it will be."""

import json
import runpy
from pathlib import Path

import pytest
from helpers import require
from thinc.api import Optimizer, registry

from thinc_swa.comparison.entries import read_entries
from thinc_swa.training.configs import optimizer_section

STUDIES = Path(__file__).parents[1] / "examples" / "studies"


def make_optimizer(config):
    section = optimizer_section(config.interpolate())
    return registry.resolve({"optimizer": section["optimizer"]})["optimizer"]


def test_named_entities():
    folder = STUDIES / "named_entities"
    blocks = sorted((folder / "optimizers").glob("*.cfg"))
    entries = read_entries([folder / "adam.cfg"], blocks, {})
    optimizers = {entry.name: make_optimizer(entry.config) for entry in entries}
    assert all(isinstance(optimizer, Optimizer) for optimizer in optimizers.values())
    assert list(optimizers) == ["adam", *(path.stem for path in blocks)]
    assert optimizers["adam"].averages is None
    assert optimizers["adam_averages"].averages is not None
    # Half of the 1,600 steps.
    starts = {name: getattr(o, "start_step", None) for name, o in optimizers.items()}
    assert starts["swa"] == starts["swa_raised"] == starts["lookahead_swa"] == 800
    # One base: what differs is the optimizer alone.
    configs = [entry.config.copy() for entry in entries]
    for config in configs:
        config["training"].pop("optimizer")
    assert all(config == configs[0] for config in configs)


@pytest.mark.parametrize("name, n_entries", [("lookahead", 80), ("swa_start", 26)])
def test_digits(name, n_entries):
    require("matplotlib")
    study = runpy.run_path(str(STUDIES / name / "study.py"), run_name="study")
    entries = [study["make_entry"](*key) for key in study["make_keys"]()]
    assert len({entry.name for entry in entries}) == len(entries) == n_entries
    for entry in entries:
        assert isinstance(make_optimizer(entry.config), Optimizer)


def load_forgetting(folder):
    """The study of forgetting, with results in another folder."""
    require("spacy", "matplotlib")
    study = runpy.run_path(str(STUDIES / "forgetting" / "study.py"), run_name="study")
    study["main"].__globals__["HERE"] = folder
    return study


def test_results_of_forgetting_are_those_of_its_data(tmp_path):
    study = load_forgetting(tmp_path)
    data = json.loads((STUDIES / "forgetting" / "results.json").read_text(encoding="utf8"))
    study["write_results"](data["runs"], data["averages"], data["about"])
    expected = (STUDIES / "forgetting" / "results.md").read_text(encoding="utf8")
    assert (tmp_path / "results.md").read_text(encoding="utf8") == expected


@pytest.mark.slow
def test_forgetting_runs(tmp_path):
    study = load_forgetting(tmp_path)
    from corpus import generate_records

    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        for part in ("train", "dev", "test"):
            records = generate_records(name + part, 12)
            text = "".join(json.dumps(record) + "\n" for record in records)
            (tmp_path / name / f"{part}.jsonl").write_text(text, encoding="utf8")
    study["main"](tmp_path / "old", tmp_path / "new", 2, (3, 2))
    data = json.loads((tmp_path / "results.json").read_text())
    assert len(data["runs"]) == 2
    scores = [
        score for run in data["runs"] for found in run["alphas"] for score in found.values()
    ]
    assert len(scores) == 2 * 11 * 4 and all(0 <= score <= 1 for score in scores)
    assert (tmp_path / "results.md").read_text().count("\n| ") > 10
    assert (tmp_path / "curve.svg").stat().st_size > 5000
