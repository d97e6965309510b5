"""Sequence of schedules."""

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from ..types import ScheduleT
from ..validation import check_number, check_step, check_total_steps
from .compat import GeneratorSchedule, ScheduleClass, make_schedule


def phases(*phases: Any, total_steps: Any | int | None = None) -> ScheduleT:
    """`phases.v1`: a sequence of schedules, each for a number of steps. Each schedule starts at
    its own step 0.

    In a config each phase is a section with `steps` and `schedule`. The order of the phases is
    the order of the sections:

        [optimizer.learn_rate]
        @schedules = "phases.v1"

        [optimizer.learn_rate.*.first]
        steps = 100
        schedule = 0.001

    phases (tuple[int | float, ScheduleT]): The steps and the schedule of each phase. Steps are
        a number of steps, or a fraction of `total_steps` strictly between 0 and 1. A schedule
        is a number, a list of numbers, a generator, or any schedule of the installed Thinc
        version. The last phase may be a schedule without steps, or with None for its steps,
        and then has no end. If it has steps, its last value is repeated after them.
    total_steps (int | None): The length of the training in steps, for fractions. If given, the
        phases must not be longer in total.
    RETURNS (ScheduleT): A schedule for the installed Thinc version.
    RAISES: ValueError for invalid arguments.
    """
    total_steps = check_total_steps(total_steps)
    if not phases:
        raise ValueError("phases must have at least one phase, but got none")
    pairs = [_read_phase(number, phase) for number, phase in enumerate(phases, 1)]
    return make_schedule(
        "phases",
        _phases,
        steps=_check_phase_steps([steps for steps, _ in pairs], total_steps),
        schedules=[
            _check_phase_schedule(number, schedule)
            for number, (_, schedule) in enumerate(pairs, 1)
        ],
    )


def _phases(schedule: ScheduleT, step: int, **extra: Any) -> float:
    *lengths, last = schedule.attrs["steps"]
    index = 0
    while index < len(lengths) and step >= lengths[index]:
        step -= lengths[index]
        index += 1
    if index == len(lengths) and last is not None:
        step = min(step, last - 1)
    phase = schedule.attrs["schedules"][index]
    if isinstance(phase, list):
        return float(phase[min(step, len(phase) - 1)])
    return float(phase(step, **extra)) if callable(phase) else float(phase)


def _read_phase(number: int, phase: Any) -> tuple[Any, Any]:
    """The steps and the schedule of a phase, from Python or from a config."""
    if isinstance(phase, Mapping):
        if "schedule" not in phase or not set(phase) <= {"steps", "schedule"}:
            raise ValueError(
                f"Phase {number} must have schedule, and steps unless it is the last phase, "
                f"and nothing else, but had {sorted(phase)}"
            )
        return phase.get("steps"), phase["schedule"]
    if isinstance(phase, tuple):
        if len(phase) != 2:
            raise ValueError(f"Phase {number} must be (steps, schedule), but was {phase!r}")
        return phase
    return None, phase


def _check_phase_steps(all_steps: list[Any], total_steps: int | None) -> list[int | None]:
    """The length of each phase. Fractions are summed before they are rounded, so that fractions
    whose sum is 1 cover the whole training."""
    lengths: list[int | None] = []
    whole, fraction, end = 0, 0.0, 0
    for number, steps in enumerate(all_steps, 1):
        if steps is None and number == len(all_steps):
            lengths.append(None)
            break
        name = f"steps of phase {number}"
        if steps is None:
            raise ValueError(f"{name} must be given: only the last phase can be without steps")
        check_step(name, steps, total_steps, minimum=1)
        if isinstance(steps, float):
            fraction += steps
        else:
            whole += int(steps)
        previous, end = end, whole + round(fraction * (total_steps or 0))
        end = max(previous + 1, end)
        lengths.append(end - previous)
    if total_steps is not None and end > total_steps:
        raise ValueError(
            f"The phases must not be longer than total_steps, but had {end} steps in total "
            f"with total_steps = {total_steps}: training would end before the last phase"
        )
    return lengths


def _check_phase_schedule(number: int, schedule: Any) -> Any:
    """The schedule of a phase: a number, a list of numbers, or a callable."""
    name = f"schedule of phase {number}"
    if isinstance(schedule, ScheduleClass):
        return schedule
    if isinstance(schedule, list) and schedule:
        return [check_number(name, value, minimum=0.0) for value in schedule]
    if isinstance(schedule, Real):
        return check_number(name, schedule, minimum=0.0)
    if isinstance(schedule, Iterator):
        return GeneratorSchedule(schedule)
    raise ValueError(
        f"{name} must be a number, a list of numbers or a schedule, but was {schedule!r}"
    )
