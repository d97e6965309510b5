"""Kills at random moments: a short run of the stress test in chains.py."""

import random

import pytest
from chains import run_chain, write_configs
from helpers import require

for package in ("filelock", "torch", "rich", "typer"):
    require(package)


@pytest.mark.slow
def test_kills_at_random_moments_do_not_change_the_results(tmp_path):
    *_, config = write_configs(tmp_path)
    moments = run_chain(tmp_path, config, 3, random.Random(1))
    same = moments.pop("compared with an uninterrupted training: the same")
    assert same >= 1 and sum(moments.values()) == 3
