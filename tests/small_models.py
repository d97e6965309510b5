"""A small Thinc model, and its training."""

import numpy
from thinc.api import (
    Relu,
    Softmax,
    chain,
    concatenate,
    residual,
)

X = numpy.random.RandomState(0).uniform(-1, 1, (8, 5)).astype("f")
Y = numpy.eye(3, dtype="f")[numpy.arange(8) % 3]


def make_model():
    """Nested, with a layer that stands in two places."""
    shared = Relu(6, 6)
    model = chain(Relu(6), residual(shared), shared, concatenate(Relu(4), Relu(5)), Softmax(3))
    return model.initialize(X)


def train(model, optimizer, n_steps=7, inputs=X):
    for _ in range(n_steps):
        predicted, backprop = model.begin_update(inputs)
        backprop((predicted - Y) / len(Y))
        model.finish_update(optimizer)
        optimizer.step_schedules()


def parameters(model):
    """All Thinc parameters, the arrays themselves."""
    return {
        (node.id, name): node.get_param(name)
        for node in model.walk()
        for name in node.param_names
        if node.has_param(name)
    }
