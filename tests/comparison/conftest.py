"""Fixtures for tests of comparisons."""

import pytest
from comparison_runs import compare
from tiny import ADAM, SWA, write_config


@pytest.fixture
def adam(tmp_path):
    return write_config(tmp_path, "adam", ADAM)


@pytest.fixture
def swa(tmp_path):
    return write_config(tmp_path, "swa", SWA)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A config, and the output folder of a comparison of it."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_config(folder, "adam", ADAM)
    compare(folder / "output", [path], n_seeds=1)
    return path, folder / "output"
