"""Parameter groups: other settings for some parameters than for the rest."""

import dataclasses
import re
from numbers import Real
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Pattern,
    Sequence,
    Set,
    Tuple,
    Union,
)

from thinc.api import SGD, Optimizer

from .arguments import check_bool, check_number
from .models import ModelT, named_parameters
from .paths import parameter_paths, paths_around
from .schedule_state import schedule_states
from .schedules import Schedule, current_value, describe_rate, follow
from .types import FloatsXd, KeyT
from .wrapper import OptimizerWrapper

# What a group can change, with the bounds of a number.
SETTINGS: Dict[str, Dict[str, float]] = {
    "lr_scale": {"minimum": 0.0},
    "L2": {"minimum": 0.0},
    "beta1": {"above": 0.0, "below": 1.0},
    "beta2": {"above": 0.0, "below": 1.0},
    "eps": {"minimum": 0.0},
    "grad_clip": {"minimum": 0.0},
}

# Thinc's optimizers have some of them under other names.
ATTRIBUTES = {name: name.replace("beta", "b") for name in SETTINGS if name != "lr_scale"}

HOW_TO_NAME = (
    "call name_parameters(model) before the training, when the model is initialized, or have "
    "spaCy call it: [initialize.after_init] with "
    '@callbacks = "thinc_swa.name_parameters.v1" in the config'
)


class ParameterRow(NamedTuple):
    """What an optimizer does with a parameter. See `list_parameters`."""

    path: str
    shape: Tuple[int, ...]
    group: Optional[str]
    lr_scale: float
    frozen: bool
    settings: Dict[str, Any]


