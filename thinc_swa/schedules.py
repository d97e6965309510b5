"""Schedules for every hyperparameter that takes one, on both Thinc lines.

A schedule is a function of the step, counted from 0, and of the arguments that it was made
with. On Thinc 9.1 it becomes a `Schedule`, which is called with the step. On Thinc 8.3, where
an optimizer draws a value for each step, it becomes a `ScheduleIterator`.

The functions that make schedules are registered as they stand. Their arguments are annotated
with `Union[Any, ...]`, so that no config changes a value before it is checked.
"""

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import thinc.schedules
from thinc.types import Generator

from .arguments import (
    check_choice,
    check_int,
    check_number,
    check_start_step,
    check_step,
    check_total_steps,
)
from .types import ScheduleT

# Thinc 9.1's class. Thinc 8.3 has none.
Schedule: Any = getattr(thinc.schedules, "Schedule", None)

ANNEAL_STRATEGIES = ("linear", "cosine")


def one_cycle(
    max_rate: Union[Any, float],
    *,
    steps: Union[Any, int, float, None] = None,
    warmup_steps: Union[Any, int, float, None] = None,
    start_factor: Union[Any, float] = 0.04,
    end_factor: Union[Any, float] = 4e-6,
    anneal_strategy: Union[Any, str] = "cosine",
    total_steps: Union[Any, int, None] = None,
) -> ScheduleT:
    """`one_cycle.v1`: up to the highest rate, and then far down (Smith 2018, arXiv:1803.09820;
    in the form and with the default values of PyTorch's `OneCycleLR`).

    At step 0 it is `start_factor * max_rate`, at step `warmup_steps` it is `max_rate`, and from
    step `steps` on it is `end_factor * max_rate`.

    max_rate (float): The highest rate.
    steps (Optional[Union[int, float]]): The length of the cycle, as a number of steps or as a
        fraction of `total_steps` strictly between 0 and 1. If None, `total_steps`.
    warmup_steps (Optional[Union[int, float]]): How many of them lead up, as a number of steps
        or as a fraction of `total_steps`. If None, 0.3 of the cycle.
    start_factor (float): The first rate, as a part of `max_rate`, in [0, 1].
    end_factor (float): The last rate, as a part of `max_rate`, in [0, 1].
    anneal_strategy (str): How to move: "linear" or "cosine".
    total_steps (Optional[int]): The length of the training in steps.
    RETURNS (ScheduleT): A schedule for this Thinc.
    RAISES: ValueError for bad arguments.
    """
    return _make(
        "one_cycle",
        _one_cycle,
        max_rate=check_number("max_rate", max_rate, minimum=0.0),
        **_check_cycle(steps, warmup_steps, total_steps),
        start_factor=check_number("start_factor", start_factor, minimum=0.0, maximum=1.0),
        end_factor=check_number("end_factor", end_factor, minimum=0.0, maximum=1.0),
        anneal_strategy=check_choice("anneal_strategy", anneal_strategy, ANNEAL_STRATEGIES),
    )


def _one_cycle(schedule: ScheduleT, step: int, **extra: Any) -> float:
    attrs = schedule.attrs
    start, end = (attrs[name] * attrs["max_rate"] for name in ("start_factor", "end_factor"))
    return _cycle(attrs, step, start, attrs["max_rate"], end)


