"""`ParamGroups`: an optimizer with different settings for groups of parameters."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from thinc.api import Optimizer

from ..optimizers.base import OptimizerWrapper, unwrap
from ..optimizers.config_factory import config_factory
from ..schedules.compat import Schedule
from ..schedules.learn_rate import current_value, describe_rate
from ..schedules.traversal import schedule_states
from ..types import Array, FloatsXd, KeyT
from .selection import GroupSelector
from .settings import ATTRIBUTES, Group, check_layers, describe_group, make_groups


class ParamGroups(OptimizerWrapper):
    """Use different settings for groups of parameters in one optimizer.

    A group selects parameters by glob patterns, and a parameter belongs to the first group that
    selects it. A glob is matched against the path of the parameter, "tok2vec/…/maxout/W", where
    "*" matches any characters, including "/". `register_parameter_paths` registers the paths. A
    glob without "/" is also matched against the name of the parameter, "W" or
    "encoder.layers.0.weight", which does not require paths. A group that selects no parameter
    of a model with registered paths is an error. Without paths it causes only a warning after
    the first step, because its parameters may be frozen or get their first gradient later.

    The settings of a group replace those of the innermost optimizer during the updates of its
    parameters, which are the same as with a separate optimizer. Frozen parameters are not
    updated and have no state, neither here nor in the wrappers around this one. Their gradients
    are zeroed as in an update.

    optimizer (Optimizer): The optimizer to wrap. Its settings apply to all parameters without a
        group.
    groups (Sequence[Mapping[str, Any]] | None): The groups in order of precedence. Each has
        a `name`, `params` (a list of globs), and either `frozen` (True) or some of: `lr_scale`
        (a factor for the learning rate, and therefore also for the weight decay), `L2`,
        `beta1`, `beta2`, `eps` and `grad_clip`. Their values are numbers, lists of numbers,
        Thinc schedules, which start at their step 0 and advance with `step_schedules()`, or
        names in `schedules`.
    layer_lr_decay (float | None): The ratio of the learning rates of a layer and the next one,
        in (0, 1]. The factor is 1 in the last layer, layer_lr_decay in the layer before it,
        layer_lr_decay² before that, and is multiplied by the `lr_scale` of the group.
        Parameters without a layer, such as a task head, have the factor 1.
    layer_patterns (Sequence[str] | None): Globs of the layers for layer_lr_decay, from the
        first to the last. A glob with "#" represents one layer for every number that it
        matches, in numerical order: "*layers.#.*". This requires paths.
    schedules (Mapping[str, Any] | None): Schedules by name, to share them between groups and
        to use them in config files, where a list cannot contain sections.
    RAISES: TypeError if `optimizer` is not a Thinc optimizer; ValueError if another argument is
        not as described.
    """

    _state = ("_unmatched", "_schedule_states", "_radam_buffers")

    __slots__ = [
        "_groups",
        "_selector",
        "_sources",
        "_position",
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
        decay, layers = check_layers(layer_lr_decay, layer_patterns)
        self._selector = GroupSelector(
            list(self._groups.values()), layer_patterns=layers, layer_lr_decay=decay
        )
        # The number of steps that the schedules have advanced.
        self._position = 0
        self._radam_buffers: dict[str, list[list[Any]]] = {}
        self._fit_to(unwrap(optimizer)[-1])
        if groups is not None:
            self._arguments["groups"] = [describe_group(group) for group in groups]
        if layers:
            self._arguments["layer_lr_decay"] = decay
            self._arguments["layer_patterns"] = [glob.text for glob in layers]
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
            # A product with zero would keep NaN.
            zeroed: Array = gradient
            zeroed[...] = 0.0
            return weights, gradient
        scale, changes = settings
        # The same as unwrap(), without a new list in every call.
        optimizer: Any = self.optimizer
        while isinstance(optimizer, OptimizerWrapper):
            optimizer = optimizer.optimizer
        if optimizer.use_radam and scale != 1.0:
            # Thinc's RAdam ignores lr_scale, so the learning rate has to be changed. A step
            # that a wrapper further in would complete during the call may change it too, so
            # it is completed before.
            if self._steps.begins_step(key):
                self._flush_step()
            changes = {**changes, "learn_rate": _scale_rate(optimizer.learn_rate, scale)}
            scale = 1.0
        # Thinc's optimizer reads its settings from its attributes, so they are changed during
        # the call. One optimizer per group that shares the other attributes would be slower,
        # because it would read every attribute through a property.
        # The loops avoid items(), which is slower for so few settings.
        before: dict[str, Any] = {}
        try:
            for name in changes:
                before[name] = getattr(optimizer, name)
                setattr(optimizer, name, changes[name])
            # Faster than super().
            weights, gradient = OptimizerWrapper.__call__(
                self, key, weights, gradient, lr_scale=scale * lr_scale
            )
        finally:
            for name in before:
                setattr(optimizer, name, before[name])
        if self._selector.unmatched and self._steps.n_updates.get(key, 0) > 1:
            self._selector.warn_if_unmatched()
        return weights, gradient

    def settings_for(self, key: KeyT) -> tuple[float, Mapping[str, Any]] | None:
        """Get the settings of a parameter in the current step. Like an update, the first call
        for a parameter selects its group.

        key (KeyT): The key of the parameter.
        RETURNS (tuple[float, Mapping[str, Any]] | None): The factor for the learning rate,
            including the factor of the layer, and the settings that replace those of the
            innermost optimizer, by attribute name ("b1" for `beta1`). On Thinc 9.1 they can be
            `Schedule` objects. The mapping is read-only: it is the group's own, which the
            schedules of the group update on Thinc 8.3. None if the parameter is frozen. Other
            `ParamGroups` around or inside this one are not considered.
        RAISES: ValueError if a glob requires paths and they are not registered, or if a group
            does not select any parameter of a model with registered paths.
        """
        choice = self._selector.choices.get(key)
        if choice is None:
            choice = self._selector.choose(key)
        group, layer_scale = choice
        if group.is_frozen:
            return None
        scale = group.lr_scale
        if group.scale_source is not None:
            scale = self._scale_of(group, key)
        return scale * layer_scale, group.changes

    @property
    def group_names(self) -> list[str]:
        """The names of the groups, in order of precedence."""
        return list(self._groups)

    def group_name(self, key: KeyT) -> str | None:
        """Get the name of the group of a parameter. Like an update, the first call for a
        parameter selects its group.

        key (KeyT): The key of the parameter.
        RETURNS (str | None): The name; None if the parameter is in no group.
        RAISES: ValueError as for `settings_for`.
        """
        choice = self._selector.choices.get(key)
        if choice is None:
            choice = self._selector.choose(key)
        return choice[0].name or None

    def _scale_of(self, group: Group, key: KeyT) -> float:
        """The factor for the learning rate, without the factor of the layer."""
        source = group.scale_source
        if source is None:
            return group.lr_scale
        # Thinc 9.1 calls a schedule in every update, with the parameter as an argument.
        last_score = unwrap(self)[-1].last_score
        return float(source.learn_rate(source.step, key=key, last_score=last_score))

    def step_schedules(self) -> None:
        """Complete a step and advance the schedules, including those of the groups."""
        super().step_schedules()
        self._advance(1)
        if self._selector.unmatched and self._steps.most_updates:
            self._selector.warn_if_unmatched()

    def _settings_of(self, group: Group) -> dict[str, Any]:
        """The settings of a group except the learning rate, as `repr()` shows them."""
        described = {values["name"]: values for values in self._arguments.get("groups", [])}
        settings: dict[str, Any] = described[group.name]
        return {name: value for name, value in settings.items() if name in ATTRIBUTES}

    def _fit_to(self, optimizer: Any) -> None:
        """Check that the innermost optimizer uses the settings of the groups."""
        is_sgd = not optimizer.use_radam and not current_value(optimizer, "b2")
        for group in self._groups.values():
            unused = [name for name in group.settings if name in ("beta1", "beta2", "eps")]
            if is_sgd and unused:
                raise ValueError(
                    f"{unused[0]} of group {group.name!r} has no effect, because the wrapped "
                    "optimizer is SGD: remove it, or wrap Adam or RAdam"
                )
            if optimizer.use_radam and group.settings.keys() & {"beta1", "beta2"}:
                # RAdam caches values that depend on the betas, with the update number as the
                # only key. A group with other betas requires a cache of its own.
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
        group, _ = self._selector.choose(key)
        return group.is_frozen or super()._is_frozen(key)

    def _has_schedules(self) -> bool:
        return bool(self._sources)

    def _forget(self, keys: Collection[KeyT]) -> None:
        super()._forget(keys)
        self._selector.forget(keys)

    @property
    def _unmatched(self) -> list[str]:
        return self._selector.unmatched

    @_unmatched.setter
    def _unmatched(self, saved: list[str]) -> None:
        self._selector.unmatched = saved

    @property
    def _schedule_states(self) -> list[dict[str, Any]]:
        """The state of the schedules except their steps."""
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