class ParamGroups(OptimizerWrapper):
    """Other settings for some parameters than for the rest, in one optimizer.

    A group selects parameters by globs, and every parameter belongs to the first group that
    selects it. A glob is matched against the parameter's path, "tok2vec/…/maxout/W", with
    "*" for anything, "/" included. `name_parameters` makes the paths known. A glob without
    "/" is matched against the parameter's own name too, "W" or "encoder.layers.0.weight",
    and needs no path for that. A group that selects nothing is an error.

    The settings of a group take the place of the innermost optimizer's while a parameter of
    the group is updated; its parameters are updated as by an optimizer of their own. A
    parameter that is frozen is not updated at all: nothing is kept for it, neither here nor in
    the wrappers around, and its gradient is zeroed as by an update.

    optimizer (Optimizer): The optimizer to wrap. Its settings are those of all parameters
        that are in no group.
    groups (Optional[Sequence[Mapping[str, Any]]]): The groups, in the order in which they
        are asked. Each has a `name`, `params` (a list of globs), and either `frozen` (True)
        or some of: `lr_scale` (a factor for the learning rate, and with it for the weight
        decay), `L2`, `beta1`, `beta2`, `eps` and `grad_clip`. These are numbers, lists of
        numbers, Thinc schedules, which begin at their step 0 and advance with
        `step_schedules()`, or names in `schedules`.
    lr_decay (Optional[float]): The learning rate of a layer as a part of the next one's, in
        (0, 1]: it is multiplied by 1 in the last layer, lr_decay in the one before it,
        lr_decay² before that, on top of the `lr_scale` of a group. What is in no layer, the
        head of a task for instance, has the whole rate.
    layers (Optional[Sequence[str]]): Globs for lr_decay, one for each layer, from the first
        to the last. With "#" one glob stands for many layers, as many as there are numbers
        in its place, in numerical order: "*layers.#.*". This needs the paths.
    schedules (Optional[Mapping[str, Any]]): Schedules by name, for several groups at once
        and for config files, where a list cannot have sections.
    """

    _state = ("_unmatched", "_plateaus", "_radam_buffers")

    __slots__ = [
        "_groups",
        "_rest",
        "_lr_decay",
        "_layers",
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
        groups: Optional[Sequence[Mapping[str, Any]]] = None,
        lr_decay: Optional[float] = None,
        layers: Optional[Sequence[str]] = None,
        schedules: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(optimizer)
        self._sources = _Sources(schedules)
        self._groups: Dict[str, _Group] = {}
        for settings in _check_list("groups", groups):
            group = _Group.make(settings, self._sources)
            if group.name in self._groups:
                raise ValueError(f"Two groups have the same name: {group.name!r}")
            self._groups[group.name] = group
        self._sources.check_use()
        self._rest = _Group("", [])
        self._lr_decay = 1.0
        self._layers: List[_Glob] = []
        if lr_decay is not None:
            self._lr_decay = check_number("lr_decay", lr_decay, above=0.0, maximum=1.0)
            if layers is None:
                raise ValueError(
                    f"lr_decay = {lr_decay!r} needs layers: globs from the first layer to the "
                    "last, but layers was not given"
                )
        if layers is not None:
            if lr_decay is None:
                raise ValueError(f"layers = {layers!r} needs an lr_decay, which was not given")
            self._layers = _check_globs("layers", layers)
        # How often the schedules have advanced.
        self._position = 0
        # The group of every parameter, and the factor for the learning rate in its layer.
        self._choices: Dict[KeyT, Tuple[_Group, float]] = {}
        # The groups and the layers that have selected nothing so far, in words.
        self._unmatched = [f"group {name!r}" for name in self._groups]
        self._unmatched += [f"layer {glob.text!r}" for glob in self._layers]
        self._radam_buffers: Dict[str, List[List[Any]]] = {}
        self._fit_to(_innermost(optimizer))
        if groups is not None:
            self._arguments["groups"] = [group.described for group in self._groups.values()]
        if lr_decay is not None:
            self._arguments["lr_decay"] = self._lr_decay
            self._arguments["layers"] = [glob.text for glob in self._layers]
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
    ) -> Tuple[FloatsXd, FloatsXd]:
        """Update a parameter with the settings of its group. See `OptimizerWrapper`."""
        choice = self._choices.get(key) or self._choose(key)
        group, layer_scale = choice
        if group.is_frozen:
            gradient[...] = 0.0  # type: ignore[index]
            return weights, gradient
        optimizer = _innermost(self.optimizer)
        changes = group.changes
        scale = group.lr_scale
        if group.scale_source is not None:
            scale = _scheduled_scale(group.scale_source, key, optimizer)
        scale *= layer_scale
        if optimizer.use_radam and scale != 1.0:
            # Thinc's RAdam knows no lr_scale. The learning rate may only be changed when no
            # wrapper further in is going to change it.
            if not self._is_stepped and self._n_updates.get(key, 0) >= self._most_updates:
                self._settle()
            changes = {**changes, "learn_rate": _scale_rate(optimizer.learn_rate, scale)}
            scale = 1.0
        scale *= lr_scale
        before = [(name, getattr(optimizer, name)) for name in changes]
        try:
            for name, value in changes.items():
                setattr(optimizer, name, value)
            weights, gradient = super().__call__(key, weights, gradient, lr_scale=scale)
        finally:
            for name, value in before:
                setattr(optimizer, name, value)
        if self._unmatched and self._n_updates.get(key, 0) > 1:
            self._refuse_unmatched()
        return weights, gradient

    def step_schedules(self) -> None:
        """Complete a step, and advance the schedules of the groups too."""
        super().step_schedules()
        self._advance(1)
        if self._unmatched and self._most_updates:
            self._refuse_unmatched()

    def _select(self, paths: Dict[KeyT, str]) -> Dict[KeyT, Tuple["_Group", float]]:
        """The group of each parameter of a model, and the factor for the learning rate in its
        layer. There must be something for every group and every layer.

        paths (Dict[KeyT, str]): The paths of all its parameters.
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
                f"{word} (all that it matches is in groups before it)" if word in hidden else word
                for word in missing
            ]
            raise ValueError(
                f"Nothing in the model is selected by {', '.join(words)}. The model has the "
                f"parameters:\n- " + "\n- ".join(paths.values())
            )
        return choices

    def _choose(self, key: KeyT) -> Tuple["_Group", float]:
        """Find the group of a parameter that has not been seen before, and of all others of
        its model if their paths are known."""
        paths = paths_around(key)
        if paths is not None:
            choices = self._select(paths)
            self._unmatched = []
        else:
            for glob, words in self._globs():
                if glob.needs_path:
                    raise ValueError(
                        f"{glob.text!r} in {words} selects by the place in the model, but that "
                        f"of parameter {key} is not known: {HOW_TO_NAME}"
                    )
            choices, matched = self._match({key: key[1]})
            self._unmatched = [words for words in self._unmatched if words not in matched]
        for other, choice in choices.items():
            self._choices.setdefault(other, choice)
        return self._choices[key]

    def _match(
        self, paths: Dict[KeyT, str]
    ) -> Tuple[Dict[KeyT, Tuple["_Group", float]], Set[str]]:
        """The choices, and which groups and layers were chosen, in words."""
        choices: Dict[KeyT, Tuple[_Group, float]] = {}
        layers = self._match_layers(paths)
        # One glob with "#" stands for as many layers as there are numbers.
        all_layers = {(i, 0) for i, glob in enumerate(self._layers) if not glob.has_number}
        order = sorted(all_layers | set(layers.values()))
        matched = {f"layer {self._layers[i].text!r}" for i, _ in layers.values()}
        for key, path in paths.items():
            group = self._rest
            for candidate in self._groups.values():
                if candidate.selects(key, path):
                    group = candidate
                    matched.add(f"group {group.name!r}")
                    break
            scale = 1.0
            if key in layers:
                scale = self._lr_decay ** (len(order) - 1 - order.index(layers[key]))
            choices[key] = (group, scale)
        return choices, matched

    def _match_layers(self, paths: Dict[KeyT, str]) -> Dict[KeyT, Tuple[int, int]]:
        """Which glob a parameter is selected by, and the number in the place of "#"."""
        layers = {}
        for key, path in paths.items():
            for i, glob in enumerate(self._layers):
                match = glob.match(key, path)
                if match is not None:
                    layers[key] = (i, int(match.group(1)) if glob.has_number else 0)
                    break
        return layers

    def _globs(self) -> Iterator[Tuple["_Glob", str]]:
        for group in self._groups.values():
            for glob in group.globs:
                yield glob, f"the params of group {group.name!r}"
        for glob in self._layers:
            yield glob, "layers"

    def _refuse_unmatched(self) -> None:
        names = sorted({name for _, name in self._choices})
        raise ValueError(
            f"Nothing was selected by {', '.join(self._unmatched)} in the first step, which "
            f"updated parameters with the names {', '.join(map(repr, names))}. More than these "
            f"names is only known if you {HOW_TO_NAME}"
        )

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
        if self._sources.by_name:
            for _ in range(n_steps):
                self._sources.step()
            if Schedule is None:
                for group in self._groups.values():
                    group.refresh()
        self._position += n_steps

    def _is_frozen(self, key: KeyT) -> bool:
        group, _ = self._choices.get(key) or self._choose(key)
        return group.is_frozen or super()._is_frozen(key)

    def _has_schedules(self) -> bool:
        return bool(self._sources.by_name)

    @property
    def _plateaus(self) -> List[List[Dict[str, Any]]]:
        """What the schedules of Thinc 9.1 know beside their step."""
        return [
            [dataclasses.asdict(state) for state in states] for states in self._sources.states()
        ]

    @_plateaus.setter
    def _plateaus(self, saved: List[List[Dict[str, Any]]]) -> None:
        for states, all_values in zip(self._sources.states(), saved, strict=False):
            for state, values in zip(states, all_values, strict=False):
                for field, value in values.items():
                    setattr(state, field, value)

    def _on_loaded(self, weights: Dict[KeyT, FloatsXd]) -> None:
        super()._on_loaded(weights)
        self._use_buffers()
        self._advance(self._n_calls - self._position)


class _Glob(NamedTuple):
    """A pattern for paths: "*" is anything, "?" one character, "[ab]" one of these, "[!ab]"
    none of these, "#" a whole number."""

    text: str
    regex: Pattern[str]

    @classmethod
    def make(cls, argument: str, text: Any) -> "_Glob":
        if not isinstance(text, str) or not text:
            raise ValueError(f"{argument} must be a list of globs, but has {text!r} in it")
        if text.count("#") > 1:
            raise ValueError(f"A glob can have one #, but in {argument} there is {text!r}")
        parts = []
        for part in re.findall(r"\[!?\]?[^\]]*\]|.", text, flags=re.DOTALL):
            if len(part) > 1:
                negation = "^" if part[1] == "!" else ""
                characters = re.sub(r"([\\\[\]^&~|])", r"\\\1", part[1 + len(negation) : -1])
                parts.append(f"[{negation}{characters}]")
            else:
                # The first number from the left counts, and all of its digits.
                special = {"*": ".*?", "?": ".", "#": r"(?<!\d)(\d+)(?!\d)"}
                parts.append(special.get(part) or re.escape(part))
        try:
            return cls(text, re.compile("".join(parts), flags=re.DOTALL))
        except re.error as error:
            raise ValueError(f"{argument} has {text!r} in it, no glob: {error}") from None

    @property
    def has_number(self) -> bool:
        return self.regex.groups > 0

    @property
    def needs_path(self) -> bool:
        return "/" in self.text or self.has_number

    def match(self, key: KeyT, path: str) -> Any:
        match = self.regex.fullmatch(path)
        if match is None and "/" not in self.text:
            match = self.regex.fullmatch(key[1])
        return match


class _Sources:
    """The schedules of all groups. Each is held by an optimizer that trains nothing: it turns
    whatever Thinc takes for a schedule into Thinc's own form, and holds its place."""

    __slots__ = ["by_name", "given", "unused"]

    def __init__(self, schedules: Optional[Mapping[str, Any]]) -> None:
        self.by_name: Dict[str, Any] = {}
        # One that several groups have must not advance several times.
        self.given: List[Tuple[Any, Any]] = []
        self.unused: Dict[str, Any] = {}
        if schedules is None:
            return
        if not isinstance(schedules, Mapping):
            raise ValueError(
                f"schedules must be schedules by their names, but was {schedules!r}"
            )
        for name, schedule in schedules.items():
            self.by_name[name] = _hold(f"{name!r} in schedules", schedule)
        self.unused = dict.fromkeys(self.by_name)

    def get(self, argument: str, schedule: Any) -> Any:
        """Of a name, or of a schedule itself."""
        if not isinstance(schedule, str):
            for other, source in self.given:
                if other is schedule:
                    return source
            self.by_name[argument] = _hold(argument, schedule)
            self.given.append((schedule, self.by_name[argument]))
            return self.by_name[argument]
        if schedule not in self.by_name:
            raise ValueError(
                f"{argument} must be a number or one of schedules, which has "
                f"{', '.join(map(repr, self.by_name)) or 'none'}, but was {schedule!r}"
            )
        self.unused.pop(schedule, None)
        return self.by_name[schedule]

    def check_use(self) -> None:
        """When all groups have what they want."""
        self.given = []
        if self.unused:
            raise ValueError(f"No group uses {', '.join(map(repr, self.unused))} in schedules")

    def step(self) -> None:
        for source in self.by_name.values():
            source.step_schedules()

    def states(self) -> Iterator[List[Any]]:
        for source in self.by_name.values():
            yield [] if Schedule is None else list(schedule_states(source.learn_rate))


