"""The power-function average, which `EMA` is without `decay` and `half_life`."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import KEYS, assert_close, due, make_weights, mean, moving_average, train
from scalar_runs import averaged, scalar_run
from thinc.api import SGD, Adam

from thinc_swa import EMA
from thinc_swa.averaging.power_profiles import MAX_SIGMA_REL, power_exponent
from thinc_swa.averaging.running_average import RunningAverage


def closed_form(snapshots, gamma):
    """The average in which the t-th snapshot weighs the integral of time ** gamma from t - 1
    to t, in float64."""
    times = numpy.arange(len(snapshots) + 1) / len(snapshots)
    shares = numpy.diff(times ** (gamma + 1))
    return {
        key: numpy.tensordot(
            shares, [snapshot[key].astype("float64") for snapshot in snapshots], 1
        )
        for key in snapshots[0]
    }


def test_by_hand():
    """gamma = 1: decays of 0, 1/4 and 4/9, so the weights count 1/9, 3/9 and 5/9."""
    sigma_rel = math.sqrt(2) / 3 / 2
    assert power_exponent(sigma_rel) == pytest.approx(1.0)
    optimizer = EMA(SGD(0.1), sigma_rel=sigma_rel)
    scalar_run(optimizer, 3)  # 0.9, 0.8, 0.7
    assert averaged(optimizer) == pytest.approx((0.9 + 3 * 0.8 + 5 * 0.7) / 9, rel=1e-6)


@pytest.mark.parametrize("sigma_rel, gamma", [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_of_the_paper(sigma_rel, gamma):
    """arXiv:2312.02696, section 3.1."""
    assert power_exponent(sigma_rel) == pytest.approx(gamma, abs=0.005)


@given(gamma=st.floats(0, 1000))
def test_the_exponent_solves_the_equation(gamma):
    sigma_rel = (gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5
    assert power_exponent(min(sigma_rel, MAX_SIGMA_REL)) == pytest.approx(
        gamma, rel=1e-6, abs=1e-6
    )


def test_sigma_rel_is_the_standard_deviation_of_the_times():
    gamma = power_exponent(0.1)
    n = 20_000
    times = (numpy.arange(n) + 0.5) / n
    shares = numpy.diff((numpy.arange(n + 1) / n) ** (gamma + 1))
    center = (shares * times).sum()
    assert math.sqrt((shares * (times - center) ** 2).sum()) == pytest.approx(0.1, rel=1e-4)


def test_it_is_the_default():
    optimizer = EMA(Adam(0.1))
    assert optimizer.sigma_rel == 0.1 and optimizer.decay is None
    assert (
        repr(optimizer) == "EMA(Optimizer(learn_rate=0.1), sigma_rel=0.1, freq=1, start_step=0)"
    )


@settings(deadline=None, max_examples=100)
@given(
    n_steps=st.integers(1, 60),
    sigma_rel=st.floats(0.005, MAX_SIGMA_REL),
    freq=st.integers(1, 5),
    start_step=st.integers(0, 20),
    is_stepped=st.booleans(),
)
def test_is_the_closed_form(n_steps, sigma_rel, freq, start_step, is_stepped):
    optimizer = EMA(Adam(0.1), sigma_rel=sigma_rel, freq=freq, start_step=start_step)
    history = train(optimizer, make_weights(), n_steps, is_stepped=is_stepped)
    snapshots = [history[step] for step in due(start_step, freq, n_steps)]
    if snapshots:
        assert_close(optimizer.averages, closed_form(snapshots, power_exponent(sigma_rel)))
    else:
        assert not optimizer.averages


def test_is_the_recurrence_of_the_paper():
    gamma = power_exponent(0.1)
    optimizer = EMA(Adam(0.1), sigma_rel=0.1)
    history = train(optimizer, make_weights(), 50)
    decays = [(1 - 1 / t) ** (gamma + 1) for t in range(2, 51)]
    assert_close(optimizer.averages, moving_average(history[1:], decays))


def test_the_greatest_width_is_the_arithmetic_mean():
    optimizer = EMA(Adam(0.1), sigma_rel=MAX_SIGMA_REL)
    history = train(optimizer, make_weights(), 30)
    assert_close(optimizer.averages, mean(history[1:]))


def test_parameters_that_skip_steps():
    optimizer = EMA(Adam(0.1), sigma_rel=0.15)
    history = train(
        optimizer,
        make_weights(),
        12,
        is_updated=lambda step, key: key != (3, "b") or step in (5, 6, 9),
    )
    expected = closed_form(history[1:], power_exponent(0.15))
    assert_close(optimizer.averages, expected)
    assert set(optimizer.averages) == set(KEYS)


@pytest.mark.parametrize(
    "sigma_rel",
    [
        0.1,
        *(pytest.param(x, marks=pytest.mark.slow) for x in (0.02, 0.25, 0.288, MAX_SIGMA_REL)),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.001, 0.1])
def test_stays_exact_over_many_snapshots(sigma_rel, noise):
    optimizer = EMA(Adam(0.1), sigma_rel=sigma_rel)
    n_snapshots = 100_000
    random = numpy.random.RandomState(0)
    centres = random.uniform(0.5, 1.5, 200)
    gamma = power_exponent(sigma_rel)
    average, exact = RunningAverage(), numpy.zeros(200)
    for t in range(1, n_snapshots + 1):
        weights = (centres * (1 + noise * random.uniform(-1, 1, 200))).astype("f")
        average.add_snapshot({(1, "W"): weights}, optimizer._decay_of(t))
        exact += (
            (weights - exact) * -math.expm1((gamma + 1) * math.log1p(-1 / t))
            if t > 1
            else weights
        )
    error = abs(average.averages()[1, "W"] / exact - 1)
    assert error.max() < 2e-5 and numpy.sqrt((error**2).mean()) < 1e-5


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3, math.nan, True, "0.1"])
def test_widths_out_of_range(sigma_rel):
    with pytest.raises(
        ValueError, match="sigma_rel must be a number > 0 and <= 0.288675, but was"
    ):
        EMA(Adam(0.1), sigma_rel=sigma_rel)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sigma_rel": 0.1, "decay": 0.9},
        {"sigma_rel": 0.1, "half_life": 9},
        {"decay": 0.9, "half_life": 9},
    ],
)
def test_only_one_width(arguments):
    with pytest.raises(ValueError, match="Only one of sigma_rel, decay and half_life"):
        EMA(Adam(0.1), **arguments)


@pytest.mark.parametrize("arguments", [{}, {"sigma_rel": 0.1}])
def test_warmup_is_for_exponential_averages(arguments):
    with pytest.raises(ValueError, match="warmup = True needs decay or half_life"):
        EMA(Adam(0.1), warmup=True, **arguments)
