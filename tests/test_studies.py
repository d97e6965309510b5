"""What the studies train. That takes long, so here are only their configs: each optimizer is
made as it will be."""

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