class _Group:
    """Parameters that have settings of their own."""

    __slots__ = [
        "name",
        "globs",
        "settings",
        "is_frozen",
        "lr_scale",
        "scale_source",
        "changes",
        "described",
    ]

    def __init__(self, name: str, globs: List[_Glob]) -> None:
        self.name = name
        self.globs = globs
        self.is_frozen = False
        # By the names of a config: a number, or the optimizer that holds a schedule.
        self.settings: Dict[str, Any] = {}
        # What it says about itself, in JSON.
        self.described: Dict[str, Any] = {"name": name, "params": [glob.text for glob in globs]}
        self.lr_scale = 1.0
        # Who knows the factor for the learning rate if it can be another one in each call.
        self.scale_source: Any = None
        # What the innermost optimizer gets for a call.
        self.changes: Dict[str, Any] = {}

    @classmethod
    def make(cls, values: Any, sources: _Sources) -> "_Group":
        """Check what a user has written."""
        if not isinstance(values, Mapping):
            raise ValueError(
                f"A group must be a mapping with name, params and settings, but was {values!r}"
            )
        name = values.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"A group must have a name, a string, but was {dict(values)!r}")
        known = ("name", "params", "frozen", *SETTINGS)
        for setting in values:
            if setting not in known:
                raise ValueError(
                    f"A group can have {', '.join(known)}, but group {name!r} has {setting!r}"
                )
        params = f"params of group {name!r}"
        group = cls(name, _check_globs(params, values.get("params")))
        group.is_frozen = check_bool(f"frozen of group {name!r}", values.get("frozen", False))
        if group.is_frozen:
            group.described["frozen"] = True
        for setting in SETTINGS:
            if values.get(setting) is not None:
                if group.is_frozen:
                    raise ValueError(
                        f"{setting} of group {name!r} has no effect: the group is frozen"
                    )
                group._set(setting, values[setting], sources)
        group.refresh()
        return group

    def _set(self, setting: str, value: Any, sources: _Sources) -> None:
        argument = f"{setting} of group {self.name!r}"
        if _is_number(value):
            self.settings[setting] = check_number(argument, value, **SETTINGS[setting])
        else:
            self.settings[setting] = sources.get(argument, value)
        self.described[setting] = value if isinstance(value, str) else describe_rate(value)

    def refresh(self) -> None:
        """Take what the schedules give now."""
        for setting, value in self.settings.items():
            is_schedule = isinstance(value, Optimizer)
            if setting != "lr_scale":
                # A number in Thinc's own form.
                source = value if is_schedule else SGD(value, use_averages=False)
                self.changes[ATTRIBUTES[setting]] = (
                    follow(source) if is_schedule else source.learn_rate
                )
            elif not is_schedule:
                self.lr_scale = value
            elif Schedule is None:
                self.lr_scale = follow(value)
            else:
                self.scale_source = value

    def selects(self, key: KeyT, path: str) -> bool:
        return any(glob.match(key, path) is not None for glob in self.globs)


