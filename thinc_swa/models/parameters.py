"""The parameters of Thinc models, wrapped PyTorch models and spaCy pipelines."""

import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from thinc.api import Model, PyTorchShim, torch2xp, xp2torch

from ..types import Array, KeyT

# Model | Language. spaCy is an optional dependency.
ModelT = Any
NUMPY_TYPES = ("torch.float16", "torch.float32", "torch.float64")


class NodeParameter:
    """A parameter of a Thinc node."""

    def __init__(self, node: Model[Any, Any], name: str) -> None:
        self.node = node
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.get().shape)

    def get(self) -> Array:
        """The weights, not a copy."""
        return self.node.get_param(self.name)

    @property
    def identity(self) -> Hashable:
        """A value that is equal for the same parameter of the same model only."""
        return "node", id(self.node), self.name

    def swap(self, array: Array, *, copy: bool) -> Callable[[], None]:
        """Replace the weights by another array or by a copy of it.

        array (Array): The new weights, of the same shape.
        copy (bool): Whether to copy the array.
        RETURNS (Callable): Restores the original weights.
        """
        own = self.get()
        self.node.set_param(self.name, array.astype(own.dtype, copy=copy))
        return lambda: self.node.set_param(self.name, own)

    def write(self, array: Array) -> None:
        """Copy an array into the weights, in place."""
        self.get()[...] = array


class TorchParameter:
    """A parameter of a PyTorch module. Its gradient and `requires_grad` are not changed."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def get(self) -> Array:
        """The weights as an array that shares the memory of the parameter. Those of a type that
        NumPy does not have, such as bfloat16, are a float32 copy."""
        tensor = self.tensor.data
        return torch2xp(tensor if has_numpy_type(tensor) else tensor.float())

    @property
    def identity(self) -> Hashable:
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
        # The tensor shares the memory of the array if their device and dtype are the same.
        return xp2torch(array, device=self.tensor.device).to(self.tensor.dtype)


def has_numpy_type(tensor: Any) -> bool:
    """Whether NumPy has the type of a PyTorch tensor, so that Thinc can pass it to an
    optimizer. It has no bfloat16."""
    return not tensor.is_floating_point() or str(tensor.dtype) in NUMPY_TYPES


Parameter = NodeParameter | TorchParameter


@contextmanager
def swapped(swaps: Iterable[tuple[Parameter, Array]], *, copy: bool = False) -> Iterator[None]:
    """A context in which parameters have other weights.

    swaps (Iterable[tuple[Parameter, Array]]): The parameters and their weights inside.
    copy (bool): Whether to copy the arrays.
    """
    # Weights are restored in reverse order, because a parameter may occur twice: for example,
    # two components of a pipeline may share a layer.
    with ExitStack() as stack:
        for parameter, array in swaps:
            stack.callback(parameter.swap(array, copy=copy))
        yield


def check_average_shape(key: Any, parameter: Parameter, array: Array) -> None:
    """RAISES: ValueError if an average and its parameter have different shapes."""
    if tuple(array.shape) != parameter.shape:
        raise ValueError(
            f"Parameter {key} has the shape {parameter.shape}, but its average has the shape "
            f"{tuple(array.shape)}"
        )


def named_parameters(
    model: ModelT, *, exclude: Collection[str] = ()
) -> Iterator[tuple[str, KeyT, "Parameter"]]:
    """List the parameters of a model with names that are the same in every process.

    A name consists of the name of the node, or of the shim for PyTorch layers, and the
    parameter's name. See `named_nodes` and `named_shims`.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    exclude (Collection[str]): Names of pipeline components to leave out.
    RETURNS (Iterator[tuple[str, KeyT, Parameter]]): The name, key and parameter of each. A
        parameter in two places occurs twice.
    RAISES: TypeError if the model has the wrong type.
    """
    for place, node in named_nodes(model, exclude=exclude):
        for name in node.param_names:
            if node.has_param(name):
                yield f"{place}/{name}", (node.id, name), NodeParameter(node, name)
        for position, shim in pytorch_shims(node):
            if shim._model is not None:
                for name, tensor in shim._model.named_parameters():
                    key = (shim.id, name)
                    yield f"{place}/{position}/{name}", key, TorchParameter(tensor)


def named_shims(
    model: ModelT, *, exclude: Collection[str] = ()
) -> Iterator[tuple[str, PyTorchShim]]:
    """List the PyTorch shims of a model with names that are the same in every process.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    exclude (Collection[str]): Names of pipeline components to leave out.
    RETURNS (Iterator[tuple[str, PyTorchShim]]): The name and shim of each, also of those that
        have no module yet. A name consists of the name of the node (see `named_nodes`) and the
        position in `node.shims`.
    RAISES: TypeError if the model has the wrong type.
    """
    for place, node in named_nodes(model, exclude=exclude):
        for position, shim in pytorch_shims(node):
            yield f"{place}/{position}", shim


def pytorch_shims(node: Model[Any, Any]) -> Iterator[tuple[int, PyTorchShim]]:
    """List the PyTorch shims of a node, with their positions in `node.shims`."""
    for position, shim in enumerate(node.shims):
        if isinstance(shim, PyTorchShim):
            yield position, shim


def named_nodes(
    model: ModelT, *, exclude: Collection[str] = ()
) -> Iterator[tuple[str, Model[Any, Any]]]:
    """List the nodes of a model with names that are the same in every process.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    exclude (Collection[str]): Names of pipeline components to leave out.
    RETURNS (Iterator[tuple[str, Model]]): The name and node of each. A name consists of the
        component's name in a pipeline and the position in `model.walk()`. A node in two
        components occurs twice.
    RAISES: TypeError if the model has the wrong type.
    """
    for component, root in component_models(model, exclude=exclude):
        prefix = f"{component}/" if component else ""
        for position, node in enumerate(root.walk()):
            yield f"{prefix}{position}", node


def component_models(
    model: ModelT, *, exclude: Collection[str] = ()
) -> list[tuple[str, Model[Any, Any]]]:
    """List the Thinc models of a pipeline, or a single Thinc model.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    exclude (Collection[str]): Names of components to leave out.
    RETURNS (list[tuple[str, Model]]): The component's name and its Thinc model, for each
        component that has one, disabled ones included. The name is empty for a Thinc model.
    RAISES: TypeError if the model has the wrong type.
    """
    if isinstance(model, Model):
        return [("", model)]
    if is_language(model):
        return [
            (name, component.model)
            for name, component in model.components
            if name not in exclude and isinstance(getattr(component, "model", None), Model)
        ]
    raise TypeError(f"Not a Thinc Model or a spaCy Language: {type(model).__name__} {model!r}")


def is_language(model: Any) -> bool:
    """Whether an object is a spaCy pipeline. spaCy is not imported."""
    # If spaCy has not been imported, no object can be a Language.
    language = sys.modules.get("spacy.language")
    return language is not None and isinstance(model, language.Language)
