"""State fields and arguments of optimizers, and the names of parameters in state files."""

from typing import Any

from thinc.api import Optimizer

from ..models.parameters import ModelT, named_parameters
from ..optimizers.base import OptimizerWrapper, unwrap
from ..types import Array, KeyT
from .schedule_state import has_schedules

# The attributes of Thinc's own Optimizer that training changes. Which of them exist depends on
# the Thinc version.
OPTIMIZER_STATE = (
    "mom1",
    "mom2",
    "averages",
    "nr_update",
    "last_seen",
    "_radam_buffer",
    "_step",
    "_last_score",
)


def nested_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """List an optimizer and all optimizers that it wraps, outermost first.

    RAISES: TypeError if it is not a Thinc Optimizer.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"Not a Thinc Optimizer: {type(optimizer).__name__} {optimizer!r}")
    return unwrap(optimizer)


def state_fields(value: Any) -> list[str]:
    """The names of the attributes that are the state of an object; empty for a plain value."""
    fields = [name for cls in type(value).__mro__ for name in cls.__dict__.get("_state", ())]
    if isinstance(value, Optimizer) and not isinstance(value, OptimizerWrapper):
        fields += [name for name in OPTIMIZER_STATE if hasattr(value, name)]
    return fields


def arguments_of(level: Any) -> dict[str, Any]:
    """The constructor arguments that a saved and a loading optimizer must have in common.

    level (Optimizer): One of the nested optimizers.
    """
    if isinstance(level, OptimizerWrapper):
        return level._arguments
    return {name: getattr(level, name) for name in ("use_radam", "L2_is_weight_decay")}


def any_has_schedules(levels: list[Optimizer]) -> bool:
    """Whether any of the nested optimizers has a schedule that is not constant."""
    return has_schedules(levels[-1]) or any(
        level._has_schedules() for level in levels if isinstance(level, OptimizerWrapper)
    )


def parameters_by_key(model: ModelT) -> dict[KeyT, tuple[str, Array]]:
    """The name in state files (the place in the model) and the weights of every parameter.

    RAISES: TypeError if it is not a Thinc Model or a spaCy Language.
    """
    parameters: dict[KeyT, tuple[str, Array]] = {}
    for name, key, parameter in named_parameters(model):
        parameters.setdefault(key, (name, parameter.get()))
    return parameters
