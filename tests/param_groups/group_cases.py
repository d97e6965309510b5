"""Models and optimizers for the tests of parameter groups."""

import numpy
import pytest
from thinc.api import SGD, Linear, Optimizer, Softmax, chain

from thinc_swa import register_parameter_paths
from thinc_swa.models.parameter_paths import parameter_paths


def group(*params, name="a group", **settings):
    """Make the description of a group."""
    return {"name": name, "params": list(params), **settings}


def sgd(learn_rate=0.1, **settings):
    """Make SGD without averages."""
    return SGD(learn_rate, use_averages=False, **settings)


def update_sizes(optimizer, model, weights=0.0):
    """Update one value of each parameter with a gradient of 1.

    weights (float): The value before the update.
    RETURNS (dict[str, float]): The difference to the value after the update, by path.
    """
    result = {}
    for key, path in parameter_paths(model).items():
        array = numpy.full((1,), weights, dtype="f")
        optimizer(key, array, numpy.ones((1,), dtype="f"))
        result[path] = pytest.approx(weights - float(array[0]), abs=1e-6)
    return result


def make_model(n_layers=3):
    """Make a model with the layers linear-0, linear-1, …, softmax."""
    return chain(*(Linear(2, 2) for _ in range(n_layers)), Softmax(2, 2)).initialize()


def make_named_model(n_layers=3):
    """Make a model with registered paths."""
    model = make_model(n_layers)
    register_parameter_paths(model)
    return model


class Separate(Optimizer):
    """The oracle of groups: a separate optimizer for each parameter name."""

    __slots__ = ["optimizers"]

    def __init__(self, optimizers):
        """optimizers (dict[str, tuple[Optimizer, float]]): Each with its lr_scale."""
        super().__init__(0.0)
        self.optimizers = optimizers

    def __call__(self, key, weights, gradient, *, lr_scale=1.0):
        optimizer, scale = self.optimizers[key[1]]
        return optimizer(key, weights, gradient, lr_scale=scale)

    def step_schedules(self):
        for optimizer, _ in self.optimizers.values():
            optimizer.step_schedules()


GROUP = group("b", L2=0.0)
