import copy
import pickle
import sys
from pathlib import Path

import numpy
import pytest
import thinc.schedules
from helpers import as_numpy, require
from hypothesis import given, settings
from hypothesis import strategies as st
from new_process import run_in_new_process
from reference import KEYS, assert_close, assert_equal, make_weights, to_numpy, train
from small_models import make_model, parameters
from thinc.api import SGD, Adam, Config, Optimizer, RAdam, registry, warmup_linear

from thinc_swa import (
    EMA,
    SWA,
    Lookahead,
    ParamGroups,
    ScheduleFree,
    apply_averages,
    load_optimizer,
    save_optimizer,
    use_averages,
)
from thinc_swa.schedules.compat import Schedule

ROOT = Path(__file__).parents[2]
KEY = (1, "W")


def sgd(learn_rate=0.1, **settings):
    return SGD(learn_rate, grad_clip=0.0, use_averages=False, **settings)


def adam(learn_rate=0.1, **settings):
    return Adam(learn_rate, beta1=0.0, use_averages=False, **settings)


def update(optimizer, weights, gradient, key=KEY):
    returned, _ = optimizer(key, weights, numpy.full_like(weights, gradient))
    assert returned is weights
    return float(weights.reshape(-1)[0])


def average_of(optimizer, key=KEY):
    return float(optimizer.averages[key].reshape(-1)[0])


# The algorithm


def test_by_hand():
    """z: 1, 0.9, 0.8, 0.7, 0.6. x, the mean of all z but the first: 0.9, 0.85, 0.8, 0.75.
    y is in the middle: 0.9, 0.825, 0.75, 0.675."""
    optimizer = ScheduleFree(sgd(0.1), beta=0.5)
    weights = numpy.ones((1,), dtype="f")
    y, x = [], []
    for _ in range(4):
        y.append(update(optimizer, weights, 1.0))
        x.append(average_of(optimizer))
        optimizer.step_schedules()
    assert x == pytest.approx([0.9, 0.85, 0.8, 0.75])
    assert y == pytest.approx([0.9, 0.825, 0.75, 0.675])


def test_gradients_that_depend_on_the_weights_by_hand():
    """The gradient of w² / 2 is w, at y. With a rate of 0.5 and beta = 0.5:
    z = 1 - 0.5 * 1 = 0.5, x = 0.5, y = 0.5; z = 0.25, x = 0.375, y = 0.3125;
    z = 0.25 - 0.15625 = 0.09375, x = 0.375 - 0.28125 / 3 = 0.28125, y = 0.1875."""
    optimizer = ScheduleFree(sgd(0.5), beta=0.5)
    weights = numpy.ones((1,), dtype="f")
    y = [update(optimizer, weights, weights[0]) for _ in range(3)]
    assert y == pytest.approx([0.5, 0.3125, 0.1875])
    assert average_of(optimizer) == pytest.approx(0.28125)


def test_the_rates_weigh_by_their_squares():
    """Rates 0, 0.1, 0.2, 0.2: c = 0, 1, 4/5, 4/9. z = 1, 0.9, 0.7, 0.5."""
    optimizer = ScheduleFree(sgd([0.0, 0.1, 0.2, 0.2]))
    weights = numpy.ones((1,), dtype="f")
    x = []
    for _ in range(4):
        update(optimizer, weights, 1.0)
        x.append(average_of(optimizer))
        optimizer.step_schedules()
    third = 0.9 / 5 + 0.7 * 4 / 5
    assert x == pytest.approx([1.0, 0.9, third, third * 5 / 9 + 0.5 * 4 / 9])


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_beta_at_the_edges(beta):
    """0 is the wrapped optimizer with its average; 1 trains at the average."""
    optimizer = ScheduleFree(sgd(), beta=beta)
    weights, plain = make_weights(), make_weights()
    history = train(optimizer, weights, 5)
    expected = train(sgd(), plain, 5)
    if beta == 0.0:
        assert_equal(history[-1], expected[-1])
    else:
        assert_close(optimizer.averages, weights)
    mean = {key: sum(expected[step][key] for step in range(1, 6)) / 5 for key in KEYS}
    assert_close(optimizer.averages, mean)


