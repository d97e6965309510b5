"""Use of averages as the weights of a model, temporarily or permanently."""

import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager

from thinc.api import Optimizer

from ..types import Array, KeyT
from .parameters import ModelT, Parameter, check_average_shape, named_parameters, swapped


@contextmanager
def use_averages(model: ModelT, optimizer: Optimizer | Mapping[KeyT, Array]) -> Iterator[None]:
    """A context in which the model's weights are the optimizer's averages. Afterwards the
    original weights are restored bit for bit, also after an exception.

    The model gets copies of the averages, so changes of weights inside the context affect
    neither the averages nor the original weights. A parameter without an average keeps its
    weights. If the optimizer has no averages, for example before the first step, nothing is
    changed.

    A model can be in only one such context at a time, because a second one would save averages
    as the original weights.

    model (Model | Language): A Thinc model, which may have PyTorch layers, or a pipeline.
    optimizer (Optimizer | Mapping[KeyT, FloatsXd]): Any Thinc optimizer, wrapped or not, or
        averages by parameter, such as those of `all_averages` or `reconstruct_average`.
    RAISES: TypeError if an argument has the wrong type; ValueError if the optimizer has
        averages but none of them belongs to the model, or if the shapes of an average and its
        parameter differ; RuntimeError if a part of the model is in such a context already.
    """
    matches = _match(model, optimizer)
    with _reserved([parameter for parameter, _ in matches]), swapped(matches, copy=True):
        yield


def apply_averages(model: ModelT, optimizer: Optimizer | Mapping[KeyT, Array]) -> None:
    """Copy the optimizer's averages into the model's weights, in place. State of the wrappers
    that belongs to the old weights, such as the slow weights of `Lookahead`, is set to the
    averages too. A parameter without an average keeps its weights.

    model (Model | Language): A Thinc model, which may have PyTorch layers, or a pipeline.
    optimizer (Optimizer | Mapping[KeyT, FloatsXd]): Any Thinc optimizer, wrapped or not, or
        averages by parameter, such as those of `all_averages` or `reconstruct_average`.
    RAISES: TypeError if an argument has the wrong type; ValueError if the optimizer has
        averages but none of them belongs to the model, or if the shapes of an average and its
        parameter differ; RuntimeError if a part of the model is in `use_averages`.
    """
    matches = _match(model, optimizer)
    averages = _averages_of(optimizer)
    with _reserved([parameter for parameter, _ in matches]):
        for parameter, average in matches:
            parameter.write(average)
    # A method of OptimizerWrapper, which cannot be imported here: its module imports this one.
    on_overwritten = getattr(optimizer, "_on_overwritten", None)
    if matches and on_overwritten is not None:
        on_overwritten({key for _, key, _ in named_parameters(model)} & averages.keys())


# The identities of the parameters that are in `use_averages` now.
_in_use: set[Hashable] = set()
_in_use_lock = threading.Lock()


@contextmanager
def _reserved(parameters: list[Parameter]) -> Iterator[None]:
    """A context that a parameter can be in only once at a time.

    RAISES: RuntimeError if one of the parameters is in such a context already.
    """
    identities = {parameter.identity for parameter in parameters}
    with _in_use_lock:
        if identities & _in_use:
            raise RuntimeError(
                "The model is in use_averages() already, possibly in another thread or "
                "asynchronous task: leave that context first"
            )
        _in_use.update(identities)
    try:
        yield
    finally:
        with _in_use_lock:
            _in_use.difference_update(identities)


def _averages_of(optimizer: Optimizer | Mapping[KeyT, Array]) -> Mapping[KeyT, Array]:
    if isinstance(optimizer, Mapping):
        return optimizer
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "Averages are taken from a Thinc Optimizer or from a dict by parameter, but got "
            f"{type(optimizer).__name__}"
        )
    averages: Mapping[KeyT, Array] = optimizer.averages or {}
    return averages


def _match(
    model: ModelT, optimizer: Optimizer | Mapping[KeyT, Array]
) -> list[tuple[Parameter, Array]]:
    """The parameters of the model that have an average, and their averages."""
    averages = _averages_of(optimizer)
    matches: list[tuple[Parameter, Array]] = []
    for _, key, parameter in named_parameters(model):
        if key in averages:
            check_average_shape(key, parameter, averages[key])
            matches.append((parameter, averages[key]))
    if averages and not matches:
        raise ValueError(
            f"There are averages of {len(averages)} parameters, but none of them belongs to "
            "this model: pass the model that the optimizer trains"
        )
    return matches
