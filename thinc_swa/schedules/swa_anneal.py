"""Schedule that anneals from one rate to another when averaging starts."""

from typing import Any

from ..types import ScheduleT
from ..validation import (
    check_choice,
    check_number,
    check_start_step,
    check_step,
    check_total_steps,
)
from .annealing import ANNEAL_STRATEGIES, anneal
from .compat import make_schedule


def swa_anneal(
    start_rate: Any | float,
    end_rate: Any | float,
    *,
    start_step: Any | int | float,
    anneal_steps: Any | int | float,
    anneal_strategy: Any | str = "linear",
    total_steps: Any | int | None = None,
) -> ScheduleT:
    """`swa_anneal.v1`: one rate before averaging starts, another one afterwards (Izmailov et
    al. 2018, arXiv:1803.05407, section 3.2; PyTorch's `SWALR`).

    It is `start_rate` for `start_step` steps. The *k*-th step after these, *k* = 1, 2 …, has
    gone k / `anneal_steps` of the way to `end_rate`, where it stays. These are the rates of
    `SWA` with a `learn_rate` and the same `start_step` and `anneal_steps`, for any
    hyperparameter.

    start_rate (float): The rate at first.
    end_rate (float): The rate in the end.
    start_step (int | float): After which step to start, as a number of steps or as a
        fraction of `total_steps` strictly between 0 and 1.
    anneal_steps (int | float): Over how many steps to move, 1 for a jump, as a number of
        steps or as a fraction of `total_steps`.
    anneal_strategy (str): How to move: "linear" or "cosine".
    total_steps (int | None): The length of the training in steps, for fractions.
    RETURNS (ScheduleT): A schedule for this Thinc.
    RAISES: ValueError for bad arguments.
    """
    total_steps = check_total_steps(total_steps)
    return make_schedule(
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