def schedule_free_sgd(weights, gradients, rates, beta):
    """Algorithm 1 in float64, with the weights of the rates.

    gradients (list[ndarray | None]): None where there is no update.
    """
    x = z = y = weights.astype("float64")
    rate_sum = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        if gradient is not None:
            z = z - rate * gradient
            rate_sum += rate**2
            c = rate**2 / rate_sum if rate_sum else 0.0
            x = (1 - c) * x + c * z
            y = (1 - beta) * z + beta * x
    return y, x


@settings(deadline=None, max_examples=100)
@given(
    n_steps=st.integers(1, 100),
    beta=st.floats(0, 1),
    warmup=st.integers(0, 20),
    skipped=st.sets(st.integers(0, 100)),
    other_skipped=st.sets(st.integers(0, 100)),
)
def test_is_the_algorithm(n_steps, beta, warmup, skipped, other_skipped):
    """Parameters without a gradient in some steps have counts of their own."""
    rates = [0.1 * min(1.0, (step + 1) / (warmup + 1)) for step in range(n_steps)]
    optimizer = ScheduleFree(sgd(list(rates)), beta=beta)
    random = numpy.random.RandomState(0)
    start = numpy.linspace(-1, 1, 6).astype("f")
    weights = {(1, "W"): start.copy(), (2, "W"): start.copy()}
    gradients = {key: [] for key in weights}
    for step in range(n_steps):
        for key, skips in (((1, "W"), skipped), ((2, "W"), other_skipped)):
            gradient = None if step in skips else random.uniform(-1, 1, 6).astype("f")
            gradients[key].append(gradient)
            if gradient is not None:
                optimizer(key, weights[key], gradient.copy())
        optimizer.step_schedules()
    averages = optimizer.averages
    for key, array in weights.items():
        y, x = schedule_free_sgd(start, gradients[key], rates, beta)
        assert_close({key: array}, {key: y}, atol=2e-6)
        if key in averages:
            assert_close({key: averages[key]}, {key: x}, atol=2e-6)
    updated = {key for key, values in gradients.items() if any(g is not None for g in values)}
    assert set(averages) == updated


def reference_loop(y, gradient_of, rates, beta, weight_decay=0.0):
    """As the authors' own implementation of SGD has it, with y and z alone: y is moved towards
    z by c, and then by the gradient."""
    y = y.astype("float64")
    z = y.copy()
    rate_max = rate_sum = 0.0
    for rate in rates:
        gradient = gradient_of(y)
        rate_max = max(rate_max, rate)
        rate_sum += rate_max**2
        c = rate_max**2 / rate_sum if rate_sum else 0.0
        y = y + c * (z - y)
        y = y + rate * (beta * (1 - c) - 1) * gradient
        z = z - rate * gradient
    return y, (y - (1 - beta) * z) / beta


MATRIX = numpy.random.RandomState(0).uniform(-1, 1, (8, 6))
TARGET = numpy.random.RandomState(1).uniform(-1, 1, 8)


def gradient_of(weights):
    """Of linear least squares."""
    return MATRIX.T @ (MATRIX @ weights - TARGET) / 8


def run(optimizer, n_steps, dtype="float64"):
    weights = numpy.linspace(-1, 1, 6).astype(dtype)
    for _ in range(n_steps):
        optimizer(KEY, weights, gradient_of(weights).astype(dtype))
        optimizer.step_schedules()
    return weights


