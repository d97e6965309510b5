"""Where the schedules of an optimizer stand, in JSON, to be gone on with in another process.

Thinc 8.3 keeps generators, which do not know where they are; they are brought forward by the
number of steps. The schedules of this package know it there. Thinc 9.1 keeps `Schedule`
objects, which are called with the step; only what they change by themselves has to be saved.
"""

import dataclasses
import json
from functools import partial
from itertools import chain, islice
from typing import Any, Callable, Dict, Iterator, List

from thinc.api import Optimizer
from thinc.schedules import constant

from .schedules import Schedule, ScheduleClass, ScheduleIterator

# What can have a schedule.
SCHEDULED = ("learn_rate", "b1", "b2", "eps", "L2", "grad_clip")


def describe_schedule(schedule: Any) -> Any:
    """A schedule of this package, or any Schedule of Thinc 9.1: what it was made with. A
    constant one is its value."""
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
    """In JSON. Of what has no words for itself this is the type only."""
    if isinstance(value, ScheduleClass):
        return describe_schedule(value)
    if isinstance(value, (list, tuple)):
        return [_describe_attr(part) for part in value]
    is_plain = value is None or isinstance(value, (bool, int, float, str))
    return value if is_plain else type(value).__name__


def describe_schedules(optimizer: Any) -> Dict[str, Any]:
    """Where the hyperparameters stand that can have schedules: on Thinc 8.3 their values and
    which have a generator, on Thinc 9.1 the schedules."""
    if Schedule is None:
        return {
            "values": {name: getattr(optimizer, name) for name in SCHEDULED},
            "generators": sorted(optimizer.schedules),
            # The schedules of this package are no generators: they can tell.
            "described": {
                name: describe_schedule(schedule)
                for name, schedule in _iterators(optimizer).items()
            },
            "positions": {
                name: schedule.position for name, schedule in _iterators(optimizer).items()
            },
        }
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
    }


def _iterators(optimizer: Any) -> Dict[str, ScheduleIterator]:
    """The schedules of this package among those of an optimizer of Thinc 8.3."""
    return {
        name: schedule
        for name, schedule in optimizer.schedules.items()
        if isinstance(schedule, ScheduleIterator)
    }


def schedule_states(schedule: Any) -> Iterator[Any]:
    """What a Schedule and those within it change as they are called: Thinc's `plateau` keeps
    it in a dataclass. A wrapper's learning rate is that of an optimizer within."""
    for attr in schedule.attrs.values():
        for value in attr if isinstance(attr, (list, tuple)) else [attr]:
            if isinstance(value, Optimizer):
                value = value.learn_rate
            if isinstance(value, Schedule):
                yield from schedule_states(value)
            elif dataclasses.is_dataclass(value):
                yield value


def has_schedules(optimizer: Any) -> bool:
    """Whether there is anything but constants."""
    if Schedule is None:
        return bool(optimizer.schedules)
    return any(getattr(optimizer, name).name != "constant" for name in SCHEDULED)


def schedule_differences(
    saved: Dict[str, Any], optimizer: Any, has_own_rate: bool
) -> Iterator[str]:
    """In words, which schedules the saved optimizer and this one do not have in common.

    has_own_rate (bool): Whether a wrapper may have put its own learning rate in place of
    the schedule that the optimizer was made with."""
    now = json.loads(json.dumps(describe_schedules(optimizer), default=float))
    if Schedule is None:
        before, generators = set(saved["generators"]), set(now["generators"])
        replaced = {"learn_rate"} if has_own_rate else set()
        if before - generators or generators - before - replaced:
            yield f"it has schedules for {sorted(before)}, not for {sorted(generators)}"
        else:
            yield from _iterator_differences(saved, now, optimizer)
        return
    for name, value in saved["values"].items():
        other = now["values"][name]
        is_number, is_schedule = not isinstance(value, dict), isinstance(other, dict)
        is_replaced = is_number or value["schedule"] == "thinc_swa"
        # A number may also have been set in mid-training.
        if name == "learn_rate" and is_replaced and (has_own_rate or not is_schedule):
            continue
        if value != other:
            yield f"{name} was {value}, and is {other}"
        elif name in saved["drawn"]:
            step, before = saved["drawn"][name]
            if now["drawn"][name][0] <= step:
                drawn = _peek(getattr(optimizer, name).attrs, step)
                if drawn != before:
                    yield f"{name} was {before} at its position {step}, and is {drawn}"


