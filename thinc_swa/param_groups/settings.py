"""Settings of parameter groups, checked and converted for Thinc's optimizers."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from thinc.api import SGD, Optimizer

from ..schedules.compat import Schedule
from ..schedules.learn_rate import describe_rate, follow
from ..types import KeyT
from ..validation import check_bool, check_list, check_number
from .patterns import Glob, check_globs

# The settings of a group, with the bounds of their values.
SETTINGS: dict[str, dict[str, float]] = {
    "lr_scale": {"minimum": 0.0},
    "L2": {"minimum": 0.0},
    "beta1": {"above": 0.0, "below": 1.0},
    "beta2": {"above": 0.0, "below": 1.0},
    "eps": {"minimum": 0.0},
    "grad_clip": {"minimum": 0.0},
}

# The names of the optimizer's attributes. lr_scale is an argument of the call instead.
ATTRIBUTES = {
    "L2": "L2",
    "beta1": "b1",
    "beta2": "b2",
    "eps": "eps",
    "grad_clip": "grad_clip",
}


class Group:
    """A group of parameters and its settings.

    name (str): The name.
    globs (list[Glob]): The globs that select its parameters.
    settings (dict[str, Any]): The settings by their names in a config: numbers, and optimizers
        that hold a schedule.
    is_frozen (bool): Whether its parameters are never updated.
    """

    # The current factor for the learning rate.
    lr_scale: float
    # The optimizer whose learning-rate schedule gives the factor in each call (Thinc 9.1), or
    # None.
    scale_source: Any
    # The values that the innermost optimizer has during a call, by attribute name.
    changes: dict[str, Any]

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
        self.scale_source = None
        self.changes = {}
        for setting, value in settings.items():
            if setting in ATTRIBUTES and not isinstance(value, Optimizer):
                # Thinc 9.1 has a Schedule in the place of a number.
                self.changes[ATTRIBUTES[setting]] = SGD(value).learn_rate
            elif setting not in ATTRIBUTES and isinstance(value, float):
                self.lr_scale = value
        self.refresh()

    def refresh(self) -> None:
        """Update the settings to the current values of the schedules. On Thinc 9.1, where the
        optimizer calls them itself, this is necessary only once."""
        for setting, value in self.settings.items():
            if isinstance(value, Optimizer):
                if setting in ATTRIBUTES:
                    self.changes[ATTRIBUTES[setting]] = follow(value)
                elif Schedule is None:
                    self.lr_scale = follow(value)
                else:
                    self.scale_source = value

    def selects(self, key: KeyT, path: str) -> bool:
        """Whether a glob of the group matches a parameter."""
        return any(glob.match(key, path) is not None for glob in self.globs)


def make_groups(groups: Any, schedules: Any) -> tuple[dict[str, Group], dict[str, Any]]:
    """Check the groups and schedules of a user. See `ParamGroups` for the arguments.

    RETURNS (tuple[dict[str, Group], dict[str, Optimizer]]): The groups by name, and all their
        schedules. Each schedule is held by an unused optimizer, which converts any kind of
        schedule to the form of the Thinc version and keeps its position.
    RAISES: ValueError if a value is not as described.
    """
    if not isinstance(schedules, Mapping):
        raise ValueError(
            f"schedules must be a mapping from names to schedules, but was {schedules!r}"
        )
    sources = {
        name: _hold(f"{name!r} in schedules", "a schedule", schedule)
        for name, schedule in schedules.items()
    }
    unused = set(sources)
    # A schedule in several settings must advance only once per step.
    known: dict[int, Any] = {}

    def find(argument: str, value: Any) -> Any:
        if not isinstance(value, str):
            if id(value) not in known:
                source = _hold(argument, "a number or a schedule", value)
                known[id(value)] = sources[argument] = source
            return known[id(value)]
        if value not in schedules:
            raise ValueError(
                f"{argument} must be a number or the name of a schedule in schedules "
                f"({', '.join(map(repr, schedules)) or 'empty'}), but was {value!r}"
            )
        unused.discard(value)
        return sources[value]

    result: dict[str, Group] = {}
    for values in check_list("groups", groups):
        name = _check_names(values)
        if name in result:
            raise ValueError(f"Group names must be unique, but {name!r} occurs twice")
        globs = check_globs(f"params of group {name!r}", values.get("params"))
        is_frozen = check_bool(f"frozen of group {name!r}", values.get("frozen", False))
        settings = {}
        for setting, bounds in SETTINGS.items():
            argument, value = f"{setting} of group {name!r}", values.get(setting)
            if value is None:
                continue
            if is_frozen:
                raise ValueError(
                    f"{argument} has no effect, because the group is frozen: remove one of them"
                )
            is_number = isinstance(value, Real)
            settings[setting] = (
                check_number(argument, value, **bounds) if is_number else find(argument, value)
            )
        result[name] = Group(name, globs, settings, is_frozen)
    if unused:
        raise ValueError(
            f"schedules contains {', '.join(map(repr, sorted(unused)))}, but no group uses it"
        )
    return result, sources


def check_layers(
    layer_lr_decay: float | None, layer_patterns: Sequence[str] | None
) -> tuple[float, list[Glob]]:
    """Check the layers of a user. See `ParamGroups` for the arguments.

    RETURNS (tuple[float, list[Glob]]): The decay and the globs; 1.0 and [] if there are none.
    RAISES: ValueError if a value is not as described.
    """
    if layer_lr_decay is None and layer_patterns is None:
        return 1.0, []
    if layer_lr_decay is None:
        raise ValueError(f"layer_patterns = {layer_patterns!r} requires layer_lr_decay")
    decay = check_number("layer_lr_decay", layer_lr_decay, above=0.0, maximum=1.0)
    if layer_patterns is None:
        raise ValueError(
            f"layer_lr_decay = {layer_lr_decay!r} requires layer_patterns: globs of the "
            "layers, from the first to the last"
        )
    globs = check_globs("layer_patterns", layer_patterns)
    texts = [glob.text for glob in globs]
    for text in texts:
        if texts.count(text) > 1:
            raise ValueError(f"The globs in layer_patterns must be unique, but {text!r} is not")
    return decay, globs


def describe_group(values: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the settings of a group in JSON types. Of a generator only the type is shown."""
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
    """Check the name of a group and the names of its settings, and return the former."""
    if not isinstance(values, Mapping):
        raise ValueError(
            f"A group must be a mapping with name, params and settings, but was {values!r}"
        )
    name = values.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"A group must have a name, a non-empty string, but was {dict(values)!r}"
        )
    known = ("name", "params", "frozen", *SETTINGS)
    for setting in values:
        if setting not in known:
            raise ValueError(
                f"Group {name!r} has the unknown setting {setting!r}: it must be one of "
                f"{', '.join(known)}"
            )
    return name


def _hold(argument: str, rule: str, schedule: Any) -> Any:
    """Make an unused optimizer that holds a schedule."""
    hint = ""
    if isinstance(schedule, Mapping):
        hint = ". In a config, give the schedule a section in schedules, and its name here"
    elif not isinstance(schedule, (Real, str, bytes)):
        try:
            return SGD(schedule, use_averages=False)
        except ValueError:
            pass  # Thinc's error is about the learning rate.
    raise ValueError(f"{argument} must be {rule}, but was {schedule!r}{hint}")