def list_parameters(
    model: ModelT, optimizer: Optional[Optimizer] = None
) -> List[ParameterRow]:
    """What there is to be trained in a model, and what the groups of an optimizer make of it.

    model (Union[Model, Language]): A Thinc model or a spaCy pipeline, initialized.
    optimizer (Optional[Optimizer]): An optimizer with or without groups, somewhere in it.
    RETURNS (List[ParameterRow]): A row for each parameter, from the first layer to the last:
        its path and shape, the name of its group or None, the factor for its learning rate
        now (0 for one that is frozen), whether it is frozen, and the other settings of its
        group.
    RAISES: TypeError for what is no model; ValueError if a group selects nothing.
    """
    paths = parameter_paths(model)
    shapes: Dict[KeyT, Tuple[int, ...]] = {}
    for _, key, parameter in named_parameters(model):
        shapes.setdefault(key, parameter.shape)
    choices = []
    while isinstance(optimizer, OptimizerWrapper):
        if isinstance(optimizer, ParamGroups):
            choices.append(optimizer._select(paths))
        optimizer = optimizer.optimizer
    rows = []
    for key, path in paths.items():
        if key in shapes:
            groups = [choice[key] for choice in choices]
            rows.append(_make_row(path, shapes[key], groups, key, optimizer))
    return rows


