"""What parameter groups say, checked, and in the form in which Thinc's optimizers want it."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

from thinc.api import SGD, Optimizer

from ..schedules.compat import Schedule
from ..schedules.learn_rate import describe_rate, follow
from ..types import KeyT
from ..validation import check_bool, check_list, check_number
from .patterns import Glob, check_globs

# What a group can change, with the bounds of a number.
SETTINGS: dict[str, dict[str, float]] = {
    "lr_scale": {"minimum": 0.0},
    "L2": {"minimum": 0.0},
    "beta1": {"above": 0.0, "below": 1.0},
    "beta2": {"above": 0.0, "below": 1.0},
    "eps": {"minimum": 0.0},
    "grad_clip": {"minimum": 0.0},
}

# The names of the optimizer's attributes. A factor for the learning rate is none.
ATTRIBUTES = {
    "L2": "L2",
    "beta1": "b1",
    "beta2": "b2",
    "eps": "eps",
    "grad_clip": "grad_clip",
}


class Group:
    """Parameters that have settings of their own.

    name (str): Its name.
    globs (list[Glob]): What it selects.
    settings (dict[str, Any]): By the names of a config: numbers, and optimizers that hold a
        schedule.
    is_frozen (bool): Whether it is not updated at all.
    """

    __slots__ = [
        "name",
        "globs",
        "settings",
        "is_frozen",
        "lr_scale",
        "scale_source",
        "changes",
    ]

    def __init__(
        self, name: str, globs: list[Glob], settings: dict[str, Any], is_frozen: bool
    ) -> None:
        self.name = name
        self.globs = globs
        self.settings = settings
        self.is_frozen = is_frozen
        self.lr_scale = 1.0
        # Who knows the factor for the learning rate if each call may have another one.
        self.scale_source: Any = None
        # What the innermost optimizer gets for the time of a call, by its own names.
        self.changes: dict[str, Any] = {}
        for setting, value in settings.items():
            if setting in ATTRIBUTES and not isinstance(value, Optimizer):
                # A number in Thinc's own form.
                self.changes[ATTRIBUTES[setting]] = SGD(value).learn_rate
            elif setting not in ATTRIBUTES and isinstance(value, float):
                self.lr_scale = value
        self.refresh()

    def refresh(self) -> None:
        """Take what the schedules give now. On Thinc 9.1 once is enough."""
        for setting, value in self.settings.items():
            if isinstance(value, Optimizer):
                if setting in ATTRIBUTES:
                    self.changes[ATTRIBUTES[setting]] = follow(value)
                elif Schedule is None:
                    self.lr_scale = follow(value)
                else:
                    self.scale_source = value

    def selects(self, key: KeyT, path: str) -> bool:
        return any(glob.match(key, path) is not None for glob in self.globs)


def make_groups(groups: Any, schedules: Any) -> tuple[dict[str, Group], dict[str, Any]]:
    """Check what a user has written. See `ParamGroups` for the arguments.

    RETURNS (tuple[dict[str, Group], dict[str, Optimizer]]): The groups by name, and the
        schedules of all of them. Each is held by an optimizer that trains nothing: it turns
        whatever Thinc takes for a schedule into Thinc's own form, and holds its place.
    """
    if not isinstance(schedules, Mapping):
        raise ValueError(f"schedules must be schedules by their names, but was {schedules!r}")
    sources = {
        name: _hold(f"{name!r} in schedules", "a schedule", schedule)
        for name, schedule in schedules.items()
    }
    unused = set(sources)
    # One that several settings have must advance only once.
    known: dict[int, Any] = {}

    def find(argument: str, value: Any) -> Any:
        if not isinstance(value, str):
            if id(value) not in known:
                source = _hold(argument, "a number or a schedule", value)
                known[id(value)] = sources[argument] = source
            return known[id(value)]
        if value not in schedules:
            raise ValueError(
                f"{argument} must be a number or one of schedules, which has "
                f"{', '.join(map(repr, schedules)) or 'none'}, but was {value!r}"
            )
        unused.discard(value)
        return sources[value]

    result: dict[str, Group] = {}
    for values in check_list("groups", groups):
        name = _check_names(values)
        if name in result:
            raise ValueError(f"Two groups have the same name: {name!r}")
        globs = check_globs(f"params of group {name!r}", values.get("params"))
        is_frozen = check_bool(f"frozen of group {name!r}", values.get("frozen", False))
        settings = {}
        for setting, bounds in SETTINGS.items():
            argument, value = f"{setting} of group {name!r}", values.get(setting)
            if value is None:
                continue
            if is_frozen:
                raise ValueError(f"{argument} has no effect: the group is frozen")
            is_number = isinstance(value, Real)
            settings[setting] = (
                check_number(argument, value, **bounds) if is_number else find(argument, value)
            )
        result[name] = Group(name, globs, settings, is_frozen)
    if unused:
        raise ValueError(f"No group uses {', '.join(map(repr, sorted(unused)))} in schedules")
    return result, sources


def describe_group(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was written, in JSON. Of a generator that is its type only."""
    described = {"name": values["name"], "params": list(values["params"])}
    for setting in SETTINGS:
        value = values.get(setting)
        if isinstance(value, Real):
            described[setting] = float(value)
        elif value is not None:
            described[setting] = value if isinstance(value, str) else describe_rate(value)
    if values.get("frozen"):
        described["frozen"] = True
    return described


def _check_names(values: Any) -> str:
    """Of a group and of its settings. RETURNS (str): The group's name."""
    if not isinstance(values, Mapping):
        raise ValueError(
            f"A group must be a mapping with name, params and settings, but was {values!r}"
        )
    name = values.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"A group must have a name, a string, but was {dict(values)!r}")
    known = ("name", "params", "frozen", *SETTINGS)
    for setting in values:
        if setting not in known:
            raise ValueError(
                f"A group can have {', '.join(known)}, but group {name!r} has {setting!r}"
            )
    return name


def _hold(argument: str, rule: str, schedule: Any) -> Any:
    """An optimizer that only holds a schedule."""
    hint = ""
    if isinstance(schedule, Mapping):
        hint = ". In a config a schedule has a section of its own, in schedules"
    elif not isinstance(schedule, (Real, str, bytes)):
        try:
            return SGD(schedule, use_averages=False)
        except ValueError:
            pass  # It would speak of the learning rate.
    raise ValueError(f"{argument} must be {rule}, but was {schedule!r}{hint}")