def one_cycle_momentum(
    max_momentum: Union[Any, float] = 0.95,
    *,
    min_momentum: Union[Any, float] = 0.85,
    steps: Union[Any, int, float, None] = None,
    warmup_steps: Union[Any, int, float, None] = None,
    anneal_strategy: Union[Any, str] = "cosine",
    total_steps: Union[Any, int, None] = None,
) -> ScheduleT:
    """`one_cycle_momentum.v1`: the mirror of `one_cycle`, for Adam's `beta1`: it falls while
    the learning rate rises (Smith 2018, arXiv:1803.09820).

    At step 0 it is `max_momentum`, at step `warmup_steps` it is `min_momentum`, and from step
    `steps` on it is `max_momentum` again.

    max_momentum (float): The momentum at both ends, in (0, 1].
    min_momentum (float): The momentum where the learning rate is highest, in
        (0, max_momentum].
    steps, warmup_steps, anneal_strategy, total_steps: As those of `one_cycle`.
    RETURNS (ScheduleT): A schedule for this Thinc.
    RAISES: ValueError for bad arguments.
    """
    max_momentum = check_number("max_momentum", max_momentum, above=0.0, maximum=1.0)
    return _make(
        "one_cycle_momentum",
        _one_cycle_momentum,
        max_momentum=max_momentum,
        min_momentum=check_number(
            "min_momentum", min_momentum, above=0.0, maximum=max_momentum
        ),
        **_check_cycle(steps, warmup_steps, total_steps),
        anneal_strategy=check_choice("anneal_strategy", anneal_strategy, ANNEAL_STRATEGIES),
    )


def _one_cycle_momentum(schedule: ScheduleT, step: int, **extra: Any) -> float:
    attrs = schedule.attrs
    return _cycle(
        attrs, step, attrs["max_momentum"], attrs["min_momentum"], attrs["max_momentum"]
    )


def _cycle(attrs: Dict[str, Any], step: int, start: float, peak: float, end: float) -> float:
    steps, warmup_steps = attrs["steps"], attrs["warmup_steps"]
    if step < warmup_steps:
        return anneal(start, peak, step / warmup_steps, attrs["anneal_strategy"])
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return anneal(peak, end, progress, attrs["anneal_strategy"])


def _check_cycle(steps: Any, warmup_steps: Any, total_steps: Any) -> Dict[str, int]:
    """The length of a cycle, and of its way up."""
    total_steps = check_total_steps(total_steps)
    steps = _check_steps(steps, total_steps)
    if warmup_steps is None:
        return {"steps": steps, "warmup_steps": round(0.3 * steps)}
    return {
        "steps": steps,
        "warmup_steps": _check_warmup_steps(warmup_steps, steps, total_steps),
    }


