"""The stateful LSTM, against a plain one in float64 and against PyTorch's."""

import numpy
import pytest
from helpers import require
from thinc.api import Model, get_current_ops, registry, with_padded

from thinc_swa.layers.stateful_lstm import stateful_lstm

N_IN, N_OUT = 3, 4
PARAMETERS = ("W", "U", "b")


def make_layer(seed=0):
    random = numpy.random.default_rng(seed)
    layer = stateful_lstm(N_OUT, N_IN).initialize()
    for name in PARAMETERS:
        shape = layer.get_param(name).shape
        layer.set_param(name, random.normal(0, 0.7, shape).astype("f"))
    return layer


def make_batch(lengths, seed=1):
    random = numpy.random.default_rng(seed)
    return [random.normal(0, 1, (length, N_IN)).astype("f") for length in lengths]


def logistic(x):
    return 1 / (1 + numpy.exp(-x))


def plain_lstm(parameters, sequence, hidden, cells):
    """Outputs and the last state of one sequence, number by number as in the definition."""
    W, U, b = parameters
    outputs = []
    for x in sequence:
        parts = W @ x + U @ hidden + b
        entry, keep, output = (logistic(parts[i * N_OUT : (i + 1) * N_OUT]) for i in range(3))
        cells = keep * cells + entry * numpy.tanh(parts[3 * N_OUT :])
        hidden = output * numpy.tanh(cells)
        outputs.append(hidden)
    return numpy.array(outputs), hidden, cells


def parameters_of(layer):
    return [layer.get_param(name).astype("float64") for name in PARAMETERS]


def test_outputs_and_states_of_sequences_of_different_lengths():
    layer = make_layer()
    model = with_padded(layer)
    states = [(numpy.zeros(N_OUT), numpy.zeros(N_OUT)) for _ in range(3)]
    for seed, lengths in enumerate([(5, 2, 4), (1, 6, 6), (3, 3, 3)]):
        batch = make_batch(lengths, seed)
        outputs = model.predict(batch)
        for i, sequence in enumerate(batch):
            expected, *states[i] = plain_lstm(parameters_of(layer), sequence, *states[i])
            numpy.testing.assert_allclose(outputs[i], expected, atol=1e-5)
            for array, value in zip(layer.attrs["state"], states[i], strict=True):
                numpy.testing.assert_allclose(array[i], value, atol=1e-5)


def test_gradients_are_those_of_the_definition():
    """Differences of the sum of weighted outputs in the second of two batches."""
    layer = make_layer()
    model = with_padded(layer)
    first, second = make_batch((4, 2), 1), make_batch((3, 5), 2)
    factors = make_batch((3, 5), 3)
    factors = [numpy.tile(factor[:, :1], N_OUT) for factor in factors]
    model.predict(first)
    initial = [array.astype("float64") for array in layer.attrs["state"]]

    def total(parameters, batch):
        found = 0.0
        for i, sequence in enumerate(batch):
            outputs, *_ = plain_lstm(parameters, sequence, initial[0][i], initial[1][i])
            found += (outputs * factors[i]).sum()
        return found

    _, backprop = model.begin_update(second)
    gradients = backprop([factor.copy() for factor in factors])
    parameters = parameters_of(layer)
    second = [sequence.astype("float64") for sequence in second]
    found = [*(layer.get_grad(name) for name in PARAMETERS), *gradients]
    for array, gradient in zip([*parameters, *second], found, strict=True):
        assert gradient.shape == array.shape
        for place in numpy.ndindex(array.shape):
            value = array[place]
            array[place] = value + 1e-5
            above = total(parameters, second)
            array[place] = value - 1e-5
            expected = (above - total(parameters, second)) / 2e-5
            array[place] = value
            numpy.testing.assert_allclose(gradient[place], expected, atol=2e-4)


def test_outputs_and_gradients_equal_those_of_pytorch():
    require("torch")
    import torch

    layer = make_layer()
    other = torch.nn.LSTM(N_IN, N_OUT)
    # PyTorch has the gates in another order.
    order = numpy.concatenate([numpy.arange(N_OUT) + i * N_OUT for i in (0, 1, 3, 2)])
    with torch.no_grad():
        for name, target in zip(PARAMETERS, ("weight_ih", "weight_hh", "bias_ih"), strict=True):
            values = torch.from_numpy(layer.get_param(name)[order])
            getattr(other, f"{target}_l0").copy_(values)
        other.bias_hh_l0.zero_()
    model, state = with_padded(layer), None
    for seed in range(3):
        X = numpy.stack(make_batch((6, 6, 6, 6), seed), axis=1)
        inputs = torch.from_numpy(X).requires_grad_()
        expected, state = other(inputs, state)
        state = tuple(value.detach() for value in state)
        outputs, backprop = model.begin_update(X)
        numpy.testing.assert_allclose(outputs, expected.detach().numpy(), atol=1e-5)
        factors = numpy.cos(outputs)
        expected.backward(torch.from_numpy(factors))
        numpy.testing.assert_allclose(backprop(factors), inputs.grad.numpy(), atol=1e-5)
    for name, target in zip(PARAMETERS, ("weight_ih", "weight_hh", "bias_ih"), strict=True):
        gradient = getattr(other, f"{target}_l0").grad.numpy()
        numpy.testing.assert_allclose(layer.get_grad(name)[order], gradient, atol=1e-4)


def test_reset_begins_with_zeros():
    layer = make_layer()
    model, batch = with_padded(layer), make_batch((4, 4))
    first = model.predict(batch)
    assert (model.predict(batch)[0] != first[0]).any()
    layer.attrs["reset"](layer)
    assert layer.attrs["state"] is None
    for one, other in zip(first, model.predict(batch), strict=True):
        numpy.testing.assert_array_equal(one, other)


def test_initial_weights():
    layer = stateful_lstm(nO=N_OUT)
    X = get_current_ops().list2padded(make_batch((4, 4)))
    layer.initialize(X=X)
    assert layer.get_dim("nI") == N_IN
    assert layer.get_param("W").shape == (4 * N_OUT, N_IN)
    assert layer.get_param("U").shape == (4 * N_OUT, N_OUT)
    numpy.testing.assert_array_equal(layer.get_param("b"), [0.0] * 4 + [1.0] * 4 + [0.0] * 8)
    limit = numpy.sqrt(6 / (N_OUT + N_OUT))
    assert 0.5 * limit < abs(layer.get_param("U")).max() <= limit


def test_a_batch_of_another_size_is_an_error():
    model = with_padded(make_layer())
    model.predict(make_batch((4, 4, 4)))
    with pytest.raises(ValueError, match="state of 3 sequences, but the batch has 2: reset"):
        model.predict(make_batch((4, 4)))


@pytest.mark.parametrize("settings", [{"nO": 0}, {"nO": 2.5}, {"nO": 2, "nI": True}])
def test_invalid_widths_are_errors(settings):
    with pytest.raises(ValueError, match=r"n[OI] must be an int >= 1, but was"):
        stateful_lstm(**settings)


def test_config_name():
    model = registry.resolve({"model": {"@layers": "StatefulLSTM.v1", "nO": 2, "nI": 3}})
    assert isinstance(model["model"], Model)
    assert model["model"].get_dim("nO") == 2
