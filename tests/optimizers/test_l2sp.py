"""L2-SP: decay towards the weights at the start."""

import copy

import numpy
import pytest
from thinc.api import SGD, Adam, Linear, registry
from wrapped_optimizers import Refusing

from thinc_swa import EMA, L2SP, SWA, Lookahead, ParamGroups, load_optimizer, save_optimizer

KEY = (1, "W")
SHAPE = (3, 4)


def update(optimizer, weights, gradient, key=KEY):
    weights, _ = optimizer(key, weights, gradient)
    optimizer.step_schedules()
    return weights


def gradients(n_steps, seed=0, shape=SHAPE):
    random = numpy.random.default_rng(seed)
    return [random.normal(size=shape).astype("f") for _ in range(n_steps)]


def make_weights(seed=7):
    return gradients(1, seed)[0]


def test_numbers_that_can_be_traced_by_hand():
    """Start at 3, learning rate 0.5, alpha 0.5; the gradient is 2, then 0.

    Step 1: 3 - 0.5 * (2 + 0.5 * 0) = 2
    Step 2: 2 - 0.5 * (0 + 0.5 * (2 - 3)) = 2.25
    Step 3: 2.25 - 0.5 * (0 + 0.5 * (2.25 - 3)) = 2.4375
    """
    optimizer = L2SP(SGD(0.5, grad_clip=0), alpha=0.5)
    weights, found = numpy.array([3.0], dtype="f"), []
    for gradient in (2.0, 0.0, 0.0):
        weights = update(optimizer, weights, numpy.array([gradient], dtype="f"))
        found.append(float(weights[0]))
    assert found == [2.0, 2.25, 2.4375]


@pytest.mark.parametrize(
    "make", [lambda: SGD(0.1), lambda: Adam(0.1), lambda: Adam(0.1, L2=0.3)]
)
def test_it_is_the_wrapped_optimizer_with_another_gradient(make):
    """So the decay is coupled: it is clipped, and it is part of Adam's moments."""
    optimizer, alone = L2SP(make(), alpha=0.2), make()
    weights, plain = make_weights(), make_weights()
    start = plain.copy()
    for gradient in gradients(20):
        decayed = gradient + numpy.float32(0.2) * (plain - start)
        plain = update(alone, plain, decayed)
        weights = update(optimizer, weights, gradient)
    numpy.testing.assert_allclose(weights, plain, rtol=1e-6, atol=1e-7)
    numpy.testing.assert_allclose(optimizer.mom1.get(KEY, 0), alone.mom1.get(KEY, 0), rtol=1e-5)


def test_from_zero_it_is_the_l2_penalty_of_thinc():
    optimizer = L2SP(Adam(0.1), alpha=0.2)
    alone = Adam(0.1, L2=0.2, L2_is_weight_decay=False)
    weights, plain = numpy.zeros(SHAPE, dtype="f"), numpy.zeros(SHAPE, dtype="f")
    for gradient in gradients(20):
        plain = update(alone, plain, gradient.copy())
        weights = update(optimizer, weights, gradient)
    numpy.testing.assert_array_equal(weights, plain)


def test_without_alpha_it_is_the_wrapped_optimizer():
    optimizer, alone = L2SP(Adam(0.1), alpha=0.0), Adam(0.1)
    weights, plain = make_weights(), make_weights()
    for gradient in gradients(10):
        plain = update(alone, plain, gradient.copy())
        weights = update(optimizer, weights, gradient)
    numpy.testing.assert_array_equal(weights, plain)


def test_a_strong_decay_keeps_the_weights_near_the_start():
    distances = []
    for alpha in (0.0, 0.1, 1.0, 5.0):
        optimizer, weights = L2SP(SGD(0.1, grad_clip=0), alpha=alpha), make_weights()
        for _ in range(100):
            weights = update(optimizer, weights, numpy.ones(SHAPE, dtype="f"))
        distances.append(numpy.abs(weights - make_weights()).max())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.1 * distances[0]


def test_gradients_are_zeroed_in_place():
    optimizer, weights = L2SP(Adam(0.1, grad_clip=0)), make_weights()
    for gradient in gradients(3):
        same, _ = optimizer(KEY, weights, gradient)
        assert numpy.shares_memory(same, weights)
        assert not gradient.any()