def _make_row(
    path: str,
    shape: Tuple[int, ...],
    groups: List[Tuple[_Group, float]],
    key: KeyT,
    optimizer: Any,
) -> ParameterRow:
    """groups (List[Tuple[_Group, float]]): Outermost first: the innermost has the last word."""
    names = [group.name for group, _ in groups if group.name]
    frozen = any(group.is_frozen for group, _ in groups)
    scale = 0.0 if frozen else 1.0
    settings = {}
    for group, layer_scale in groups:
        scale *= layer_scale * group.lr_scale
        if group.scale_source is not None:
            scale *= _scheduled_scale(group.scale_source, key, optimizer)
        settings.update({n: v for n, v in group.described.items() if n in ATTRIBUTES})
    return ParameterRow(path, shape, " + ".join(names) or None, scale, frozen, settings)


def _innermost(optimizer: Any) -> Any:
    while isinstance(optimizer, OptimizerWrapper):
        optimizer = optimizer.optimizer
    return optimizer


def _scheduled_scale(source: Any, key: KeyT, optimizer: Any) -> float:
    """On Thinc 9.1 a schedule is asked in every call, and may look at the parameter."""
    return float(source.learn_rate(source.step, key=key, last_score=optimizer.last_score))


def _scale_rate(rate: Any, scale: float) -> Any:
    if Schedule is None:
        return rate * scale
    return Schedule("thinc_swa_scaled", _scaled_schedule, attrs={"rate": rate, "scale": scale})