def cosine(
    max_rate: Union[Any, float],
    *,
    steps: Union[Any, int, float, None] = None,
    warmup_steps: Union[Any, int, float] = 0,
    start_factor: Union[Any, float] = 0.0,
    end_factor: Union[Any, float] = 0.0,
    cycles: Union[Any, int] = 1,
    cycle_factor: Union[Any, float] = 1.0,
    total_steps: Union[Any, int, None] = None,
) -> ScheduleT:
    """`cosine.v1`: down along half a cosine, again and again with warm restarts (SGDR,
    Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5), after a linear warmup.

    In the warmup it goes from `start_factor * max_rate` at step 0 to `max_rate` at step
    `warmup_steps`. After *t* steps of a cycle of *T* steps it is

        low + (max_rate - low) * (1 + cos(pi * t / T)) / 2,  low = end_factor * max_rate,

    so the first step of each cycle has `max_rate`. From step `steps` on it is `low`.

    max_rate (float): The highest rate.
    steps (Optional[Union[int, float]]): The length of all of it, the warmup included, as a
        number of steps or as a fraction of `total_steps` strictly between 0 and 1. If None,
        `total_steps`.
    warmup_steps (Union[int, float]): How many of them are the warmup, as a number of steps or
        as a fraction of `total_steps`.
    start_factor (float): Where the warmup begins, as a part of `max_rate`, in [0, 1].
    end_factor (float): Where each cycle ends, as a part of `max_rate`, in [0, 1].
    cycles (int): Into how many cycles the steps after the warmup are divided: one more than
        there are restarts.
    cycle_factor (float): How many times as long as the cycle before each cycle is (T_mult in
        the paper), to the nearest step.
    total_steps (Optional[int]): The length of the training in steps.
    RETURNS (ScheduleT): A schedule for this Thinc.
    RAISES: ValueError for bad arguments.
    """
    total_steps = check_total_steps(total_steps)
    steps = _check_steps(steps, total_steps)
    warmup_steps = _check_warmup_steps(warmup_steps, steps, total_steps)
    return _make(
        "cosine",
        _cosine,
        max_rate=check_number("max_rate", max_rate, minimum=0.0),
        warmup_steps=warmup_steps,
        start_factor=check_number("start_factor", start_factor, minimum=0.0, maximum=1.0),
        end_factor=check_number("end_factor", end_factor, minimum=0.0, maximum=1.0),
        cycle_steps=_divide(steps - warmup_steps, cycles, cycle_factor),
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


def _divide(steps: int, cycles: Any, cycle_factor: Any) -> List[int]:
    """The lengths of cycles that are `steps` steps together."""
    cycles = check_int("cycles", cycles, minimum=1)
    cycle_factor = check_number("cycle_factor", cycle_factor, above=0.0)
    # Powers of at most 1: they can become 0, but not infinite.
    exponents = range(cycles) if cycle_factor <= 1 else range(1 - cycles, 1)
    parts = [cycle_factor**exponent for exponent in exponents]
    ends = [round(steps * sum(parts[: n + 1]) / sum(parts)) for n in range(cycles)]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if min(lengths) < 1:
        raise ValueError(
            f"cycles must be few enough for each to have a step, but was {cycles} with "
            f"cycle_factor = {cycle_factor!r} and {steps} steps"
        )
    return lengths


def swa_anneal(
    start_rate: Union[Any, float],
    end_rate: Union[Any, float],
    *,
    start_step: Union[Any, int, float],
    anneal_steps: Union[Any, int, float],
    anneal_strategy: Union[Any, str] = "linear",
    total_steps: Union[Any, int, None] = None,
) -> ScheduleT:
    """`swa_anneal.v1`: one rate before averaging starts, another one afterwards (Izmailov et
    al. 2018, arXiv:1803.05407, section 3.2; PyTorch's `SWALR`).

    It is `start_rate` for `start_step` steps. The *k*-th step after these, *k* = 1, 2 …, has
    gone k / `anneal_steps` of the way to `end_rate`, where it stays. These are the rates of
    `SWA` with a `learn_rate` and the same `start_step` and `anneal_steps`, for any
    hyperparameter.

    start_rate (float): The rate at first.
    end_rate (float): The rate in the end.
    start_step (Union[int, float]): After which step to start, as a number of steps or as a
        fraction of `total_steps` strictly between 0 and 1.
    anneal_steps (Union[int, float]): Over how many steps to move, 1 for a jump, as a number of
        steps or as a fraction of `total_steps`.
    anneal_strategy (str): How to move: "linear" or "cosine".
    total_steps (Optional[int]): The length of the training in steps, for fractions.
    RETURNS (ScheduleT): A schedule for this Thinc.
    RAISES: ValueError for bad arguments.
    """
    total_steps = check_total_steps(total_steps)
    return _make(
        "swa_anneal",
        _swa_anneal,
        start_rate=check_number("start_rate", start_rate, minimum=0.0),
        end_rate=check_number("end_rate", end_rate, minimum=0.0),
        start_step=check_start_step(start_step, total_steps),
        anneal_steps=check_step("anneal_steps", anneal_steps, total_steps, minimum=1),
        anneal_strategy=check_choice("anneal_strategy", anneal_strategy, ANNEAL_STRATEGIES),
    )


def _swa_anneal(schedule: ScheduleT, step: int, **extra: Any) -> float:
    attrs = schedule.attrs
    progress = max(0, step + 1 - attrs["start_step"]) / attrs["anneal_steps"]
    return anneal(attrs["start_rate"], attrs["end_rate"], progress, attrs["anneal_strategy"])


def phases(*phases: Any, total_steps: Union[Any, int, None] = None) -> ScheduleT:
    """`phases.v1`: schedules one after another, each for its number of steps. Each begins at
    its own step 0.

    In a config the phases are sections, in the order of the file, and each is a section with
    `steps` and `schedule`:

        [optimizer.learn_rate]
        @schedules = "phases.v1"

        [optimizer.learn_rate.*.first]
        steps = 100
        schedule = 0.001

    phases (Tuple[Union[int, float], ScheduleT]): For each phase its steps, as a number of
        steps or as a fraction of `total_steps` strictly between 0 and 1, and its schedule: a
        number, a list of numbers, a generator, or any schedule of this Thinc. The last phase
        may be a schedule alone, or have None for its steps: then it goes on for ever. If it
        has steps, it stays at its last value after them.
    total_steps (Optional[int]): The length of the training in steps. The phases must not be
        longer.
    RETURNS (ScheduleT): A schedule for this Thinc.
    RAISES: ValueError for bad arguments.
    """
    total_steps = check_total_steps(total_steps)
    if not phases:
        raise ValueError("phases must have at least one phase, but there was none")
    pairs = [_read_phase(number, phase) for number, phase in enumerate(phases, 1)]
    return _make(
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


def _read_phase(number: int, phase: Any) -> Tuple[Any, Any]:
    """The steps and the schedule of a phase, from Python or from a config."""
    if isinstance(phase, Mapping):
        if "schedule" not in phase or not set(phase) <= {"steps", "schedule"}:
            raise ValueError(
                f"Phase {number} must have a schedule, and steps if it is not to go on for "
                f"ever, and nothing else, but had {sorted(phase)}"
            )
        return phase.get("steps"), phase["schedule"]
    if isinstance(phase, tuple):
        if len(phase) != 2:
            raise ValueError(f"Phase {number} must be (steps, schedule), but was {phase!r}")
        return phase
    return None, phase


def _check_phase_steps(all_steps: List[Any], total_steps: Optional[int]) -> List[Optional[int]]:
    """The length of each phase. Fractions are added before they are rounded, so that those
    that are 1 together are the whole training."""
    lengths: List[Optional[int]] = []
    whole, fraction, end = 0, 0.0, 0
    for number, steps in enumerate(all_steps, 1):
        if steps is None and number == len(all_steps):
            lengths.append(None)
            break
        name = f"steps of phase {number}"
        if steps is None:
            raise ValueError(f"{name} must be given: only the last phase can go on for ever")
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
            f"The phases must not be longer than total_steps, but had {end} steps together "
            f"with total_steps = {total_steps}: the training would never get there"
        )
    return lengths


def _check_phase_schedule(number: int, schedule: Any) -> Any:
    """The schedule of a phase: a number, a list of numbers, or something to call."""
    name = f"schedule of phase {number}"
    if isinstance(schedule, ScheduleClass):
        return schedule
    if isinstance(schedule, list) and schedule:
        return [check_number(name, value, minimum=0.0) for value in schedule]
    if isinstance(schedule, Real):
        return check_number(name, schedule, minimum=0.0)
    if isinstance(schedule, Iterator):
        return DrawnSchedule(schedule)
    raise ValueError(
        f"{name} must be a number, a list of numbers or a schedule, but was {schedule!r}"
    )


class DrawnSchedule:
    """A generator as a function of the step. It keeps all values that were drawn, since a
    generator cannot go back, and a look ahead must not use it up. After its end it stays at
    its last value.

    generator (Iterator): Where the values come from.
    """

    values: List[float]

    def __init__(self, generator: Iterator) -> None:  # type: ignore[type-arg]
        self.values = []
        self._generator = generator

    def __call__(self, step: int, **extra: Any) -> float:
        while len(self.values) <= step:
            try:
                self.values.append(float(next(self._generator)))
            except StopIteration:
                if not self.values:
                    raise ValueError("A schedule must have a value, but was empty") from None
                return self.values[-1]
        return self.values[step]

    def __repr__(self) -> str:
        return f"<{type(self._generator).__name__}>"


class ScheduleIterator(Generator):
    """A schedule for Thinc 8.3: an iterator over its values, without an end.

    Unlike a generator it can be copied and pickled, and knows what it was made with and which
    step comes next. It has the form of Thinc 9.1's `Schedule` and can be called with a step
    too, which leaves it where it is.

    name (str): The name of the schedule.
    schedule (Callable): The value from this object and the step.
    attrs (Dict[str, Any]): What it was made with.
    """

    name: str
    attrs: Dict[str, Any]
    position: int

    def __init__(
        self, name: str, schedule: Callable[..., float], *, attrs: Dict[str, Any]
    ) -> None:
        self.name = name
        self.attrs = attrs
        # The step whose value is the next one to be drawn.
        self.position = 0
        self._schedule = schedule

    def __call__(self, step: int, **extra: Any) -> float:
        """The value at a step, counted from 0."""
        return self._schedule(self, check_int("step", step, minimum=0), **extra)

    def __next__(self) -> float:
        value = self(self.position)
        self.position += 1
        return value

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.attrs.items())
        return f"{self.name}({arguments})"


