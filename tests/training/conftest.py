"""Fixtures for tests of trainings."""

import pytest
from output_folders import config_of

from thinc_swa.training.trainer import train


@pytest.fixture
def output(tmp_path):
    """Output folder of a complete training, beside its config."""
    train(config_of(tmp_path, max_steps=20), output=tmp_path / "output")
    return tmp_path / "output"
