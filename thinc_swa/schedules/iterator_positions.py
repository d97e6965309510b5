"""Positions of schedules on Thinc 8.3, where an optimizer takes values from iterators.

A position is never inferred from the values. It is known for

- the schedules of this package, which count their steps;
- lists, whose iterators have an index;
- Thinc's own schedule functions, whose local variables are their complete state;
- any other iterator whose values have been counted from the first one on. A wrapper counts them
  for the optimizer that it wraps.
"""

import inspect
import math
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import thinc.schedules

from .compat import Schedule, ScheduleIterator, describe_schedule

# A position in JSON: the name of the schedule ("schedule"), its arguments ("arguments"), the
# counter ("place"), and the position of a nested schedule or None ("inner").
PositionT = dict[str, Any]

# Thinc's generator functions: their constant arguments, and the variable that is the counter.
FUNCTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "constant": (("rate",), ""),
    "constant_then": (("rate", "steps"), "i"),
    "decaying": (("base_rate", "decay"), "t"),
    "compounding": (("start", "stop", "compound"), "curr"),
    "slanted_triangular": (
        ("max_rate", "num_steps", "cut_frac", "ratio", "decay"),
        "t",
    ),
    "warmup_linear": (("initial_rate", "warmup_steps", "total_steps"), "step"),
    "cyclic_triangular": (("min_lr", "max_lr", "period"), "it"),
}


class CountedIterator(Iterator):  # type: ignore[type-arg]
    """An iterator that counts the values taken from it, with lookahead.

    iterator (Iterator): The source of the values.
    first (float): The value that was taken from the source before.
    """

    first: float
    n_values: int
    checksum: int

    def __init__(self, iterator: Iterator, first: float) -> None:  # type: ignore[type-arg]
        self.first = first
        self.n_values = 0
        # The checksum of all counted values.
        self.checksum = 0
        self._iterator = iterator
        # The position of the source, if known, and the lookahead: values, each with the
        # position of the source after it.
        self._position = describe_position(iterator)
        self._ahead: deque[tuple[Any, PositionT | None]] = deque()

    def __next__(self) -> Any:
        if not self._ahead and not self.peek(1):
            raise StopIteration
        value, self._position = self._ahead.popleft()
        self.n_values += 1
        self.checksum = add_to_checksum(self.checksum, value)
        return value

    def peek(self, n_values: int) -> list[Any]:
        """The next `n_values` values, or fewer at the end, without taking them."""
        for value in islice(self._iterator, max(0, n_values - len(self._ahead))):
            self._ahead.append((value, describe_position(self._iterator)))
        return [value for value, _ in islice(self._ahead, n_values)]

    def describe(self) -> PositionT:
        """The position of the source if known, else the count and checksum of the values."""
        if self._position is not None:
            return self._position
        arguments = {"first": self.first, "checksum": self.checksum}
        return _position("generator", arguments, self.n_values)


def add_to_checksum(checksum: int, value: Any) -> int:
    """Update a checksum with the value of a schedule."""
    return zlib.crc32(struct.pack("<d", float(value)), checksum)


def count_values(optimizer: Any) -> None:
    """Start to count the values of an optimizer's schedules whose positions are not known
    otherwise. Nothing is done on Thinc 9.1, or if the optimizer has been trained, because the
    first values would be missing.

    optimizer (Optimizer): An optimizer of Thinc, not a wrapper.
    """
    if Schedule is not None or optimizer.nr_update:
        return
    for name, schedule in optimizer.schedules.items():
        if describe_position(schedule) is None:
            optimizer.schedules[name] = CountedIterator(schedule, getattr(optimizer, name))


def describe_position(schedule: Any) -> PositionT | None:
    """Describe the position of a schedule of Thinc 8.3 in JSON.

    schedule (Iterable): The iterator, list or tuple from which an optimizer or another schedule
        takes values.
    RETURNS (PositionT | None): The position, or None if it is not known.
    """
    if isinstance(schedule, ScheduleIterator):
        return _position(schedule.name, describe_schedule(schedule), schedule.position)
    if isinstance(schedule, CountedIterator):
        return schedule.describe()
    if isinstance(schedule, (list, tuple)):
        return _position("list", list(schedule), 0)
    if isinstance(schedule, (type(iter([])), type(iter(())))):
        reduced: Any = schedule.__reduce__()
        # An exhausted iterator has no reference to its list, and no index.
        return _position("list", list(reduced[1][0]), reduced[2] if len(reduced) > 2 else 0)
    if inspect.isgenerator(schedule) and schedule.gi_frame is not None:
        for name in FUNCTIONS:
            if schedule.gi_code is getattr(thinc.schedules, name).__code__:
                return _describe_generator(schedule, name)
    return None


def _position(
    name: str, arguments: Any, place: Any, inner: PositionT | None = None
) -> PositionT:
    return {"schedule": name, "arguments": arguments, "place": place, "inner": inner}


def _describe_generator(generator: Any, name: str) -> PositionT | None:
    arguments, counter = FUNCTIONS[name]
    variables = inspect.getgeneratorlocals(generator)
    if name == "compounding" and not 0.0 < variables["compound"] < math.inf:
        return None
    is_started = inspect.getgeneratorstate(generator) != inspect.GEN_CREATED
    if name in ("constant", "constant_then", "warmup_linear"):
        place = variables.get(counter, 0) if is_started else -1
    elif name == "cyclic_triangular":
        place = variables["it"] if is_started else 0
    elif name == "decaying":  # Thinc increments t before each value except the first.
        place = variables["t"] if is_started else variables["t"] - 1
    else:
        place = variables.get(counter)
    inner = None
    if name == "constant_then":
        inner = describe_position(variables["schedule"])
        if "value" in variables:  # Values come from the nested schedule now.
            place = variables["steps"] - 1
            if isinstance(variables["schedule"], (list, tuple)):
                return None
        if inner is None:
            return None
    return _position(name, {name: variables[name] for name in arguments}, place, inner)


def count_between(before: PositionT, after: PositionT) -> int | None:
    """Count the values between two positions.

    before (PositionT): The first position, as read from JSON.
    after (PositionT): The second position, as read from JSON.
    RETURNS (int | None): The number of values, or None if the schedules differ or the second
        position is before the first.
    """
    if before["schedule"] != after["schedule"]:
        return None
    if after["schedule"] == "list" and not after["arguments"]:
        n_values: int = len(before["arguments"]) - before["place"]
        return n_values
    if after["schedule"] == "generator":
        is_same = before["arguments"]["first"] == after["arguments"]["first"]
        is_ahead = after["place"] >= before["place"]
        return int(after["place"] - before["place"]) if is_same and is_ahead else None
    if before["arguments"] != after["arguments"]:
        return None
    if after["schedule"] == "compounding":
        return _count_compounding(before, after)
    difference = float(after["place"] - before["place"])
    n_values = round(difference)
    if n_values < 0 or abs(difference - n_values) > 1e-6:
        return None
    if after["inner"] is not None:
        n_inner = count_between(before["inner"], after["inner"])
        return None if n_inner is None else n_values + n_inner
    return n_values


def _count_compounding(before: PositionT, after: PositionT) -> int | None:
    """Count the values of Thinc's `compounding`, which has no counter: it multiplies the last
    value."""
    factor: float = after["arguments"]["compound"]
    current: float | None = before["place"]
    n_values = 0
    if current is None and after["place"] is not None:
        current, n_values = float(after["arguments"]["start"]), 1
    while current != after["place"]:
        if current is None or current == current * factor:  # Zero or infinite.
            return None
        current *= factor
        n_values += 1
    return n_values
