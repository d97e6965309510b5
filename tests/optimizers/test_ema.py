import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import (
    KEYS,
    assert_close,
    assert_equal,
    due,
    make_weights,
    moving_average,
    to_numpy,
    train,
)
from scalar_runs import averaged, scalar_run
from thinc.api import SGD, Adam, NumpyOps

from thinc_swa import EMA, SWA, Lookahead


def test_by_hand():
    optimizer = EMA(SGD(0.1), decay=0.5)
    scalar_run(optimizer, 1)
    assert averaged(optimizer) == 0.9  # A copy of the first weights.
    optimizer = EMA(SGD(0.1), decay=0.5)
    scalar_run(optimizer, 3)  # 0.9, then (0.9 + 0.8) / 2 = 0.85, then (0.85 + 0.7) / 2
    assert averaged(optimizer) == 0.775
    assert optimizer.n_averaged == 3


def test_own_averages_are_dropped_at_once():
    optimizer = SGD(0.1)
    EMA(optimizer, start_step=100)
    assert optimizer.averages is None


@settings(deadline=None, max_examples=100)
@given(
    n_steps=st.integers(1, 40),
    decay=st.floats(0, 1, exclude_max=True),
    warmup=st.booleans(),
    freq=st.integers(1, 5),
    start_step=st.integers(0, 20),
    is_stepped=st.booleans(),
)
def test_is_the_formula(n_steps, decay, warmup, freq, start_step, is_stepped):
    optimizer = EMA(Adam(0.1), decay=decay, warmup=warmup, freq=freq, start_step=start_step)
    history = train(optimizer, make_weights(), n_steps, is_stepped=is_stepped)
    steps = due(start_step, freq, n_steps)
    assert optimizer.n_averaged == len(steps)
    decays = [decay] * len(steps)
    if warmup:
        decays = [min(decay, (1 + t) / (10 + t)) for t in range(2, len(steps) + 2)]
    if steps:
        expected = moving_average([history[step] for step in steps], decays)
        assert_close(optimizer.averages, expected)
    else:
        assert not optimizer.averages


def test_parameters_that_skip_steps():
    optimizer = EMA(Adam(0.1), decay=0.7)
    history = train(
        optimizer,
        make_weights(),
        12,
        is_updated=lambda step, key: key != (3, "b") or step in (5, 6, 9),
    )
    assert_close(optimizer.averages, moving_average(history[1:], [0.7] * 11))


def test_warmup_is_thincs_curve():
    """Thinc's own average, but for its start from zero."""
    optimizer = EMA(Adam(0.1), decay=0.9999, warmup=True)
    history = train(optimizer, make_weights(), 30)
    ops = NumpyOps()
    expected = {key: array.copy() for key, array in history[1].items()}
    for t in range(2, 31):
        for key in KEYS:
            ops.update_averages(expected[key], history[t][key], t)
    assert_close(optimizer.averages, expected)


@pytest.mark.parametrize("freq", [1, 5])
def test_half_life_is_in_steps(freq):
    optimizer = EMA(SGD(0.0), half_life=20, freq=freq)
    weights = {(1, "W"): numpy.ones((1,), dtype="f")}
    train(optimizer, weights, freq)
    weights[1, "W"][...] = 0
    train(optimizer, weights, 20)
    assert averaged(optimizer) == 0.5


def test_a_short_memory_stays_in_the_range_of_floats():
    optimizer = EMA(Adam(0.01), decay=0.1)
    weights = make_weights()
    history = train(optimizer, weights, 500)
    assert_close(optimizer.averages, moving_average(history[-40:], [0.1] * 39))


def test_weights_that_stand_still_are_their_own_average():
    optimizer = EMA(SGD(0.0), decay=0.9)
    weights = make_weights()
    train(optimizer, weights, 2000)
    assert_close(optimizer.averages, to_numpy(weights), rtol=1e-4)


def test_overwriting_by_hand():
    optimizer = EMA(SGD(0.1), decay=0.5, overwrite_freq=3)
    weights = scalar_run(optimizer, 2)
    assert float(weights[0]) == pytest.approx(0.8)
    weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))  # 0.7
    optimizer.step_schedules()
    assert float(weights[0]) == pytest.approx(0.775)  # As in the first test.
    assert averaged(optimizer) == 0.775


@pytest.mark.parametrize("start_step, first", [(0, 3), (2, 5)])
def test_overwriting_counts_from_the_start(start_step, first):
    optimizer = EMA(Adam(0.1), decay=0.5, start_step=start_step, overwrite_freq=3)
    weights = make_weights()
    overwritten = []
    for step in range(1, 10):
        before = train(optimizer, weights, 1, seed=step)[-1]
        if any((to_numpy(weights)[key] != before[key]).any() for key in KEYS):
            overwritten.append(step)
    assert overwritten == list(range(first, 10, 3))


def test_overwriting_starts_lookahead_again():
    lookahead = Lookahead(SGD(0.1), freq=10)
    optimizer = EMA(lookahead, decay=0.5, overwrite_freq=3)
    weights = make_weights()
    train(optimizer, weights, 3)
    assert_equal(lookahead.averages, weights)


def test_without_an_average_nothing_is_overwritten():
    alone = make_weights()
    train(Lookahead(SGD(0.1), freq=6), alone, 8)
    weights = make_weights()
    train(EMA(Lookahead(SGD(0.1), freq=6), decay=0.5, freq=10, overwrite_freq=5), weights, 8)
    assert_equal(weights, alone)
    weights = make_weights()
    lookahead = Lookahead(SGD(0.1), freq=6)
    train(SWA(lookahead, start_step=0, freq=10, end_step=5), weights, 8)
    assert_equal(weights, alone)
