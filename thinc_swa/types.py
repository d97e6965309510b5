"""Type aliases, with Thinc's names where Thinc has one."""

from typing import Any

from thinc.types import FloatsXd

KeyT = tuple[int, str]
"""The key of a parameter: the id of its node or shim, and its name."""

StepT = int | float
"""A time in the training: a number of steps, or a fraction of total_steps."""

RateT = Any
"""A learning rate: a number, a list of numbers, or a schedule: a generator on Thinc 8.3, a
`Schedule` on Thinc 9.1."""

ScheduleT = Any
"""A schedule for the installed Thinc version: an iterator on Thinc 8.3, a `Schedule` on 9.1."""

Array = Any
"""A NumPy or CuPy array in calculations. Thinc's `FloatsXd`, used in signatures, does not
support arithmetic between arrays of any number of dimensions."""

__all__ = ["Array", "FloatsXd", "KeyT", "RateT", "ScheduleT", "StepT"]
