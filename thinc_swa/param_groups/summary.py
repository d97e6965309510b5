"""Summary of the parameters of a model and their groups."""

from typing import Any, NamedTuple

from thinc.api import Optimizer

from ..models.parameter_paths import parameter_paths
from ..models.parameters import ModelT, named_parameters
from ..optimizers.base import unwrap
from ..types import KeyT
from .optimizer import ParamGroups
from .selection import ChoiceT


class ParameterSummary(NamedTuple):
    """The group and settings of a parameter. See `parameter_summary`.

    path (str): The path of the parameter.
    shape (tuple[int, ...]): The shape of its weights.
    group (str | None): The name of its group, or None. Groups of nested `ParamGroups` are
        joined by " + ", outermost first.
    lr_scale (float): The current factor for its learning rate; 0 if it is frozen.
    frozen (bool): Whether it is never updated.
    settings (dict[str, Any]): The other settings of its group.
    """

    path: str
    shape: tuple[int, ...]
    group: str | None
    lr_scale: float
    frozen: bool
    settings: dict[str, Any]


def parameter_summary(
    model: ModelT, optimizer: Optimizer | None = None
) -> list[ParameterSummary]:
    """List the parameters of a model, with their groups and settings in an optimizer.

    model (Model | Language): An initialized Thinc model or spaCy pipeline.
    optimizer (Optimizer | None): The optimizer, which may contain `ParamGroups` at any depth.
    RETURNS (list[ParameterSummary]): A row for each parameter, from the first layer to the
        last.
    RAISES: TypeError if `model` has the wrong type; ValueError if a group does not select any
        parameter.
    """
    paths = parameter_paths(model)
    shapes: dict[KeyT, tuple[int, ...]] = {}
    for _, key, parameter in named_parameters(model):
        shapes.setdefault(key, parameter.shape)
    levels: list[tuple[ParamGroups, dict[KeyT, ChoiceT]]] = []
    for level in unwrap(optimizer):
        if isinstance(level, ParamGroups):
            levels.append((level, level._selector.select(paths)))
    rows = []
    for key, path in paths.items():
        if key not in shapes:
            continue
        names, settings, scale, frozen = [], {}, 1.0, False
        # The settings of inner groups override those of outer groups.
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