def _scaled_schedule(schedule: Any, step: int, **extra: Any) -> float:
    return float(schedule.attrs["rate"](step, **extra) * schedule.attrs["scale"])


def _hold(argument: str, schedule: Any) -> Any:
    """An optimizer that only holds a schedule."""
    if _is_number(schedule) or isinstance(schedule, (str, bytes, Mapping)):
        hint = ""
        if isinstance(schedule, Mapping):
            hint = ". In a config a schedule has a section of its own in schedules"
        raise ValueError(f"{argument} must be a schedule, but was {schedule!r}{hint}")
    try:
        return SGD(schedule, use_averages=False)
    except ValueError:
        raise ValueError(
            f"{argument} must be a number or a schedule, but was {schedule!r}"
        ) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, Real)


def _check_globs(argument: str, globs: Any) -> List[_Glob]:
    globs = [_Glob.make(argument, glob) for glob in _check_list(argument, globs)]
    if not globs:
        raise ValueError(f"{argument} must be a list of globs, but was empty or not given")
    return globs


def _check_list(argument: str, values: Any) -> Iterable[Any]:
    if values is None:
        return []
    if isinstance(values, Mapping):
        raise ValueError(
            f"{argument} must be a list, for the order counts, and sections of a config have "
            f"none, but was {values!r}"
        )
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"{argument} must be a list, but was {values!r}")
    return values


def make_param_groups(
    optimizer: Optimizer,
    groups: Union[Any, List[Dict[str, Any]], None] = None,
    lr_decay: Union[Any, float, None] = None,
    layers: Union[Any, List[str], None] = None,
    schedules: Union[Any, Dict[str, Any], None] = None,
) -> Optimizer:
    """`ParamGroups.v1`: `ParamGroups` from a config. See `ParamGroups` for the arguments."""
    return ParamGroups(
        optimizer,
        groups=groups,
        lr_decay=lr_decay,
        layers=layers,
        schedules=schedules,
    )
