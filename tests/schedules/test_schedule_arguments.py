"""Arguments of schedules: default lengths and error messages."""

import math

import pytest
from schedule_values import values

from thinc_swa import cosine, one_cycle, one_cycle_momentum, phases, swa_anneal


def test_length_defaults_to_total_steps():
    for make in (lambda **s: one_cycle(0.1, **s), lambda **s: cosine(0.1, **s)):
        expected = values(make(steps=40, warmup_steps=10), 50)
        assert values(make(warmup_steps=10, total_steps=40), 50) == expected
        assert values(make(warmup_steps=0.25, total_steps=40), 50) == expected
        half = make(steps=0.5, warmup_steps=0.125, total_steps=80)
        assert values(half, 50) == expected


@pytest.mark.parametrize("steps, warmup_steps", [(10, 3), (1, 0), (2, 1), (5, 2), (1000, 300)])
def test_one_cycle_warmup_defaults_to_three_tenths(steps, warmup_steps):
    assert one_cycle(0.1, steps=steps)(warmup_steps) == 0.1
    assert one_cycle_momentum(steps=steps)(warmup_steps) == 0.85


INVALID = [
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
        "cycles must be small enough for each cycle to have a step, but was 8 with "
        "cycle_mult = 1.0 and 7 steps",
    ),
    (
        lambda: cosine(0.1, steps=9999, cycles=999, cycle_mult=10.0),
        "cycles must be small enough .*but was 999",
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
        "phases must not be longer than total_steps, but had 11 steps in total",
    ),
    (
        lambda: phases((0.5, 0.1), (0.6, 0.1), total_steps=10),
        "phases must not be longer than total_steps, but had 11 steps in total",
    ),
    (lambda: phases({"steps": 3}), r"Phase 1 must have schedule, .*but had \['steps'\]"),
    (
        lambda: phases({"step": 3, "schedule": 0.1}),
        r"Phase 1 must have .*nothing else, but had \['schedule', 'step'\]",
    ),
]


@pytest.mark.parametrize("make, message", INVALID)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
