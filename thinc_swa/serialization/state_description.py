"""Description of optimizers in JSON, with arrays kept apart, for saving."""

from typing import Any

from thinc.api import Optimizer

from ..optimizers.base import OptimizerWrapper
from ..types import Array, KeyT
from .schedule_state import describe_schedules
from .state_fields import arguments_of, state_fields


def describe_levels(
    levels: list[Optimizer], names: dict[KeyT, str]
) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """Describe nested optimizers: classes, arguments, state and schedules.

    levels (list[Optimizer]): The nested optimizers, outermost first.
    names (dict[KeyT, str]): The names of the model's parameters in the file.
    RETURNS (tuple[list[dict[str, Any]], dict[str, Array]]): One description in JSON per
        optimizer, and the arrays by the names that the descriptions refer to.
    RAISES: ValueError if there is state of other parameters, or if the position of a schedule
        is not known.
    """
    arrays: dict[str, Array] = {}
    descriptions = []
    for index, level in enumerate(levels):
        class_name = type(level).__name__
        description = {
            "class": class_name,
            "arguments": arguments_of(level),
            "state": _describe(level, f"{index}.{class_name}", names, arrays),
        }
        if not isinstance(level, OptimizerWrapper):
            description["schedules"] = describe_schedules(level)
        descriptions.append(description)
    return descriptions, arrays


def _describe(value: Any, path: str, names: dict[KeyT, str], arrays: dict[str, Array]) -> Any:
    """Describe a value of the state in JSON. `StateRestorer` reads the description.

    path (str): The prefix of the names of its arrays.
    arrays (dict[str, Array]): Where its arrays are added.
    """
    fields = state_fields(value)
    if not fields and not isinstance(value, dict):
        return value
    if fields:
        parts = {name: getattr(value, name) for name in fields}
        return {
            name: _describe(part, f"{path}/{name.strip('_')}", names, arrays)
            for name, part in parts.items()
        }
    if value and all(isinstance(key, str) for key in value):
        return {
            "parts": {
                name: _describe(part, f"{path}/{name}", names, arrays)
                for name, part in value.items()
            }
        }
    unknown = [key for key in value if key not in names]
    if unknown:
        raise ValueError(
            f"The optimizer has state of {len(unknown)} parameters that are not in the model, "
            f"for example {unknown[0]}. If the model has changed since, call "
            "forget_missing(optimizer, model) to drop that state. If not, pass the model that "
            "the optimizer trains"
        )
    if all(isinstance(part, int) for part in value.values()):
        return {"by parameter": {names[key]: part for key, part in value.items()}}
    if all(isinstance(part, float) for part in value.values()):
        return {"numbers": {names[key]: part for key, part in value.items()}}
    arrays.update({f"{path}/{names[key]}": array for key, array in value.items()})
    return {"arrays": {names[key]: f"{path}/{names[key]}" for key in value}}
