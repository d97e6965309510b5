"""Calls for tiny parameters, where the time is the overhead of Python, not the arithmetic."""

import time

from measure import compare, shuffled
from steps import PERIOD
from steps_thinc import BARE, OPTIMIZERS, random_arrays
from thinc.api import Adam

from thinc_swa import ParamGroups

# The number of parameters of the model, and the number of values of each.
N_PARAMETERS, SIZE = 20, 10


def _grouped(**settings):
    group = {"name": "all", "params": ["*"], **settings}
    return ParamGroups(Adam(0.001, use_averages=False), groups=[group])


# Adam's default settings, so that the arithmetic is the same as without groups. For example, an
# L2 other than 0 costs another product.
GROUPS = {
    "ParamGroups, lr_scale": lambda: _grouped(lr_scale=1.0),
    "ParamGroups, L2": lambda: _grouped(L2=0.0),
    "ParamGroups, five settings": lambda: _grouped(
        lr_scale=1.0, L2=0.0, beta1=0.9, eps=1e-8, grad_clip=1.0
    ),
}


def measure(budget):
    """Measure the seconds per parameter of a tiny model.

    RETURNS (list[dict]): One entry per optimizer and kind: "call" for the calls of the
        optimizer only, "step" including the share of `step_schedules()`.
    """
    template = random_arrays([(SIZE,)] * N_PARAMETERS)
    optimizers = {**OPTIMIZERS, **GROUPS}
    names = [name for name in optimizers if name != "Adam(use_averages=True)"]
    models = {}
    for name in names:
        weights = {key: array.copy() for key, array in template.items()}
        gradient = {key: array.copy() for key, array in template.items()}
        models[name] = (optimizers[name](), weights, gradient)
    calls = {name: [] for name in names}
    steps = {name: [] for name in names}
    start = time.perf_counter()
    while len(calls[BARE]) < budget.min_rounds or time.perf_counter() - start < budget.seconds:
        sums = {name: [0.0, 0.0] for name in names}
        for step in range(PERIOD):
            for name in shuffled(names, len(calls[BARE]) + step):
                for total, seconds in enumerate(_time_calls(*models[name], template)):
                    sums[name][total] += seconds / (PERIOD * N_PARAMETERS)
        for name in names:
            calls[name].append(sums[name][0])
            steps[name].append(sums[name][1])
    return [
        {"name": name, "kind": kind, **compare(samples[name], samples[BARE])}
        for kind, samples in (("call", calls), ("step", steps))
        for name in names
    ]


def _time_calls(optimizer, weights, gradient, template):
    for key, array in gradient.items():
        array[...] = template[key]
    start = time.perf_counter()
    for key, array in weights.items():
        optimizer(key, array, gradient[key])
    called = time.perf_counter()
    optimizer.step_schedules()
    return called - start, time.perf_counter() - start
