"""Averages in the place of a model's weights, for a while or for good."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from thinc.api import Optimizer

from ..types import Array
from .parameters import ModelT, Parameter, check_average_shape, named_parameters, swapped


@contextmanager
def use_averages(model: ModelT, optimizer: Optimizer) -> Iterator[None]:
    """A context in which the model has the optimizer's averages for weights. Whatever
    happens inside, it has its own weights back afterwards, down to the last bit.

    The model holds copies: training or assigning weights inside changes neither the averages
    nor the model's own weights. A parameter without an average keeps its weights. As long as
    the optimizer has no averages at all, as before the first step, the model is left as it is.

    A model can be in one such context at a time. A second thread or asynchronous task would
    save averages as the model's own weights.

    model (Model | Language): A Thinc model, with or without PyTorch layers, or a
        spaCy pipeline.
    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    RAISES: TypeError for anything else; ValueError if the optimizer has averages and none
        of them belongs to the model, or if one has another shape than its parameter;
        RuntimeError if a part of the model is in such a context already.
    """
    matches = _match(model, optimizer)
    with _reserved([parameter for parameter, _ in matches]), swapped(matches, copy=True):
        yield


def apply_averages(model: ModelT, optimizer: Optimizer) -> None:
    """Write the optimizer's averages into the model for good: copies, in place. What wrappers
    keep that belongs to the old weights, the slow weights of `Lookahead` for example, is set to
    the averages too. Takes and raises what `use_averages` does."""
    matches = _match(model, optimizer)
    averages = optimizer.averages or {}
    with _reserved([parameter for parameter, _ in matches]):
        for parameter, average in matches:
            parameter.write(average)
    # Of an OptimizerWrapper, whose module imports this one.
    on_overwritten = getattr(optimizer, "_on_overwritten", None)
    if matches and on_overwritten is not None:
        on_overwritten({key for _, key, _ in named_parameters(model)} & averages.keys())


# The parameters that are in `use_averages` now.
_in_use: set[Hashable] = set()
_in_use_lock = threading.Lock()


@contextmanager
def _reserved(parameters: list[Parameter]) -> Iterator[None]:
    """A context that parameters can be in only once at a time."""
    places = {parameter.place for parameter in parameters}
    with _in_use_lock:
        if places & _in_use:
            raise RuntimeError(
                "The model is in use_averages() already, here or in another thread or "
                "asynchronous task: leave that context first"
            )
        _in_use.update(places)
    try:
        yield
    finally:
        with _in_use_lock:
            _in_use.difference_update(places)


def _match(model: ModelT, optimizer: Optimizer) -> list[tuple[Parameter, Array]]:
    """The parameters of the model that have an average, each with it."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"Averages come from a Thinc Optimizer, but got {type(optimizer).__name__}"
        )
    averages = optimizer.averages or {}
    matches: list[tuple[Parameter, Array]] = []
    for _, key, parameter in named_parameters(model):
        if key in averages:
            check_average_shape(key, parameter, averages[key])
            matches.append((parameter, averages[key]))
    if averages and not matches:
        raise ValueError(
            f"The optimizer has averages of {len(averages)} parameters, but none of them "
            "belongs to this model: was it trained with another optimizer?"
        )
    return matches
