"""One-cycle schedules of the learning rate and of the momentum."""

from typing import Any

from ..types import ScheduleT
from ..validation import check_choice, check_number, check_total_steps
from .annealing import ANNEAL_STRATEGIES, anneal
from .compat import make_schedule
from .lengths import check_steps, check_warmup_steps


def one_cycle(
    max_rate: Any | float,
    *,
    steps: Any | int | float | None = None,
    warmup_steps: Any | int | float | None = None,
    start_factor: Any | float = 0.04,
    end_factor: Any | float = 4e-6,
    anneal_strategy: Any | str = "cosine",
    total_steps: Any | int | None = None,
) -> ScheduleT:
    """`one_cycle.v1`: the 1cycle learning rate (Smith 2018, arXiv:1803.09820): one rise to the
    highest rate and one fall to a rate far below the first, with the default values of
    PyTorch's `OneCycleLR`.

    The rate is `start_factor * max_rate` at step 0, `max_rate` at step `warmup_steps`, and
    `end_factor * max_rate` from step `steps` on.

    max_rate (float): The highest rate, >= 0.
    steps (int | float | None): The length of the cycle: a number of steps, or a fraction of
        `total_steps` strictly between 0 and 1. None means `total_steps`.
    warmup_steps (int | float | None): The length of the rise: a number of steps, or a fraction
        of `total_steps`. Less than `steps`. None means 0.3 of the cycle.
    start_factor (float): The first rate as a factor of `max_rate`, in [0, 1].
    end_factor (float): The last rate as a factor of `max_rate`, in [0, 1].
    anneal_strategy (str): The shape of the rise and of the fall: "linear" or "cosine".
    total_steps (int | None): The length of the training in steps, for fractions.
    RETURNS (ScheduleT): A schedule for the installed Thinc version.
    RAISES: ValueError for invalid arguments.
    """
    return make_schedule(
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
    max_momentum: Any | float = 0.95,
    *,
    min_momentum: Any | float = 0.85,
    steps: Any | int | float | None = None,
    warmup_steps: Any | int | float | None = None,
    anneal_strategy: Any | str = "cosine",
    total_steps: Any | int | None = None,
) -> ScheduleT:
    """`one_cycle_momentum.v1`: the 1cycle momentum, for Adam's `beta1` (Smith 2018,
    arXiv:1803.09820). It falls while the learning rate of `one_cycle` rises, and rises while
    that falls.

    The momentum is `max_momentum` at step 0, `min_momentum` at step `warmup_steps`, and
    `max_momentum` from step `steps` on.

    max_momentum (float): The momentum at both ends, in (0, 1].
    min_momentum (float): The momentum at the highest learning rate, in (0, max_momentum].
    steps (int | float | None): The length of the cycle: a number of steps, or a fraction of
        `total_steps` strictly between 0 and 1. None means `total_steps`.
    warmup_steps (int | float | None): The length of the fall: a number of steps, or a fraction
        of `total_steps`. Less than `steps`. None means 0.3 of the cycle.
    anneal_strategy (str): The shape of the fall and of the rise: "linear" or "cosine".
    total_steps (int | None): The length of the training in steps, for fractions.
    RETURNS (ScheduleT): A schedule for the installed Thinc version.
    RAISES: ValueError for invalid arguments.
    """
    max_momentum = check_number("max_momentum", max_momentum, above=0.0, maximum=1.0)
    return make_schedule(
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


def _cycle(attrs: dict[str, Any], step: int, start: float, peak: float, end: float) -> float:
    """The value at a step of a cycle from `start` through `peak` to `end`."""
    steps, warmup_steps = attrs["steps"], attrs["warmup_steps"]
    if step < warmup_steps:
        return anneal(start, peak, step / warmup_steps, attrs["anneal_strategy"])
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return anneal(peak, end, progress, attrs["anneal_strategy"])


def _check_cycle(steps: Any, warmup_steps: Any, total_steps: Any) -> dict[str, int]:
    """The lengths of a cycle and of its first part, as attributes of the schedule."""
    total_steps = check_total_steps(total_steps)
    steps = check_steps(steps, total_steps)
    if warmup_steps is None:
        return {"steps": steps, "warmup_steps": round(0.3 * steps)}
    return {
        "steps": steps,
        "warmup_steps": check_warmup_steps(warmup_steps, steps, total_steps),
    }
