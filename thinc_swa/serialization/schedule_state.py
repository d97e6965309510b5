"""Saving and restoring of an optimizer's schedules and scheduled hyperparameters.

On Thinc 8.3 schedules are iterators, and their positions are saved (`iterator_positions.py`).
On Thinc 9.1 they are `Schedule` objects, which are called with the step, and only their mutable
state is saved.

One rule applies to all hyperparameters that can have a schedule. Schedules must be equal when
saved and loaded. Numbers are part of the state, because they may have been changed during
training: the saved number replaces that of the optimizer, with a warning if the two differ.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

from thinc.schedules import constant

from ..schedules.compat import Schedule, ScheduleIterator, describe_schedule
from ..schedules.iterator_positions import (
    CountedIterator,
    add_to_checksum,
    count_between,
    describe_position,
)
from ..schedules.traversal import generator_schedules, schedule_states
from .state_checks import SCHEDULED


def describe_schedules(optimizer: Any) -> dict[str, Any]:
    """Describe the hyperparameters that can have schedules in JSON: on Thinc 8.3 their values
    and the positions of the schedules, on Thinc 9.1 the schedules and their mutable state.

    optimizer (Optimizer): An optimizer of Thinc, not a wrapper.
    RETURNS (dict[str, Any]): The description.
    RAISES: ValueError if the position of a schedule is not known.
    """
    if Schedule is not None:
        return _describe_schedule_objects(optimizer)
    description = _describe_iterators(optimizer)
    unknown = [name for name, place in description["iterators"].items() if place is None]
    if unknown:
        raise ValueError(
            f"The position of the schedule of {', '.join(unknown)} is not known, because its "
            "values come from a generator and were not counted from the first one on. Wrap the "
            "optimizer before its first update, OptimizerWrapper(optimizer), or use a number, "
            "a list, or a schedule of Thinc or thinc_swa, but not a list in constant_then"
        )
    return description


def _describe_iterators(optimizer: Any) -> dict[str, Any]:
    own = {
        name: schedule
        for name, schedule in optimizer.schedules.items()
        if isinstance(schedule, ScheduleIterator)
    }
    return {
        "values": {name: getattr(optimizer, name) for name in SCHEDULED},
        "generators": sorted(optimizer.schedules),
        # The schedules of this package.
        "described": {name: describe_schedule(schedule) for name, schedule in own.items()},
        "positions": {name: schedule.position for name, schedule in own.items()},
        "phases": _describe_phases(own),
        # All others.
        "iterators": {
            name: describe_position(schedule)
            for name, schedule in optimizer.schedules.items()
            if name not in own
        },
    }


def _describe_schedule_objects(optimizer: Any) -> dict[str, Any]:
    schedules = {name: getattr(optimizer, name) for name in SCHEDULED}
    return {
        "values": {name: describe_schedule(value) for name, value in schedules.items()},
        "states": {
            name: [dataclasses.asdict(state) for state in schedule_states(value)]
            for name, value in schedules.items()
        },
        # Lists and generators: the step of the last value, and that value.
        "drawn": {
            name: [value.attrs["last_step"], value.attrs["last_value"]]
            for name, value in schedules.items()
            if value.name == "wrap_generator"
        },
        "phases": _describe_phases(schedules),
    }


def _describe_phases(schedules: dict[str, Any]) -> dict[str, list[Any]]:
    """The number of cached values of each generator in phases, and the last value."""
    return {
        name: [[len(part.values), part.values[-1:]] for part in generator_schedules(schedule)]
        for name, schedule in schedules.items()
    }


def _phase_differences(saved: dict[str, Any], name: str, schedule: Any) -> Iterator[str]:
    """List in words the generators in phases whose values differ."""
    all_values = saved.get("phases", {}).get(name, [])
    for part, (n_values, last) in zip(generator_schedules(schedule), all_values, strict=False):
        if n_values and [part(n_values - 1)] != last:
            yield (
                f"value {n_values} of a generator in the phases of {name} was {last[0]}, and "
                f"is {part(n_values - 1)}"
            )


def has_schedules(optimizer: Any) -> bool:
    """Whether a hyperparameter has a schedule that is not constant."""
    if Schedule is None:
        return bool(optimizer.schedules)
    return any(getattr(optimizer, name).name != "constant" for name in SCHEDULED)


def schedule_differences(
    saved: dict[str, Any], optimizer: Any, has_own_rate: bool
) -> Iterator[str]:
    """List in words the schedules of the saved optimizer that differ from those of this one.

    saved (dict[str, Any]): As returned by `describe_schedules`.
    optimizer (Optimizer): An optimizer of Thinc, not a wrapper.
    has_own_rate (bool): Whether a wrapper of the saved optimizer has a learning rate of its
        own, which may have replaced the original schedule.
    RETURNS (Iterator[str]): One sentence per difference.
    """
    if Schedule is None:
        now = _in_json(_describe_iterators(optimizer))
        before, generators = set(saved["generators"]), set(now["generators"])
        replaced = {"learn_rate"} if has_own_rate else set()
        if before - generators or generators - before - replaced:
            yield f"it has schedules for {sorted(before)}, not for {sorted(generators)}"
        else:
            yield from _iterator_differences(saved, now, optimizer)
        return
    now = _in_json(_describe_schedule_objects(optimizer))
    for name, value in saved["values"].items():
        other = now["values"][name]
        is_number, is_schedule = not isinstance(value, dict), isinstance(other, dict)
        if is_number and not is_schedule:
            continue
        is_replaced = is_number or value["schedule"] == "thinc_swa"
        if name == "learn_rate" and is_replaced and has_own_rate:
            continue
        if value != other:
            yield f"{name} was {value}, and is {other}"
            continue
        if name in saved["drawn"] and name in now["drawn"]:
            step, last = saved["drawn"][name]
            if now["drawn"][name][0] <= step:
                drawn = _peek(getattr(optimizer, name).attrs, step)
                if drawn != last:
                    yield f"{name} was {last} at its position {step}, and is {drawn}"
        yield from _phase_differences(saved, name, getattr(optimizer, name))


def _in_json(description: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(description, default=float))
    return result


def _iterator_differences(
    saved: dict[str, Any], now: dict[str, Any], optimizer: Any
) -> Iterator[str]:
    """List in words the schedules of Thinc 8.3 that differ or are past the saved position."""
    for name in saved["generators"]:
        before, other = saved["described"].get(name), now["described"].get(name)
        if before != other:
            yield f"{name} was {before or 'a generator'}, and is {other or 'a generator'}"
        elif before is not None:
            yield from _phase_differences(saved, name, optimizer.schedules[name])
        elif before is None and "iterators" in saved:
            place, own = saved["iterators"][name], now["iterators"][name]
            n_values = None if own is None else count_between(own, place)
            if n_values is None:
                yield f"{name} was {_in_words(place)}, and is {_in_words(own)}"
            elif place["schedule"] == "list" and not place["arguments"]:
                last = own["arguments"][-1] if own["arguments"] else now["values"][name]
                if last != saved["values"][name]:
                    yield f"{name} was {saved['values'][name]} after its list, and is {last}"
            elif place["schedule"] == "generator":
                checksum = optimizer.schedules[name].checksum
                for value in optimizer.schedules[name].peek(n_values):
                    checksum = add_to_checksum(checksum, value)
                if checksum != place["arguments"]["checksum"]:
                    yield f"{name} was taken from a generator with other values"


def _in_words(position: Any) -> str:
    if position is None:
        return "a generator at an unknown position: wrap the optimizer before its first update"
    if position["schedule"] == "generator":
        return f"a generator with the first value {position['arguments']['first']}"
    return str({name: value for name, value in position.items() if value is not None})


def _peek(attrs: dict[str, Any], step: int) -> Any:
    """The value of a generator of Thinc 9.1 at a later step, without taking it."""
    n_values = step - attrs["last_step"]
    values = [attrs["last_value"], *islice(attrs["generator"], n_values)]
    attrs["generator"] = chain(values[1:], attrs["generator"])
    return values[-1]


def number_differences(
    saved: dict[str, Any], optimizer: Any, is_rate_replaced: bool
) -> Iterator[str]:
    """List in words the hyperparameters without a schedule whose saved numbers differ.

    saved (dict[str, Any]): As returned by `describe_schedules`.
    optimizer (Optimizer): An optimizer of Thinc, not a wrapper.
    is_rate_replaced (bool): Whether a wrapper has replaced the learning rate, which is then
        left out.
    RETURNS (Iterator[str]): Differences such as "L2 = 0.1, not 0.2".
    """
    for name, value in saved["values"].items():
        if name == "learn_rate" and is_rate_replaced:
            continue
        now = getattr(optimizer, name)
        if Schedule is None:
            is_scheduled = name in saved["generators"]
        else:
            now = describe_schedule(now)
            is_scheduled = isinstance(now, dict)
        if not is_scheduled and value != now:
            yield f"{name} = {value}, not {now}"


def restore_schedules(
    optimizer: Any, saved: dict[str, Any], n_calls: int, is_counted: bool
) -> list[Callable[[], None]]:
    """Make the changes that restore the hyperparameters. Values that are equal already are
    kept, because NumPy's floats and Python's floats lead to different precisions.

    optimizer (Optimizer): An optimizer of Thinc, not a wrapper.
    saved (dict[str, Any]): As returned by `describe_schedules`.
    n_calls (int): The number of previous calls of `step_schedules()`, for files of version 1,
        which have no positions of generators.
    is_counted (bool): Whether `n_calls` was counted; else it is the number of updates.
    RETURNS (list[Callable]): The changes. They cannot fail.
    RAISES: ValueError if a file of version 1 does not determine a position.
    """
    if Schedule is None:
        return _restore_iterators(optimizer, saved, n_calls, is_counted)
    return [
        partial(setattr, optimizer, name, constant(value))
        for name, value in saved["values"].items()
        if not isinstance(value, dict) and value != describe_schedule(getattr(optimizer, name))
    ]


def _restore_iterators(
    optimizer: Any, saved: dict[str, Any], n_calls: int, is_counted: bool
) -> list[Callable[[], None]]:
    changes: list[Callable[[], None]] = []
    for name, position in saved["positions"].items():
        changes.append(partial(setattr, optimizer.schedules[name], "position", position))
    drawn = set(saved["generators"]) - set(saved["positions"])
    if "iterators" in saved:
        for name in sorted(drawn):
            now = describe_position(optimizer.schedules[name])
            n_values = count_between(_in_json(now or {}), saved["iterators"][name])
            changes.append(partial(_advance, optimizer, name, n_values or 0))
    elif drawn:
        n_values = _find_position(optimizer, saved["values"], drawn, n_calls, is_counted)
        for name in sorted(drawn):
            changes.append(partial(_advance, optimizer, name, n_values))
    for name, value in saved["values"].items():
        changes.append(partial(_set_value, optimizer, name, value))
    for name in set(optimizer.schedules) - set(saved["generators"]):
        changes.append(partial(optimizer.schedules.pop, name))
    return changes


def _advance(optimizer: Any, name: str, n_values: int) -> None:
    """Advance a schedule, as `n_values` calls of `step_schedules()` do."""
    for value in islice(optimizer.schedules[name], n_values):
        setattr(optimizer, name, value)


def _set_value(optimizer: Any, name: str, value: Any) -> None:
    if value != getattr(optimizer, name):
        setattr(optimizer, name, value)


def _find_position(
    optimizer: Any, values: dict[str, Any], names: set[str], n_calls: int, is_counted: bool
) -> int:
    """Find the position of generators for a file of version 1. With a wrapper, the position is
    the number of calls. Without one, only the number of updates is known, and the position must
    be the only one with the saved values among four times that number."""
    drawn = {}
    for name in names:
        schedule = optimizer.schedules[name]
        if not isinstance(schedule, CountedIterator):
            schedule = CountedIterator(schedule, getattr(optimizer, name))
            optimizer.schedules[name] = schedule
        n_values = n_calls if is_counted else 4 * n_calls
        drawn[name] = [getattr(optimizer, name), *schedule.peek(n_values)]
    longest = max(len(own) for own in drawn.values())
    positions = [
        position
        for position in range(longest)
        # An exhausted generator leaves the last value in force.
        if all(own[min(position, len(own) - 1)] == values[name] for name, own in drawn.items())
    ]
    if is_counted:
        positions = [n_calls] if min(n_calls, longest - 1) in positions else []
    if len(positions) != 1:
        raise ValueError(
            f"The position of the schedules for {sorted(names)} cannot be determined from the "
            "file, which an older thinc_swa has written: either the schedules differ from the "
            "saved ones, or step_schedules() was not called once per update"
        )
    return positions[0]


def restore_rate(optimizer: Any, saved: dict[str, Any]) -> None:
    """Restore what the wrappers' own learning rates may have overwritten. If two wrappers have
    one, the schedule of the inner one may have replaced the number of the outer one.

    optimizer (Optimizer): An optimizer of Thinc, not a wrapper.
    saved (dict[str, Any]): As returned by `describe_schedules`.
    """
    rate = saved["values"]["learn_rate"]
    if Schedule is None:
        _set_value(optimizer, "learn_rate", rate)
        return
    if not isinstance(rate, dict) and describe_schedule(optimizer.learn_rate) != rate:
        optimizer.learn_rate = constant(rate)
    for name, all_values in saved["states"].items():
        states = schedule_states(getattr(optimizer, name))
        for state, values in zip(states, all_values, strict=False):
            for field in dataclasses.fields(state):
                if field.name in values:
                    setattr(state, field.name, values[field.name])
