"""Gradient scalers of PyTorch layers in mixed precision."""

from collections.abc import Iterator
from typing import Any

from thinc.api import PyTorchGradScaler

from .parameters import ModelT, named_shims

# The state of a scaler, by its place in the model.
ScalerStates = dict[str, dict[str, float]]


def get_scaler_states(model: ModelT) -> ScalerStates:
    """Read the state of all gradient scalers that are enabled. Thinc saves it neither with the
    model nor with the optimizer, and training depends on it: a scaler that begins again with
    its first scale skips steps.

    model (Model | Language): A Thinc model or a spaCy pipeline, between two steps.
    RETURNS (ScalerStates): The scale and the number of steps since it has changed, by the place
        of the layer in the model; empty without mixed precision.
    """
    return {
        place: {
            "scale": float(scaler._scale.item()),
            "growth_tracker": int(scaler._growth_tracker.item()),
        }
        for place, scaler in _enabled_scalers(model)
    }


def set_scaler_states(model: ModelT, states: ScalerStates) -> None:
    """Restore the state of gradient scalers.

    model (Model | Language): The model, or one made in the same way.
    states (ScalerStates): As `get_scaler_states` returned it.
    """
    for place, scaler in _enabled_scalers(model):
        scaler._scale.fill_(states[place]["scale"])
        scaler._growth_tracker.fill_(int(states[place]["growth_tracker"]))
        scaler._found_inf = False


def scaler_differences(model: ModelT, states: ScalerStates) -> Iterator[str]:
    """List in words why the states of gradient scalers do not fit a model.

    states (ScalerStates): As `get_scaler_states` returned it.
    RETURNS (Iterator[str]): One sentence per difference; nothing if they fit.
    """
    places = {place for place, _ in _enabled_scalers(model)}
    for place in sorted(places | states.keys()):
        if place not in states:
            yield f"it has no state of the gradient scaler of the PyTorch layer {place}"
        elif place not in places:
            yield (
                f"the PyTorch layer {place} had a gradient scaler, and has none that is enabled"
            )


def are_scaler_states(value: Any) -> bool:
    """Whether a value has the form that `get_scaler_states` returns."""
    return isinstance(value, dict) and all(
        isinstance(state, dict)
        and state.keys() == {"scale", "growth_tracker"}
        and type(state["scale"]) is float
        and type(state["growth_tracker"]) is int
        for state in value.values()
    )


def _enabled_scalers(model: ModelT) -> Iterator[tuple[str, PyTorchGradScaler]]:
    for place, shim in named_shims(model):
        if shim._grad_scaler._enabled:
            yield place, shim._grad_scaler