def test_a_refused_update_leaves_the_gradient_alone():
    inner = Refusing(0.1)
    inner.calls = 0
    optimizer, weights = L2SP(inner, alpha=0.5), make_weights()
    first, second = gradients(2)
    weights = update(optimizer, weights, first)
    before, expected = weights.copy(), second.copy()
    with pytest.raises(RuntimeError, match="no"):
        optimizer(KEY, weights, second)
    numpy.testing.assert_array_equal(second, expected)
    numpy.testing.assert_array_equal(weights, before)


def test_a_parameter_that_is_seen_late_starts_with_its_weights_then():
    optimizer, other = L2SP(SGD(0.5, grad_clip=0), alpha=0.5), (2, "W")
    weights = update(optimizer, make_weights(), gradients(1)[0])
    late = numpy.array([3.0], dtype="f")
    late = update(optimizer, late, numpy.array([2.0], dtype="f"), other)
    update(optimizer, weights, gradients(1)[0])
    late = update(optimizer, late, numpy.zeros((1,), dtype="f"), other)
    assert late.tolist() == [2.25]


def test_a_copy_keeps_the_start():
    optimizer, weights = L2SP(SGD(0.1), alpha=0.5), make_weights()
    steps = gradients(10)
    for gradient in steps[:5]:
        weights = update(optimizer, weights, gradient.copy())
    other, other_weights = copy.deepcopy((optimizer, weights))
    for gradient in steps[5:]:
        weights = update(optimizer, weights, gradient.copy())
        other_weights = update(other, other_weights, gradient.copy())
    numpy.testing.assert_array_equal(other_weights, weights)


NESTINGS = {
    "alone": lambda optimizer: L2SP(optimizer, alpha=0.3),
    "in SWA": lambda optimizer: SWA(L2SP(optimizer, alpha=0.3), start_step=2, freq=2),
    "around EMA": lambda optimizer: L2SP(
        EMA(optimizer, decay=0.5, overwrite_freq=3), alpha=0.3
    ),
    "around Lookahead": lambda optimizer: L2SP(Lookahead(optimizer, freq=2), alpha=0.3),
    "in groups": lambda optimizer: ParamGroups(
        L2SP(optimizer, alpha=0.3),
        groups=[{"name": "biases", "params": ["b"], "lr_scale": 0.5}],
    ),
}


@pytest.mark.parametrize("name", NESTINGS)
@pytest.mark.parametrize("n_steps", [1, 2, 3, 6])
def test_resuming_is_bit_identical_at_any_step(tmp_path, name, n_steps):
    """The state file has the weights at the start."""

    def make():
        model = Linear(4, 3).initialize()
        model.set_param("W", make_weights(3).reshape(4, 3))
        return model, NESTINGS[name](Adam(0.05, use_averages=False))

    def train(model, optimizer, steps):
        for i in steps:
            # A parameter that skips steps.
            for name in ("W", "b") if i % 3 != 1 else ("W",):
                weights = model.get_param(name)
                weights, _ = optimizer(
                    (model.id, name), weights, gradients(1, i, weights.shape)[0]
                )
                model.set_param(name, weights)
            optimizer.step_schedules()

    model, optimizer = make()
    train(model, optimizer, range(n_steps))
    save_optimizer(tmp_path / "state", optimizer, model)
    other, resumed = make()
    for parameter in ("W", "b"):
        other.set_param(parameter, model.get_param(parameter).copy())
    load_optimizer(tmp_path / "state", resumed, other)
    train(model, optimizer, range(n_steps, 9))
    train(other, resumed, range(n_steps, 9))
    for parameter in ("W", "b"):
        expected = model.get_param(parameter)
        numpy.testing.assert_array_equal(other.get_param(parameter), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_precision(dtype, xp):
    optimizer = L2SP(SGD(0.1), alpha=0.5)
    weights = xp.asarray(make_weights().astype(dtype))
    for gradient in gradients(3):
        weights, gradient = optimizer(KEY, weights, xp.asarray(gradient.astype(dtype)))
        assert weights.dtype == gradient.dtype == dtype


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf"), True, "0.1", None])
def test_bad_arguments(alpha):
    with pytest.raises(ValueError, match=r"alpha must be a number >= 0, but was"):
        L2SP(SGD(0.1), alpha=alpha)


def test_config():
    block = {
        "@optimizers": "L2SP.v1",
        "alpha": 0.03,
        "optimizer": {"@optimizers": "Adam.v1", "learn_rate": 0.001},
    }
    optimizer = registry.resolve({"optimizer": block})["optimizer"]
    assert repr(optimizer) == "L2SP(Optimizer(learn_rate=0.001), alpha=0.03)"
    assert not optimizer.is_passive