# What a schedule of this package is on this Thinc.
ScheduleClass: Any = ScheduleIterator if Schedule is None else Schedule


def describe_schedule(schedule: Any) -> Any:
    """What a schedule was made with, in JSON. A constant one is its value.

    schedule (ScheduleT): A schedule of this package, or any Schedule of Thinc 9.1.
    """
    if schedule.name == "constant":
        return schedule.attrs["rate"]
    attrs = {
        name: _describe_attr(value)
        for name, value in schedule.attrs.items()
        if isinstance(value, (bool, int, float, str, list, tuple, ScheduleClass))
        # How far a generator is follows from the step.
        and name not in ("last_step", "last_value")
    }
    return {"schedule": schedule.name, "attrs": attrs}


def _describe_attr(value: Any) -> Any:
    """An attribute of a schedule in JSON: of generators and functions only the type."""
    if isinstance(value, ScheduleClass):
        return describe_schedule(value)
    if isinstance(value, (list, tuple)):
        return [_describe_attr(part) for part in value]
    if isinstance(value, DrawnSchedule):
        return "_Drawn"  # As in the first files.
    is_plain = value is None or isinstance(value, (bool, int, float, str))
    return value if is_plain else type(value).__name__


def anneal(start: float, end: float, progress: float, strategy: str) -> float:
    """A value between two others.

    progress (float): Which part of the way is gone, from 0; it ends at 1.
    strategy (str): "linear", or "cosine": slow at both ends, along half a cosine.
    """
    if progress >= 1.0:
        return end
    if strategy == "cosine":
        progress = (1.0 - math.cos(math.pi * progress)) / 2.0
    return start + progress * (end - start)


def _make(name: str, schedule: Callable[..., float], **attrs: Any) -> ScheduleT:
    return ScheduleClass(name, schedule, attrs=attrs)


def _check_steps(steps: Any, total_steps: Optional[int]) -> int:
    """The length of a schedule."""
    if steps is not None:
        return check_step("steps", steps, total_steps, minimum=1)
    if total_steps is None:
        raise ValueError(
            "steps, or total_steps for the whole training, must be given, but both were None"
        )
    return total_steps


def _check_warmup_steps(warmup_steps: Any, steps: int, total_steps: Optional[int]) -> int:
    n_steps = check_step("warmup_steps", warmup_steps, total_steps, minimum=0)
    if n_steps >= steps:
        raise ValueError(
            f"warmup_steps must be less than the steps of the schedule, but was {n_steps} "
            f"with {steps} steps"
        )
    return n_steps
