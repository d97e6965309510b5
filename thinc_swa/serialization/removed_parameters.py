"""Removal of the state of parameters that a model no longer has."""

from collections.abc import Iterator
from typing import Any

from thinc.api import Optimizer

from ..models.parameters import ModelT
from ..optimizers.base import OptimizerWrapper, forget_keys
from ..types import KeyT
from .state_fields import nested_optimizers, parameters_by_key, state_fields


def forget_missing(optimizer: Optimizer, model: ModelT) -> int:
    """Drop the state of parameters that the model no longer has: moments, counts, averages and
    slow weights, in all wrappers and in the innermost optimizer. This frees their memory.
    `save_optimizer` refuses an optimizer that still has such state.

    Call it during training after a layer has been replaced or a component has been removed.
    For example, spaCy replaces the output layer when labels are added to a trained component.
    The average of a new layer starts at its first update.

    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    model (Model | Language): The whole model that the optimizer trains: the pipeline, not one
        of its components.
    RETURNS (int): The number of parameters whose state was dropped.
    RAISES: TypeError if an argument has the wrong type; ValueError if the optimizer has state,
        but none of this model's parameters.
    """
    levels = nested_optimizers(optimizer)
    own = set(parameters_by_key(model))
    known = {key for level in levels for key in _keys_in(level)}
    missing = known - own
    if known and missing == known:
        raise ValueError(
            f"The optimizer has state of {len(known)} parameters, but none of them is in this "
            "model: pass the model that the optimizer trains"
        )
    drop_state(levels, missing)
    return len(missing)


def drop_state(levels: list[Optimizer], keys: set[KeyT]) -> None:
    """Drop the state of parameters from nested optimizers.

    levels (list[Optimizer]): The nested optimizers.
    keys (set[KeyT]): The keys of the parameters.
    """
    if not keys:
        return
    for level in levels:
        if isinstance(level, OptimizerWrapper):
            level._forget(keys)
        else:
            for name in state_fields(level):
                forget_keys(getattr(level, name), keys)


def _keys_in(value: Any) -> Iterator[KeyT]:
    """The keys of the parameters that an object or its fields have state of."""
    if isinstance(value, dict):
        yield from (key for key in value if not isinstance(key, str))
        for part in value.values():
            if isinstance(part, dict):
                yield from _keys_in(part)
    for name in state_fields(value):
        yield from _keys_in(getattr(value, name))
