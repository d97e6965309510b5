"""Hand-traceable trainings of a single weight."""

import numpy
import pytest


def scalar_run(optimizer, n_steps):
    """Train one weight that starts at 1 and decreases by 0.1 per step: 0.9, 0.8, 0.7, ..."""
    weights = numpy.ones((1,), dtype="f")
    for _ in range(n_steps):
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        optimizer.step_schedules()
    return weights


def averaged(optimizer):
    """The average of the weight, for an approximate comparison."""
    return pytest.approx(float(optimizer.averages[1, "W"][0]), abs=1e-6)