@pytest.mark.parametrize("warmup", [1, 30])
@pytest.mark.parametrize("beta", [0.5, 0.9, 0.98])
def test_against_the_reference_formula(warmup, beta):
    rates = [0.5 * min(1.0, (step + 1) / warmup) for step in range(300)]
    optimizer = ScheduleFree(sgd(list(rates)), beta=beta)
    weights = run(optimizer, 300)
    y, x = reference_loop(numpy.linspace(-1, 1, 6), gradient_of, rates, beta)
    numpy.testing.assert_allclose(weights, y, rtol=1e-9, atol=1e-12)
    numpy.testing.assert_allclose(optimizer.averages[KEY], x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("warmup", [1, 30])
def test_against_optax(warmup):
    require("optax")
    run_in_new_process(compare_with_optax, warmup)


def compare_with_optax(warmup):
    import jax.numpy
    import optax
    from optax.contrib import schedule_free, schedule_free_eval_params

    warmup = int(warmup)

    # optax counts the steps of the outer schedule from 1 and those of the inner one from 0.
    def rate_of(step):
        return 0.5 * jax.numpy.minimum(1.0, (step + 1) / warmup)

    oracle = schedule_free(optax.sgd(rate_of), lambda step: rate_of(step - 1), b1=0.9)
    params = jax.numpy.asarray(numpy.linspace(-1, 1, 6), dtype="float32")
    state = oracle.init(params)
    rates = [0.5 * min(1.0, (step + 1) / warmup) for step in range(200)]
    optimizer = ScheduleFree(sgd(rates), beta=0.9)
    weights = numpy.linspace(-1, 1, 6).astype("f")
    for step in range(200):
        gradient = gradient_of(numpy.asarray(params)).astype("f")
        updates, state = oracle.update(jax.numpy.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        optimizer(KEY, weights, gradient_of(weights).astype("f"))
        optimizer.step_schedules()
        if step % 20 == 19:
            assert_close({KEY: weights}, {KEY: numpy.asarray(params)}, rtol=1e-4, atol=1e-5)
            x = numpy.asarray(schedule_free_eval_params(state, params))
            assert_close(optimizer.averages, {KEY: x}, rtol=1e-4, atol=1e-5)


def test_the_average_comes_to_the_solution():
    """Where the rate is so high that the wrapped optimizer alone stays away from it."""
    random = numpy.random.RandomState(0)
    solution = numpy.linalg.lstsq(MATRIX, TARGET, rcond=None)[0]

    def distances(optimizer):
        weights = numpy.zeros(6, dtype="f")
        for _ in range(4000):
            noise = random.normal(0, 0.3, 6)
            optimizer(KEY, weights, (gradient_of(weights) + noise).astype("f"))
            optimizer.step_schedules()
        average = optimizer.averages[KEY] if optimizer.averages else weights
        return numpy.linalg.norm(weights - solution), numpy.linalg.norm(average - solution)

    alone, _ = distances(sgd(1.0))
    _, averaged = distances(ScheduleFree(sgd(1.0)))
    assert averaged < alone / 4


@pytest.mark.parametrize("drift", [0.0, 2e-7])
def test_the_average_stays_exact(drift):
    """After 100,000 updates, for weights that move and for weights that stand still: where the
    steps of a plain running mean in float32 would be lost in its rounding."""
    optimizer = ScheduleFree(sgd(1.0))
    weights = numpy.linspace(0.5, 2, 50).astype("f")
    gradient = numpy.full(50, -drift, dtype="f")
    z, total = weights.copy(), numpy.zeros(50)
    for _ in range(100_000):
        optimizer(KEY, weights, gradient.copy())
        z -= gradient
        total += z
    numpy.testing.assert_allclose(optimizer.averages[KEY], total / 100_000, rtol=1e-5)


def test_blocks_and_odd_memory_layouts():
    random = numpy.random.RandomState(0)
    start = random.uniform(-1, 1, (300, 500)).astype("f")
    gradients = [random.uniform(-1, 1, start.shape).astype("f") for _ in range(70)]
    y, x = schedule_free_sgd(start, gradients, [0.1] * 70, 0.9)
    for weights in (start.copy(), start.T.copy().T, numpy.repeat(start, 2, axis=1)[:, ::2]):
        optimizer = ScheduleFree(sgd())
        for gradient in gradients:
            optimizer(KEY, weights, gradient.copy())
        assert_close({KEY: weights}, {KEY: y}, atol=3e-6)
        assert_close(optimizer.averages, {KEY: x}, atol=3e-6)


def test_float16_weights_lose_nothing(xp):
    """z and x are float32: small updates count that float16 weights cannot hold."""
    optimizer = ScheduleFree(sgd(1.0))
    weights = xp.ones((3,), dtype="float16")
    for _ in range(100):
        gradient = xp.full((3,), 1e-4, dtype="float16")
        weights, _ = optimizer(KEY, weights, gradient)
    assert weights.dtype == "float16" and optimizer.averages[KEY].dtype == "float32"
    step = float(numpy.float16(1e-4))
    numpy.testing.assert_allclose(as_numpy(optimizer.averages[KEY]), 1 - 50.5 * step, 1e-6)
    numpy.testing.assert_allclose(as_numpy(weights), 1 - step * (10 + 0.9 * 50.5), 1e-3)


# The wrapped optimizer


@pytest.mark.parametrize("make", [Adam, RAdam])
def test_refuses_momentum(make):
    optimizer = make(0.1)
    with pytest.raises(ValueError, match=r"beta1 was 0\.9: set beta1 = 0\.0"):
        ScheduleFree(SWA(optimizer))
    with pytest.raises(ValueError, match=r"beta1 was 0\.9: set beta1 = 0\.0"):
        config = {"@optimizers": "Adam.v1", "learn_rate": 0.1}
        config = {"@optimizers": "ScheduleFree.v1", "optimizer": config}
        registry.resolve({"optimizer": config})


def test_refuses_momentum_that_comes_later():
    """The refused update leaves no trace."""
    optimizer = ScheduleFree(RAdam(0.1, beta1=[0.0, 0.0, 0.5]))
    weights = make_weights()
    train(optimizer, weights, 2)
    before, averages = to_numpy(weights), to_numpy(optimizer.averages)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"beta1 was 0\.5"):
            train(optimizer, weights, 1)
    assert_equal(weights, before)
    assert_equal(optimizer.averages, averages)
    assert set(optimizer.nr_update.values()) == {2}
    optimizer.b1 = 0.0 if Schedule is None else thinc.schedules.constant(0.0)
    train(optimizer, weights, 1)
    assert set(optimizer.nr_update.values()) == {3}


def test_refuses_momentum_of_a_group():
    groups = [{"name": "biases", "params": ["b"], "beta1": 0.5}]
    optimizer = ScheduleFree(ParamGroups(adam(), groups=groups))
    update(optimizer, numpy.ones(2, dtype="f"), 1.0, key=(1, "W"))
    with pytest.raises(ValueError, match=r"\(1, 'b'\).*leave beta1 out of the groups"):
        update(optimizer, numpy.ones(2, dtype="f"), 1.0, key=(1, "b"))
    optimizer = ParamGroups(ScheduleFree(adam()), groups=groups)
    with pytest.raises(ValueError, match=r"beta1 was 0\.5"):
        update(optimizer, numpy.ones(2, dtype="f"), 1.0, key=(1, "b"))
    assert not optimizer.averages


def test_adam_without_momentum():
    """Thinc's own refuses it. Here the first moment is the gradient."""
    optimizer = ScheduleFree(adam(0.1, beta2=0.9, grad_clip=0.0, eps=1e-6), beta=0.7)
    weights = numpy.linspace(-1, 1, 6).astype("f")
    x = z = y = weights.astype("float64")
    second = numpy.zeros(6)
    random = numpy.random.RandomState(0)
    for t in range(1, 80):
        gradient = random.uniform(-1, 1, 6).astype("f")
        optimizer(KEY, weights, gradient.copy())
        second = 0.9 * second + 0.1 * gradient.astype("float64") ** 2
        # Thinc has eps outside of the correction.
        z = z - 0.1 * (1 - 0.9**t) ** 0.5 * gradient / (numpy.sqrt(second) + 1e-6)
        x = x + (z - x) / t
        y = 0.3 * z + 0.7 * x
        assert_close({KEY: weights}, {KEY: y}, rtol=1e-4, atol=1e-5)
        assert_close(optimizer.averages, {KEY: x}, rtol=1e-4, atol=1e-5)
    b1 = optimizer.b1 if Schedule is None else optimizer.b1(0)
    assert b1 == 0.0


def test_radam_without_momentum():
    optimizer, plain = ScheduleFree(RAdam(0.1, beta1=0.0), beta=0.0), RAdam(0.1, beta1=0.0)
    weights, expected = make_weights(), make_weights()
    history = train(optimizer, weights, 9)
    plain_history = train(plain, expected, 9)
    assert_equal(history[-1], plain_history[-1])


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("make", [sgd, lambda rate: RAdam(rate, beta1=0.0)])
def test_rates_of_groups_and_schedules(make, inside):
    """The rate that counts is that of the parameter: rates 0.1, 0.2, 0.3 times 1, 2, 2 for the
    biases, whose averages weigh 1 : 16 : 36 then, and 1 : 4 : 9 for the others."""
    scales = [1.0, 2.0, 2.0]
    if Schedule is not None:
        scales = Schedule("scales", lambda schedule, step, **extra: (1.0, 2.0, 2.0)[step])
    groups = [{"name": "biases", "params": ["b"], "lr_scale": scales}]
    innermost = make([0.1, 0.2, 0.3])
    if inside:
        optimizer = ScheduleFree(ParamGroups(innermost, groups=groups), beta=0.0)
    else:
        optimizer = ParamGroups(ScheduleFree(innermost, beta=0.0), groups=groups)
    history = train(optimizer, make_weights(), 3)
    for key in KEYS:
        shares = numpy.array([1, 16, 36] if key[1] == "b" else [1, 4, 9])
        snapshots = [history[step][key].astype("float64") for step in (1, 2, 3)]
        expected = numpy.average(snapshots, axis=0, weights=shares)
        assert_close({key: optimizer.averages[key]}, {key: expected})


def test_the_schedule_of_the_wrapped_optimizer_counts():
    optimizer = ScheduleFree(sgd(warmup_linear(0.4, 4, 1000)), beta=0.0)
    history = train(optimizer, make_weights(), 4)
    rates = [0.0, 0.1, 0.2, 0.3]
    shares = numpy.square(rates)
    for key, average in optimizer.averages.items():
        snapshots = [history[step][key].astype("float64") for step in (1, 2, 3, 4)]
        expected = numpy.average(snapshots, axis=0, weights=shares)
        assert_close({key: average}, {key: expected})


# Weights that change


@pytest.mark.parametrize("is_known", [True, False])
def test_overwritten_weights_are_a_new_start(is_known):
    """x = y = z, but c goes on falling."""
    model = make_model()
    optimizer = ScheduleFree(sgd(0.1), beta=0.5)
    key = (model.layers[0].id, "W")
    weights = model.layers[0].get_param("W")
    for _ in range(3):
        update(optimizer, weights, 1.0, key)
    if not is_known:
        optimizer = copy.deepcopy(optimizer)
    apply_averages(model, optimizer)
    start = weights.astype("float64")
    update(optimizer, weights, 1.0, key)
    z, x = start - 0.1, start - 0.1 / 4
    if not is_known:
        assert set(optimizer.averages) == {key}
    assert_close({key: weights}, {key: (z + x) / 2})
    assert_close(optimizer.averages, {key: x})


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_weights_that_are_changed_move_both(dtype):
    """By hand: z = 0.5 and x = 0.75 with y = 0.625 become 1.5, 1.75 and 1.625."""
    optimizer = ScheduleFree(sgd(0.5), beta=0.5)
    weights = numpy.full((3,), 1.5, dtype=dtype)
    update(optimizer, weights, 1.0)
    update(optimizer, weights, 1.0)
    assert weights == pytest.approx([0.625] * 3)
    assert average_of(optimizer) == pytest.approx(0.75)
    weights[1] += 1.0
    update(optimizer, weights, 0.0)
    x = numpy.array([0.75, 1.75, 0.75]) - 0.25 / 3
    assert optimizer.averages[KEY] == pytest.approx(x, rel=1e-6)
    assert weights == pytest.approx((x + [0.5, 1.5, 0.5]) / 2, rel=1e-3)


def test_lookahead_around_it():
    """Its pullback moves x and z."""
    optimizer = Lookahead(ScheduleFree(sgd(0.1), beta=0.5), freq=2, pullback=0.5)
    weights = numpy.ones((1,), dtype="f")
    x = z = slow = 1.0
    for t in range(1, 9):
        update(optimizer, weights, 1.0)
        z -= 0.1
        x += (z - x) / t
        y = (x + z) / 2
        if t % 2 == 0:
            slow += 0.5 * (y - slow)
            x, z, y = x + slow - y, z + slow - y, slow
        assert float(weights[0]) == pytest.approx(y, abs=1e-6)
        assert float(optimizer.averages[KEY][0]) == pytest.approx(slow, abs=1e-6)


def test_averages_around_it_are_those_of_the_weights():
    optimizer = SWA(ScheduleFree(sgd()), start_step=2)
    history = train(optimizer, make_weights(), 4)
    expected = {key: sum(history[step][key] for step in (2, 3, 4)) / 3 for key in KEYS}
    assert_close(optimizer.averages, expected)
    alone = train(ScheduleFree(sgd()), make_weights(), 4)
    assert_equal(history[-1], alone[-1])


def test_averages_inside_are_those_of_z():
    optimizer = ScheduleFree(EMA(sgd(), decay=0.5))
    train(optimizer, make_weights(), 4)
    plain = EMA(sgd(), decay=0.5)
    train(plain, make_weights(), 4)
    assert_equal(optimizer.optimizer.averages, plain.averages)


@pytest.mark.parametrize("is_stepped", [True, False])
def test_z_that_is_overwritten_inside_moves_the_weights_at_once(is_stepped):
    """EMA inside writes its average into z after every second step."""
    optimizer = ScheduleFree(EMA(sgd(0.1), decay=0.5, overwrite_freq=2), beta=0.5)
    weights = numpy.ones((1,), dtype="f")
    x = z = 1.0
    average = None
    for t in range(1, 7):
        update(optimizer, weights, 1.0)
        z -= 0.1
        x += (z - x) / t
        average = z if average is None else (average + z) / 2
        if t % 2 == 0:
            z = average
        if is_stepped:
            optimizer.step_schedules()
        if is_stepped or t % 2 == 0:
            assert float(weights[0]) == pytest.approx((x + z) / 2, abs=1e-6), t
        assert average_of(optimizer) == pytest.approx(x, abs=1e-6)


# Not finite


@pytest.mark.parametrize("size", [5, 100_000])
def test_a_gradient_that_is_not_finite(size):
    """The weights show it, as those of the wrapped optimizer would. The average does not have
    it, and goes on where the weights are repaired."""
    optimizer = ScheduleFree(sgd())
    weights = numpy.ones((size,), dtype="f")
    for _ in range(70):
        update(optimizer, weights, 0.1)
    kept, average = weights.copy(), optimizer.averages[KEY]
    gradient = numpy.zeros((size,), dtype="f")
    gradient[3] = numpy.nan
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        optimizer(KEY, weights, gradient)
    assert optimizer.n_skipped == 1
    assert numpy.isnan(weights[3]) and numpy.isfinite(numpy.delete(weights, 3)).all()
    assert optimizer.averages[KEY][3] == pytest.approx(average[3], rel=1e-6)
    assert numpy.isfinite(optimizer.averages[KEY]).all()
    update(optimizer, weights, 0.1)
    assert optimizer.n_skipped == 2
    weights[...] = kept
    update(optimizer, weights, 0.1)
    assert optimizer.n_skipped == 2
    assert numpy.isfinite(weights).all() and abs(weights[3] - kept[3]) < 0.02


def test_without_the_check():
    optimizer = ScheduleFree(sgd(), check_finite=False)
    weights = numpy.ones((2,), dtype="f")
    weights[1] = numpy.nan
    update(optimizer, weights, 1.0)
    assert numpy.isnan(optimizer.averages[KEY][1]) and optimizer.n_skipped == 0
    weights[...] = numpy.inf
    update(optimizer, weights, 1.0)
    assert not numpy.isfinite(optimizer.averages[KEY]).any() and optimizer.n_skipped == 0


def test_weights_that_are_not_finite_when_they_are_first_seen():
    optimizer = ScheduleFree(sgd())
    weights = numpy.full((2,), numpy.nan, dtype="f")
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        update(optimizer, weights, 1.0)
    update(optimizer, weights, 1.0)
    assert optimizer.n_skipped == 2 and not optimizer.averages
    weights[...] = 1.0
    update(optimizer, weights, 1.0)
    assert average_of(optimizer) == pytest.approx(0.9) == float(weights[0])


# State


def test_resuming_at_any_step_is_bit_identical(tmp_path):
    def make():
        groups = [{"name": "biases", "params": ["b"], "lr_scale": 0.5}]
        inner = ParamGroups(adam(warmup_linear(0.1, 3, 200)), groups=groups)
        return Lookahead(ScheduleFree(inner), freq=3)

    def step(model, optimizer, number):
        random = numpy.random.RandomState(number)
        for node in model.walk():
            for name in node.param_names:
                weights = node.get_param(name)
                gradient = random.uniform(-1, 1, weights.shape).astype("f")
                optimizer((node.id, name), weights, gradient)
        optimizer.step_schedules()

    model, optimizer = make_model(), make()
    others = []
    for number in range(80):
        if number % 8 == 1:
            save_optimizer(tmp_path / "optimizer", optimizer, model)
            other_model, other = make_model(), make()
            other_model.from_bytes(model.to_bytes())
            load_optimizer(tmp_path / "optimizer", other, other_model)
            others.append((other_model, other))
        for each in ((model, optimizer), *others):
            step(*each, number)
    assert len(others) == 10
    for other_model, other in others:
        assert other_model.to_bytes() == model.to_bytes()
        for first, second in zip(model.walk(), other_model.walk(), strict=True):
            for name in first.param_names:
                for inner, other_inner in (
                    (optimizer, other),
                    (optimizer.optimizer, other.optimizer),
                ):
                    average = inner.averages[first.id, name]
                    numpy.testing.assert_array_equal(
                        other_inner.averages[second.id, name], average
                    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: SWA(inner, start_step=1, end_step=4),
        lambda inner: EMA(inner, decay=0.5, overwrite_freq=3),
        lambda inner: ScheduleFree(SWA(inner, start_step=1, end_step=4)),
    ],
)
def test_wrappers_inside_know_z_after_resuming(wrap, tmp_path):
    """They overwrite it after a step that comes after the break."""
    model, optimizer = make_model(), ScheduleFree(wrap(sgd(0.1)))
    train(optimizer, parameters(model), 2)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other_model, other = make_model(), ScheduleFree(wrap(sgd(0.1)))
    other_model.from_bytes(model.to_bytes())
    load_optimizer(tmp_path / "optimizer", other, other_model)
    # The step that ends with the first call of step_schedules() after the break.
    for each, its_model in ((optimizer, model), (other, other_model)):
        each.step_schedules()
        train(each, parameters(its_model), 4, seed=2)
    assert other_model.to_bytes() == model.to_bytes()
    for first, second in zip(optimizer.averages.values(), other.averages.values(), strict=True):
        numpy.testing.assert_array_equal(first, second)


