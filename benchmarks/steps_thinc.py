"""Steps of Thinc's Adam, bare, with Thinc's averaging and with each of the wrappers."""

import numpy
from measure import Candidate
from thinc.api import Adam

from thinc_swa import EMA, SWA, Lookahead

BARE = "Adam"
OPTIMIZERS = {
    BARE: lambda: _adam(),
    "Adam, again": lambda: _adam(),
    "Adam(use_averages=True)": lambda: Adam(0.001),
    "SWA, freq 1": lambda: SWA(_adam(), start_step=0, freq=1),
    "SWA, freq 10": lambda: SWA(_adam(), start_step=0, freq=10),
    "EMA, freq 1": lambda: EMA(_adam(), freq=1),
    "EMA, freq 10": lambda: EMA(_adam(), freq=10),
    "Lookahead, freq 1": lambda: Lookahead(_adam(), freq=1),
    "Lookahead, freq 10": lambda: Lookahead(_adam(), freq=10),
}


def _adam():
    return Adam(0.001, use_averages=False)


def make_candidates(shapes):
    weights = random_arrays(shapes)
    gradient = random_arrays(shapes)
    template = random_arrays(shapes)
    optimizers = {name: make() for name, make in OPTIMIZERS.items()}
    first = optimizers[BARE]
    for optimizer in optimizers.values():
        # The moments are shared to save memory.
        optimizer.mom1, optimizer.mom2 = first.mom1, first.mom2

    def refill():
        # Thinc sets gradients to zero. With zero gradients the moments would become denormal
        # numbers, which are slow.
        for key, array in gradient.items():
            array[...] = template[key]

    return [
        Candidate(name, "step", make_step(optimizer, weights, gradient), refill)
        for name, optimizer in optimizers.items()
    ]


def make_step(optimizer, weights, gradient):
    def run():
        for key, array in weights.items():
            optimizer(key, array, gradient[key])
        optimizer.step_schedules()

    return run


def random_arrays(shapes):
    random = numpy.random.default_rng(0)
    return {
        (i, "W"): random.standard_normal(shape, dtype="f") for i, shape in enumerate(shapes)
    }
