"""Schedule objects for Thinc 8.3 and Thinc 9.1.

A schedule is a function of the step, counted from 0, and of its arguments. On Thinc 9.1 it is a
`Schedule`, which the optimizer calls with the step. On Thinc 8.3 it is a `ScheduleIterator`,
from which the optimizer takes one value per step.

The functions that make schedules are registered directly. Their arguments are annotated with
`Any | ...`, so that the config system converts no value before it is checked.
"""

from collections.abc import Callable, Iterator
from typing import Any

import thinc.schedules
from thinc.types import Generator

from ..types import ScheduleT
from ..validation import check_int

# Thinc 9.1's class; None on Thinc 8.3.
Schedule: Any = getattr(thinc.schedules, "Schedule", None)


class GeneratorSchedule:
    """A generator as a function of the step. All values are cached, because a generator cannot
    be rewound. After the end of the generator, the last value is repeated.

    generator (Iterator): The source of the values.
    """

    values: list[float]

    def __init__(self, generator: Iterator) -> None:  # type: ignore[type-arg]
        self.values = []
        self._generator = generator

    def __call__(self, step: int, **extra: Any) -> float:
        """RAISES: ValueError if the generator has no value at all."""
        while len(self.values) <= step:
            try:
                self.values.append(float(next(self._generator)))
            except StopIteration:
                if not self.values:
                    raise ValueError(
                        "A schedule must have at least one value, but was empty"
                    ) from None
                return self.values[-1]
        return self.values[step]

    def __repr__(self) -> str:
        return f"<{type(self._generator).__name__}>"


class ScheduleIterator(Generator):
    """A schedule for Thinc 8.3: an infinite iterator over the values of the steps.

    Unlike a generator it can be copied and pickled, and has its arguments and its position as
    attributes. Like a `Schedule` of Thinc 9.1, it can also be called with a step, which does
    not change its position.

    name (str): The name of the schedule.
    schedule (Callable): Computes the value from this object and the step.
    attrs (dict[str, Any]): The arguments of the schedule.
    """

    name: str
    attrs: dict[str, Any]
    position: int

    def __init__(
        self, name: str, schedule: Callable[..., float], *, attrs: dict[str, Any]
    ) -> None:
        self.name = name
        self.attrs = attrs
        # The step of the next value.
        self.position = 0
        self._schedule = schedule

    def __call__(self, step: int, **extra: Any) -> float:
        """The value at a step, counted from 0.

        RAISES: ValueError if the step is not an int >= 0.
        """
        return self._schedule(self, check_int("step", step, minimum=0), **extra)

    def __next__(self) -> float:
        value = self(self.position)
        self.position += 1
        return value

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.attrs.items())
        return f"{self.name}({arguments})"


# The class of this package's schedules on the installed Thinc version.
ScheduleClass: Any = ScheduleIterator if Schedule is None else Schedule


def describe_schedule(schedule: Any) -> Any:
    """Describe the name and the arguments of a schedule in JSON.

    schedule (ScheduleT): A schedule of this package, or any `Schedule` of Thinc 9.1.
    RETURNS (float | dict[str, Any]): The value of a constant schedule; else "schedule" (str),
        the name, and "attrs" (dict), the arguments.
    """
    if schedule.name == "constant":
        return schedule.attrs["rate"]
    attrs = {
        name: _describe_attr(value)
        for name, value in schedule.attrs.items()
        if isinstance(value, (bool, int, float, str, list, tuple, ScheduleClass))
        # The position of a generator follows from the step.
        and name not in ("last_step", "last_value")
    }
    return {"schedule": schedule.name, "attrs": attrs}


def _describe_attr(value: Any) -> Any:
    """An attribute of a schedule in JSON: the type's name for generators and functions."""
    if isinstance(value, ScheduleClass):
        return describe_schedule(value)
    if isinstance(value, (list, tuple)):
        return [_describe_attr(part) for part in value]
    if isinstance(value, GeneratorSchedule):
        return "_Drawn"  # Saved files contain this name.
    is_plain = value is None or isinstance(value, (bool, int, float, str))
    return value if is_plain else type(value).__name__


def make_schedule(name: str, schedule: Callable[..., float], **attrs: Any) -> ScheduleT:
    """Make a schedule for the installed Thinc version.

    name (str): The name of the schedule.
    schedule (Callable): Computes the value from the schedule object and the step.
    attrs (Any): The checked arguments, which become the attribute `attrs` of the schedule.
    RETURNS (ScheduleT): The schedule.
    """
    return ScheduleClass(name, schedule, attrs=attrs)
