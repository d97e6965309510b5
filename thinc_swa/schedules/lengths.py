"""Checks of the lengths of schedules and of their warmups."""

from typing import Any

from ..validation import check_step


def check_steps(steps: Any, total_steps: int | None) -> int:
    """The length of a schedule in steps.

    steps (int | float | None): A number of steps, a fraction of `total_steps`, or None for
        `total_steps`.
    total_steps (int | None): As returned by `check_total_steps`.
    RAISES: ValueError for another value, or if both are None.
    """
    if steps is not None:
        return check_step("steps", steps, total_steps, minimum=1)
    if total_steps is None:
        raise ValueError(
            "steps, or total_steps for the whole training, must be given, but both were None"
        )
    return total_steps


def check_warmup_steps(warmup_steps: Any, steps: int, total_steps: int | None) -> int:
    """The length of a warmup in steps, less than that of the whole schedule.

    warmup_steps (int | float): A number of steps, or a fraction of `total_steps`.
    steps (int): The length of the schedule.
    total_steps (int | None): As returned by `check_total_steps`.
    RAISES: ValueError for another value.
    """
    n_steps = check_step("warmup_steps", warmup_steps, total_steps, minimum=0)
    if n_steps >= steps:
        raise ValueError(
            f"warmup_steps must be less than the steps of the schedule, but was {n_steps} "
            f"with {steps} steps"
        )
    return n_steps
