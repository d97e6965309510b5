"""The schedules: against their formulas, step by step, and at work in optimizers.

On Thinc 8.3 a schedule is drawn from, on Thinc 9.1 it is called; `values` does what this Thinc
does."""

import copy
import itertools
import math
import pickle
import re
from pathlib import Path

import numpy
import pytest
from helpers import require
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from thinc.api import SGD, Adam, Config, constant_then, decaying, registry

from thinc_swa import (
    SWA,
    OptimizerWrapper,
    cosine,
    one_cycle,
    one_cycle_momentum,
    phases,
    plot_schedule,
    swa_anneal,
)
from thinc_swa.schedules.compat import Schedule, ScheduleIterator
from thinc_swa.schedules.learn_rate import current_rate

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf8")


def values(schedule, n):
    """The first n values, as an optimizer of this Thinc gets them."""
    if Schedule is None:
        return list(itertools.islice(schedule, n))
    return [schedule(step, key=(1, "W"), last_score=None) for step in range(n)]


def close(expected):
    return pytest.approx(expected, rel=1e-12, abs=1e-15)


# Numbers to follow by hand


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
    """Half of the way at half of the time, and slow at both ends."""
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


def test_the_last_phase_stays_at_its_last_value():
    """Also where its own schedule would go on."""
    assert values(phases((1, 5.0), (2, [1, 2, 3])), 6) == [5, 1, 2, 2, 2, 2]
    assert values(phases((2, 0.5)), 4) == [0.5] * 4
    assert values(phases((None, [3, 4])), 4) == [3, 4, 4, 4]


def test_thincs_schedules_as_phases():
    """Each begins at its own step 0."""
    schedule = phases((3, decaying(1.0, 1.0)), (2, decaying(1.0, 1.0)), decaying(0.5, 1.0))
    expected = [1, 1 / 2, 1 / 3, 1, 1 / 2, 0.5, 0.5 / 2, 0.5 / 3, 0.5 / 4]
    assert values(schedule, 9) == close(expected)


# Formulas, at every step


def interpolate(strategy, start, end, part):
    if strategy == "cosine":
        return end + (start - end) * (1 + numpy.cos(numpy.pi * part)) / 2
    return start + (end - start) * part


RATES = st.floats(0, 1e6)
PARTS = st.floats(0, 1)
STRATEGIES = st.sampled_from(["linear", "cosine"])


@st.composite
def lengths(draw):
    """steps and warmup_steps."""
    steps = draw(st.integers(1, 200))
    return steps, draw(st.integers(0, steps - 1))


