"""Positions of an optimizer's schedules in JSON, to be resumed in another process.

On Thinc 8.3 schedules are iterators; `generators.py` knows their positions. On Thinc 9.1 they
are `Schedule` objects, which are called with the step; only what they change by themselves has
to be saved.

One rule holds for all hyperparameters that can have a schedule: a schedule must be the saved
one, and a number is part of the state. The saved number replaces the optimizer's, since it may
have been changed during the training, with a warning where the two differ.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

from thinc.api import Optimizer
from thinc.schedules import constant

from ..schedules.compat import DrawnSchedule, Schedule, ScheduleClass, ScheduleIterator
from ..schedules.compat import describe_schedule as describe_schedule
from ..schedules.generators import (
    CountedIterator,
    add_to_checksum,
    count_between,
    describe_position,
)
from .state_checks import SCHEDULED


def describe_schedules(optimizer: Any) -> dict[str, Any]:
    """The hyperparameters that can have schedules: on Thinc 8.3 their values and the positions
    of the schedules, on Thinc 9.1 the schedules.

    RAISES: ValueError if a position is not known.
    """
    if Schedule is not None:
        return _describe_schedule_objects(optimizer)
    description = _describe_iterators(optimizer)
    unknown = [name for name, place in description["iterators"].items() if place is None]
    if unknown:
        raise ValueError(
            f"The position of the schedule of {', '.join(unknown)} is not known: its values "
            "are drawn from a generator, and the draws were not counted from the first one "
            "on. Wrap the optimizer before its first update, OptimizerWrapper(optimizer), or "
            "use a number, a list, or a schedule of Thinc or thinc_swa, but no list in "
            "constant_then"
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
        # Lists and generators: the step at which one gave its last value, and that value.
        "drawn": {
            name: [value.attrs["last_step"], value.attrs["last_value"]]
            for name, value in schedules.items()
            if value.name == "wrap_generator"
        },
        "phases": _describe_phases(schedules),
    }


def _describe_phases(schedules: dict[str, Any]) -> dict[str, list[Any]]:
    """Generators within phases: how many values were drawn from each, and the last one."""
    return {
        name: [[len(drawn.values), drawn.values[-1:]] for drawn in _drawn_schedules(schedule)]
        for name, schedule in schedules.items()
    }


def _phase_differences(saved: dict[str, Any], name: str, schedule: Any) -> Iterator[str]:
    """In words, which generators within phases gave other values."""
    all_values = saved.get("phases", {}).get(name, [])
    for drawn, (n_values, last) in zip(_drawn_schedules(schedule), all_values, strict=False):
        if n_values and [drawn(n_values - 1)] != last:
            yield (
                f"a generator in the phases of {name} gave {last[0]} as value {n_values}, and "
                f"gives {drawn(n_values - 1)}"
            )


def schedule_states(schedule: Any) -> Iterator[Any]:
    """What a Schedule and those within it change as they are called: Thinc's `plateau` keeps
    it in a dataclass. A wrapper's learning rate is that of an optimizer within."""
    return (part for part in _parts(schedule) if dataclasses.is_dataclass(part))


def _drawn_schedules(schedule: Any) -> list[DrawnSchedule]:
    return [part for part in _parts(schedule) if isinstance(part, DrawnSchedule)]


def _parts(schedule: Any) -> Iterator[Any]:
    """The attributes of a Schedule and of those within it that are no schedules."""
    for attr in schedule.attrs.values():
        for value in attr if isinstance(attr, (list, tuple)) else [attr]:
            if isinstance(value, Optimizer):
                value = value.learn_rate
            if isinstance(value, ScheduleClass):
                yield from _parts(value)
            else:
                yield value


def has_schedules(optimizer: Any) -> bool:
    """Whether there is anything but constants."""
    if Schedule is None:
        return bool(optimizer.schedules)
    return any(getattr(optimizer, name).name != "constant" for name in SCHEDULED)


