"""Profiles of power-function averages, and least squares over them."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinc_swa.averaging import power_profiles
from thinc_swa.averaging.power_profiles import (
    MAX_SIGMA_REL,
    Profile,
    combine_profiles,
    power_exponent,
)

PRECISION = 2.0**-24


def steps(n_averaged):
    return numpy.arange(n_averaged + 1.0)


def combine(stored, target, precision=PRECISION):
    (combination,) = combine_profiles(stored, [target], precision=precision)
    return combination


def two_widths(n_averaged, freq):
    gammas = [power_exponent(width) for width in (0.05, 0.1)]
    return [Profile(t, gamma) for t in range(freq, n_averaged + 1, freq) for gamma in gammas]


def test_shares_by_hand():
    assert Profile(3, 1.0).shares(steps(3)) == pytest.approx([1 / 9, 3 / 9, 5 / 9])
    assert Profile(2, 0.0).shares(steps(3)) == pytest.approx([1 / 2, 1 / 2, 0])
    assert Profile(3, 1.0).shares(numpy.array([0, 2, 3])) == pytest.approx([4 / 9, 5 / 9])


@given(n_averaged=st.integers(1, 200), sigma_rel=st.floats(0.005, MAX_SIGMA_REL))
def test_shares_are_those_of_the_recurrence(n_averaged, sigma_rel):
    gamma = power_exponent(sigma_rel)
    shares = numpy.zeros(n_averaged)
    for t in range(1, n_averaged + 1):
        decay = (1 - 1 / t) ** (gamma + 1)
        shares *= decay
        shares[t - 1] = 1 - decay
    numpy.testing.assert_allclose(
        Profile(n_averaged, gamma).shares(steps(n_averaged)), shares, rtol=1e-9, atol=1e-13
    )


def continuous_product(one, other):
    """The integral of the product of two profiles over continuous time."""
    (t, a), (u, b) = one, other
    end = min(t, u)
    return (a + 1) * (b + 1) * (end / t) ** a * (end / u) ** b * end / (a + b + 1) / t / u


@pytest.mark.parametrize("other", [Profile(20_000, 16.97), Profile(15_000, 6.94)])
def test_inner_products_are_those_of_continuous_time(other):
    """The paper's inner products are the limit for many steps."""
    one = Profile(20_000, 6.94)
    product = one.shares(steps(20_000)) @ other.shares(steps(20_000))
    assert product == pytest.approx(continuous_product(one, other), rel=1e-6)


def test_coefficients_by_hand():
    """Of means of 1, 2 and 3 weights, so that the weights count 1/9, 3/9 and 5/9."""
    stored = [Profile(t, 0.0) for t in (1, 2, 3)]
    found = combine(stored, Profile(3, 1.0))
    assert found.coefficients == pytest.approx([-2 / 9, -4 / 9, 15 / 9])
    assert found.error < 1e-12


def test_coefficients_are_those_of_the_paper():
    """Normal equations over continuous time, without a condition on their sum."""
    stored = two_widths(20_000, 1000)
    target = Profile(20_000, power_exponent(0.075))
    products = [[continuous_product(one, other) for one in stored] for other in stored]
    right = [continuous_product(one, target) for one in stored]
    expected = numpy.linalg.solve(numpy.array(products), right)
    assert expected.sum() == pytest.approx(1, abs=1e-4)
    numpy.testing.assert_allclose(combine(stored, target).coefficients, expected, atol=2e-3)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1])
def test_a_stored_average_is_taken_as_it_is(sigma_rel):
    stored = two_widths(2000, 100)
    target = Profile(2000, power_exponent(sigma_rel))
    found = combine(stored, target)
    expected = [float(profile == target) for profile in stored]
    assert found.coefficients == pytest.approx(expected, abs=1e-7)
    assert found.error < 1e-8


@settings(deadline=None, max_examples=30)
@given(
    n_averaged=st.integers(1, 300),
    freq=st.integers(1, 50),
    sigma_rel=st.floats(0.02, MAX_SIGMA_REL),
)
def test_coefficients_add_up_to_one_and_errors_are_right(n_averaged, freq, sigma_rel):
    stored = two_widths(n_averaged, min(freq, n_averaged))
    target = Profile(n_averaged, power_exponent(sigma_rel))
    found = combine(stored, target)
    assert found.coefficients.sum() == pytest.approx(1, abs=1e-9)
    shares = sum(
        factor * profile.shares(steps(n_averaged))
        for factor, profile in zip(found.coefficients, stored, strict=True)
    )
    wanted = target.shares(steps(n_averaged))
    error = numpy.linalg.norm(shares - wanted) / numpy.linalg.norm(wanted)
    assert found.error == pytest.approx(error, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(sigma_rel=st.floats(0.02, MAX_SIGMA_REL), more=st.integers(1, 400))
def test_more_snapshots_never_make_it_worse(sigma_rel, more):
    stored = two_widths(400, 100)
    target = Profile(400, power_exponent(sigma_rel))
    extra = Profile(more, power_exponent(0.1))
    assert combine([extra, *stored], target).error <= combine(stored, target).error + 1e-6


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.2])
@pytest.mark.parametrize("n_cells", [500, 2000])
def test_long_trainings_are_merged_into_cells(monkeypatch, sigma_rel, n_cells):
    """Cells change hardly anything."""
    stored = two_widths(20_010, 1000)
    target = Profile(20_010, power_exponent(sigma_rel))
    monkeypatch.setattr(power_profiles, "N_CELLS", 20_010)
    exact = combine(stored, target)
    monkeypatch.setattr(power_profiles, "N_CELLS", n_cells)
    merged = combine(stored, target)
    tolerance = 0.05 if n_cells == 500 else 0.005
    assert abs(merged.coefficients - exact.coefficients).max() < tolerance
    assert merged.error == pytest.approx(exact.error, rel=tolerance)


def test_rounding_errors_limit_the_coefficients():
    """A narrow average of wide ones would amplify them."""
    stored = two_widths(2000, 5)
    target = Profile(2000, power_exponent(0.01))
    norms = [
        numpy.linalg.norm(combine(stored, target, precision).coefficients)
        for precision in (2.0**-53, 2.0**-24, 2.0**-11)
    ]
    assert norms[0] > norms[1] > norms[2]
    errors = [combine(stored, target, precision).error for precision in (2.0**-24, 2.0**-11)]
    assert errors[0] < errors[1] < 0.5


def test_two_targets_at_once():
    stored = two_widths(200, 20)
    targets = [Profile(200, power_exponent(width)) for width in (0.07, 0.15)]
    both = combine_profiles(stored, targets, precision=PRECISION)
    for target, found in zip(targets, both, strict=True):
        numpy.testing.assert_allclose(
            found.coefficients, combine(stored, target).coefficients, atol=1e-9
        )


def test_nothing_to_combine():
    with pytest.raises(ValueError, match="There are no stored averages"):
        combine_profiles([], [Profile(1, 1.0)], precision=PRECISION)


def test_the_widest_average_is_the_mean():
    assert power_exponent(MAX_SIGMA_REL) == 0.0
    assert math.isclose(MAX_SIGMA_REL, 0.288675, rel_tol=1e-5)
