"""Positions of schedules on Thinc 8.3, where an optimizer draws values from iterators.

A position is saved if it is known; it is never inferred from the values. It is known of

- the schedules of this package, which count;
- lists, whose iterators have an index;
- Thinc's own schedule functions, whose local variables are their complete state;
- any other iterator whose draws have been counted from its first value on: a wrapper counts
  the draws of the optimizer that it wraps.
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

# A position in JSON: the name of the schedule, its arguments, a number that grows by one with
# every draw ("place"), and the position of the schedule inside, if there is one ("inner").
PositionT = dict[str, Any]

# Thinc's generator functions: the arguments that they leave as they are, and the variable that
# changes with every draw.
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
    """An iterator whose draws are counted, and that can look ahead.

    iterator (Iterator): Where the values come from.
    first (float): The value that was drawn from it before.
    """

    first: float
    n_draws: int
    checksum: int

    def __init__(self, iterator: Iterator, first: float) -> None:  # type: ignore[type-arg]
        self.first = first
        self.n_draws = 0
        # Of all values that were counted.
        self.checksum = 0
        self._iterator = iterator
        # The position of the iterator, if it is known, and the next values, each with the
        # position after it.
        self._position = describe_position(iterator)
        self._ahead: deque[tuple[Any, PositionT | None]] = deque()

    def __next__(self) -> Any:
        if not self._ahead and not self.peek(1):
            raise StopIteration
        value, self._position = self._ahead.popleft()
        self.n_draws += 1
        self.checksum = add_to_checksum(self.checksum, value)
        return value

    def peek(self, n_draws: int) -> list[Any]:
        """The next values, which can still be drawn afterwards: fewer if it ends before."""
        for value in islice(self._iterator, max(0, n_draws - len(self._ahead))):
            self._ahead.append((value, describe_position(self._iterator)))
        return [value for value, _ in islice(self._ahead, n_draws)]

    def describe(self) -> PositionT:
        if self._position is not None:
            return self._position
        arguments = {"first": self.first, "checksum": self.checksum}
        return _position("generator", arguments, self.n_draws)


def add_to_checksum(checksum: int, value: Any) -> int:
    return zlib.crc32(struct.pack("<d", float(value)), checksum)


def count_draws(optimizer: Any) -> None:
    """Count the draws of an optimizer's schedules from now on, where their positions could
    not be known otherwise. Without updates so far, that is from their first values on.

    optimizer (Optimizer): An optimizer of Thinc. On Thinc 9.1 this does nothing.
    """
    if Schedule is not None or optimizer.nr_update:
        return
    for name, schedule in optimizer.schedules.items():
        if describe_position(schedule) is None:
            optimizer.schedules[name] = CountedIterator(schedule, getattr(optimizer, name))


def describe_position(schedule: Any) -> PositionT | None:
    """The position of a schedule of Thinc 8.3 in JSON, or None if it is not known.

    schedule (Iterable): What an optimizer or another schedule draws from.
    """
    if isinstance(schedule, ScheduleIterator):
        return _position(schedule.name, describe_schedule(schedule), schedule.position)
    if isinstance(schedule, CountedIterator):
        return schedule.describe()
    if isinstance(schedule, (list, tuple)):
        return _position("list", list(schedule), 0)
    if isinstance(schedule, (type(iter([])), type(iter(())))):
        reduced: Any = schedule.__reduce__()
        # At its end it has let go of the list, and has no index.
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
    elif name == "decaying":  # The first draw leaves the argument t as it is.
        place = variables["t"] if is_started else variables["t"] - 1
    else:
        place = variables.get(counter)
    inner = None
    if name == "constant_then":
        inner = describe_position(variables["schedule"])
        if "value" in variables:  # It draws from the other schedule now.
            place = variables["steps"] - 1
            if isinstance(variables["schedule"], (list, tuple)):
                return None
        if inner is None:
            return None
    return _position(name, {name: variables[name] for name in arguments}, place, inner)


def count_between(before: PositionT, after: PositionT) -> int | None:
    """How many draws lead from one position to the other, or None if none do, because it is
    another schedule or the position is further back.

    before, after (PositionT): Positions, equal where JSON is.
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
    n_draws = round(difference)
    if n_draws < 0 or abs(difference - n_draws) > 1e-6:
        return None
    if after["inner"] is not None:
        n_inner = count_between(before["inner"], after["inner"])
        return None if n_inner is None else n_draws + n_inner
    return n_draws


def _count_compounding(before: PositionT, after: PositionT) -> int | None:
    """Thinc's `compounding` has no counter, but multiplies a number with every draw."""
    factor: float = after["arguments"]["compound"]
    current: float | None = before["place"]
    n_draws = 0
    if current is None and after["place"] is not None:
        current, n_draws = float(after["arguments"]["start"]), 1
    while current != after["place"]:
        if current is None or current == current * factor:  # Zero or infinite.
            return None
        current *= factor
        n_draws += 1
    return n_draws
