"""One-cycle, cosine and SWA schedules: hand-traceable values, and formulas at every step."""

import math

import numpy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schedule_values import close, values, values_used_by
from thinc.api import SGD

from thinc_swa import SWA, cosine, one_cycle, one_cycle_momentum, swa_anneal


def test_one_cycle_by_hand():
    schedule = one_cycle(
        8.0,
        steps=8,
        warmup_steps=4,
        start_factor=0.5,
        end_factor=0.25,
        anneal_strategy="linear",
    )
    assert values(schedule, 12) == [4, 5, 6, 7, 8, 6.5, 5, 3.5, 2, 2, 2, 2]


def test_one_cycle_cosine_by_hand():
    """Half of the change after half of the steps, and small changes at both ends."""
    slow = (1 - math.sqrt(0.5)) / 2
    schedule = one_cycle(1.0, steps=8, warmup_steps=4, start_factor=0.0, end_factor=0.0)
    up = [0.0, slow, 0.5, 1 - slow]
    assert values(schedule, 10) == close([*up, 1.0, 1 - slow, 0.5, slow, 0.0, 0.0])


def test_one_cycle_momentum_by_hand():
    schedule = one_cycle_momentum(
        0.9, min_momentum=0.5, steps=6, warmup_steps=2, anneal_strategy="linear"
    )
    assert values(schedule, 9) == close([0.9, 0.7, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9])


def test_cosine_by_hand():
    assert values(cosine(2.0, steps=4), 7) == close(
        [2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0, 0.0, 0.0]
    )


def test_cosine_with_warmup_and_restarts_by_hand():
    schedule = cosine(
        4.0,
        steps=10,
        warmup_steps=4,
        start_factor=0.5,
        end_factor=0.5,
        cycles=2,
        cycle_mult=2,
    )
    cycles = [4.0, 3.0, 4.0, 3 + math.sqrt(0.5), 3.0, 3 - math.sqrt(0.5)]
    assert values(schedule, 12) == close([2.0, 2.5, 3.0, 3.5, *cycles, 2.0, 2.0])


def test_swa_anneal_by_hand():
    schedule = swa_anneal(1.0, 0.2, start_step=3, anneal_steps=4)
    assert values(schedule, 9) == close([1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    jump = swa_anneal(1.0, 2.0, start_step=2, anneal_steps=1)
    assert values(jump, 5) == [1, 1, 2, 2, 2]
    from_the_start = swa_anneal(1.0, 2.0, start_step=0, anneal_steps=2)
    assert values(from_the_start, 4) == [1.5, 2, 2, 2]


def interpolate(strategy, start, end, part):
    if strategy == "cosine":
        return end + (start - end) * (1 + numpy.cos(numpy.pi * part)) / 2
    return start + (end - start) * part


RATES = st.floats(0, 1e6)
PARTS = st.floats(0, 1)
STRATEGIES = st.sampled_from(["linear", "cosine"])


@st.composite
def lengths(draw):
    """Values of steps and warmup_steps."""
    steps = draw(st.integers(1, 200))
    return steps, draw(st.integers(0, steps - 1))


def check(schedule, expected, ends):
    """Compare the values of every step and far after the last one.

    ends (dict[int, float]): Values that must be exact, by step."""
    n_steps = len(expected)
    got = values(schedule, n_steps)
    assert all(type(value) is float for value in got)
    tolerance = 1e-9 * max(expected) + 1e-300
    numpy.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    for step, value in ends.items():
        assert schedule(step) == value
    assert schedule(10**9) == schedule(n_steps - 1) == got[-1]


@settings(deadline=None)
@given(RATES, lengths(), PARTS, PARTS, STRATEGIES)
def test_one_cycle_equals_its_formula(max_rate, lengths, start_factor, end_factor, strategy):
    steps, warmup_steps = lengths
    start, end = start_factor * max_rate, end_factor * max_rate
    expected = [
        interpolate(strategy, start, max_rate, step / warmup_steps)
        for step in range(warmup_steps)
    ] + [
        interpolate(strategy, max_rate, end, step / (steps - warmup_steps))
        for step in range(steps - warmup_steps)
    ]
    schedule = one_cycle(
        max_rate,
        steps=steps,
        warmup_steps=warmup_steps,
        start_factor=start_factor,
        end_factor=end_factor,
        anneal_strategy=strategy,
    )
    ends = {0: start if warmup_steps else max_rate, warmup_steps: max_rate, steps: end}
    check(schedule, expected + [end] * 3, ends)


@settings(deadline=None)
@given(PARTS, PARTS, lengths(), STRATEGIES)
def test_one_cycle_momentum_mirrors_the_rate(first, second, lengths, strategy):
    """The sum of rate and momentum is constant if both have the same bounds."""
    low, high = sorted([first, second])
    assume(low > 0)
    steps, warmup_steps = lengths
    settings = {"steps": steps, "warmup_steps": warmup_steps, "anneal_strategy": strategy}
    momentum = one_cycle_momentum(high, min_momentum=low, **settings)
    rate = one_cycle(high, start_factor=low / high, end_factor=low / high, **settings)
    expected = [low + high - value for value in values(rate, steps + 3)]
    ends = {0: high if warmup_steps else low, warmup_steps: low, steps: high}
    check(momentum, expected, ends)


@settings(deadline=None)
@given(
    RATES,
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 50),
    PARTS,
    PARTS,
)
def test_cosine_equals_its_formula(
    max_rate, first_cycle, cycles, cycle_mult, warmup_steps, start_factor, end_factor
):
    """T_0, T_mult and T_cur as in the paper, equation 5."""
    low = end_factor * max_rate
    expected = [
        interpolate("linear", start_factor * max_rate, max_rate, step / warmup_steps)
        for step in range(warmup_steps)
    ]
    ends = {0: start_factor * max_rate} if warmup_steps else {}
    for i in range(cycles):
        ends[len(expected)] = max_rate
        T_i = first_cycle * cycle_mult**i
        expected += [
            low + 0.5 * (max_rate - low) * (1 + math.cos(math.pi * T_cur / T_i))
            for T_cur in range(T_i)
        ]
    ends[len(expected)] = low
    schedule = cosine(
        max_rate,
        steps=len(expected),
        warmup_steps=warmup_steps,
        start_factor=start_factor,
        end_factor=end_factor,
        cycles=cycles,
        cycle_mult=cycle_mult,
    )
    check(schedule, [*expected, low, low], ends)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 10), st.floats(0.2, 5))
