"""Values of schedules, as optimizers of the installed Thinc version get them."""

import itertools

import numpy
import pytest

from thinc_swa import cosine, one_cycle, one_cycle_momentum, phases, swa_anneal
from thinc_swa.schedules.compat import Schedule


def values(schedule, n):
    """The first n values of a schedule."""
    if Schedule is None:
        return list(itertools.islice(schedule, n))
    return [schedule(step, key=(1, "W"), last_score=None) for step in range(n)]


def close(expected):
    return pytest.approx(expected, rel=1e-12, abs=1e-15)


HYPERPARAMETERS = {
    "learn_rate": "learn_rate",
    "beta1": "b1",
    "beta2": "b2",
    "eps": "eps",
    "L2": "L2",
    "grad_clip": "grad_clip",
}


# No value is 0, because Thinc's Adam requires a beta1 above 0.
MAKERS = {
    "one_cycle": lambda: one_cycle(0.9, total_steps=9),
    "one_cycle_momentum": lambda: one_cycle_momentum(total_steps=9),
    "cosine": lambda: cosine(
        0.9, steps=9, warmup_steps=2, cycles=2, start_factor=0.5, end_factor=0.1
    ),
    "swa_anneal": lambda: swa_anneal(0.9, 0.3, start_step=3, anneal_steps=3),
    "phases": lambda: phases((3, 0.8), (3, phases((1, [0.4]), one_cycle(0.9, steps=9))), 0.5),
}


def values_used_by(optimizer, name, n_steps):
    """Train, and return the values of a hyperparameter in each step."""
    weights, got = numpy.zeros((2,), dtype="f"), []
    for _ in range(n_steps):
        value = getattr(optimizer, name)
        if Schedule is not None:
            value = value(optimizer.step, key=(1, "W"), last_score=optimizer.last_score)
        got.append(value)
        weights, _ = optimizer((1, "W"), weights, numpy.zeros((2,), dtype="f"))
        optimizer.step_schedules()
    return got
