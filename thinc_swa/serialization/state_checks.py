"""Checks of the form of a saved state, so that restoring it cannot fail halfway."""

from typing import Any

from ..models.grad_scalers import are_scaler_states
from ..schedules.compat import Schedule

# Hyperparameters that can have a schedule.
SCHEDULED = ("learn_rate", "b1", "b2", "eps", "L2", "grad_clip")
# State fields that may be None before or after loading, with an example of their other form.
# All other fields that are None stay None.
OPTIONAL: dict[str, Any] = {
    "averages": {},
    "start_step": 0,
    "rate_used": 0.0,
    "_last_score": (0, 0.0),
}

# Former names of state fields and arguments, in files of version 1.
RENAMED = {
    "_is_settled": "_is_flushed",
    "_is_stepped": "_uses_step_schedules",
    "lr_decay": "layer_lr_decay",
    "layers": "layer_patterns",
}
# State fields that moved from the wrapper to its step counter in version 3, with the values of
# those that version 1 did not have.
STEP_COUNTER: dict[str, tuple[str, Any]] = {
    "_n_steps": ("n_steps", 0),
    "_n_calls": ("n_calls", 0),
    "_is_open": ("is_open", False),
    "_is_flushed": ("is_flushed", False),
    "_uses_step_schedules": ("uses_step_schedules", False),
    "_n_updates": ("n_updates", {"by parameter": {}}),
    "_most_updates": ("most_updates", 0),
    "_unfinished": ("unfinished", {"by parameter": {}}),
    "_most_updates_before": ("_most_updates_before", 0),
    "_is_warned": ("_is_warned", False),
}


def upgrade_names(header: dict[str, Any]) -> None:
    """Convert the names in a header of version 1 or 2 to those of version 3, in place."""
    for level in header["optimizers"]:
        for part in ("arguments", "state"):
            level[part] = {
                RENAMED.get(name, name): value for name, value in level[part].items()
            }
        state = level["state"]
        if "_n_steps" in state:
            state["_steps"] = {
                name: state.pop(old, default) for old, (name, default) in STEP_COUNTER.items()
            }


def has_form(header: Any) -> bool:
    """Whether a header describes a state, apart from what depends on the optimizer."""
    optimizers = header.get("optimizers")
    parameters = header.get("parameters")
    return (
        isinstance(header.get("thinc"), str)
        and _is_count(header.get("n_calls", 0))  # Only files of version 1 have it.
        and are_scaler_states(header.get("grad_scalers", {}))
        and isinstance(parameters, dict)
        and all(_is_list(shape, _is_count) for shape in parameters.values())
        and _is_list(optimizers, _has_form_of_level)
        and len(optimizers) > 0
        and "averages" in optimizers[-1]["state"]
        and isinstance(optimizers[-1].get("schedules"), dict)
    )


def _has_form_of_level(level: Any) -> bool:
    return (
        isinstance(level, dict)
        and isinstance(level.get("class"), str)
        and isinstance(level.get("arguments"), dict)
        and isinstance(level.get("state"), dict)
    )


def has_form_of_schedules(saved: Any) -> bool:
    """Whether a description of schedules has the form of the installed Thinc version."""
    values = saved.get("values")
    if not isinstance(values, dict) or set(values) != set(SCHEDULED):
        return False
    phases = saved.get("phases", {})
    if not isinstance(phases, dict):
        return False
    if not all(_is_list(parts, _is_drawn_part) for parts in phases.values()):
        return False
    if Schedule is not None:
        return (
            all(_is_number(v) or _is_schedule(v) for v in values.values())
            and isinstance(saved.get("states"), dict)
            and set(saved["states"]) == set(SCHEDULED)
            and all(_is_list(states, _is_flat) for states in saved["states"].values())
            and isinstance(saved.get("drawn"), dict)
            and all(_is_drawn(drawn) for drawn in saved["drawn"].values())
        )
    parts = [saved.get(name) for name in ("described", "positions")]
    parts.append(saved.get("iterators", {}))
    if not all(isinstance(part, dict) for part in parts):
        return False
    described, positions, iterators = parts
    generators = saved.get("generators")
    if not _is_list(generators, lambda name: name in SCHEDULED):
        return False
    return (
        all(_is_number(value) for value in values.values())
        and set(described) == set(positions) <= set(generators)
        and all(_is_count(position) for position in positions.values())
        and ("iterators" not in saved or set(iterators) == set(generators) - set(positions))
        and all(_is_position(position) for position in iterators.values())
    )


def has_form_of(current: Any, saved: Any, *, is_optional: bool = False) -> bool:
    """Whether a saved value has the form of the value that it replaces.

    is_optional (bool): Whether one of the two may be None.
    """
    if is_optional and saved is None:
        return True
    if current is None:
        is_known = _is_flat_value(saved) or _is_list(saved, _is_number)
        return saved is None or (is_optional and is_known)
    if isinstance(current, bool) or isinstance(saved, bool):
        return type(current) is type(saved)
    if isinstance(current, int):
        return type(saved) is int
    if isinstance(current, float):
        return _is_number(saved)
    if isinstance(current, list):
        if not isinstance(saved, list):
            return False
        if all(isinstance(part, str) for part in [*current, *saved]):
            return True
        return len(saved) == len(current) and all(
            has_form_of(*parts, is_optional=True) for parts in zip(current, saved, strict=True)
        )
    if isinstance(current, dict):
        return (
            isinstance(saved, dict)
            and set(saved) == set(current)
            and all(has_form_of(current[k], saved[k], is_optional=True) for k in current)
        )
    if isinstance(current, tuple):
        return _is_list(saved, _is_number) and len(saved) == len(current)
    return type(current) is type(saved)


def _is_list(value: Any, check: Any) -> bool:
    return isinstance(value, list) and all(check(part) for part in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_schedule(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("schedule"), str)
        and isinstance(value.get("attrs"), dict)
    )


def _is_flat_value(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_flat(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_flat_value(part) for part in value.values())


def _is_drawn(value: Any) -> bool:
    """Whether a value is the step of a generator and its value at that step."""
    return _is_list(value, _is_number) and len(value) == 2 and type(value[0]) is int


def _is_drawn_part(value: Any) -> bool:
    """Whether a value is the number of values of a generator in phases, and a list with the
    last one, if any."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_count(value[0])
        and _is_list(value[1], _is_number)
        and len(value[1]) == min(1, value[0])
    )


def _is_position(value: Any) -> bool:
    """Whether a value is a position of `iterator_positions.py`."""
    if not isinstance(value, dict):
        return False
    if set(value) != {"schedule", "arguments", "place", "inner"}:
        return False
    arguments, place = value["arguments"], value["place"]
    if value["schedule"] == "list":
        return _is_list(arguments, _is_number) and _is_count(place)
    if not isinstance(value["schedule"], str) or not isinstance(arguments, dict):
        return False
    if value["schedule"] == "generator":
        is_valid = _is_number(arguments.get("first")) and "checksum" in arguments
        return is_valid and _is_count(place)
    is_valid = _is_number(place) or (place is None and value["schedule"] == "compounding")
    return is_valid and (value["inner"] is None or _is_position(value["inner"]))