def test_cosine_cycles_divide_all_steps(steps, cycles, cycle_mult):
    """Lengths are rounded to the nearest step."""
    try:
        schedule = cosine(1.0, steps=steps, cycles=cycles, cycle_mult=cycle_mult)
    except ValueError:
        parts = [cycle_mult**i for i in range(cycles)]
        assert steps * min(parts) / sum(parts) < 1.5
        return
    got = values(schedule, steps + 1)
    starts = [step for step in range(steps) if got[step] == 1.0]
    assert len(starts) == cycles and starts[0] == 0 and got[-1] == 0.0
    spans = numpy.diff([*starts, steps])
    shares = cycle_mult ** numpy.arange(cycles)
    assert abs(spans - steps * shares / shares.sum()).max() <= 1.0


@settings(deadline=None)
@given(RATES, RATES, st.integers(0, 100), st.integers(1, 100), STRATEGIES)
def test_swa_anneal_equals_its_formula(
    start_rate, end_rate, start_step, anneal_steps, strategy
):
    expected = [start_rate] * start_step + [
        interpolate(strategy, start_rate, end_rate, k / anneal_steps)
        for k in range(1, anneal_steps + 1)
    ]
    schedule = swa_anneal(
        start_rate,
        end_rate,
        start_step=start_step,
        anneal_steps=anneal_steps,
        anneal_strategy=strategy,
    )
    ends = {start_step + anneal_steps - 1: end_rate}
    check(schedule, expected + [end_rate] * 2, ends)


@settings(deadline=None)
@given(RATES, RATES, st.integers(0, 8), st.integers(1, 8), STRATEGIES)
def test_swa_anneal_equals_the_rates_of_swa(start_rate, end_rate, start_step, steps, strategy):
    optimizer = SWA(
        SGD(start_rate),
        start_step=start_step,
        learn_rate=end_rate,
        anneal_steps=steps,
        anneal_strategy=strategy,
    )
    schedule = swa_anneal(
        start_rate,
        end_rate,
        start_step=start_step,
        anneal_steps=steps,
        anneal_strategy=strategy,
    )
    assert values(schedule, 20) == values_used_by(optimizer, "learn_rate", 20)
