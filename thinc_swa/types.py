"""The names of types, Thinc's first."""

from typing import Any

from thinc.types import FloatsXd

KeyT = tuple[int, str]
"""A parameter: the id of its node (or shim) and its name."""

StepT = int | float
"""A moment of the training: steps, or a fraction of total_steps."""

RateT = Any
"""A learning rate: a number, a list, or one of Thinc's schedules, which are generators on
Thinc 8.3 and `Schedule` objects on Thinc 9.1."""

ScheduleT = Any
"""A schedule of this Thinc: an iterator on Thinc 8.3, a `Schedule` on Thinc 9.1."""

Array = Any
"""A NumPy or CuPy array that is calculated with. Thinc's `FloatsXd` is good for signatures,
but has no arithmetic over all numbers of dimensions."""

__all__ = ["Array", "FloatsXd", "KeyT", "RateT", "ScheduleT", "StepT"]
