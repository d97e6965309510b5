"""Penalties on the activations of a layer, which add to the gradient."""

from collections.abc import Callable
from typing import Any

from thinc.api import Model
from thinc.types import Padded, Ragged

from ..types import Array
from ..validation import check_number


def activation_penalty(
    layer: Model[Any, Any], *, ar: Any | float = 0.0, tar: Any | float = 0.0
) -> Model[Any, Any]:
    """`activation_penalty.v1`: activation regularization and temporal activation regularization
    of the outputs of a layer (Merity et al. 2018, arXiv:1708.02182, section 4.6).

    In training it adds the gradient of `ar`·mean(h²) + `tar`·mean((hₜ₊₁ − hₜ)²) to the gradient
    of the outputs h. The means are over all numbers of the batch, as in the authors' code. The
    paper's loss has the L2 norm of h after dropout for the first term, and before dropout for
    the second: wrap the dropout layer for one and the layer inside it for the other. The loss
    that a training reports does not contain the penalty, and predictions do not change.

    layer (Model): The layer. Its outputs are float arrays, the rows of which are the steps of a
        sequence for `tar`; lists of such arrays, with a sequence each; `Ragged`, with a
        sequence for each length; or `Padded`.
    ar (float): The weight of the penalty on large activations, >= 0.
    tar (float): The weight of the penalty on changes from one step to the next, >= 0.
    RETURNS (Model): A layer with the same inputs and outputs.
    RAISES: ValueError if a weight is not as described, or if both are 0.
    """
    attrs = {
        "ar": check_number("ar", ar, minimum=0.0),
        "tar": check_number("tar", tar, minimum=0.0),
    }
    if not any(attrs.values()):
        raise ValueError("ar or tar must be greater than 0, but both were 0")
    return Model(
        f"activation_penalty({layer.name})",
        _forward,
        init=_initialize,
        layers=[layer],
        attrs=attrs,
        dims={
            name: layer.maybe_get_dim(name)
            for name in ("nI", "nO")
            if layer.has_dim(name) is not False
        },
    )


def _initialize(model: Model[Any, Any], X: Any = None, Y: Any = None) -> None:
    layer = model.layers[0]
    layer.initialize(X=X, Y=Y)
    for name in model.dim_names:
        if layer.has_dim(name):
            model.set_dim(name, layer.get_dim(name))


def _forward(
    model: Model[Any, Any], X: Any, is_train: bool
) -> tuple[Any, Callable[[Any], Any]]:
    outputs, backprop = model.layers[0](X, is_train)
    if not is_train:
        return outputs, backprop
    penalties = penalty_gradients(
        sequences_of(outputs), ar=model.attrs["ar"], tar=model.attrs["tar"]
    )

    def backprop_with_penalty(gradient: Any) -> Any:
        # Other layers may use the same array.
        gradient = _copy(gradient)
        for part, penalty in zip(sequences_of(gradient), penalties, strict=True):
            part += penalty
        return backprop(gradient)

    return outputs, backprop_with_penalty


def _copy(data: Any) -> Any:
    if isinstance(data, Ragged):
        return Ragged(data.data.copy(), data.lengths)
    if isinstance(data, Padded):
        return Padded(data.data.copy(), data.size_at_t, data.lengths, data.indices)
    if isinstance(data, (list, tuple)):
        return type(data)([part.copy() for part in data])
    return data.copy()


def sequences_of(outputs: Any) -> list[Array]:
    """Sequences of outputs or gradients: views of their arrays, whose first axis is the step.

    outputs (FloatsXd | list[FloatsXd] | Ragged | Padded): The outputs of a layer.
    RAISES: TypeError for another type.
    """
    if isinstance(outputs, Ragged):
        ends = [int(end) for end in outputs.lengths.cumsum()]
        return [outputs.dataXd[s:e] for s, e in zip([0, *ends], ends, strict=False)]
    if isinstance(outputs, Padded):
        # (step, sequence, width), the longest sequence first.
        lengths = [int(length) for length in outputs.lengths]
        return [outputs.data[:length, i] for i, length in enumerate(lengths)]
    if isinstance(outputs, (list, tuple)):
        return list(outputs)
    if hasattr(outputs, "dtype") and outputs.dtype.kind == "f":
        return [outputs]
    raise TypeError(
        "activation_penalty needs outputs that are float arrays, lists of them, Ragged or "
        f"Padded, but got {type(outputs).__name__}"
    )


def penalty_gradients(sequences: list[Array], *, ar: float, tar: float) -> list[Array]:
    """Gradients of the penalties on activations.

    sequences (list[FloatsXd]): The activations.
    ar (float): See `activation_penalty`.
    tar (float): See `activation_penalty`.
    RETURNS (list[FloatsXd]): Arrays of the same shapes.
    """
    n_values = max(sum(sequence.size for sequence in sequences), 1)
    differences = [sequence[1:] - sequence[:-1] for sequence in sequences]
    n_differences = sum(difference.size for difference in differences)
    gradients = []
    for sequence, difference in zip(sequences, differences, strict=True):
        gradient: Any = sequence * (2.0 * ar / n_values)
        if tar and n_differences:
            change = (2.0 * tar / n_differences) * difference
            gradient[1:] += change
            gradient[:-1] -= change
        gradients.append(gradient)
    return gradients
