"""Summary of the parameters of a model and their groups."""

from typing import (
    Any,
    NamedTuple,
)

from thinc.api import Optimizer

from ..models.parameter_paths import parameter_paths
from ..models.parameters import ModelT, named_parameters
from ..optimizers.base import unwrap
from ..types import KeyT
from .optimizer import ChoicesT, ParamGroups


class ParameterSummary(NamedTuple):
    """What an optimizer does with a parameter. See `parameter_summary`."""

    path: str
    shape: tuple[int, ...]
    group: str | None
    lr_scale: float
    frozen: bool
    settings: dict[str, Any]


def parameter_summary(
    model: ModelT, optimizer: Optimizer | None = None
) -> list[ParameterSummary]:
    """What there is to be trained in a model, and what the groups of an optimizer make of it.

    model (Model | Language): A Thinc model or a spaCy pipeline, initialized.
    optimizer (Optimizer | None): An optimizer with or without groups, somewhere in it.
    RETURNS (list[ParameterSummary]): A row for each parameter, from the first layer to the
        last: its path and shape, the name of its group or None, the factor for its learning
        rate now (0 for one that is frozen), whether it is frozen, and the other settings of its
        group.
    RAISES: TypeError for what is no model; ValueError if a group selects nothing.
    """
    paths = parameter_paths(model)
    shapes: dict[KeyT, tuple[int, ...]] = {}
    for _, key, parameter in named_parameters(model):
        shapes.setdefault(key, parameter.shape)
    levels: list[tuple[ParamGroups, ChoicesT]] = []
    for level in unwrap(optimizer):
        if isinstance(level, ParamGroups):
            levels.append((level, level._select(paths)))
    rows = []
    for key, path in paths.items():
        if key not in shapes:
            continue
        names, settings, scale, frozen = [], {}, 1.0, False
        # Of groups in groups the innermost have the last word.
        for level, choices in levels:
            group, layer_scale = choices[key]
            scale *= level._scale_of(group, key) * layer_scale
            frozen = frozen or group.is_frozen
            if group.name:
                names.append(group.name)
                settings.update(level._settings_of(group))
        scale = 0.0 if frozen else scale
        group_name = " + ".join(names) or None
        rows.append(ParameterSummary(path, shapes[key], group_name, scale, frozen, settings))
    return rows
