import numpy
import pytest
from helpers import require
from hypothesis import given, settings
from hypothesis import strategies as st
from new_process import run_in_new_process
from reference import assert_close, assert_equal, make_weights, to_numpy, train
from thinc.api import SGD, Adam, RAdam

from thinc_swa import SWA, Lookahead


def test_by_hand():
    """Slow weights 1; fast 0.9, 0.8 -> 0.9; 0.8, 0.7 -> 0.8; ..."""
    optimizer = Lookahead(SGD(0.1), freq=2, pullback=0.5)
    weights = numpy.ones((1,), dtype="f")
    fast, slow = [], []
    for _ in range(6):
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        fast.append(float(weights[0]))
        slow.append(float(optimizer.averages[1, "W"][0]))
    assert fast == pytest.approx([0.9, 0.9, 0.8, 0.8, 0.7, 0.7])
    assert slow == pytest.approx([1.0, 0.9, 0.9, 0.8, 0.8, 0.7])


@pytest.mark.parametrize("make", [Adam, RAdam, SGD])
@pytest.mark.parametrize("freq", [1, 4])
def test_pullback_1_is_the_wrapped_optimizer_alone(make, freq, xp):
    weights, expected = make_weights(xp), make_weights(xp)
    train(Lookahead(make(0.1), freq=freq, pullback=1.0), weights, 9)
    train(make(0.1), expected, 9)
    assert_equal(weights, expected)


def lookahead_with_sgd(weights, gradients, learn_rate, freq, pullback):
    """Algorithm 1 of the paper, in float64."""
    slow = fast = weights.astype("float64")
    for i, gradient in enumerate(gradients, start=1):
        fast = fast - learn_rate * gradient
        if i % freq == 0:
            slow = fast = slow + pullback * (fast - slow)
    return fast, slow


@settings(deadline=None, max_examples=100)
@given(
    n_steps=st.integers(1, 30),
    freq=st.integers(1, 7),
    pullback=st.floats(0.01, 1),
    is_stepped=st.booleans(),
    skipped=st.sets(st.integers(1, 30)),
)
def test_is_the_algorithm(n_steps, freq, pullback, is_stepped, skipped):
    optimizer = Lookahead(SGD(0.1, grad_clip=0), freq=freq, pullback=pullback)
    start = numpy.linspace(-1, 1, 6).astype("f")
    random = numpy.random.RandomState(0)
    gradients = [
        random.uniform(-1, 1, 6).astype("f") for step in range(n_steps) if step not in skipped
    ]
    weights = start.copy()
    for gradient in gradients:
        weights, _ = optimizer((1, "W"), weights, gradient.copy())
        if is_stepped:
            optimizer.step_schedules()
    fast, slow = lookahead_with_sgd(start, gradients, 0.1, freq, pullback)
    assert_close({"W": weights}, {"W": fast})
    if gradients:
        assert_close({"W": optimizer.averages[1, "W"]}, {"W": slow})


def test_blocks_and_odd_memory_layouts():
    """Large arrays go through in blocks, others as they are."""
    random = numpy.random.RandomState(0)
    start = random.uniform(-1, 1, (300, 500)).astype("f")
    gradients = [random.uniform(-1, 1, start.shape).astype("f") for _ in range(4)]
    expected, _ = lookahead_with_sgd(start, gradients, 0.1, 2, 0.3)
    for weights in (start.copy(), start.T.copy().T, numpy.repeat(start, 2, axis=1)[:, ::2]):
        optimizer = Lookahead(SGD(0.1, grad_clip=0), freq=2, pullback=0.3)
        for gradient in gradients:
            weights, _ = optimizer((1, "W"), weights, gradient.copy())
        assert_close({"W": weights}, {"W": expected})


# inner_state


def test_keep_leaves_the_moments_alone():
    optimizer, plain = Lookahead(Adam(0.1), freq=3), Adam(0.1)
    train(optimizer, make_weights(), 3)
    train(plain, make_weights(), 3)
    assert_equal(optimizer.mom1, plain.mom1)
    assert_equal(optimizer.mom2, plain.mom2)
    assert optimizer.nr_update == plain.nr_update


@pytest.mark.parametrize("make", [Adam, RAdam, SGD])
def test_reset_starts_the_wrapped_optimizer_afresh(make):
    optimizer = Lookahead(make(0.1), freq=3, inner_state="reset")
    weights = make_weights()
    train(optimizer, weights, 3, seed=1)
    assert set(optimizer.nr_update.values()) == {0}
    assert not any(moment.any() for moment in optimizer.mom1.values())
    expected = to_numpy(weights)
    train(optimizer, weights, 2, seed=2)
    train(make(0.1), expected, 2, seed=2)
    assert_equal(weights, expected)


