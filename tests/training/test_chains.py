"""Chains of kills: see chains.py, which runs longer ones."""

import random

import pytest
from chains import run_chain, write_configs
from helpers import require

for package in ("filelock", "torch", "rich", "typer"):
    require(package)


@pytest.mark.slow
def test_a_chain_of_kills_ends_with_the_results_of_an_uninterrupted_training(tmp_path):
    *_, config = write_configs(tmp_path)
    moments = run_chain(tmp_path, config, 3, random.Random(1))
    same = moments.pop("compared with an uninterrupted training: the same")
    assert same >= 1 and sum(moments.values()) == 3
