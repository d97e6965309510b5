"""Parameter groups: other settings for some parameters than for the rest."""

import dataclasses
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from thinc.api import Optimizer

from ..models.parameter_paths import find_model_paths
from ..optimizers.base import OptimizerWrapper, unwrap
from ..optimizers.config_factory import config_factory
from ..schedules.compat import Schedule
from ..schedules.learn_rate import current_value, describe_rate
from ..schedules.traversal import schedule_states
from ..types import Array, FloatsXd, KeyT
from ..validation import check_number
from .patterns import Glob, check_globs
from .settings import ATTRIBUTES, Group, describe_group, make_groups

# The group of each parameter, and the factor for the learning rate in its layer.
ChoicesT = dict[KeyT, tuple[Group, float]]
HOW_TO_REGISTER = (
    "call register_parameter_paths(model) with the initialized model, again after layers were "
    "added to it, or let spaCy call it: [initialize.after_init] with "
    '@callbacks = "thinc_swa.register_parameter_paths.v1" in the config'
)


class ParamGroups(OptimizerWrapper):
    """Other settings for some parameters than for the rest, in one optimizer.

    A group selects parameters by globs, and every parameter belongs to the first group that
    selects it. A glob is matched against the parameter's path, "tok2vec/…/maxout/W", with
    "*" for anything, "/" included. `register_parameter_paths` makes the paths known. A glob
    without "/" is matched against the parameter's own name too, "W" or
    "encoder.layers.0.weight", and needs no path for that. If the paths are known, a group that
    selects nothing in the whole model is an error. If they are not, it may select parameters
    that are frozen or get their first gradient later, so there is only a warning after the
    first step.

    The settings of a group take the place of the innermost optimizer's while a parameter of
    the group is updated; its parameters are updated as by an optimizer of their own. A
    parameter that is frozen is not updated at all: nothing is kept for it, neither here nor in
    the wrappers around, and its gradient is zeroed as by an update.

    optimizer (Optimizer): The optimizer to wrap. Its settings are those of all parameters
        that are in no group.
    groups (Sequence[Mapping[str, Any]] | None): The groups, in the order in which they
        are asked. Each has a `name`, `params` (a list of globs), and either `frozen` (True)
        or some of: `lr_scale` (a factor for the learning rate, and with it for the weight
        decay), `L2`, `beta1`, `beta2`, `eps` and `grad_clip`. These are numbers, lists of
        numbers, Thinc schedules, which begin at their step 0 and advance with
        `step_schedules()`, or names in `schedules`.
    layer_lr_decay (float | None): The learning rate of a layer as a part of the next
        one's, in (0, 1]: it is multiplied by 1 in the last layer, layer_lr_decay in the one
        before it, layer_lr_decay² before that, on top of the `lr_scale` of a group. What is in
        no layer, the head of a task for instance, has the whole rate.
    layer_patterns (Sequence[str] | None): Globs for layer_lr_decay, one for each layer,
        from the first to the last. With "#" one glob stands for many layers, as many as there
        are numbers in its place, in numerical order: "*layers.#.*". This needs the paths.
    schedules (Mapping[str, Any] | None): Schedules by name, for several groups at once
        and for config files, where a list cannot have sections.
    """

    _state = ("_unmatched", "_schedule_states", "_radam_buffers")

    __slots__ = [
        "_groups",
        "_rest",
        "_layer_lr_decay",
        "_layer_patterns",
        "_sources",
        "_position",
        "_choices",
        "_unmatched",
        "_radam_buffers",
    ]

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        groups: Sequence[Mapping[str, Any]] | None = None,
        layer_lr_decay: float | None = None,
        layer_patterns: Sequence[str] | None = None,
        schedules: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(optimizer)
        self._groups, self._sources = make_groups(
            [] if groups is None else groups, {} if schedules is None else schedules
        )
        self._rest = Group("", [], {}, is_frozen=False)
        self._layer_lr_decay = 1.0
        self._layer_patterns: list[Glob] = []
        if layer_lr_decay is not None:
            self._layer_lr_decay = check_number(
                "layer_lr_decay", layer_lr_decay, above=0.0, maximum=1.0
            )
            if layer_patterns is None:
                raise ValueError(
                    f"layer_lr_decay = {layer_lr_decay!r} needs layer_patterns: globs from the "
                    "first layer to the last, but layer_patterns was not given"
                )
        if layer_patterns is not None:
            if layer_lr_decay is None:
                raise ValueError(
                    f"layer_patterns = {layer_patterns!r} needs a layer_lr_decay, which was "
                    "not given"
                )
            self._layer_patterns = check_globs("layer_patterns", layer_patterns)
            texts = [glob.text for glob in self._layer_patterns]
            for text in texts:
                if texts.count(text) > 1:
                    raise ValueError(f"layer_patterns has {text!r} in it more than once")
        # How often the schedules have advanced.
        self._position = 0
        # Of every parameter that has been asked for.
        self._choices: ChoicesT = {}
        # The groups and the layers that have selected nothing so far, in words.
        self._unmatched = [f"group {name!r}" for name in self._groups]
        self._unmatched += [f"layer {glob.text!r}" for glob in self._layer_patterns]
        self._radam_buffers: dict[str, list[list[Any]]] = {}
        self._fit_to(unwrap(optimizer)[-1])
        if groups is not None:
            self._arguments["groups"] = [describe_group(group) for group in groups]
        if layer_lr_decay is not None:
            self._arguments["layer_lr_decay"] = self._layer_lr_decay
            self._arguments["layer_patterns"] = [glob.text for glob in self._layer_patterns]
        if schedules is not None:
            self._arguments["schedules"] = {
                name: describe_rate(schedule) for name, schedule in schedules.items()
            }

    def __call__(
        self,
        key: KeyT,
        weights: FloatsXd,
        gradient: FloatsXd,
        *,
        lr_scale: float = 1.0,
    ) -> tuple[FloatsXd, FloatsXd]:
        """Update a parameter with the settings of its group. See `OptimizerWrapper`."""
        settings = self.settings_for(key)
        if settings is None:
            # Not by a product, which would keep NaN.
            zeroed: Array = gradient
            zeroed[...] = 0.0
            return weights, gradient
        scale, changes = settings
        # As unwrap() does, without a list for every call.
        optimizer: Any = self.optimizer
        while isinstance(optimizer, OptimizerWrapper):
            optimizer = optimizer.optimizer
        if optimizer.use_radam and scale != 1.0:
            # Thinc's RAdam ignores lr_scale. The learning rate may only be changed when no
            # wrapper further in is going to change it.
            if self._steps.begins_step(key):
                self._flush_step()
            changes = {**changes, "learn_rate": _scale_rate(optimizer.learn_rate, scale)}
            scale = 1.0
        # Thinc's optimizer reads its settings from its own attributes, so they are changed for
        # the time of a call. An optimizer for each group that shares all other attributes
        # takes longer: it reads every attribute through a property.
        before: dict[str, Any] = {}
        try:
            for name in changes:
                before[name] = getattr(optimizer, name)
                setattr(optimizer, name, changes[name])
            # Less time than super() takes.
            weights, gradient = OptimizerWrapper.__call__(
                self, key, weights, gradient, lr_scale=scale * lr_scale
            )
        finally:
            for name in before:
                setattr(optimizer, name, before[name])
        if self._unmatched and self._steps.n_updates.get(key, 0) > 1:
            self._warn_of_unmatched()
        return weights, gradient

    def settings_for(self, key: KeyT) -> tuple[float, dict[str, Any]] | None:
        """The settings of a parameter in the step under way.

        key (KeyT): The parameter.
        RETURNS (tuple[float, dict[str, Any]] | None): The factor for the learning rate, that of
            its layer included, and the settings that replace those of the innermost optimizer,
            by the names of its attributes ("b1" for `beta1`). On Thinc 9.1 these can be
            `Schedule` objects. None if the parameter is frozen.
        RAISES: ValueError if its path is needed to select its group and is not registered.
        """
        group, layer_scale = self._choices.get(key) or self._choose(key)
        if group.is_frozen:
            return None
        scale = group.lr_scale
        if group.scale_source is not None:
            scale = self._scale_of(group, key)
        return scale * layer_scale, group.changes

    def _scale_of(self, group: Group, key: KeyT) -> float:
        """The factor for the learning rate, without that of the layer."""
        source = group.scale_source
        if source is None:
            return group.lr_scale
        # On Thinc 9.1 a schedule is called in every update, and may depend on the parameter.
        last_score = unwrap(self)[-1].last_score
        return float(source.learn_rate(source.step, key=key, last_score=last_score))

    def step_schedules(self) -> None:
        """Complete a step, and advance the schedules of the groups too."""
        super().step_schedules()
        self._advance(1)
        if self._unmatched and self._steps.most_updates:
            self._warn_of_unmatched()

    def _select(self, paths: dict[KeyT, str]) -> ChoicesT:
        """The group of each parameter of a model, and the factor for the learning rate in its
        layer. There must be something for every group and every layer.

        paths (dict[KeyT, str]): The paths of all its parameters.
        """
        choices, matched = self._match(paths)
        missing = [words for words in self._unmatched if words not in matched]
        if missing:
            hidden = [
                f"group {group.name!r}"
                for group in self._groups.values()
                if any(group.selects(key, path) for key, path in paths.items())
            ]
            words = [
                f"{word} (all that it matches is in groups before it)"
                if word in hidden
                else word
                for word in missing
            ]
            raise ValueError(
                f"Nothing in the model is selected by {', '.join(words)}. The model has the "
                f"parameters:\n- " + "\n- ".join(paths.values())
            )
        return choices

    def _choose(self, key: KeyT) -> tuple[Group, float]:
        """Find the group of a parameter that has not been seen before, and of all others of
        its model if their paths are known."""
        paths = find_model_paths(key)
        if paths is not None:
            choices = self._select(paths)
            self._unmatched = []
        else:
            for text, words in self._need_paths():
                raise ValueError(
                    f"{text!r} in {words} selects by the place in the model, but that of "
                    f"parameter {key} is not known: {HOW_TO_REGISTER}"
                )
            choices, matched = self._match({key: key[1]})
            self._unmatched = [words for words in self._unmatched if words not in matched]
        for other, choice in choices.items():
            self._choices.setdefault(other, choice)
        return self._choices[key]

    def _match(self, paths: dict[KeyT, str]) -> tuple[ChoicesT, set[str]]:
        """The choices, and which groups and layers were chosen, in words."""
        choices: ChoicesT = {}
        layers = self._match_layers(paths)
        # One glob with "#" stands for as many layers as there are numbers.
        all_layers = {
            (i, 0) for i, glob in enumerate(self._layer_patterns) if not glob.has_number
        }
        order = sorted(all_layers | set(layers.values()))
        matched = {f"layer {self._layer_patterns[i].text!r}" for i, _ in layers.values()}
        for key, path in paths.items():
            group = self._rest
            for candidate in self._groups.values():
                if candidate.selects(key, path):
                    group = candidate
                    matched.add(f"group {group.name!r}")
                    break
            scale = 1.0
            if key in layers:
                scale = self._layer_lr_decay ** (len(order) - 1 - order.index(layers[key]))
            choices[key] = (group, scale)
        return choices, matched

    def _match_layers(self, paths: dict[KeyT, str]) -> dict[KeyT, tuple[int, int]]:
        """Which glob a parameter is selected by, and the number in the place of "#"."""
        layers = {}
        for key, path in paths.items():
            for i, glob in enumerate(self._layer_patterns):
                match = glob.match(key, path)
                if match is not None:
                    layers[key] = (i, int(match["number"]) if glob.has_number else 0)
                    break
        return layers

    def _need_paths(self) -> Iterator[tuple[str, str]]:
        """The globs that parameters cannot be matched with one by one, by their own names."""
        for group in self._groups.values():
            for glob in group.globs:
                if "/" in glob.text:
                    yield glob.text, f"the params of group {group.name!r}"
        for glob in self._layer_patterns:
            if "/" in glob.text or glob.has_number:
                yield glob.text, "layer_patterns"

    def _warn_of_unmatched(self) -> None:
        names = sorted({name for _, name in self._choices})
        unmatched, self._unmatched = self._unmatched, []  # One warning is enough.
        warnings.warn(
            f"Nothing was selected by {', '.join(unmatched)} in the first step, which "
            f"updated parameters with the names {', '.join(map(repr, names))}. That is right "
            "if what they select is frozen or gets its first gradient later. To have it "
            f"checked, {HOW_TO_REGISTER}",
            stacklevel=3,
        )

    def _settings_of(self, group: Group) -> dict[str, Any]:
        """For people."""
        described = {values["name"]: values for values in self._arguments.get("groups", [])}
        settings: dict[str, Any] = described[group.name]
        return {name: value for name, value in settings.items() if name in ATTRIBUTES}

    def _fit_to(self, optimizer: Any) -> None:
        """Check that the innermost optimizer uses what the groups set."""
        is_sgd = not optimizer.use_radam and not current_value(optimizer, "b2")
        for group in self._groups.values():
            adams = [name for name in group.settings if name in ("beta1", "beta2", "eps")]
            if is_sgd and adams:
                raise ValueError(
                    f"{adams[0]} of group {group.name!r} has no effect: the optimizer is SGD"
                )
            if optimizer.use_radam and {"beta1", "beta2"} & set(adams):
                # RAdam remembers factors that follow from the betas, but asks for them by
                # the number of the update alone. Other betas need a memory of their own.
                self._radam_buffers[group.name] = [[None] * 3 for _ in range(10)]
        self._use_buffers()

    def _use_buffers(self) -> None:
        for name, buffer in self._radam_buffers.items():
            self._groups[name].changes["_radam_buffer"] = buffer

    def _advance(self, n_steps: int) -> None:
        for source in self._sources.values():
            for _ in range(n_steps):
                source.step_schedules()
        if self._sources and Schedule is None:
            for group in self._groups.values():
                group.refresh()
        self._position += n_steps

    def _is_frozen(self, key: KeyT) -> bool:
        group, _ = self._choices.get(key) or self._choose(key)
        return group.is_frozen or super()._is_frozen(key)

    def _has_schedules(self) -> bool:
        return bool(self._sources)

    def _forget(self, keys: Collection[KeyT]) -> None:
        super()._forget(keys)
        for key in keys:
            self._choices.pop(key, None)

    @property
    def _schedule_states(self) -> list[dict[str, Any]]:
        """What the schedules know beside their step."""
        sources = self._sources.values()
        return [dataclasses.asdict(state) for source in sources for state in _states(source)]

    @_schedule_states.setter
    def _schedule_states(self, saved: list[dict[str, Any]]) -> None:
        states = [state for source in self._sources.values() for state in _states(source)]
        for state, values in zip(states, saved, strict=True):
            for field, value in values.items():
                setattr(state, field, value)

    def _on_loaded(self, weights: dict[KeyT, FloatsXd]) -> None:
        super()._on_loaded(weights)
        self._use_buffers()
        self._advance(self._steps.n_calls - self._position)


def _states(source: Any) -> list[Any]:
    return [] if Schedule is None else list(schedule_states(source.learn_rate))


def _scale_rate(rate: Any, scale: float) -> Any:
    if Schedule is None:
        return rate * scale
    return Schedule("thinc_swa_scaled", _scaled_schedule, attrs={"rate": rate, "scale": scale})


def _scaled_schedule(schedule: Any, step: int, **extra: Any) -> float:
    return float(schedule.attrs["rate"](step, **extra) * schedule.attrs["scale"])


make_param_groups = config_factory(ParamGroups)
