"""Schedule objects on both Thinc lines.

A schedule is a function of the step, counted from 0, and of the arguments that it was made
with. On Thinc 9.1 it becomes a `Schedule`, which is called with the step. On Thinc 8.3, where
an optimizer draws a value for each step, it becomes a `ScheduleIterator`.

The functions that make schedules are registered as they stand. Their arguments are annotated
with `Any | ...`, so that no config changes a value before it is checked.
"""

from collections.abc import Callable, Iterator
from typing import Any

import thinc.schedules
from thinc.types import Generator

from ..types import ScheduleT
from ..validation import check_int

# Thinc 9.1's class. Thinc 8.3 has none.
Schedule: Any = getattr(thinc.schedules, "Schedule", None)


class DrawnSchedule:
    """A generator as a function of the step. It keeps all values that were drawn, since a
    generator cannot go back, and a look ahead must not use it up. After its end it stays at
    its last value.

    generator (Iterator): Where the values come from.
    """

    values: list[float]

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
    attrs (dict[str, Any]): What it was made with.
    """

    name: str
    attrs: dict[str, Any]
    position: int

    def __init__(
        self, name: str, schedule: Callable[..., float], *, attrs: dict[str, Any]
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


def make_schedule(name: str, schedule: Callable[..., float], **attrs: Any) -> ScheduleT:
    return ScheduleClass(name, schedule, attrs=attrs)
