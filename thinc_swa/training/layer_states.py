"""Layers with state between batches, such as the hidden state of an LSTM that reads a long
text.

A layer of Thinc has its state in `attrs["state"]`, and in `attrs["reset"]` the function that
resets it, which is called with the layer. A PyTorch module in a `PyTorchWrapper` has an
attribute `state` and a method `reset()`, which takes care of the modules inside it too.

States are None, numbers, strings, arrays, tensors, and lists, tuples and dicts of these.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import thinc.compat
from thinc.api import Model

from ..models.parameters import ModelT, named_nodes, pytorch_shims
from ..serialization.state_file import DTYPES, FileKind, StateReader, write_state

torch: Any = thinc.compat.torch
cupy: Any = thinc.compat.cupy if thinc.compat.has_cupy else None

KIND = FileKind("thinc_swa layer states", (1,), "a file of layer states", "save_checkpoint")


class _NodeState:
    """State of a layer of Thinc."""

    def __init__(self, node: Model[Any, Any]) -> None:
        self._node = node
        self.name = f"layer {node.name!r}"

    def check(self) -> None:
        """RAISES: TypeError or ValueError if it cannot be reset."""
        if not callable(self._node.attrs["reset"]):
            raise TypeError(
                f'attrs["reset"] of {self.name} must be a function that resets the layer, but '
                f"was {self._node.attrs['reset']!r}"
            )
        if not self.is_complete:
            raise ValueError(
                f'{self.name} has attrs["reset"], but no attrs["state"], where its state must '
                "be to be saved and restored"
            )

    @property
    def is_complete(self) -> bool:
        return callable(self._node.attrs["reset"]) and "state" in self._node.attrs

    def reset(self) -> None:
        self._node.attrs["reset"](self._node)

    def get(self) -> Any:
        return self._node.attrs["state"]

    def set(self, state: Any) -> None:
        self._node.attrs["state"] = state

    def convert(self, array: Any) -> Any:
        """A NumPy array as an array of the device of the layer."""
        return self._node.ops.asarray(array)


class _ModuleState:
    """State of a PyTorch module."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.name = f"PyTorch module {type(module).__name__!r}"

    def check(self) -> None:
        """RAISES: ValueError if its state is not known."""
        if not self.is_complete:
            raise ValueError(
                f"The {self.name} has a method reset(), but no attribute `state`, where its "
                "state must be to be saved and restored"
            )

    @property
    def is_complete(self) -> bool:
        return hasattr(self._module, "state")

    def reset(self) -> None:
        self._module.reset()

    def get(self) -> Any:
        return self._module.state

    def set(self, state: Any) -> None:
        self._module.state = state

    def convert(self, array: Any) -> Any:
        return array


def _find(model: ModelT) -> Iterator[_NodeState | _ModuleState]:
    """Layers that can be reset, in an order that is the same in every process."""
    for _, node in named_nodes(model):
        if "reset" in node.attrs:
            yield _NodeState(node)
        for _, shim in pytorch_shims(node):
            if shim._model is not None:
                yield from _find_modules(shim._model)


def _find_modules(module: Any) -> Iterator[_ModuleState]:
    if callable(getattr(module, "reset", None)):
        yield _ModuleState(module)
        return
    for child in module.children():
        yield from _find_modules(child)


def _layers(model: ModelT) -> list[_NodeState | _ModuleState]:
    return [layer for layer in _find(model) if layer.is_complete]


def check_layer_states(model: ModelT) -> list[str]:
    """Check the layers of a model that have a state between batches.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    RETURNS (list[str]): Their names, each once, for messages.
    RAISES: ValueError if a layer can be reset, but has no state that can be saved; TypeError if
        what should reset it is not a function.
    """
    layers = list(_find(model))
    for layer in layers:
        layer.check()
    return list(dict.fromkeys(layer.name for layer in layers))


def reset_layers(model: ModelT) -> None:
    """Reset all layers with state between batches. The next batch begins with the initial
    states.

    model (Model | Language): A Thinc model or a spaCy pipeline. Without such layers nothing
        changes.
    """
    for layer in _layers(model):
        layer.reset()


@contextmanager
def initial_layer_states(model: ModelT) -> Iterator[None]:
    """Context manager in which all layers begin with their initial states. At its end they have
    the states from before, bit for bit.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    """
    layers = _layers(model)
    states = [_copy(layer, layer.get()) for layer in layers]
    try:
        for layer in layers:
            layer.reset()
        yield
    finally:
        for layer, state in zip(layers, states, strict=True):
            layer.set(state)