def schedule_differences(
    saved: dict[str, Any], optimizer: Any, has_own_rate: bool
) -> Iterator[str]:
    """In words, which schedules of the saved optimizer and of this one differ.

    has_own_rate (bool): Whether a wrapper may have put its own learning rate in place of
        the schedule that the optimizer was made with.
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
    """On Thinc 8.3, which schedules are others, or further on than the saved ones."""
    for name in saved["generators"]:
        before, other = saved["described"].get(name), now["described"].get(name)
        if before != other:
            yield f"{name} was {before or 'a generator'}, and is {other or 'a generator'}"
        elif before is not None:
            yield from _phase_differences(saved, name, optimizer.schedules[name])
        elif before is None and "iterators" in saved:
            place, own = saved["iterators"][name], now["iterators"][name]
            n_draws = None if own is None else count_between(own, place)
            if n_draws is None:
                yield f"{name} was {_in_words(place)}, and is {_in_words(own)}"
            elif place["schedule"] == "list" and not place["arguments"]:
                last = own["arguments"][-1] if own["arguments"] else now["values"][name]
                if last != saved["values"][name]:
                    yield f"{name} was {saved['values'][name]} after its list, and is {last}"
            elif place["schedule"] == "generator":
                checksum = optimizer.schedules[name].checksum
                for value in optimizer.schedules[name].peek(n_draws):
                    checksum = add_to_checksum(checksum, value)
                if checksum != place["arguments"]["checksum"]:
                    yield f"{name} was drawn from a generator that gave other values"


def _in_words(position: Any) -> str:
    if position is None:
        return "a generator at an unknown position: wrap the optimizer first"
    if position["schedule"] == "generator":
        return f"a generator that began with {position['arguments']['first']}"
    return str({name: value for name, value in position.items() if value is not None})


def _peek(attrs: dict[str, Any], step: int) -> Any:
    """What a generator of Thinc 9.1 will give at a step."""
    to_draw = step - attrs["last_step"]
    values = [attrs["last_value"], *islice(attrs["generator"], to_draw)]
    attrs["generator"] = chain(values[1:], attrs["generator"])
    return values[-1]


def number_differences(
    saved: dict[str, Any], optimizer: Any, is_rate_replaced: bool
) -> Iterator[str]:
    """In words, which numbers the saved one will replace: the hyperparameters without a
    schedule that are others. A learning rate that a wrapper has set is none of these."""
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
    """What has to be done for the hyperparameters to be what they were. Where the value
    is right already, the optimizer's own stays: NumPy's floats calculate in another precision
    than Python's.

    saved (dict[str, Any]): What describe_schedules gave.
    n_calls (int): How often step_schedules() was called before. For files of the first
        version, which do not have the positions of generators.
    is_counted (bool): Whether n_calls was counted, and is not the number of updates.
    RETURNS (list[Callable]): To be called when nothing can go wrong any more.
    RAISES: ValueError if a file of the first version does not tell a position.
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
            n_draws = count_between(_in_json(now or {}), saved["iterators"][name])
            changes.append(partial(_draw, optimizer, name, n_draws or 0))
    elif drawn:
        n_draws = _find_position(optimizer, saved["values"], drawn, n_calls, is_counted)
        for name in sorted(drawn):
            changes.append(partial(_draw, optimizer, name, n_draws))
    for name, value in saved["values"].items():
        changes.append(partial(_set_value, optimizer, name, value))
    for name in set(optimizer.schedules) - set(saved["generators"]):
        changes.append(partial(optimizer.schedules.pop, name))
    return changes


def _draw(optimizer: Any, name: str, n_draws: int) -> None:
    """As so many calls of step_schedules() do."""
    for value in islice(optimizer.schedules[name], n_draws):
        setattr(optimizer, name, value)


def _set_value(optimizer: Any, name: str, value: Any) -> None:
    if value != getattr(optimizer, name):
        setattr(optimizer, name, value)


def _find_position(
    optimizer: Any, values: dict[str, Any], names: set[str], n_calls: int, is_counted: bool
) -> int:
    """How often was drawn from generators, for a file of the first version. With a wrapper it
    is the number of calls. Without one there is only the number of updates: the position is
    taken if it is the only one with these values, even among several times as many."""
    drawn = {}
    for name in names:
        schedule = optimizer.schedules[name]
        if not isinstance(schedule, CountedIterator):
            schedule = CountedIterator(schedule, getattr(optimizer, name))
            optimizer.schedules[name] = schedule
        n_draws = n_calls if is_counted else 4 * n_calls
        drawn[name] = [getattr(optimizer, name), *schedule.peek(n_draws)]
    longest = max(len(own) for own in drawn.values())
    positions = [
        position
        for position in range(longest)
        # One that is exhausted stays at its last value.
        if all(own[min(position, len(own) - 1)] == values[name] for name, own in drawn.items())
    ]
    if is_counted:
        positions = [n_calls] if min(n_calls, longest - 1) in positions else []
    if len(positions) != 1:
        raise ValueError(
            f"The position of the schedules for {sorted(names)} cannot be told from the file, "
            "which an older thinc_swa wrote: either they are others than those that were "
            "saved, or step_schedules() was not called once per update"
        )
    return positions[0]


def restore_rate(optimizer: Any, saved: dict[str, Any]) -> None:
    """What can only be set when the wrappers have put their own learning rates into place.
    Of two that have one, the inner one's schedule may have displaced the outer one's number.
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
