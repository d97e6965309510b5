"""Selection of the group and the layer of each parameter."""

import warnings
from collections.abc import Collection, Iterator, Sequence

from ..models.parameter_paths import find_model_paths
from ..types import KeyT
from .patterns import Glob
from .settings import Group

# The group of a parameter, and the factor for the learning rate of its layer.
ChoiceT = tuple[Group, float]
HOW_TO_REGISTER = (
    "call register_parameter_paths(model) with the initialized model, again after layers were "
    "added to it, or let spaCy call it: [initialize.after_init] with "
    '@callbacks = "thinc_swa.register_parameter_paths.v1" in the config'
)


class GroupSelector:
    """Select the group and the layer of each parameter.

    The group of a parameter is the first one with a glob that matches it. Its layer is that of
    the first matching glob in `layer_patterns`.

    groups (Sequence[Group]): The groups in order of precedence.
    layer_patterns (Sequence[Glob]): The globs of the layers, from the first to the last.
    layer_lr_decay (float): The ratio of the learning rates of a layer and the next one.
    """

    # The choice of each known parameter. Updates read it directly, which saves a call.
    choices: dict[KeyT, ChoiceT]
    # Descriptions of the groups and layers that have not matched a parameter so far.
    unmatched: list[str]

    __slots__ = [
        "choices",
        "unmatched",
        "_groups",
        "_layer_patterns",
        "_layer_lr_decay",
        "_rest",
    ]

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        layer_patterns: Sequence[Glob],
        layer_lr_decay: float,
    ) -> None:
        self._groups = groups
        self._layer_patterns = layer_patterns
        self._layer_lr_decay = layer_lr_decay
        self._rest = Group("", [], {}, is_frozen=False)
        self.choices = {}
        self.unmatched = [_describe_group(group) for group in groups]
        self.unmatched += [_describe_layer(glob) for glob in layer_patterns]

    def choose(self, key: KeyT) -> ChoiceT:
        """Choose the group and layer of a parameter, and of all parameters of its model if
        their paths are registered. Later calls do not change a choice.

        key (KeyT): The key of the parameter.
        RETURNS (ChoiceT): Its group, and the factor for the learning rate of its layer.
        RAISES: ValueError if a glob requires paths and they are not registered, or if they are
            and a group or layer does not match any parameter.
        """
        known = self.choices.get(key)
        if known is not None:
            return known
        paths = find_model_paths(key)
        if paths is not None:
            choices = self.select(paths)
            self.unmatched = []
        else:
            requiring = next(self._globs_of_paths(), None)
            if requiring is not None:
                text, place = requiring
                raise ValueError(
                    f"{text!r} in {place} requires parameter paths, but the path of parameter "
                    f"{key} is not known: {HOW_TO_REGISTER}"
                )
            choices, matched = self._match({key: key[1]})
            self.unmatched = [what for what in self.unmatched if what not in matched]
        for other, choice in choices.items():
            self.choices.setdefault(other, choice)
        return self.choices[key]

    def select(self, paths: dict[KeyT, str]) -> dict[KeyT, ChoiceT]:
        """Select the groups and layers of all parameters of a model, without storing them.

        paths (dict[KeyT, str]): The paths of all parameters of the model.
        RETURNS (dict[KeyT, ChoiceT]): The choice of each parameter.
        RAISES: ValueError if a group or layer that has not matched so far does not match.
        """
        choices, matched = self._match(paths)
        missing = [what for what in self.unmatched if what not in matched]
        if missing:
            shadowed = {
                _describe_group(group)
                for group in self._groups
                if any(group.selects(key, path) for key, path in paths.items())
            }
            hint = " (all parameters that it matches belong to earlier groups)"
            described = [what + hint if what in shadowed else what for what in missing]
            raise ValueError(
                f"No parameter of the model is selected by {', '.join(described)}. The "
                "parameters of the model are:\n- " + "\n- ".join(paths.values())
            )
        return choices

    def forget(self, keys: Collection[KeyT]) -> None:
        """Drop the choices of parameters that the model no longer has."""
        for key in keys:
            self.choices.pop(key, None)

    def warn_if_unmatched(self) -> None:
        """Warn, once, about groups and layers that have not matched a parameter so far. To be
        called after the first step."""
        if not self.unmatched:
            return
        names = sorted({name for _, name in self.choices})
        unmatched, self.unmatched = self.unmatched, []
        warnings.warn(
            f"No parameter was selected by {', '.join(unmatched)} in the first step, which "
            f"updated parameters with the names {', '.join(map(repr, names))}. This is correct "
            "if the parameters to select are frozen or get their first gradient later. To "
            f"check the whole model, {HOW_TO_REGISTER}",
            stacklevel=3,
        )

    def _match(self, paths: dict[KeyT, str]) -> tuple[dict[KeyT, ChoiceT], set[str]]:
        """Match parameters.

        RETURNS (tuple[dict[KeyT, ChoiceT], set[str]]): The choices, and the descriptions of
            the groups and layers in them.
        """
        choices: dict[KeyT, ChoiceT] = {}
        layers = self._match_layers(paths)
        # A glob with "#" represents as many layers as numbers were found.
        single = {(i, 0) for i, glob in enumerate(self._layer_patterns) if not glob.has_number}
        order = sorted(single.union(layers.values()))
        matched = {_describe_layer(self._layer_patterns[i]) for i, _ in layers.values()}
        for key, path in paths.items():
            group = self._rest
            for candidate in self._groups:
                if candidate.selects(key, path):
                    group = candidate
                    matched.add(_describe_group(group))
                    break
            scale = 1.0
            if key in layers:
                scale = self._layer_lr_decay ** (len(order) - 1 - order.index(layers[key]))
            choices[key] = (group, scale)
        return choices, matched

    def _match_layers(self, paths: dict[KeyT, str]) -> dict[KeyT, tuple[int, int]]:
        """Find the layers of parameters: the index of the glob, and the number that "#" matches
        or 0. Sorted, they are in the order of the layers."""
        layers = {}
        for key, path in paths.items():
            for i, glob in enumerate(self._layer_patterns):
                match = glob.match(key, path)
                if match is not None:
                    layers[key] = (i, int(match["number"]) if glob.has_number else 0)
                    break
        return layers

    def _globs_of_paths(self) -> Iterator[tuple[str, str]]:
        """The globs that cannot be matched against the name of a single parameter, and the
        arguments that they are in."""
        for group in self._groups:
            for glob in group.globs:
                if "/" in glob.text:
                    yield glob.text, f"the params of group {group.name!r}"
        for glob in self._layer_patterns:
            if "/" in glob.text or glob.has_number:
                yield glob.text, "layer_patterns"


def _describe_group(group: Group) -> str:
    return f"group {group.name!r}"


def _describe_layer(glob: Glob) -> str:
    return f"layer {glob.text!r}"
