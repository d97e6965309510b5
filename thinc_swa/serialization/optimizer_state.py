"""Optimizer state in files: save it, crash, load it in another process, go on bit for bit.

The file is in the safetensors format: arrays, and a JSON header that a person can read.
Nothing in it is executed when it is loaded. Parameters are saved under their place in the
model, since Thinc's ids are different in every process.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy
from thinc.about import __version__ as thinc_version
from thinc.api import Optimizer, get_array_module

from ..models.parameter_paths import removed_parameters
from ..models.parameters import ModelT, named_parameters
from ..optimizers.base import OptimizerWrapper, forget_keys, unwrap
from ..types import Array, KeyT
from .schedule_state import (
    describe_schedules,
    has_schedules,
    number_differences,
    restore_rate,
    restore_schedules,
    schedule_differences,
)
from .state_checks import (
    OPTIONAL,
    has_form,
    has_form_of,
    has_form_of_schedules,
    upgrade_names,
)
from .state_file import StateReader, write_state

# What training changes in Thinc's own Optimizer. Which of these there are depends on the
# Thinc version.
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


def save_optimizer(path: str | Path, optimizer: Optimizer, model: ModelT) -> None:
    """Save the whole state of an optimizer: moments, counts, averages, slow weights, and
    the positions of schedules. Save the model beside it.

    State of parameters that the model no longer has is dropped, if it had them when
    `register_parameter_paths` was called with it. Otherwise call `forget_missing` after the
    model has changed.

    The file is written under another name first and then renamed: after a crash there is
    the old file or the new one.

    path (str | Path): The file, in an existing folder.
    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    model (Model | Language): The Thinc model or spaCy pipeline that it trains.
    RAISES: TypeError if one is not what it should be; ValueError if the optimizer has state
        of parameters that the model does not have, or, on Thinc 8.3, draws values from a
        generator that is neither Thinc's nor was counted by a wrapper from the first update
        on; OSError if the file cannot be written.
    """
    path = Path(path)
    parameters = _parameters_by_key(model)
    names = {key: name for key, (name, _) in parameters.items()}
    levels = _levels(optimizer)
    _forget(levels, removed_parameters(model))
    arrays: dict[str, Array] = {}
    header = {
        "thinc": thinc_version,
        "parameters": {name: list(array.shape) for name, array in parameters.values()},
        "optimizers": [
            _describe_level(level, f"{index}.{type(level).__name__}", names, arrays)
            for index, level in enumerate(levels)
        ],
    }
    write_state(path, header, {name: _to_numpy(array) for name, array in arrays.items()})


def load_optimizer(path: str | Path, optimizer: Optimizer, model: ModelT) -> None:
    """Load what `save_optimizer` saved. Training goes on from there, bit for bit.

    Wrappers, their arguments and the schedules of all hyperparameters must be those of the
    saved optimizer. Hyperparameters that are numbers are part of the state, like PyTorch's:
    `learn_rate`, `L2`, `b1`, `b2`, `eps` and `grad_clip` may be changed during the training,
    so the numbers of the file replace those of the optimizer. Where they differ, a warning
    names both, except for the `learn_rate` if a wrapper has put its own in place of it. To
    train on with other numbers, set them after loading.

    path (str | Path): The file.
    optimizer (Optimizer): An optimizer that was made like the saved one, from the same
        config, say. Its own state is replaced. If it has schedules it must be a new one:
        they cannot go back.
    model (Model | Language): The model, with the weights that it had then.
    RAISES: TypeError if one is not what it should be; OSError if the file cannot be read;
        ValueError if it is not such a file, is damaged, or does not fit: the message lists
        what differs. The optimizer is as it was then.
    """
    path = Path(path)
    parameters = _parameters_by_key(model)
    levels = _levels(optimizer)
    # Unbuffered: arrays are large, and read once.
    with path.open("rb", buffering=0) as file:
        reader = StateReader(path, file)
        header = reader.header
        if not has_form(header):
            raise ValueError(f"{path} is damaged: its header is no description of a state")
        if reader.version < 3:
            upgrade_names(header)
        differences = list(_differences(header, reader.version, levels, parameters))
        if differences:
            raise ValueError(
                f"{path} does not fit this optimizer and this model:\n- "
                + "\n- ".join(differences)
            )
        arrays = reader.read_arrays()
    innermost = header["optimizers"][-1]["schedules"]
    numbers = list(number_differences(innermost, levels[-1], _is_rate_replaced(header, levels)))
    restore = _Restoring(path, reader.version, parameters, arrays)
    for level, saved in zip(levels, header["optimizers"], strict=True):
        restore.fields(level, saved["state"])
    restore.changes += restore_schedules(
        levels[-1], innermost, header.get("n_calls", 0), is_counted=len(levels) > 1
    )
    for level in levels:
        if isinstance(level, OptimizerWrapper):
            level._before_load()
    restore.commit()
    weights = {key: array for key, (_, array) in parameters.items()}
    if isinstance(optimizer, OptimizerWrapper):
        optimizer._on_loaded(weights)
    restore_rate(levels[-1], innermost)
    if numbers:
        warnings.warn(
            f"{path} was saved with other hyperparameters than this optimizer has. Training "
            f"goes on with those of the file: {', '.join(numbers)}",
            stacklevel=2,
        )


def forget_missing(optimizer: Optimizer, model: ModelT) -> int:
    """Drop what an optimizer keeps about parameters that the model no longer has: moments,
    counts, averages, slow weights, in all wrappers and in the innermost optimizer. It frees
    their memory, and `save_optimizer` refuses them.

    Call it after a layer was replaced or a component was removed in mid-training: spaCy
    replaces the output layer, for instance, when labels are added to a trained component. The
    average of a new layer begins when the layer is first updated.

    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    model (Model | Language): All of the model that it trains: the whole pipeline, not one
        of its components.
    RETURNS (int): How many parameters were dropped.
    RAISES: TypeError if one is not what it should be; ValueError if the optimizer knows
        parameters, but none of this model.
    """
    levels = _levels(optimizer)
    own = set(_parameters_by_key(model))
    known = {key for level in levels for key in _known_keys(level)}
    missing = known - own
    if known and missing == known:
        raise ValueError(
            f"The optimizer knows {len(known)} parameters, but none of them is in this model: "
            "pass the model that it trains"
        )
    _forget(levels, missing)
    return len(missing)


def _forget(levels: list[Optimizer], keys: set[KeyT]) -> None:
    if not keys:
        return
    for level in levels:
        if isinstance(level, OptimizerWrapper):
            level._forget(keys)
        else:
            for name in _fields(level):
                forget_keys(getattr(level, name), keys)


def _known_keys(value: Any) -> Iterator[KeyT]:
    """The parameters that an object has any state of."""
    if isinstance(value, dict):
        yield from (key for key in value if not isinstance(key, str))
        value = [part for part in value.values() if isinstance(part, dict)]
        for part in value:
            yield from _known_keys(part)
    for name in _fields(value):
        yield from _known_keys(getattr(value, name))


# Saving


def _describe_level(
    level: Optimizer,
    path: str,
    names: dict[KeyT, str],
    arrays: dict[str, Array],
) -> dict[str, Any]:
    """One optimizer of the nesting. Its arrays go to `arrays`."""
    description = {
        "class": type(level).__name__,
        "arguments": _arguments(level),
        "state": _describe(level, path, names, arrays),
    }
    if not isinstance(level, OptimizerWrapper):
        description["schedules"] = describe_schedules(level)
    return description


def _describe(
    value: Any,
    path: str,
    names: dict[KeyT, str],
    arrays: dict[str, Array],
) -> Any:
    """A value of the state in JSON. `_Restoring` reads it."""
    fields = _fields(value)
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
            f"{unknown[0]} for one. If the model had them before and has changed, call "
            "forget_missing(optimizer, model) to drop it. If not, the optimizer was trained "
            "with another model"
        )
    if all(isinstance(part, int) for part in value.values()):
        return {"by parameter": {names[key]: part for key, part in value.items()}}
    if all(isinstance(part, float) for part in value.values()):
        return {"numbers": {names[key]: part for key, part in value.items()}}
    arrays.update({f"{path}/{names[key]}": array for key, array in value.items()})
    return {"arrays": {names[key]: f"{path}/{names[key]}" for key in value}}


def _to_numpy(array: Array) -> Array:
    if not isinstance(array, numpy.ndarray):
        array = array.get()
    return numpy.ascontiguousarray(array)


# Loading


def _differences(
    header: dict[str, Any],
    version: int,
    levels: list[Optimizer],
    parameters: dict[KeyT, tuple[str, Array]],
) -> Iterator[str]:
    """In words, what the file and the optimizer and model do not have in common."""
    saved_classes = [saved["class"] for saved in header["optimizers"]]
    classes = [type(level).__name__ for level in levels]
    if saved_classes != classes:
        yield f"it has the optimizers {saved_classes}, outermost first, not {classes}"
        return
    outers = header["optimizers"][:-1]
    for saved, level in zip(header["optimizers"], levels, strict=True):
        fields, saved_fields = set(_fields(level)), set(saved["state"])
        if not isinstance(level, OptimizerWrapper):
            if fields != saved_fields:
                yield f"it is from Thinc {header['thinc']}, not {thinc_version}"
                return
        # What has been added since version 1 is as in a new optimizer.
        elif not saved_fields <= fields or (
            saved_fields != fields and (version > 1 or levels[-1].nr_update)
        ):
            yield (
                f"its state of {saved['class']} has {sorted(saved_fields)}, not "
                f"{sorted(fields)}: it is from another version of thinc_swa"
            )
            return
        arguments = json.loads(json.dumps(_arguments(level), default=float))
        names = set(arguments)
        if isinstance(level, OptimizerWrapper):  # Of Thinc's, older files have more.
            names |= set(saved["arguments"])
        for name in sorted(names):
            before, now = saved["arguments"].get(name), arguments.get(name)
            if before != now:
                yield f"{name} of {saved['class']} was {before}, and is {now}"
        if not isinstance(level, OptimizerWrapper):
            if not has_form_of_schedules(saved["schedules"]):
                yield "its header is damaged: it does not describe the schedules"
                return
            yield from schedule_differences(saved["schedules"], level, _has_own_rate(header))
    # A wrapper may have dropped the averages in mid-training; alone they are a setting.
    before, now = header["optimizers"][-1]["state"]["averages"], levels[-1].averages
    if not outers and (before is None) != (now is None):
        yield f"use_averages was {before is not None}, and is {now is not None}"
    if _has_schedules(levels) and levels[-1].nr_update:
        yield "the optimizer has been trained, and its schedules cannot go back: make a new one"
    before = header["parameters"]
    now = {name: list(array.shape) for name, array in parameters.values()}
    for name in sorted(set(before) | set(now)):
        if name not in now:
            yield f"the model has no parameter {name}"
        elif name not in before:
            yield f"it has nothing about the parameter {name}"
        elif before[name] != now[name]:
            yield f"the shape of {name} was {before[name]}, and is {now[name]}"


def _has_own_rate(header: dict[str, Any]) -> bool:
    """Whether a wrapper has a learning rate of its own."""
    return any("learn_rate" in outer["arguments"] for outer in header["optimizers"][:-1])


def _is_rate_replaced(header: dict[str, Any], levels: list[Optimizer]) -> bool:
    """Whether a wrapper has put its own learning rate in place of the optimizer's, in the file
    or in memory."""
    saved = [outer["state"].get("_learn_rate") for outer in header["optimizers"][:-1]]
    now = [getattr(level, "_learn_rate", None) for level in levels]
    return any(isinstance(rate, dict) and rate.get("_position") for rate in saved) or any(
        rate is not None and rate.has_taken_over for rate in now
    )


class _Restoring:
    """Collects what is to be set, checks it, and sets it when nothing can go wrong any more.

    path (Path): The file, for messages.
    version (int): The version of its format. An object of the state may have a method
        `_upgrade`, which makes its state from that of version 1.
    """

    def __init__(
        self,
        path: Path,
        version: int,
        parameters: dict[KeyT, tuple[str, Array]],
        arrays: dict[str, Array],
    ) -> None:
        self.path = path
        self.version = version
        self.keys = {name: (key, array) for key, (name, array) in parameters.items()}
        self.arrays = arrays
        self.changes: list[Callable[[], None]] = []

    def commit(self) -> None:
        for change in self.changes:
            change()

    def fields(self, owner: Any, saved: dict[str, Any]) -> None:
        """Set the attributes of an object to what `_describe` made of them."""
        for name, value in saved.items():
            current = getattr(owner, name)
            if _fields(current):
                self.check(isinstance(value, dict), name)
                if self.version == 1 and hasattr(current, "_upgrade"):
                    value = current._upgrade(value)
                self.check(set(value) == set(_fields(current)), name)
                self.fields(current, value)
                continue
            value = self.value(name, current, value)
            if isinstance(current, defaultdict):
                value = defaultdict(current.default_factory, value)
            elif name == "_last_score" and value is not None:
                value = tuple(value)
            self.changes.append(partial(setattr, owner, name, value))

    def value(self, name: str, current: Any, saved: Any) -> Any:
        """A value of the state from its description.

        current (Any): The optimizer's own, which has the same form, except that one of the two
            may be None if the value is optional.
        """
        form = OPTIONAL.get(name, current)
        if not isinstance(saved, dict):
            self.check(has_form_of(form, saved, is_optional=name in OPTIONAL), name)
            return saved
        self.check(isinstance(form, dict), name)
        self.check(len(saved) == 1 and all(isinstance(p, dict) for p in saved.values()), name)
        ((kind, parts),) = saved.items()
        if kind == "parts":
            self.check(current is not None and set(parts) == set(current), name)
            return {part: self.value(name, current[part], parts[part]) for part in parts}
        kinds = {"by parameter": int, "numbers": float, "arrays": str}
        self.check(kind in kinds and set(parts) <= set(self.keys), name)
        self.check(all(type(part) is kinds[kind] for part in parts.values()), name)
        if kind != "arrays":
            return {self.keys[place][0]: part for place, part in parts.items()}
        return {self.keys[place][0]: self.array(place, path) for place, path in parts.items()}

    def array(self, place: str, path: str) -> Array:
        """On the device of the parameter."""
        weights = self.keys[place][1]
        array = self.arrays.get(path)
        is_right = array is not None and array.dtype.kind == "f" and array.size == weights.size
        self.check(is_right, f"{path} of the parameter {place}")
        xp = get_array_module(weights)  # type: ignore[no-untyped-call]
        return xp.asarray(array)

    def check(self, condition: bool, name: str) -> None:
        if not condition:
            raise ValueError(
                f"{self.path} is damaged: {name} has another form than in this optimizer"
            )


# Both


def _levels(optimizer: Optimizer) -> list[Optimizer]:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"Not a Thinc Optimizer: {type(optimizer).__name__} {optimizer!r}")
    return unwrap(optimizer)


def _fields(value: Any) -> list[str]:
    """The attributes that make up the state of an object; none for a plain value."""
    fields = [name for cls in type(value).__mro__ for name in cls.__dict__.get("_state", ())]
    if isinstance(value, Optimizer) and not isinstance(value, OptimizerWrapper):
        fields += [name for name in OPTIMIZER_STATE if hasattr(value, name)]
    return fields


def _arguments(level: Any) -> dict[str, Any]:
    """What the optimizer was made with."""
    if isinstance(level, OptimizerWrapper):
        return level._arguments
    return {name: getattr(level, name) for name in ("use_radam", "L2_is_weight_decay")}


def _has_schedules(levels: list[Optimizer]) -> bool:
    return has_schedules(levels[-1]) or any(
        level._has_schedules() for level in levels if isinstance(level, OptimizerWrapper)
    )


def _parameters_by_key(model: ModelT) -> dict[KeyT, tuple[str, Array]]:
    """The place in the model and the weights of every parameter."""
    parameters: dict[KeyT, tuple[str, Array]] = {}
    for name, key, parameter in named_parameters(model):
        parameters.setdefault(key, (name, parameter.get()))
    return parameters
