"""Saving and loading of optimizer state: resumed training is bit-identical to training without
interruption.

A state file is a safetensors file: arrays, and a header in JSON. Loading executes no code.
Parameters are saved under their places in the model, since Thinc's ids differ between
processes.
"""

import warnings
from functools import partial
from pathlib import Path

import numpy
from thinc.about import __version__ as thinc_version
from thinc.api import Optimizer

from ..models.grad_scalers import get_scaler_states, scaler_differences, set_scaler_states
from ..models.parameter_paths import removed_parameters
from ..models.parameters import ModelT
from ..optimizers.base import OptimizerWrapper
from ..types import Array
from .removed_parameters import drop_state
from .schedule_state import number_differences, restore_rate, restore_schedules
from .state_checks import has_form, upgrade_names
from .state_description import describe_levels
from .state_differences import find_differences, is_rate_replaced
from .state_fields import nested_optimizers, parameters_by_key
from .state_file import StateReader, write_state
from .state_restorer import StateRestorer


def save_optimizer(path: str | Path, optimizer: Optimizer, model: ModelT) -> None:
    """Save the whole state of an optimizer to a safetensors file: moments, update counts,
    averages, slow weights, and the positions of schedules. The state of the gradient scalers of
    PyTorch layers in mixed precision is included, the weights of the model are not.

    State of parameters that the model no longer has is dropped if the model had them when
    `register_parameter_paths` was called. Otherwise call `forget_missing` after the model has
    changed.

    The write is atomic: after a crash the file has its old or its new content.

    path (str | Path): The file, in an existing folder.
    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    model (Model | Language): The Thinc model or spaCy pipeline that the optimizer trains.
    RAISES: TypeError if an argument has the wrong type; ValueError if the optimizer has state
        of parameters that are not in the model, or, on Thinc 8.3, if the position of a custom
        generator is not known; OSError if the file cannot be written.
    """
    path = Path(path)
    parameters = parameters_by_key(model)
    levels = nested_optimizers(optimizer)
    drop_state(levels, removed_parameters(model))
    descriptions, arrays = describe_levels(
        levels, {key: name for key, (name, _) in parameters.items()}
    )
    header = {
        "thinc": thinc_version,
        "parameters": {name: list(array.shape) for name, array in parameters.values()},
        "optimizers": descriptions,
    }
    scalers = get_scaler_states(model)
    if scalers:
        header["grad_scalers"] = scalers
    write_state(path, header, {name: _to_numpy(array) for name, array in arrays.items()})


def load_optimizer(path: str | Path, optimizer: Optimizer, model: ModelT) -> None:
    """Load the state that `save_optimizer` has saved. Resumed training is bit-identical to
    training without interruption.

    Wrappers, their arguments and the schedules of all hyperparameters must equal those of the
    saved optimizer. Hyperparameters that are numbers are part of the state, as in PyTorch:
    `learn_rate`, `L2`, `b1`, `b2`, `eps` and `grad_clip` may have been changed during training,
    so the saved numbers replace those of the optimizer. A warning lists the numbers that
    differ, except for a `learn_rate` that a wrapper has replaced. To continue with other
    numbers, set them after loading.

    The gradient scalers of PyTorch layers in mixed precision get their saved state too.

    path (str | Path): The file.
    optimizer (Optimizer): An optimizer made with the same arguments as the saved one, for
        example from the same config. Its state is replaced. If it has schedules, it must be
        new, because schedules cannot be rewound.
    model (Model | Language): The model, with the weights at the time of saving.
    RAISES: TypeError if an argument has the wrong type; OSError if the file cannot be read;
        ValueError if the file is not a state file, is damaged, or does not fit, with a list of
        the differences. The optimizer is unchanged after an error.
    """
    path = Path(path)
    parameters = parameters_by_key(model)
    levels = nested_optimizers(optimizer)
    # Unbuffered: arrays are large, and read once.
    with path.open("rb", buffering=0) as file:
        reader = StateReader(path, file)
        header = reader.header
        if not has_form(header):
            raise ValueError(f"{path} is damaged: its header does not describe a state")
        if reader.version < 3:
            upgrade_names(header)
        scalers = header.get("grad_scalers", {})
        differences = list(find_differences(header, reader.version, levels, parameters))
        differences += scaler_differences(model, scalers)
        if differences:
            raise ValueError(
                f"{path} does not fit this optimizer and this model:\n- "
                + "\n- ".join(differences)
            )
        arrays = reader.read_arrays()
    saved_levels = header["optimizers"]
    schedules = saved_levels[-1]["schedules"]
    numbers = list(number_differences(schedules, levels[-1], is_rate_replaced(header, levels)))
    restorer = StateRestorer(path, reader.version, parameters, arrays)
    for level, saved in zip(levels, saved_levels, strict=True):
        restorer.add_fields(level, saved["state"])
    restorer.changes += restore_schedules(
        levels[-1], schedules, header.get("n_calls", 0), is_counted=len(levels) > 1
    )
    restorer.changes.append(partial(set_scaler_states, model, scalers))
    for level in levels:
        if isinstance(level, OptimizerWrapper):
            level._before_load()
    restorer.commit()
    weights = {key: array for key, (_, array) in parameters.items()}
    if isinstance(optimizer, OptimizerWrapper):
        optimizer._on_loaded(weights)
    restore_rate(levels[-1], schedules)
    if numbers:
        warnings.warn(
            f"{path} has other hyperparameters than this optimizer. Training continues with "
            f"those of the file: {', '.join(numbers)}",
            stacklevel=2,
        )


def _to_numpy(array: Array) -> Array:
    if not isinstance(array, numpy.ndarray):
        array = array.get()
    return numpy.ascontiguousarray(array)
