"""Schedule of the learning rate of SWA."""

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
    """`swa_anneal.v1`: a constant rate, then annealing to another constant rate when averaging
    starts (Izmailov et al. 2018, arXiv:1803.05407, section 3.2; PyTorch's `SWALR`).

    The rate is `start_rate` for the first `start_step` steps. In the *k*-th step after them,
    *k* = 1, 2 …, the fraction *k* / `anneal_steps` of the annealing is complete. From
    *k* = `anneal_steps` on, the rate is `end_rate`. `SWA` with the same `learn_rate`,
    `start_step` and `anneal_steps` sets the same learning rates; this schedule can be used for
    any hyperparameter.

    start_rate (float): The rate before the annealing, >= 0.
    end_rate (float): The rate after the annealing, >= 0.
    start_step (int | float): The number of steps before the annealing: a number of steps, or a
        fraction of `total_steps` strictly between 0 and 1.
    anneal_steps (int | float): The length of the annealing, 1 for an immediate change: a number
        of steps, or a fraction of `total_steps`.
    anneal_strategy (str): The shape of the annealing: "linear" or "cosine".
    total_steps (int | None): The length of the training in steps, for fractions.
    RETURNS (ScheduleT): A schedule for the installed Thinc version.
    RAISES: ValueError for invalid arguments.
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
