"""The parameters of Thinc models, wrapped PyTorch models and spaCy pipelines."""

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from thinc.api import Model, PyTorchShim, torch2xp, xp2torch

from ..types import Array, KeyT

# Model | Language; spaCy is an optional dependency.
ModelT = Any


class NodeParameter:
    """A parameter of a Thinc node."""

    def __init__(self, node: Model[Any, Any], name: str) -> None:
        self.node = node
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.get().shape)

    def get(self) -> Array:
        return self.node.get_param(self.name)

    @property
    def place(self) -> Hashable:
        """The same for the same parameter of the same model."""
        return "node", id(self.node), self.name

    def swap(self, array: Array, *, copy: bool) -> Callable[[], None]:
        """Use another array, or a copy of it. RETURNS (Callable): Undoes it."""
        own = self.get()
        self.node.set_param(self.name, array.astype(own.dtype, copy=copy))
        return lambda: self.node.set_param(self.name, own)

    def write(self, array: Array) -> None:
        self.get()[...] = array


class TorchParameter:
    """A parameter of a PyTorch module. Gradient and requires_grad stay with it."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def get(self) -> Array:
        """In the parameter's own memory."""
        return torch2xp(self.tensor.data)

    @property
    def place(self) -> Hashable:
        return "tensor", id(self.tensor)

    def swap(self, array: Array, *, copy: bool) -> Callable[[], None]:
        own = self.tensor.data
        tensor = self._convert(array)
        self.tensor.data = tensor.clone() if copy else tensor

        def restore() -> None:
            self.tensor.data = own

        return restore

    def write(self, array: Array) -> None:
        self.tensor.data.copy_(self._convert(array))

    def _convert(self, array: Array) -> Any:
        # Shares the memory of the array where device and dtype allow it.
        return xp2torch(array, device=self.tensor.device).to(self.tensor.dtype)


Parameter = NodeParameter | TorchParameter


@contextmanager
def swapped(swaps: Iterable[tuple[Parameter, Array]], *, copy: bool = False) -> Iterator[None]:
    # Undone last first: what stands in two places, as a layer that two components of a
    # pipeline share, has its own weights at the end.
    with ExitStack() as stack:
        for parameter, array in swaps:
            stack.callback(parameter.swap(array, copy=copy))
        yield


def check_average_shape(key: Any, parameter: Parameter, array: Array) -> None:
    if tuple(array.shape) != parameter.shape:
        raise ValueError(
            f"Parameter {key} has the shape {parameter.shape}, but its average has the shape "
            f"{tuple(array.shape)}"
        )


def named_parameters(model: ModelT) -> Iterator[tuple[str, KeyT, "Parameter"]]:
    """The parameters of a model under their places in it, which are the same in every
    process: the position of the node and the name, with the component's name before it in
    a pipeline, and the position of the shim in between for PyTorch layers."""
    for component, root in component_models(model):
        prefix = f"{component}/" if component else ""
        for position, node in enumerate(root.walk()):
            for name in node.param_names:
                if node.has_param(name):
                    yield (
                        f"{prefix}{position}/{name}",
                        (node.id, name),
                        NodeParameter(node, name),
                    )
            for shim_position, shim in enumerate(node.shims):
                if isinstance(shim, PyTorchShim) and shim._model is not None:
                    place = f"{prefix}{position}/{shim_position}"
                    for name, tensor in shim._model.named_parameters():
                        yield f"{place}/{name}", (shim.id, name), TorchParameter(tensor)


def component_models(model: ModelT) -> list[tuple[str, Model[Any, Any]]]:
    """The Thinc models of a model, each with its component's name in a pipeline, which is
    empty for a Thinc model."""
    if isinstance(model, Model):
        return [("", model)]
    if is_language(model):
        return [
            (name, component.model)
            for name, component in model.components
            if isinstance(getattr(component, "model", None), Model)
        ]
    raise TypeError(f"Not a Thinc Model or a spaCy Language: {type(model).__name__} {model!r}")


def is_language(model: Any) -> bool:
    # Who has a Language has imported spaCy.
    language = sys.modules.get("spacy.language")
    return language is not None and isinstance(model, language.Language)