def _iterator_differences(
    saved: Dict[str, Any], now: Dict[str, Any], optimizer: Any
) -> Iterator[str]:
    """On Thinc 8.3, which schedules of this package are others."""
    for name in saved["generators"]:
        before, other = saved["described"].get(name), now["described"].get(name)
        if before != other:
            yield f"{name} was {before or 'a generator'}, and is {other or 'a generator'}"
        elif before is not None and saved["positions"][name]:
            # It may have a generator within, of which there is no description.
            step = saved["positions"][name] - 1
            drawn, value = saved["values"][name], optimizer.schedules[name](step)
            if drawn != value:
                yield f"{name} was {drawn} at its position {step}, and is {value}"


def _peek(attrs: Dict[str, Any], step: int) -> Any:
    """What a generator of Thinc 9.1 will give at a step."""
    to_draw = step - attrs["last_step"]
    values = [attrs["last_value"], *islice(attrs["generator"], to_draw)]
    attrs["generator"] = chain(values[1:], attrs["generator"])
    return values[-1]


def restore_schedules(
    optimizer: Any, saved: Dict[str, Any], n_calls: int, is_counted: bool
) -> List[Callable[[], None]]:
    """What has to be done for the hyperparameters to stand where they stood. Where the value
    is right already, the optimizer's own stays: NumPy's floats calculate in another precision
    than Python's.

    saved (Dict[str, Any]): What describe_schedules gave.
    n_calls (int): How often step_schedules() was called before.
    is_counted (bool): Whether n_calls was counted, not only guessed by the updates.
    RETURNS (List[Callable]): To be called when nothing can go wrong any more.
    """
    if Schedule is None:
        return _restore_generators(optimizer, saved, n_calls, is_counted)
    return [
        partial(setattr, optimizer, name, constant(value))
        for name, value in saved["values"].items()
        if not isinstance(value, dict) and value != describe_schedule(getattr(optimizer, name))
    ]


def _restore_generators(
    optimizer: Any, saved: Dict[str, Any], n_calls: int, is_counted: bool
) -> List[Callable[[], None]]:
    changes: List[Callable[[], None]] = []
    for name, position in saved["positions"].items():
        changes.append(partial(setattr, optimizer.schedules[name], "position", position))
    generators = set(saved["generators"]) - set(saved["positions"])
    drawn = {name: [getattr(optimizer, name)] for name in sorted(generators)}
    for name, values in drawn.items():
        generator = optimizer.schedules[name]
        values.extend(islice(generator, n_calls))
        # As it was, until all has gone well.
        optimizer.schedules[name] = chain(values[1:], generator)
        # One that is exhausted stays at its last value.
        values.extend(values[-1:] * (n_calls + 1 - len(values)))
    positions = [
        position
        for position in range(n_calls if is_counted else 0, n_calls + 1)
        if all(values[position] == saved["values"][name] for name, values in drawn.items())
    ]
    if n_calls in positions:
        positions = [n_calls]
    if drawn and len(positions) != 1:
        raise ValueError(
            f"The position of the schedules for {sorted(drawn)} cannot be told from the file: "
            "either they are others than those that were saved, or step_schedules() was not "
            "called once per update. An OptimizerWrapper around the optimizer, from the first "
            "step on, counts its calls"
        )
    for name, value in saved["values"].items():
        if name in drawn:
            value = drawn[name][positions[0]]
            changes.append(partial(_skip, optimizer.schedules[name], positions[0]))
        elif value == getattr(optimizer, name):
            continue
        changes.append(partial(setattr, optimizer, name, value))
    for name in set(optimizer.schedules) - set(saved["generators"]):
        changes.append(partial(optimizer.schedules.pop, name))
    return changes


def _skip(generator: Iterator[Any], n_values: int) -> None:
    next(islice(generator, n_values, n_values), None)


def restore_rate(optimizer: Any, saved: Dict[str, Any]) -> None:
    """What can only be set when the wrappers have put their own learning rates into place.
    Of two that have one, the inner one's schedule may have displaced the outer one's number.
    """
    rate = saved["values"]["learn_rate"]
    if Schedule is None:
        if optimizer.learn_rate != rate:
            optimizer.learn_rate = rate
        return
    if not isinstance(rate, dict) and describe_schedule(optimizer.learn_rate) != rate:
        optimizer.learn_rate = constant(rate)
    for name, all_values in saved["states"].items():
        states = schedule_states(getattr(optimizer, name))
        for state, values in zip(states, all_values, strict=False):
            for field, value in values.items():
                setattr(state, field, value)