def save_layer_states(path: Path, model: ModelT) -> None:
    """Save the states of all layers to a file. Without such layers there is none.

    path (Path): The file, in an existing folder.
    model (Model | Language): A Thinc model or a spaCy pipeline.
    RAISES: TypeError if a state has a value that cannot be saved; OSError if the file cannot be
        written.
    """
    layers = _layers(model)
    if layers:
        arrays: dict[str, Any] = {}
        states = [_to_json(layer, layer.get(), arrays) for layer in layers]
        write_state(path, {"states": states}, arrays, KIND)


def load_layer_states(path: Path, model: ModelT) -> None:
    """Restore the states of all layers from a file of `save_layer_states`. Without such layers
    it is not read.

    path (Path): The file.
    model (Model | Language): The model whose states were saved.
    RAISES: ValueError if the file is damaged, or has the states of other layers; OSError if it
        cannot be read.
    """
    layers = _layers(model)
    if not layers:
        return
    with path.open("rb", buffering=0) as file:
        reader = StateReader(path, file, KIND)
        states, arrays = reader.header["states"], reader.read_arrays()
    if len(states) != len(layers):
        raise ValueError(
            f"{path} has the states of {len(states)} layers, but the model has {len(layers)} "
            "layers with state"
        )
    for layer, state in zip(layers, states, strict=True):
        layer.set(_from_json(layer, state, arrays))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_tensor(value: Any) -> bool:
    return torch is not None and isinstance(value, torch.Tensor)


def _is_array(value: Any) -> bool:
    """Whether a value is a NumPy or CuPy array whose numbers can be saved."""
    is_array = isinstance(value, numpy.ndarray) or (
        cupy is not None and isinstance(value, cupy.ndarray)
    )
    return is_array and value.dtype.name in DTYPES.values()


def _unknown(layer: _NodeState | _ModuleState, value: Any) -> TypeError:
    what = f"an array of {value.dtype}" if hasattr(value, "dtype") else repr(value)
    return TypeError(
        f"The state of {layer.name} must consist of None, numbers, strings, arrays, tensors, "
        f"and lists, tuples and dicts of these, but has {what}"
    )


def _copy(layer: _NodeState | _ModuleState, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        items = [_copy(layer, item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {key: _copy(layer, item) for key, item in value.items()}
    if _is_plain(value):
        return value
    if _is_tensor(value):
        return value.detach().clone()
    if _is_array(value):
        return value.copy()
    raise _unknown(layer, value)


def _to_json(layer: _NodeState | _ModuleState, value: Any, arrays: dict[str, Any]) -> Any:
    """A state as JSON values.

    arrays (dict[str, Any]): Gets its arrays by their names in the result.
    """
    if isinstance(value, (list, tuple)):
        items = [_to_json(layer, item, arrays) for item in value]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, dict):
        items = [[_to_json(layer, item, arrays) for item in pair] for pair in value.items()]
        return {"dict": items}
    if _is_plain(value):
        return {"value": value}
    name = str(len(arrays))
    if _is_tensor(value):
        flat = value.detach().cpu().contiguous().reshape(-1)
        # As bytes: NumPy does not have all types of PyTorch.
        arrays[name] = flat.view(torch.uint8).numpy().copy()
        dtype = str(value.dtype).removeprefix("torch.")
        return {"tensor": [name, dtype, list(value.shape), str(value.device)]}
    if _is_array(value):
        array = value.get() if hasattr(value, "get") else value
        arrays[name] = numpy.array(array, order="C")
        return {"array": name}
    raise _unknown(layer, value)


def _from_json(layer: _NodeState | _ModuleState, saved: Any, arrays: dict[str, Any]) -> Any:
    [(kind, value)] = saved.items()
    if kind in ("list", "tuple"):
        items = [_from_json(layer, item, arrays) for item in value]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {
            _from_json(layer, key, arrays): _from_json(layer, item, arrays)
            for key, item in value
        }
    if kind == "tensor":
        name, dtype, shape, device = value
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        tensor.reshape(-1).view(torch.uint8).copy_(torch.from_numpy(arrays[name]))
        return tensor.to(device)
    return layer.convert(arrays[value]) if kind == "array" else value
