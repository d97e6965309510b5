"""Frozen groups."""

import gc
import weakref

import numpy
import pytest
from group_cases import group, make_named_model
from reference import assert_equal, make_weights, train
from thinc.api import Adam, Optimizer
from wrapped_optimizers import OPTIMIZERS

from thinc_swa import SWA, Lookahead, ParamGroups


def frozen(optimizer, *params):
    """Wrap an optimizer in ParamGroups that freeze the biases or other parameters."""
    return ParamGroups(
        optimizer, groups=[group(*(params or ["b"]), name="frozen", frozen=True)]
    )


def dicts_by_parameter(value):
    """All non-empty dicts by parameter in the state of an optimizer."""
    if isinstance(value, dict):
        if value and all(isinstance(key, tuple) for key in value):
            yield value
        for part in value.values():
            yield from dicts_by_parameter(part)
    elif isinstance(value, Optimizer) or type(value).__module__.startswith("thinc_swa"):
        for cls in type(value).__mro__:
            for name in cls.__dict__.get("__slots__", ()):
                if hasattr(value, name) and name != "choices":
                    yield from dicts_by_parameter(getattr(value, name))


@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("outer", [name for name in OPTIMIZERS if name != "ParamGroups"])
@pytest.mark.parametrize("inner", ["OptimizerWrapper", "SWA", "Lookahead reset"])
def test_frozen_parameters_have_no_updates_and_no_state(outer, inner, is_stepped, xp):
    """Frozen weights do not change and their gradient is zeroed. No wrapper has state or
    averages for them, and the other parameters are updated as without them."""
    optimizer = OPTIMIZERS[outer](frozen(OPTIMIZERS[inner](Adam(0.1))))
    weights, start = make_weights(xp), make_weights(xp)
    gradients = {}
    for _ in range(7):
        for key, array in weights.items():
            gradients[key] = xp.ones(array.shape, dtype="f")
            returned, gradient = optimizer(key, array, gradients[key])
            assert returned is array or key != (3, "b")
        if is_stepped:
            optimizer.step_schedules()
    assert_equal({1: weights[3, "b"]}, {1: start[3, "b"]})
    assert not gradients[3, "b"].any()
    assert len(list(dicts_by_parameter(optimizer))) > 3
    for by_parameter in dicts_by_parameter(optimizer):
        assert set(by_parameter) <= {(3, "W"), (4, "W")}
    assert set(optimizer.averages) <= {(3, "W"), (4, "W")}
    others = OPTIMIZERS[outer](OPTIMIZERS[inner](Adam(0.1)))
    expected = make_weights(xp)
    del expected[3, "b"], weights[3, "b"]
    for _ in range(7):
        for key, array in expected.items():
            others(key, array, xp.ones(array.shape, dtype="f"))
        if is_stepped:
            others.step_schedules()
    assert_equal(weights, expected)
    assert_equal(optimizer.averages, others.averages)


def test_non_finite_gradients_of_frozen_parameters_are_zeroed():
    gradient = numpy.array([numpy.nan, numpy.inf, 1.0], dtype="f")
    frozen(Adam(0.1))((1, "b"), numpy.ones((3,), "f"), gradient)
    assert not gradient.any()


def test_frozen_in_nested_groups():
    inner = frozen(Adam(0.1))
    optimizer = SWA(ParamGroups(inner, groups=[group("W", lr_scale=0.5)]), start_step=0)
    weights, start = make_weights(), make_weights()
    train(optimizer, weights, 3)
    assert_equal({1: weights[3, "b"]}, {1: start[3, "b"]})
    for by_parameter in dicts_by_parameter(optimizer):
        assert set(by_parameter) == {(3, "W"), (4, "W")}


def test_frozen_layers_of_a_model():
    model = make_named_model()
    X = numpy.ones((3, 2), dtype="f")
    optimizer = SWA(frozen(Adam(0.1), "linear-0/*", "linear-2/b"), start_step=0)
    start = [layer.get_param(name).copy() for layer in model.layers for name in "Wb"]
    for _ in range(3):
        predicted, backprop = model.begin_update(X)
        backprop(predicted - numpy.eye(2, dtype="f")[[0, 1, 0]])
        model.finish_update(optimizer)
        optimizer.step_schedules()
    end = [layer.get_param(name) for layer in model.layers for name in "Wb"]
    is_same = [numpy.array_equal(one, other) for one, other in zip(start, end, strict=True)]
    assert is_same == [True, True, False, False, False, True, False, False]
    assert not model.layers[0].get_grad("W").any()
    assert len(optimizer.averages) == 5
    with model.use_params(optimizer.averages):
        assert numpy.array_equal(model.layers[0].get_param("W"), start[0])


def test_frozen_parameters_are_not_kept_alive():
    optimizer = SWA(Lookahead(frozen(Adam(0.1))), start_step=0)
    weights = numpy.ones((3,), "f")
    reference = weakref.ref(weights)
    for _ in range(3):
        optimizer((3, "b"), weights, numpy.ones((3,), "f"))
        optimizer((3, "W"), numpy.ones((3,), "f"), numpy.ones((3,), "f"))
        optimizer.step_schedules()
    del weights
    gc.collect()
    assert reference() is None
