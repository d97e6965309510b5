"""Phases: sequences of schedules."""

import numpy
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schedule_values import close, values, values_used_by
from thinc.api import SGD, constant_then, decaying

from thinc_swa import (
    OptimizerWrapper,
    cosine,
    one_cycle,
    one_cycle_momentum,
    phases,
    swa_anneal,
)
from thinc_swa.schedules.compat import Schedule
from thinc_swa.schedules.learn_rate import current_rate


def test_phases_by_hand():
    schedule = phases(
        (2, 0.5),
        (4, one_cycle(8.0, steps=4, warmup_steps=2, start_factor=0, anneal_strategy="linear")),
        (3, [7, 6]),
        (1, 3),
        swa_anneal(1.0, 0.0, start_step=1, anneal_steps=2),
    )
    expected = [0.5, 0.5, 0, 4, 8, 4 + 1.6e-5, 7, 6, 6, 3, 1, 0.5, 0, 0]
    assert values(schedule, 14) == close(expected)


def test_last_phase_with_steps_stays_at_its_last_value():
    """The schedule of the phase may be longer."""
    assert values(phases((1, 5.0), (2, [1, 2, 3])), 6) == [5, 1, 2, 2, 2, 2]
    assert values(phases((2, 0.5)), 4) == [0.5] * 4
    assert values(phases((None, [3, 4])), 4) == [3, 4, 4, 4]


def test_thinc_schedules_as_phases_begin_at_step_0():
    schedule = phases((3, decaying(1.0, 1.0)), (2, decaying(1.0, 1.0)), decaying(0.5, 1.0))
    expected = [1, 1 / 2, 1 / 3, 1, 1 / 2, 0.5, 0.5 / 2, 0.5 / 3, 0.5 / 4]
    assert values(schedule, 9) == close(expected)


def leaf_schedules():
    """Functions that make a number, a list, or a schedule of this package or of Thinc."""
    steps = st.integers(1, 9)
    return st.one_of(
        st.floats(0, 9).map(lambda rate: lambda: rate),
        st.lists(st.floats(0, 9), min_size=1, max_size=4).map(lambda rates: lambda: [*rates]),
        steps.map(lambda n: lambda: one_cycle(2.0, steps=n)),
        steps.map(lambda n: lambda: one_cycle_momentum(steps=n)),
        steps.map(lambda n: lambda: cosine(3.0, steps=3 * n, cycles=2, warmup_steps=n)),
        steps.map(lambda n: lambda: swa_anneal(1.0, 0.0, start_step=n, anneal_steps=3)),
        steps.map(lambda n: lambda: decaying(1.0, 0.1 * n)),
        steps.map(lambda n: lambda: constant_then(0.3, n, decaying(1.0, 0.1 * n))),
    )


def phases_of(schedules):
    pairs = st.lists(st.tuples(st.integers(1, 9), schedules), min_size=1, max_size=4)
    return st.tuples(pairs, st.one_of(st.none(), schedules)).map(Phases)


class Phases:
    """A function that makes phases, with a repr for Hypothesis."""

    def __init__(self, parts):
        self.pairs, self.last = parts

    def __call__(self):
        made = [(steps, make()) for steps, make in self.pairs]
        return phases(*made, *([] if self.last is None else [self.last()]))

    def __repr__(self):
        return repr(values(self(), 40))


N_STEPS = 60


def expected_values(make):
    """The values of a schedule, by concatenation of lists for phases."""
    if isinstance(make, Phases):
        result = []
        for steps, part in make.pairs:
            result += expected_values(part)[:steps]
        rest = [result[-1]] * N_STEPS if make.last is None else expected_values(make.last)
        return (result + rest)[:N_STEPS]
    schedule = make()
    if isinstance(schedule, float):
        return [schedule] * N_STEPS
    if isinstance(schedule, list):
        return (schedule + schedule[-1:] * N_STEPS)[:N_STEPS]
    return values(schedule, N_STEPS)


SCHEDULES = st.recursive(leaf_schedules(), phases_of, max_leaves=8)
NESTED = phases_of(SCHEDULES)


@settings(deadline=None)
@given(NESTED)
def test_phases_are_concatenated_schedules(make):
    assert values(make(), N_STEPS) == expected_values(make)


@settings(deadline=None)
@given(NESTED, st.lists(st.integers(0, N_STEPS - 1), max_size=9))
def test_phases_can_be_called_in_any_order(make, steps):
    """Calls in any order, repeated or not, do not change the values."""
    schedule, expected = make(), expected_values(make)
    assert [schedule(step) for step in steps] == [expected[step] for step in steps]
    assert values(schedule, N_STEPS) == expected


@settings(deadline=None)
@given(NESTED)
def test_optimizer_uses_the_values_of_phases(make):
    optimizer = SGD(make(), L2=make())
    expected = expected_values(make)
    assert values_used_by(optimizer, "learn_rate", N_STEPS) == expected
    optimizer = OptimizerWrapper(SGD(0.1, L2=make()))
    assert values_used_by(optimizer, "L2", N_STEPS) == expected


@settings(deadline=None)
@given(st.integers(2, 1000), st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_fractions_with_sum_1_cover_the_whole_training(total_steps, parts):
    fractions = [part / sum(parts) for part in parts]
    assume(len(parts) > 1 and min(fractions) * total_steps >= 1)
    schedule = phases(
        *((fraction, float(n)) for n, fraction in enumerate(fractions)),
        99.0,
        total_steps=total_steps,
    )
    got = values(schedule, total_steps + 1)
    assert got[-2:] == [len(parts) - 1, 99.0]
    ends = numpy.cumsum([got.count(n) for n in range(len(parts))])
    assert abs(ends - numpy.cumsum(fractions) * total_steps).max() <= 0.5 + 1e-6


def test_steps_and_fractions_can_be_mixed():
    schedule = phases((0.29, 1.0), (7, 2.0), (0.21, 3.0), 4.0, total_steps=50)
    got = values(schedule, 60)
    # 14.5 steps become 14, and 14.5 + 10.5 are 25.
    assert [got.count(rate) for rate in (1, 2, 3, 4)] == [14, 7, 11, 28]


@pytest.mark.skipif(Schedule is None, reason="new in Thinc 9")
def test_phases_pass_on_the_last_score():
    from thinc.api import constant, plateau

    optimizer = SGD(phases((3, 0.5), plateau(2, 0.5, constant(0.1))))
    weights = numpy.zeros((2,), dtype="f")
    for _ in range(9):
        weights, _ = optimizer((1, "W"), weights, weights)
        optimizer.step_schedules()
        optimizer.last_score = 0.5
    assert current_rate(optimizer) < 0.1  # The score does not improve, so the rate decreases.


def count_up(start):
    while True:
        yield start
        start += 1


@pytest.mark.parametrize(
    "make", [lambda: count_up(3), lambda: iter([3, 4, 5])], ids=["generator", "iterator"]
)
def test_generators_and_iterators_as_phases(make):
    schedule = phases((2, 0.5), (3, make()), phases((2, make()), 0.1))
    assert values(schedule, 9) == [0.5, 0.5, 3, 4, 5, 3, 4, 0.1, 0.1]
    optimizer = SGD(phases((2, make()), 0.5))
    rates = []
    for _ in range(4):
        rates.append(current_rate(optimizer))
        optimizer.step_schedules()
    assert rates == [3, 4, 0.5, 0.5]


def test_phase_without_values_is_refused():
    with pytest.raises(ValueError, match="must have at least one value, but was empty"):
        values(phases((3, iter([])), 0.1), 1)