def test_a_pickle_holds_two_copies_and_no_arrays_of_the_model():
    optimizer = ScheduleFree(sgd())
    weights = numpy.ones((50_000,), dtype="f")
    update(optimizer, weights, 1.0)
    assert len(pickle.dumps(optimizer)) < 2 * weights.nbytes + 10_000


def test_no_temporaries_of_the_size_of_a_parameter():
    import tracemalloc

    class Still(Optimizer):
        """Takes no memory."""

        __slots__: list[str] = []

        def __call__(self, key, weights, gradient, *, lr_scale=1.0):
            return weights, gradient

    optimizer = ScheduleFree(Still(0.1, beta1=0.0, beta2=0.0, use_averages=False))
    weights = numpy.ones((2_000_000,), dtype="f")
    gradient = numpy.ones_like(weights)
    for _ in range(3):
        optimizer(KEY, weights, gradient)
    tracemalloc.start()
    for _ in range(100):
        optimizer(KEY, weights, gradient)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < weights.nbytes / 8


# Training


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "high", None])
def test_bad_beta(value):
    with pytest.raises(ValueError, match="beta must be a number >= 0 and <= 1, but was"):
        ScheduleFree(sgd(), beta=value)


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_bad_check_finite(value):
    with pytest.raises(ValueError, match="check_finite must be true or false, but was"):
        ScheduleFree(sgd(), check_finite=value)