def check(schedule, expected, ends):
    """Every step, and far beyond the last one.

    ends (dict[int, float]): Values that are to be met exactly."""
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
def test_one_cycle_is_its_formula(max_rate, lengths, start_factor, end_factor, strategy):
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
def test_the_momentum_is_the_mirror_of_the_rate(first, second, lengths, strategy):
    """What the one has left to its peak, the other is above its lowest."""
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
def test_cosine_is_its_formula(
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
def test_cycles_share_all_steps(steps, cycles, cycle_mult):
    """To the nearest step, also where it does not divide."""
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
def test_swa_anneal_is_its_formula(start_rate, end_rate, start_step, anneal_steps, strategy):
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
def test_swa_anneal_has_the_rates_of_swa(start_rate, end_rate, start_step, steps, strategy):
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
    assert values(schedule, 20) == seen_by(optimizer, "learn_rate", 20)


# Against PyTorch


# PyTorch's names of the strategies.
TORCHS = {"linear": "linear", "cosine": "cos"}


def torch_values(make_scheduler, n_steps, name="lr", n_before=0):
    """What a scheduler of PyTorch sets for each step.

    n_before (int): After how many steps it begins."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=0.5, betas=(0.9, 0.99))
    got, scheduler = [], None
    for step in range(n_steps):
        if step >= n_before:
            if scheduler is None:
                scheduler = make_scheduler(optimizer)
            else:
                scheduler.step()
        group = optimizer.param_groups[0]
        got.append(group["lr"] if name == "lr" else group["betas"][0])
        optimizer.step()
    return pytest.approx(got, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("strategy", ["linear", "cosine"])
@pytest.mark.parametrize("steps, warmup_steps", [(10, 3), (50, 5), (41, 40), (2, 1)])
def test_one_cycle_is_pytorchs(steps, warmup_steps, strategy):
    """Whose last step is its last value; ours comes after it, like that of Thinc's
    `warmup_linear`."""
    require("torch")
    from torch.optim.lr_scheduler import OneCycleLR

    def scheduler(optimizer):
        return OneCycleLR(
            optimizer,
            max_lr=0.3,
            total_steps=steps + 1,
            pct_start=(warmup_steps + 1) / (steps + 1),
            anneal_strategy=TORCHS[strategy],
        )

    settings = {"steps": steps, "warmup_steps": warmup_steps, "anneal_strategy": strategy}
    n = steps + 1
    assert values(one_cycle(0.3, **settings), n) == torch_values(scheduler, n)
    momentum = one_cycle_momentum(**settings)
    assert values(momentum, n) == torch_values(scheduler, n, "momentum")


@pytest.mark.parametrize("cycle_mult, steps", [(1, 4 * 10), (2, 15 * 10), (3, 40 * 10)])
def test_restarts_are_pytorchs(cycle_mult, steps):
    require("torch")
    from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

    schedule = cosine(0.5, steps=steps, cycles=4, cycle_mult=cycle_mult, end_factor=0.1)

    def scheduler(optimizer):
        return CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=cycle_mult, eta_min=0.05)

    assert values(schedule, steps) == torch_values(scheduler, steps)


def test_warmup_and_cosine_are_pytorchs():
    require("torch")
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

    def scheduler(optimizer):
        warmup = LinearLR(optimizer, start_factor=0.1, total_iters=20)
        down = CosineAnnealingLR(optimizer, T_max=80, eta_min=0.005)
        return SequentialLR(optimizer, [warmup, down], milestones=[20])

    schedule = cosine(0.5, steps=100, warmup_steps=20, start_factor=0.1, end_factor=0.01)
    assert values(schedule, 101) == torch_values(scheduler, 101)


@pytest.mark.parametrize("strategy", ["linear", "cosine"])
def test_swa_anneal_is_pytorchs(strategy):
    require("torch")
    from torch.optim.swa_utils import SWALR

    def scheduler(optimizer):
        return SWALR(optimizer, swa_lr=0.05, anneal_epochs=10, anneal_strategy=TORCHS[strategy])

    schedule = swa_anneal(0.5, 0.05, start_step=7, anneal_steps=10, anneal_strategy=strategy)
    # SWALR leaves the rate as it is until its first step().
    assert values(schedule, 30) == torch_values(scheduler, 30, n_before=6)


# Phases


def simple_schedules():
    """How to make a schedule of this package, of Thinc, a list or a number."""
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


def with_phases(schedules):
    pairs = st.lists(st.tuples(st.integers(1, 9), schedules), min_size=1, max_size=4)
    return st.tuples(pairs, st.one_of(st.none(), schedules)).map(Phases)


class Phases:
    """Phases to make. Hypothesis shows it."""

    def __init__(self, parts):
        self.pairs, self.last = parts

    def __call__(self):
        made = [(steps, make()) for steps, make in self.pairs]
        return phases(*made, *([] if self.last is None else [self.last()]))

    def __repr__(self):
        return repr(values(self(), 40))


N_STEPS = 60


def expected_values(make):
    """By putting lists of values together."""
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


SCHEDULES = st.recursive(simple_schedules(), with_phases, max_leaves=8)
NESTED = with_phases(SCHEDULES)


@settings(deadline=None)
@given(NESTED)
def test_phases_are_their_schedules_one_after_another(make):
    assert values(make(), N_STEPS) == expected_values(make)


@settings(deadline=None)
@given(NESTED, st.lists(st.integers(0, N_STEPS - 1), max_size=9))
def test_phases_are_functions_of_the_step(make, steps):
    """In any order, and as often as one likes."""
    schedule, expected = make(), expected_values(make)
    assert [schedule(step) for step in steps] == [expected[step] for step in steps]
    assert values(schedule, N_STEPS) == expected


@settings(deadline=None)
@given(NESTED)
def test_an_optimizer_sees_the_values(make):
    optimizer = SGD(make(), L2=make())
    expected = expected_values(make)
    assert seen_by(optimizer, "learn_rate", N_STEPS) == expected
    optimizer = OptimizerWrapper(SGD(0.1, L2=make()))
    assert seen_by(optimizer, "L2", N_STEPS) == expected


@settings(deadline=None)
@given(st.integers(2, 1000), st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_fractions_that_are_1_together_are_the_whole_training(total_steps, parts):
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


# At work


HYPERPARAMETERS = {
    "learn_rate": "learn_rate",
    "beta1": "b1",
    "beta2": "b2",
    "eps": "eps",
    "L2": "L2",
    "grad_clip": "grad_clip",
}

# None of them is 0 anywhere: Thinc has no Adam without a beta1.
MAKERS = {
    "one_cycle": lambda: one_cycle(0.9, total_steps=9),
    "one_cycle_momentum": lambda: one_cycle_momentum(total_steps=9),
    "cosine": lambda: cosine(
        0.9, steps=9, warmup_steps=2, cycles=2, start_factor=0.5, end_factor=0.1
    ),
    "swa_anneal": lambda: swa_anneal(0.9, 0.3, start_step=3, anneal_steps=3),
    "phases": lambda: phases((3, 0.8), (3, phases((1, [0.4]), one_cycle(0.9, steps=9))), 0.5),
}


def seen_by(optimizer, name, n_steps):
    """What an optimizer takes for a hyperparameter in each of its steps, while it trains."""
    weights, got = numpy.zeros((2,), dtype="f"), []
    for _ in range(n_steps):
        value = getattr(optimizer, name)
        if Schedule is not None:
            value = value(optimizer.step, key=(1, "W"), last_score=optimizer.last_score)
        got.append(value)
        weights, _ = optimizer((1, "W"), weights, numpy.zeros((2,), dtype="f"))
        optimizer.step_schedules()
    return got


@pytest.mark.parametrize("argument", HYPERPARAMETERS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_any_hyperparameter(make, argument):
    optimizer = Adam(**{argument: make()})
    assert seen_by(optimizer, HYPERPARAMETERS[argument], 15) == values(make(), 15)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_within_thincs_own(make):
    schedule = constant_then(0.25, 4, make())
    first = [0.25] * 4
    if Schedule is None:
        assert values(schedule, 15) == first + values(make(), 11)
    else:
        # Thinc 9.1 hands on its own step.
        assert values(schedule, 15) == first + values(make(), 15)[4:]


@pytest.mark.skipif(Schedule is None, reason="new in Thinc 9")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_within_plateau(make):
    """Halved when the score has not improved twice."""
    from thinc.api import plateau

    schedule, expected = plateau(2, 0.5, make()), values(make(), 15)
    got = [schedule(step, last_score=(step, 0.5)) for step in range(15)]
    assert got == [value * 0.5 ** (step // 2) for step, value in enumerate(expected)]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_as_the_learning_rate_of_swa(make):
    """It begins at its step 0 when averaging does."""
    optimizer = SWA(SGD(0.7), start_step=4, learn_rate=make())
    assert seen_by(optimizer, "learn_rate", 15) == [0.7] * 4 + values(make(), 11)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("n_steps", [0, 5])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_optimizers_with_schedules_can_be_copied(make, n_steps, duplicate):
    optimizer = SWA(Adam(make(), beta1=make()), start_step=8, learn_rate=make())
    seen_by(optimizer, "learn_rate", n_steps)
    other = duplicate(optimizer)
    for name in ("learn_rate", "b1"):
        twin = SWA(Adam(make(), beta1=make()), start_step=8, learn_rate=make())
        expected = seen_by(twin, name, 20)[n_steps:]
        assert seen_by(duplicate(other), name, 20 - n_steps) == expected


@pytest.mark.skipif(Schedule is not None, reason="Thinc 9.1 has a class of its own")
def test_an_iterator_knows_what_it_is_and_where():
    schedule = one_cycle(0.5, steps=10, warmup_steps=4)
    assert isinstance(schedule, ScheduleIterator) and iter(schedule) is schedule
    assert [next(schedule), next(schedule)] == [schedule(0), schedule(1)]
    assert schedule.position == 2
    assert repr(schedule) == (
        "one_cycle(max_rate=0.5, steps=10, warmup_steps=4, start_factor=0.04, "
        "end_factor=4e-06, anneal_strategy='cosine')"
    )
    with pytest.raises(ValueError, match="step must be an int >= 0, but was -1"):
        schedule(-1)


@pytest.mark.skipif(Schedule is None, reason="new in Thinc 9")
def test_a_phase_hears_of_the_last_score():
    from thinc.api import constant, plateau

    optimizer = SGD(phases((3, 0.5), plateau(2, 0.5, constant(0.1))))
    weights = numpy.zeros((2,), dtype="f")
    for _ in range(9):
        weights, _ = optimizer((1, "W"), weights, weights)
        optimizer.step_schedules()
        optimizer.last_score = 0.5
    assert current_rate(optimizer) < 0.1  # The score does not improve: it goes down.


# Lengths


def test_the_length_is_the_trainings_by_default():
    for make in (lambda **s: one_cycle(0.1, **s), lambda **s: cosine(0.1, **s)):
        expected = values(make(steps=40, warmup_steps=10), 50)
        assert values(make(warmup_steps=10, total_steps=40), 50) == expected
        assert values(make(warmup_steps=0.25, total_steps=40), 50) == expected
        half = make(steps=0.5, warmup_steps=0.125, total_steps=80)
        assert values(half, 50) == expected


@pytest.mark.parametrize("steps, warmup_steps", [(10, 3), (1, 0), (2, 1), (5, 2), (1000, 300)])
def test_one_cycle_leads_up_for_three_tenths(steps, warmup_steps):
    assert one_cycle(0.1, steps=steps)(warmup_steps) == 0.1
    assert one_cycle_momentum(steps=steps)(warmup_steps) == 0.85


# Errors

WRONG = [
    (lambda: one_cycle(0.1), "steps, or total_steps .* must be given, but both were None"),
    (lambda: one_cycle(-0.1, steps=9), "max_rate must be a number >= 0, but was -0.1"),
    (lambda: one_cycle(True, steps=9), "max_rate must be a number >= 0, but was True"),
    (lambda: one_cycle("0.1", steps=9), "max_rate must be a number >= 0, but was '0.1'"),
    (lambda: one_cycle(math.inf, steps=9), "max_rate .*but was inf"),
    (lambda: one_cycle(0.1, steps=0), "steps must be an int >= 1, but was 0"),
    (lambda: one_cycle(0.1, steps=5.7), r"steps must be an int >= 1 \(steps\) or .*was 5.7"),
    (lambda: one_cycle(0.1, steps=0.5), "steps = 0.5 is a fraction of total_steps, so"),
    (lambda: one_cycle(0.1, total_steps=0), "total_steps must be an int >= 1, but was 0"),
    (
        lambda: one_cycle(0.1, steps=9, warmup_steps=9),
        "warmup_steps must be less than the steps of the schedule, but was 9 with 9 steps",
    ),
    (lambda: one_cycle(0.1, steps=9, warmup_steps=-1), "warmup_steps must be an int >= 0"),
    (
        lambda: one_cycle(0.1, steps=9, start_factor=1.5),
        "start_factor must be a number >= 0 and <= 1, but was 1.5",
    ),
    (
        lambda: one_cycle(0.1, steps=9, end_factor=25),
        "end_factor must be a number >= 0 and <= 1, but was 25",
    ),
    (
        lambda: one_cycle(0.1, steps=9, anneal_strategy="cos"),
        "anneal_strategy must be one of 'linear', 'cosine', but was 'cos'",
    ),
    (
        lambda: one_cycle_momentum(0.8, steps=9),
        "min_momentum must be a number > 0 and <= 0.8, but was 0.85",
    ),
    (lambda: one_cycle_momentum(min_momentum=0.0, steps=9), "min_momentum must be .* > 0"),
    (lambda: one_cycle_momentum(1.5, steps=9), "max_momentum .* <= 1, but was 1.5"),
    (lambda: one_cycle_momentum(), "steps, or total_steps .* must be given"),
    (
        lambda: one_cycle_momentum(steps=9, anneal_strategy=1),
        "anneal_strategy must be one of 'linear', 'cosine', but was 1",
    ),
    (lambda: cosine(None, steps=9), "max_rate must be a number >= 0, but was None"),
    (lambda: cosine(0.1), "steps, or total_steps .* must be given"),
    (lambda: cosine(0.1, steps=9, warmup_steps=9), "warmup_steps must be less than"),
    (lambda: cosine(0.1, steps=9, start_factor=-1), "start_factor must be .*, but was -1"),
    (lambda: cosine(0.1, steps=9, end_factor=2), "end_factor must be .*, but was 2"),
    (lambda: cosine(0.1, steps=9, cycles=0), "cycles must be an int >= 1, but was 0"),
    (lambda: cosine(0.1, steps=9, cycles=2.5), "cycles must be an int >= 1, but was 2.5"),
    (lambda: cosine(0.1, steps=9, cycle_mult=0), "cycle_mult must be a number > 0, but"),
    (
        lambda: cosine(0.1, steps=9, warmup_steps=2, cycles=8),
        "cycles must be few enough for each to have a step, but was 8 with "
        "cycle_mult = 1.0 and 7 steps",
    ),
    (
        lambda: cosine(0.1, steps=9999, cycles=999, cycle_mult=10.0),
        "cycles must be few enough .*but was 999",
    ),
    (
        lambda: swa_anneal(0.1, -1, start_step=3, anneal_steps=3),
        "end_rate must be a number >= 0, but was -1",
    ),
    (
        lambda: swa_anneal([0.1], 1, start_step=3, anneal_steps=3),
        r"start_rate must be a number >= 0, but was \[0.1\]",
    ),
    (
        lambda: swa_anneal(0.1, 1, start_step=0.5, anneal_steps=3),
        "start_step = 0.5 is a fraction of total_steps",
    ),
    (
        lambda: swa_anneal(0.1, 1, start_step=30, anneal_steps=3, total_steps=20),
        "start_step must not be greater than total_steps, but was 30",
    ),
    (
        lambda: swa_anneal(0.1, 1, start_step=3, anneal_steps=0),
        "anneal_steps must be an int >= 1, but was 0",
    ),
    (
        lambda: swa_anneal(0.1, 1, start_step=3, anneal_steps=3, anneal_strategy="sine"),
        "anneal_strategy must be one of 'linear', 'cosine', but was 'sine'",
    ),
    (lambda: phases(), "phases must have at least one phase"),
    (lambda: phases((5, 0.1), 0.2, 0.3), "steps of phase 2 must be given: only the last"),
    (lambda: phases((0, 0.1), 0.2), "steps of phase 1 must be an int >= 1, but was 0"),
    (lambda: phases((True, 0.1), 0.2), "steps of phase 1 must be .*, but was True"),
    (lambda: phases((5, 0.1), (2.5, 0.1)), "steps of phase 2 must be .*, but was 2.5"),
    (lambda: phases((0.5, 0.1)), "steps of phase 1 = 0.5 is a fraction of total_steps, so"),
    (
        lambda: phases((1, 0.1, 2)),
        r"Phase 1 must be \(steps, schedule\), but was \(1,",
    ),
    (lambda: phases((1, -0.1)), "schedule of phase 1 must be a number >= 0, but was -0.1"),
    (lambda: phases((1, [0.1, "a"])), "schedule of phase 1 must be a number >= 0, but was 'a'"),
    (lambda: phases(0.1, total_steps=0), "total_steps must be an int >= 1, but was 0"),
    (
        lambda: phases((1, 0.1), (1, "fast")),
        "schedule of phase 2 must be a number, a list of numbers or a schedule, but was 'fast'",
    ),
    (lambda: phases((1, [])), r"schedule of phase 1 must be .*, but was \[\]"),
    (lambda: phases((1, None)), "schedule of phase 1 must be .*, but was None"),
    (
        lambda: phases((5, 0.1), (6, 0.1), total_steps=10),
        "phases must not be longer than total_steps, but had 11 steps together",
    ),
    (
        lambda: phases((0.5, 0.1), (0.6, 0.1), total_steps=10),
        "phases must not be longer than total_steps, but had 11 steps together",
    ),
    (lambda: phases({"steps": 3}), r"Phase 1 must have a schedule, .*but had \['steps'\]"),
    (
        lambda: phases({"step": 3, "schedule": 0.1}),
        r"Phase 1 must have .*nothing else, but had \['schedule', 'step'\]",
    ),
]


@pytest.mark.parametrize("make, message", WRONG)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def count_up(start):
    while True:
        yield start
        start += 1


@pytest.mark.parametrize(
    "make", [lambda: count_up(3), lambda: iter([3, 4, 5])], ids=["generator", "iterator"]
)
def test_generators_as_phases(make):
    """On both Thinc lines, as everywhere else a schedule can be given."""
    schedule = phases((2, 0.5), (3, make()), phases((2, make()), 0.1))
    assert values(schedule, 9) == [0.5, 0.5, 3, 4, 5, 3, 4, 0.1, 0.1]
    optimizer = SGD(phases((2, make()), 0.5))
    rates = []
    for _ in range(4):
        rates.append(current_rate(optimizer))
        optimizer.step_schedules()
    assert rates == [3, 4, 0.5, 0.5]


def test_a_phase_without_a_value():
    with pytest.raises(ValueError, match="must have a value, but was empty"):
        values(phases((3, iter([])), 0.1), 1)


# Configs

CONFIGS = {
    "one_cycle.v1": (
        "max_rate = 0.5\ntotal_steps = 20\nwarmup_steps = 0.25",
        lambda: one_cycle(0.5, steps=20, warmup_steps=5),
    ),
    "one_cycle_momentum.v1": (
        'total_steps = 20\nanneal_strategy = "linear"',
        lambda: one_cycle_momentum(steps=20, anneal_strategy="linear"),
    ),
    "cosine.v1": (
        "max_rate = 0.9\nsteps = 0.5\ntotal_steps = 40\nstart_factor = 0.5\n"
        "warmup_steps = 3\ncycles = 2\nend_factor = 0.1",
        lambda: cosine(
            0.9, steps=20, warmup_steps=3, start_factor=0.5, cycles=2, end_factor=0.1
        ),
    ),
    "swa_anneal.v1": (
        "start_rate = 0.5\nend_rate = 0.1\nstart_step = 0.75\nanneal_steps = 4\n"
        "total_steps = 20",
        lambda: swa_anneal(0.5, 0.1, start_step=15, anneal_steps=4),
    ),
}


def adam_from(text):
    config = Config().from_str(f'[optimizer]\n@optimizers = "Adam.v1"\n\n{text}')
    return registry.resolve(config)["optimizer"]


@pytest.mark.parametrize("argument", HYPERPARAMETERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_from_a_config(name, argument):
    settings, make = CONFIGS[name]
    text = f'[optimizer.{argument}]\n@schedules = "{name}"\n{settings}'
    optimizer = adam_from(text)
    assert seen_by(optimizer, HYPERPARAMETERS[argument], 25) == values(make(), 25)


PHASES = """
[training]
max_steps = 20

[optimizer]
@optimizers = "SWA.v1"
start_step = 25

[optimizer.optimizer]
@optimizers = "Adam.v1"

[optimizer.optimizer.learn_rate]
@schedules = "phases.v1"
total_steps = ${training.max_steps}

[optimizer.optimizer.learn_rate.*.zeta]
steps = 0.25

[optimizer.optimizer.learn_rate.*.zeta.schedule]
@schedules = "one_cycle.v1"
max_rate = 1
steps = 5

[optimizer.optimizer.learn_rate.*.alpha]
steps = 4
schedule = 0.25

[optimizer.optimizer.learn_rate.*.mu]
steps = 3

[optimizer.optimizer.learn_rate.*.mu.schedule]
@schedules = "phases.v1"

[optimizer.optimizer.learn_rate.*.mu.schedule.*.b]
steps = 2
schedule = [3, 4]

[optimizer.optimizer.learn_rate.*.mu.schedule.*.a]
schedule = 5

[optimizer.optimizer.learn_rate.*.beta]
@schedules = "decaying.v1"
base_rate = 0.5
decay = 1.0
"""
PHASE_VALUES = [
    *[one_cycle(1.0, steps=5)(step) for step in range(5)],
    *[0.25] * 4,
    *[3, 4, 5],
    *[0.5 / (1 + step) for step in range(10)],
]
ROUND_TRIPS = {
    "as it stands": lambda config: config,
    "interpolated": lambda config: config.interpolate(),
    "saved": lambda config: Config().from_str(config.to_str()),
    "saved with variables": lambda config: Config().from_str(
        config.to_str(interpolate=False), interpolate=False
    ),
    "filled": lambda config: registry.fill(config),
    "filled and saved": lambda config: Config().from_bytes(registry.fill(config).to_bytes()),
    "merged": lambda config: Config({"training": {}}).merge(config),
    "copied": lambda config: config.copy(),
}


@pytest.mark.parametrize("round_trip", ROUND_TRIPS.values(), ids=ROUND_TRIPS)
def test_phases_keep_their_order(round_trip):
    """That of the file, which is not that of the alphabet."""
    config = round_trip(Config().from_str(PHASES, interpolate=False))
    assert config["optimizer"]["optimizer"]["learn_rate"]["@schedules"] == "phases.v1"
    optimizer = registry.resolve(config)["optimizer"]
    assert seen_by(optimizer, "learn_rate", len(PHASE_VALUES)) == close(PHASE_VALUES)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("one_cycle.v1", "max_rate = 1\nsteps = 5.7", "steps must be .*but was 5.7"),
        ("one_cycle.v1", 'max_rate = "high"\nsteps = 5', "max_rate must be .*was 'high'"),
        ("one_cycle.v1", "max_rate = 1\ntotal_steps = 0", "max_steps = 0"),
        ("one_cycle.v1", "max_rate = 1\nsteps = true", "steps must be .*but was True"),
        ("one_cycle_momentum.v1", "total_steps = 5.0", "total_steps must be .*was 5.0"),
        ("cosine.v1", "max_rate = 1\nsteps = 9\ncycles = 2.5", "cycles must .*was 2.5"),
        ("cosine.v1", "max_rate = null\nsteps = 9", "max_rate must be .*but was None"),
        (
            "swa_anneal.v1",
            "start_rate = 1\nend_rate = 0\nstart_step = 3\nanneal_steps = 1.5",
            "anneal_steps must be .*but was 1.5",
        ),
        ("phases.v1", "\n[optimizer.learn_rate.*.a]\nsteps = 5.7\nschedule = 1", "was 5.7"),
        ("phases.v1", "\n[optimizer.learn_rate.*.a]\nsteps = 5\nrate = 1", "Phase 1 must have"),
    ],
)
def test_wrong_arguments_in_a_config(name, settings, message):
    with pytest.raises(ValueError, match=message):
        adam_from(f'[optimizer.learn_rate]\n@schedules = "{name}"\n{settings}')


def test_as_the_learning_rate_of_swa_from_a_config():
    config = Config().from_str(PHASES)
    config["optimizer"]["learn_rate"] = config["optimizer"]["optimizer"].pop("learn_rate")
    config["optimizer"]["start_step"] = 3
    optimizer = registry.resolve(config)["optimizer"]
    expected = [0.001] * 3 + PHASE_VALUES
    assert seen_by(optimizer, "learn_rate", len(expected)) == close(expected)


def test_the_config_of_the_documentation():
    (text,) = re.findall(r"```ini\n([^`]*phases\.v1.*?)```", PAGE, flags=re.DOTALL)
    text = "[training]\nmax_steps = 1000\n\n" + text
    optimizer = registry.resolve(Config().from_str(text))["training"]["optimizer"]
    rates = seen_by(optimizer, "learn_rate", 1000)
    first = one_cycle(0.002, steps=500)
    assert rates[:500] == values(first, 500)
    assert rates[500:] == [0.0005] * 250 + [0.0001] * 250


# Pictures


def plotted(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_picture_shows_the_values(make):
    require("matplotlib")
    schedule = make()
    axes = plot_schedule(schedule, 15)
    assert list(axes.lines[0].get_xdata()) == list(range(15))
    assert list(axes.lines[0].get_ydata()) == values(make(), 15)
    assert axes.get_legend() is None and axes.get_xlabel() == "step"
    # It is still at its beginning.
    assert values(schedule, 15) == values(make(), 15)


def test_a_picture_of_several(tmp_path):
    require("matplotlib")
    axes = plot_schedule(
        {
            "cosine": cosine(1.0, steps=5),
            "Thinc's": decaying(1.0, 0.5),
            "a list": [1, 2],
            "a number": 3,
        },
        8,
    )
    assert plotted(axes) == {
        "cosine": values(cosine(1.0, steps=5), 8),
        "Thinc's": values(decaying(1.0, 0.5), 8),
        "a list": [1, 2, 2, 2, 2, 2, 2, 2],
        "a number": [3] * 8,
    }
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(plotted(axes))
    assert len({line.get_color() for line in axes.lines}) == 4
    assert len({line.get_linestyle() for line in axes.lines}) == 4
    path = tmp_path / "schedules.png"
    axes.figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_in_given_axes():
    require("matplotlib")
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert plot_schedule([1.0], 3, axes=axes) is axes
    assert list(axes.lines[0].get_ydata()) == [1, 1, 1]


@pytest.mark.parametrize("n_steps", [0, 2.5, True])
def test_a_picture_needs_steps(n_steps):
    with pytest.raises(ValueError, match="n_steps must be an int >= 1, but was"):
        plot_schedule(0.1, n_steps)


def test_a_picture_needs_values():
    with pytest.raises(ValueError, match="schedule must have a value"):
        plot_schedule([], 5)
