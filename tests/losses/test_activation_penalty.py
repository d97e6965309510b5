"""Penalties on activations: their gradients are those of the formula."""

import numpy
import pytest
from thinc.api import (
    Adam,
    Config,
    Linear,
    NumpyOps,
    Ragged,
    Relu,
    Softmax,
    chain,
    registry,
    residual,
)
from tiny import make_trainer

from thinc_swa.losses.activation_penalty import activation_penalty, penalty_gradients

random = numpy.random.default_rng(0)
SEQUENCES = [random.normal(size=(n, 3)) for n in (4, 1, 6)]


def penalty(sequences, ar, tar):
    values = numpy.concatenate([part.ravel() for part in sequences])
    changes = numpy.concatenate([numpy.diff(part, axis=0).ravel() for part in sequences])
    return ar * (values**2).mean() + tar * (changes**2).mean()


@pytest.mark.parametrize("ar, tar", [(2.0, 0.0), (0.0, 1.5), (2.0, 1.5)])
def test_gradients_are_those_of_the_penalty(ar, tar):
    found = penalty_gradients(SEQUENCES, ar=ar, tar=tar)
    for i, part in enumerate(SEQUENCES):
        for place in numpy.ndindex(part.shape):
            moved = [array.copy() for array in SEQUENCES]
            moved[i][place] += 1e-5
            above = penalty(moved, ar, tar)
            moved[i][place] -= 2e-5
            expected = (above - penalty(moved, ar, tar)) / 2e-5
            assert found[i][place] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def inputs_like(kind, arrays):
    arrays = [array.astype("f") for array in arrays]
    if kind == "list":
        return arrays
    if kind == "array":
        return arrays[2]
    if kind == "ragged":
        lengths = numpy.array([len(array) for array in arrays], dtype="i")
        return Ragged(numpy.concatenate(arrays), lengths)
    return NumpyOps().list2padded(arrays)


def to_list(kind, data):
    if kind == "list":
        return data
    if kind == "array":
        return [data]
    if kind == "ragged":
        return NumpyOps().unflatten(data.data, data.lengths)
    return NumpyOps().padded2list(data)


def identity():
    """A layer whose inputs get the gradient of its outputs."""
    from thinc.api import Model

    return Model("identity", lambda model, X, is_train: (X, lambda dY: dY))


@pytest.mark.parametrize("kind", ["array", "list", "ragged", "padded"])
def test_the_penalty_is_added_to_the_gradient(kind):
    model = activation_penalty(identity(), ar=0.5, tar=2.0)
    X = inputs_like(kind, SEQUENCES)
    gradients = [numpy.ones_like(array) for array in SEQUENCES]
    gradient = inputs_like(kind, gradients)
    outputs, backprop = model(X, is_train=True)
    found = to_list(kind, backprop(gradient))
    arrays = SEQUENCES[2:] if kind == "array" else SEQUENCES
    expected = penalty_gradients(arrays, ar=0.5, tar=2.0)
    for one, other in zip(found, expected, strict=True):
        numpy.testing.assert_allclose(one, other + 1.0, rtol=1e-5)
    # What it was given is as it was.
    for one in to_list(kind, gradient):
        numpy.testing.assert_array_equal(one, numpy.ones_like(one))


def test_predictions_have_no_penalty():
    model = activation_penalty(identity(), ar=0.5)
    X = inputs_like("array", SEQUENCES)
    gradient = numpy.ones_like(X)
    outputs, backprop = model(X, is_train=False)
    assert outputs is X and backprop(gradient) is gradient


def test_the_layer_trains_like_a_manual_loop():
    X, Y = random.normal(size=(6, 3)).astype("f"), numpy.eye(3, dtype="f")[[0, 1, 2] * 2]
    weights = []
    for layer in (Linear(4), activation_penalty(Linear(4), ar=0.7, tar=0.3)):
        model = chain(layer, Softmax()).initialize(X, Y)
        linear = next(node for node in model.walk() if node.name == "linear")
        linear.set_param("W", numpy.arange(12, dtype="f").reshape(4, 3) / 10)
        linear.set_param("b", numpy.zeros(4, dtype="f"))
        optimizer = Adam(0.01, use_averages=False)
        for _ in range(5):
            if layer is linear:
                hidden, backprop_hidden = layer.begin_update(X)
                guesses, backprop = model.layers[1].begin_update(hidden)
                gradient = backprop((guesses - Y) / 6)
                (extra,) = penalty_gradients([hidden], ar=0.7, tar=0.3)
                backprop_hidden(gradient + extra)
            else:
                guesses, backprop = model.begin_update(X)
                backprop((guesses - Y) / 6)
            model.finish_update(optimizer)
        weights.append(linear.get_param("W"))
    numpy.testing.assert_array_equal(*weights)


def test_other_users_of_a_gradient_do_not_see_the_penalty():
    model = residual(activation_penalty(identity(), ar=1.0))
    X = inputs_like("array", SEQUENCES)
    _, backprop = model(X, is_train=True)
    (extra,) = penalty_gradients([X], ar=1.0, tar=0.0)
    numpy.testing.assert_allclose(backprop(numpy.ones_like(X)), 2.0 + extra, rtol=1e-5)


def test_a_penalty_makes_activations_smaller():
    def size(ar):
        layer = Relu(8) if ar is None else activation_penalty(Relu(8), ar=ar)
        trainer = make_trainer(Adam(0.01), model=chain(layer, Softmax()), max_steps=100)
        trainer.run()
        return (trainer.model.layers[0].predict(trainer.dataset[0][0]) ** 2).mean()

    assert size(0.5) < 0.8 * size(None)


def test_models_with_a_penalty_are_saved():
    X = numpy.ones((2, 3), dtype="f")
    models = [chain(activation_penalty(Relu(4), ar=0.5), Softmax(2)) for _ in range(2)]
    for model in models:
        model.initialize(X)
    models[1].from_bytes(models[0].to_bytes())
    numpy.testing.assert_array_equal(models[1].predict(X), models[0].predict(X))
    assert models[0].layers[0].get_dim("nO") == 4 and models[0].layers[0].get_dim("nI") == 3


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "ar or tar must be greater than 0, but both were 0"),
        ({"ar": -1.0}, "ar must be a number >= 0, but was -1.0"),
        ({"tar": "1"}, "tar must be a number >= 0, but was '1'"),
    ],
)
def test_invalid_arguments_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        activation_penalty(Relu(2), **settings)


def test_outputs_of_other_types_are_an_error():
    model = activation_penalty(identity(), ar=1.0)
    with pytest.raises(TypeError, match="Ragged or Padded, but got str"):
        model("text", is_train=True)


def test_config():
    text = """
[model]
@layers = "activation_penalty.v1"
ar = 2
tar = 1.0

[model.layer]
@layers = "Relu.v1"
nO = 3
"""
    model = registry.resolve(Config().from_str(text))["model"]
    assert (model.attrs["ar"], model.attrs["tar"]) == (2.0, 1.0)
    assert model.layers[0].get_dim("nO") == 3