@pytest.mark.parametrize("make", [Adam, RAdam])
def test_pullback_of_the_moments(make):
    """They are treated like the weights, from zero."""
    optimizer = Lookahead(make(0.1), freq=3, pullback=0.25, inner_state="pullback")
    twin = Lookahead(make(0.1), freq=3, pullback=0.25)
    weights, twin_weights = make_weights(), make_weights()
    slow = {"mom1": {}, "mom2": {}}
    for cycle in range(3):
        train(optimizer, weights, 3, seed=cycle)
        train(twin, twin_weights, 3, seed=cycle)
        assert_equal(weights, twin_weights)
        for name in slow:
            moments = getattr(twin, name)
            for key in moments:
                before = slow[name].get(key, 0.0)
                slow[name][key] = before + 0.25 * (moments[key] - before)
                moments[key][...] = slow[name][key]
            assert_close(getattr(optimizer, name), slow[name], rtol=1e-5, atol=1e-9)
    assert optimizer.nr_update == twin.nr_update
    assert set(optimizer.nr_update.values()) == {9}


def test_pullback_of_moments_that_the_optimizer_brings_along():
    adam = Adam(0.1)
    weights = make_weights()
    train(adam, weights, 4)
    before = to_numpy(adam.mom1)
    optimizer = Lookahead(adam, freq=1, pullback=0.5, inner_state="pullback")
    twin_weights, twin = make_weights(), Adam(0.1)
    train(twin, twin_weights, 4)
    train(optimizer, weights, 1, seed=5)
    train(twin, twin_weights, 1, seed=5)
    after = to_numpy(twin.mom1)
    assert_close(adam.mom1, {key: (before[key] + after[key]) / 2 for key in before})


def test_pullback_without_moments():
    """Plain SGD has none."""
    weights, expected = make_weights(), make_weights()
    train(Lookahead(SGD(0.1), freq=2, inner_state="pullback"), weights, 5)
    train(Lookahead(SGD(0.1), freq=2), expected, 5)
    assert_equal(weights, expected)


# end_step


@pytest.mark.parametrize("is_stepped", [True, False])
def test_after_the_end_the_wrapped_optimizer_runs_alone(is_stepped):
    optimizer = Lookahead(Adam(0.1), freq=3, end_step=4)
    weights = make_weights()
    train(optimizer, weights, 4, is_stepped=is_stepped)
    assert not optimizer.averages
    other = Lookahead(Adam(0.1), freq=3)
    expected = make_weights()
    train(other, expected, 4, is_stepped=is_stepped)
    assert_equal(weights, expected)
    train(optimizer, weights, 5, is_stepped=is_stepped, seed=2)
    train(other.optimizer, expected, 5, is_stepped=is_stepped, seed=2)
    assert_equal(weights, expected)


def test_a_parameter_that_is_first_seen_after_the_end():
    optimizer = Lookahead(Adam(0.1), freq=2, end_step=2)
    weights = make_weights()
    train(optimizer, weights, 6, is_updated=lambda step, key: key != (3, "b") or step > 3)
    assert not optimizer.averages


def test_weights_that_are_not_finite_when_they_are_first_seen():
    """Counted and warned about at every pullback, which leaves the moments alone too."""
    optimizer = Lookahead(Adam(0.1), freq=1, inner_state="reset")
    weights = numpy.full((2,), numpy.nan, dtype="f")
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        optimizer((1, "W"), weights, numpy.ones((2,), dtype="f"))
    optimizer((1, "W"), weights, numpy.ones((2,), dtype="f"))
    assert optimizer.n_skipped == 2 and not optimizer.averages
    assert optimizer.nr_update[1, "W"] == 2
    weights[...] = 1.0
    optimizer((1, "W"), weights, numpy.ones((2,), dtype="f"))
    assert_close(optimizer.averages, {(1, "W"): weights})


def test_lookahead_and_then_swa():
    lookahead = Lookahead(Adam(0.1), freq=3, end_step=6)
    optimizer = SWA(lookahead, start_step=6, freq=2)
    weights = make_weights()
    history = train(optimizer, weights, 10)
    alone = train(Lookahead(Adam(0.1), freq=3, end_step=6), make_weights(), 10)
    assert_equal(history[-1], alone[-1])
    expected = {key: sum(history[step][key] for step in (6, 8, 10)) / 3 for key in weights}
    assert_close(optimizer.averages, expected)


# Outside oracle


def test_against_optax():
    require("optax")
    run_in_new_process(compare_with_optax)


def compare_with_optax():
    import optax

    start = numpy.linspace(-1, 1, 6).astype("f")
    random = numpy.random.RandomState(0)
    gradients = [random.uniform(-1, 1, 6).astype("f") for _ in range(20)]
    oracle = optax.lookahead(optax.sgd(0.1), sync_period=4, slow_step_size=0.3)
    params = optax.LookaheadParams.init_synced(start)
    state = oracle.init(params)
    optimizer = Lookahead(SGD(0.1, grad_clip=0), freq=4, pullback=0.3)
    weights = start.copy()
    for gradient in gradients:
        weights, _ = optimizer((1, "W"), weights, gradient.copy())
        updates, state = oracle.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        assert_close({"W": weights}, {"W": numpy.asarray(params.fast)})
        average = optimizer.averages[1, "W"]
        assert_close({"W": average}, {"W": numpy.asarray(params.slow)})