def test_repr():
    assert repr(ScheduleFree(sgd(0.1))) == "ScheduleFree(Optimizer(learn_rate=0.1), beta=0.9)"


@pytest.mark.parametrize("name", ["ScheduleFree.v1", "thinc_swa.ScheduleFree.v1"])
def test_config(name):
    sgd_config = {"@optimizers": "SGD.v1", "learn_rate": 0.1}
    config = {"@optimizers": name, "beta": 0.95, "optimizer": sgd_config}
    optimizer = registry.resolve({"optimizer": config})["optimizer"]
    assert repr(optimizer) == "ScheduleFree(Optimizer(learn_rate=0.1), beta=0.95)"


def test_digits():
    """The averages are about as accurate as what Adam comes to with momentum."""
    require("sklearn")
    sys.path.append(str(ROOT / "examples"))
    from digits import accuracy, initialize, load_digits, training_steps

    digits = load_digits()
    accuracies = {}
    for name in ("adam", "schedule_free"):
        config = Config().from_disk(ROOT / "configs" / "digits" / f"{name}.cfg")
        resolved = registry.resolve({key: config[key] for key in ("model", "optimizer")})
        model, optimizer = resolved["model"], resolved["optimizer"]
        initialize(model, digits, seed=0)
        for _ in training_steps(model, optimizer, digits, max_steps=1000, batch_size=32):
            pass
        own = {key: array.copy() for key, array in parameters(model).items()}
        with use_averages(model, optimizer):
            accuracies[name] = accuracy(model, digits.test_images, digits.test_labels)
            if name == "schedule_free":
                assert_equal(parameters(model), optimizer.averages)
        assert_equal(parameters(model), own)
    assert accuracies["schedule_free"] > accuracies["adam"] - 1.0 > 95.0
