"""A small Thinc model and a training loop."""

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
    """A model with nested layers and a layer that occurs twice."""
    shared = Relu(6, 6)
    model = chain(Relu(6), residual(shared), shared, concatenate(Relu(4), Relu(5)), Softmax(3))
    return model.initialize(X)


def train(model, optimizer, n_steps=7, inputs=X):
    """Train a model on the same batch in each step."""
    for _ in range(n_steps):
        predicted, backprop = model.begin_update(inputs)
        backprop((predicted - Y) / len(Y))
        model.finish_update(optimizer)
        optimizer.step_schedules()


def parameters(model):
    """The weights of all Thinc parameters, not copies, by key."""
    return {
        (node.id, name): node.get_param(name)
        for node in model.walk()
        for name in node.param_names
        if node.has_param(name)
    }
