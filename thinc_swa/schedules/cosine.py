"""Cosine schedule with warmup and warm restarts."""

from typing import Any

from ..types import ScheduleT
from ..validation import check_int, check_number, check_total_steps
from .annealing import anneal
from .compat import make_schedule
from .lengths import check_steps, check_warmup_steps


def cosine(
    max_rate: Any | float,
    *,
    steps: Any | int | float | None = None,
    warmup_steps: Any | int | float = 0,
    start_factor: Any | float = 0.0,
    end_factor: Any | float = 0.0,
    cycles: Any | int = 1,
    cycle_mult: Any | float = 1.0,
    total_steps: Any | int | None = None,
) -> ScheduleT:
    """`cosine.v1`: cosine annealing with a linear warmup and warm restarts (SGDR, Loshchilov &
    Hutter 2017, arXiv:1608.03983, equation 5).

    During the warmup the rate rises linearly from `start_factor * max_rate` at step 0 to
    `max_rate` at step `warmup_steps`. After *t* steps of a cycle of *T* steps it is

        low + (max_rate - low) * (1 + cos(pi * t / T)) / 2,  low = end_factor * max_rate,

    so the first step of each cycle has `max_rate`. From step `steps` on it is `low`.

    max_rate (float): The highest rate, >= 0.
    steps (int | float | None): The length of the schedule including the warmup: a number of
        steps, or a fraction of `total_steps` strictly between 0 and 1. None means
        `total_steps`.
    warmup_steps (int | float): The length of the warmup: a number of steps, or a fraction of
        `total_steps`. Less than `steps`.
    start_factor (float): The rate at the start of the warmup as a factor of `max_rate`, in
        [0, 1].
    end_factor (float): The rate at the end of each cycle as a factor of `max_rate`, in [0, 1].
    cycles (int): The number of cycles after the warmup, one more than the number of restarts.
    cycle_mult (float): The factor by which each cycle is longer than the previous one (T_mult
        in the paper), > 0. Lengths are rounded to the nearest step.
    total_steps (int | None): The length of the training in steps, for fractions.
    RETURNS (ScheduleT): A schedule for the installed Thinc version.
    RAISES: ValueError for invalid arguments.
    """
    total_steps = check_total_steps(total_steps)
    steps = check_steps(steps, total_steps)
    warmup_steps = check_warmup_steps(warmup_steps, steps, total_steps)
    return make_schedule(
        "cosine",
        _cosine,
        max_rate=check_number("max_rate", max_rate, minimum=0.0),
        warmup_steps=warmup_steps,
        start_factor=check_number("start_factor", start_factor, minimum=0.0, maximum=1.0),
        end_factor=check_number("end_factor", end_factor, minimum=0.0, maximum=1.0),
        cycle_steps=_divide_into_cycles(steps - warmup_steps, cycles, cycle_mult),
    )


def _cosine(schedule: ScheduleT, step: int, **extra: Any) -> float:
    attrs = schedule.attrs
    max_rate, warmup_steps = attrs["max_rate"], attrs["warmup_steps"]
    low = attrs["end_factor"] * max_rate
    if step < warmup_steps:
        return anneal(attrs["start_factor"] * max_rate, max_rate, step / warmup_steps, "linear")
    step -= warmup_steps
    for cycle_steps in attrs["cycle_steps"]:
        if step < cycle_steps:
            return anneal(max_rate, low, step / cycle_steps, "cosine")
        step -= cycle_steps
    return float(low)


def _divide_into_cycles(steps: int, cycles: Any, cycle_mult: Any) -> list[int]:
    """The lengths of the cycles, whose sum is `steps`."""
    cycles = check_int("cycles", cycles, minimum=1)
    cycle_mult = check_number("cycle_mult", cycle_mult, above=0.0)
    # Powers that are at most 1 cannot overflow.
    exponents = range(cycles) if cycle_mult <= 1 else range(1 - cycles, 1)
    parts = [cycle_mult**exponent for exponent in exponents]
    ends = [round(steps * sum(parts[: n + 1]) / sum(parts)) for n in range(cycles)]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if min(lengths) < 1:
        raise ValueError(
            f"cycles must be small enough for each cycle to have a step, but was {cycles} with "
            f"cycle_mult = {cycle_mult!r} and {steps} steps"
        )
    return lengths
