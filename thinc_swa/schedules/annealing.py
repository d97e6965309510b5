"""Interpolation between two values, and checks of lengths, for all schedules."""

import math
from typing import Any

from ..validation import (
    check_step,
)

ANNEAL_STRATEGIES = ("linear", "cosine")


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


def check_steps(steps: Any, total_steps: int | None) -> int:
    """The length of a schedule."""
    if steps is not None:
        return check_step("steps", steps, total_steps, minimum=1)
    if total_steps is None:
        raise ValueError(
            "steps, or total_steps for the whole training, must be given, but both were None"
        )
    return total_steps


def check_warmup_steps(warmup_steps: Any, steps: int, total_steps: int | None) -> int:
    n_steps = check_step("warmup_steps", warmup_steps, total_steps, minimum=0)
    if n_steps >= steps:
        raise ValueError(
            f"warmup_steps must be less than the steps of the schedule, but was {n_steps} "
            f"with {steps} steps"
        )
    return n_steps
