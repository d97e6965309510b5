"""Traversal of nested schedules."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from thinc.api import Optimizer

from .compat import GeneratorSchedule, ScheduleClass


def schedule_states(schedule: Any) -> Iterator[Any]:
    """Find the mutable state of a Thinc 9.1 `Schedule` and of the schedules nested in it:
    dataclass instances, as in Thinc's `plateau`.

    schedule (ScheduleT): The outer schedule.
    RETURNS (Iterator[Any]): The dataclass instances themselves, in a fixed order.
    """
    return (part for part in _leaves(schedule) if dataclasses.is_dataclass(part))


def generator_schedules(schedule: Any) -> list[GeneratorSchedule]:
    """Find the generators nested in a schedule.

    schedule (ScheduleT): The outer schedule, of this package or any `Schedule` of Thinc 9.1.
    """
    return [part for part in _leaves(schedule) if isinstance(part, GeneratorSchedule)]


def _leaves(schedule: Any) -> Iterator[Any]:
    """All attributes of a schedule and of nested ones, except for the schedules themselves."""
    for attr in schedule.attrs.values():
        for value in attr if isinstance(attr, (list, tuple)) else [attr]:
            if isinstance(value, Optimizer):  # The learning rate of a wrapper is held by one.
                value = value.learn_rate
            if isinstance(value, ScheduleClass):
                yield from _leaves(value)
            else:
                yield value
