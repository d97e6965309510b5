"""LocalSGD on one worker. On several: tests/distributed."""

import copy

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_close, assert_equal, make_weights, to_numpy, train
from thinc.api import SGD, Adam, Optimizer

from thinc_swa import EMA, LAWA, SWA, LocalSGD, Lookahead
from thinc_swa.optimizers.local_sgd import make_local_sgd


def sgd(learn_rate=0.1):
    return SGD(learn_rate, use_averages=False, grad_clip=0)


def test_by_hand():
    """Steps of -1. theta 0, w -2: delta 2, m 2, step 0.5 * (2 + 0.5 * 2) = 1.5; theta -1.5,
    w -3.5: delta 2, m 3, step 0.5 * (2 + 0.5 * 3) = 1.75."""
    optimizer = LocalSGD(sgd(1.0), freq=2, outer_learn_rate=0.5, outer_momentum=0.5)
    weights = numpy.zeros((1,), dtype="f")
    found, averages = [], []
    for _ in range(4):
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        optimizer.step_schedules()
        found.append(float(weights[0]))
        averages.append(float(optimizer.averages[1, "W"][0]))
    assert found == [-1.0, -1.5, -2.5, -3.25]
    assert averages == [0.0, -1.5, -1.5, -3.25]


@settings(deadline=None, max_examples=60)
@given(
    freq=st.integers(1, 5),
    outer_learn_rate=st.floats(0.01, 1.5),
    outer_momentum=st.floats(0, 0.95),
    nesterov=st.booleans(),
    start_step=st.integers(0, 6),
    skipped=st.sets(st.integers(1, 20)),
)
def test_is_the_definition(
    freq, outer_learn_rate, outer_momentum, nesterov, start_step, skipped
):
    optimizer = LocalSGD(
        sgd(),
        freq=freq,
        outer_learn_rate=outer_learn_rate,
        outer_momentum=outer_momentum,
        nesterov=nesterov,
        start_step=start_step,
    )
    random = numpy.random.RandomState(0)
    weights = random.uniform(-1, 1, 6).astype("f")
    w = theta = weights.astype("float64")
    m, is_updated = numpy.zeros(6), False
    for step in range(1, 21):
        gradient = random.uniform(-1, 1, 6).astype("f")
        if step not in skipped:
            w = w - 0.1 * gradient
            is_updated = True
            weights, _ = optimizer((1, "W"), weights, gradient)
        optimizer.step_schedules()
        if step <= start_step:
            theta, is_updated = w, False
        elif (step - start_step) % freq == 0:
            delta = theta - w if is_updated else numpy.zeros(6)
            m = outer_momentum * m + delta
            theta = theta - outer_learn_rate * (delta + outer_momentum * m if nesterov else m)
            w, is_updated = theta, False
        assert_close({"W": weights}, {"W": w}, rtol=1e-4, atol=1e-5)
        if optimizer.averages and step >= start_step:
            assert_close({"W": optimizer.averages[1, "W"]}, {"W": theta}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inner_state", ["keep", "reset", "pullback"])
@pytest.mark.parametrize("pullback", [0.3, 1.0])
@pytest.mark.parametrize("is_stepped", [True, False])
def test_one_worker_without_momentum_is_lookahead(inner_state, pullback, is_stepped, xp):
    """Bit for bit, where all parameters are updated in every step."""
    optimizers = [
        Lookahead(Adam(0.1), freq=3, pullback=pullback, inner_state=inner_state),
        LocalSGD(
            Adam(0.1),
            freq=3,
            outer_learn_rate=pullback,
            outer_momentum=0.0,
            inner_state=inner_state,
        ),
    ]
    results = []
    for optimizer in optimizers:
        weights = make_weights(xp)
        train(optimizer, weights, 11, is_stepped=is_stepped)
        results.append((weights, optimizer.averages, optimizer.mom1, optimizer.mom2))
    for got, expected in zip(*results, strict=True):
        assert_equal(got, expected)


def test_large_arrays_are_those_of_lookahead():
    random = numpy.random.RandomState(0)
    start = random.uniform(-1, 1, (300, 500)).astype("f")
    gradients = [random.uniform(-1, 1, start.shape).astype("f") for _ in range(4)]
    results = []
    for optimizer in (
        Lookahead(sgd(), freq=2, pullback=0.3),
        LocalSGD(sgd(), freq=2, outer_learn_rate=0.3, outer_momentum=0.0),
    ):
        weights = start.copy()
        for gradient in gradients:
            weights, _ = optimizer((1, "W"), weights, gradient.copy())
            optimizer.step_schedules()
        results.append(weights)
    assert results[0].tobytes() == results[1].tobytes()


def test_before_start_step_the_wrapped_optimizer_runs_alone():
    weights, expected = make_weights(), make_weights()
    optimizer = LocalSGD(Adam(0.1), freq=2, start_step=4)
    train(optimizer, weights, 5)
    train(Adam(0.1), expected, 5)
    assert_equal(weights, expected)
    assert optimizer.averages
    optimizer = LocalSGD(Adam(0.1), freq=2, start_step=4)
    train(optimizer, make_weights(), 3)
    assert not optimizer.averages


def test_start_step_is_a_fraction_of_total_steps():
    assert LocalSGD(sgd(), start_step=0.25, total_steps=200).start_step == 50


@pytest.mark.parametrize("outer_momentum", [0.0, 0.5])
def test_a_change_that_is_not_finite_is_left_out(outer_momentum, xp):
    """The parameter continues from the synchronised weights, the others are synchronised."""
    make = {"freq": 2, "outer_learn_rate": 0.5, "outer_momentum": outer_momentum}
    optimizer = LocalSGD(sgd(), **make)
    weights = make_weights(xp)
    initial = to_numpy(weights)
    weights[3, "W"][1, 1] = 0.5
    train(optimizer, weights, 1)
    weights[3, "W"][1, 1] = numpy.nan
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        train(optimizer, weights, 1)
    assert optimizer.n_skipped == 1
    initial[3, "W"][1, 1] = 0.5
    numpy.testing.assert_array_equal(to_numpy(weights)[3, "W"], initial[3, "W"])
    assert not numpy.array_equal(to_numpy(weights)[3, "b"], initial[3, "b"])


def test_lookahead_inside_follows():
    lookahead = Lookahead(sgd(), freq=5)
    optimizer = LocalSGD(lookahead, freq=2)
    weights = make_weights()
    train(optimizer, weights, 4)
    assert_equal(lookahead.averages, to_numpy(weights))


def test_it_changes_the_trajectory():
    assert not LocalSGD(sgd()).is_passive


def test_a_copy_is_not_connected():
    optimizer = LocalSGD(sgd())
    optimizer._exchange = object()
    assert optimizer.is_connected
    assert not copy.deepcopy(optimizer).is_connected


FITTING = [
    lambda o: SWA(o, start_step=23, freq=20),
    lambda o: SWA(o, freq=10),
    lambda o: SWA(o, start_step=3, freq=10),
    lambda o: LAWA(o, start_step=13, freq=10),
    lambda o: EMA(o, start_step=3, freq=30),
    lambda o: EMA(SWA(o, freq=10), start_step=3, freq=30),
]
MISFITTING = [
    lambda o: SWA(o, start_step=20, freq=20),
    lambda o: SWA(o, start_step=23, freq=5),
    lambda o: SWA(o, freq=5),
    lambda o: LAWA(o, start_step=13, freq=15),
    lambda o: EMA(o),
    lambda o: EMA(SWA(o, freq=10), start_step=4, freq=30),
]


@pytest.mark.parametrize("wrap", FITTING)
def test_averages_outside_take_their_snapshots_at_synchronisations(wrap):
    wrap(LocalSGD(sgd(), freq=10, start_step=3))


@pytest.mark.parametrize("wrap", MISFITTING)
def test_averages_outside_at_other_steps_are_an_error(wrap):
    with pytest.raises(ValueError, match="every 10 steps from step 3 on, but it had"):
        wrap(LocalSGD(sgd(), freq=10, start_step=3))
    # With gradients averaged to the end, the workers are synchronised in every step.
    wrap(LocalSGD(sgd(), freq=10, start_step=100, total_steps=100))


def test_start_swa_between_synchronisations_is_an_error():
    optimizer = SWA(LocalSGD(sgd(), freq=3), freq=3)
    train(optimizer, make_weights(), 4)
    with pytest.raises(ValueError, match="start_step = 4"):
        optimizer.start_swa()
    train(optimizer, make_weights(), 2)
    optimizer.start_swa()
    assert optimizer.n_averaged == 1


@pytest.mark.parametrize("n_steps, expected", [(6, 6), (7, 10), (9, 10)])
def test_a_plateau_starts_swa_at_the_next_synchronisation(n_steps, expected):
    optimizer = SWA(
        LocalSGD(sgd(), freq=4, start_step=2), freq=4, start_step="plateau", plateau_evals=1
    )
    weights = make_weights()
    train(optimizer, weights, n_steps)
    for score in (0.9, 0.8, 0.7, 0.6):
        optimizer.add_score(score)
    assert optimizer.start_step == expected
    assert optimizer.n_averaged == (expected == n_steps)
    train(optimizer, weights, 10 - n_steps, seed=2)
    assert optimizer.n_averaged == 1 + (expected == 6)
    if expected == 10:
        assert_equal(optimizer.averages, to_numpy(weights))


WRONG = [
    ({"freq": 0}, "freq must be an int >= 1"),
    ({"freq": 5.7}, "freq must be an int >= 1"),
    ({"outer_learn_rate": 0}, "outer_learn_rate must be a number > 0"),
    ({"outer_momentum": 1.0}, "outer_momentum must be a number >= 0 and < 1"),
    ({"outer_momentum": -0.1}, "outer_momentum must be a number >= 0 and < 1"),
    ({"nesterov": 1}, "nesterov must be true or false"),
    ({"inner_state": "rest"}, "inner_state must be one of"),
    ({"reduce_dtype": "half"}, "reduce_dtype must be one of"),
    ({"start_step": -1}, "start_step must be an int >= 0"),
    ({"start_step": 0.5}, "total_steps must be given"),
    ({"start_step": 20, "total_steps": 10}, "start_step must not be greater"),
    ({"outer_learn_rate": 1.2, "inner_state": "pullback"}, "outer_learn_rate <= 1"),
]


@pytest.mark.parametrize("make", [LocalSGD, make_local_sgd])
@pytest.mark.parametrize("arguments, message", WRONG, ids=str)
def test_bad_arguments(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(sgd(), **arguments)


def test_it_is_an_optimizer_with_a_repr():
    optimizer = LocalSGD(Adam(0.001), nesterov=False)
    assert isinstance(optimizer, Optimizer)
    assert repr(optimizer) == (
        "LocalSGD(Optimizer(learn_rate=0.001), freq=50, outer_learn_rate=0.7, "
        "outer_momentum=0.5, nesterov=False, start_step=0, inner_state='keep')"
    )
