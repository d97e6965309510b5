"""Paths of parameters: readable names for their places in a model, for globs.

An optimizer only sees a node's id and a parameter's name. `register_parameter_paths` registers
the paths of a model's parameters, for all optimizers of the process.
"""

import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Union

from thinc.api import Model, PyTorchShim

from ..types import KeyT
from .parameters import ModelT, component_models


class _Registration(NamedTuple):
    """A call of `register_parameter_paths`.

    paths (dict[KeyT, str]): The paths of all parameters of the model.
    model (int | weakref.ref): The id of a Thinc model, which has no weak references and
        is never used again, or a weak reference to a pipeline: neither keeps it alive.
    """

    paths: dict[KeyT, str]
    model: Union[int, "weakref.ref[Any]"]

    def is_of(self, model: ModelT) -> bool:
        if isinstance(self.model, int):
            return isinstance(model, Model) and model.id == self.model
        return self.model() is model

    def find_pipeline(self) -> Any:
        """The pipeline, if it is one and still exists."""
        return None if isinstance(self.model, int) else self.model()


# By parameter, the last registration with it.
_registered_paths: dict[KeyT, _Registration] = {}

# Thinc names these by all that they consist of. What they are can only be told from what
# they do: in "a|b>>c" it may be a chain or a concatenation.
COMPOSED = {"thinc.layers.chain": "chain", "thinc.layers.concatenate": "concatenate"}


def register_parameter_paths(model: ModelT) -> list[str]:
    """Register the paths of a model's parameters, so that `ParamGroups` can select by them.
    Call it when the model has all its layers, and again when it has got other ones: that
    replaces what was known. Layers that are added to a spaCy pipeline later are found without
    another call.

    A path has the names of the nodes from the root down, with the component's name before
    them in a pipeline, and then the parameter's: "ner/parser_model/linear/W". PyTorch's
    names stay as they are: "transformer/…/encoder.layers.0.weight". Of nodes that Thinc
    names by their contents only the kind is left ("residual", "with_array"), a chain adds
    nothing unless there are several side by side, and nodes of the same name are numbered:
    "residual-0", "residual-1". What is in two places has the path of the first.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    RETURNS (list[str]): The paths, which are the same in every process.
    RAISES: TypeError for anything else.
    """
    paths = parameter_paths(model)
    registered = model.id if isinstance(model, Model) else weakref.ref(model)
    _registered_paths.update(dict.fromkeys(paths, _Registration(paths, registered)))
    return list(paths.values())


def make_register_parameter_paths() -> Callable[[Any], Any]:
    """`thinc_swa.register_parameter_paths.v1`: `register_parameter_paths` for
    `[initialize.after_init]` of a spaCy config."""

    def after_init(nlp: Any) -> Any:
        register_parameter_paths(nlp)
        return nlp

    return after_init


def paths_around(key: KeyT) -> dict[KeyT, str] | None:
    """The paths of all parameters of the model that this one belongs to, or None if they are
    not known. A pipeline may have got the parameter after its parameters were named."""
    if key not in _registered_paths:
        pipelines = {id(r.model): r.find_pipeline() for r in _registered_paths.values()}
        for pipeline in pipelines.values():
            if pipeline is not None and key in parameter_paths(pipeline):
                register_parameter_paths(pipeline)
                break
    registration = _registered_paths.get(key)
    return None if registration is None else registration.paths


def removed_parameters(model: ModelT) -> set[KeyT]:
    """The parameters that this very model had when `register_parameter_paths` was called, and
    does not have any more."""
    removed = {
        key for key, registration in _registered_paths.items() if registration.is_of(model)
    }
    return removed.difference(parameter_paths(model))


def parameter_paths(model: ModelT) -> dict[KeyT, str]:
    """The path of every parameter, from the first layer to the last. See
    `register_parameter_paths`."""
    paths: dict[KeyT, str] = {}
    taken = set()
    for component, root in component_models(model):
        for node_path, node in _walk(root, component):
            for key, name in _own_parameters(node):
                path = f"{node_path}/{name}" if node_path else name
                if key in paths:
                    continue
                while path in taken:  # Somebody has named a node "linear-1".
                    path += "'"
                taken.add(path)
                paths[key] = path
    return paths


def _own_parameters(node: Model[Any, Any]) -> Iterator[tuple[KeyT, str]]:
    # Also those that the initialization will make.
    for name in node.param_names:
        yield (node.id, name), name
    for position, shim in enumerate(node.shims):
        if isinstance(shim, PyTorchShim) and shim._model is not None:
            prefix = f"{position}/" if len(node.shims) > 1 else ""
            for name, _ in shim._model.named_parameters():
                yield (shim.id, name), prefix + name


def _walk(root: Model[Any, Any], component: str) -> Iterator[tuple[str, Model[Any, Any]]]:
    """All nodes with their paths, in the order in which data goes through them."""
    is_seen = set()
    top = _parts(root) if _is_mere_chain(root) else [root]
    stack = list(reversed(list(_name_siblings(component, top))))
    while stack:
        path, node = stack.pop()
        if id(node) in is_seen:
            continue
        is_seen.add(id(node))
        yield path, node
        stack.extend(reversed(list(_name_siblings(path, _parts(node)))))


def _parts(node: Model[Any, Any]) -> list[Model[Any, Any]]:
    """What a node consists of. `a >> b >> c` makes a chain in a chain; here it is one."""
    parts: list[Model[Any, Any]] = []
    for layer in node.layers:
        is_one_of_several = len(node.layers) > 1 and not _is_chain(node)
        if _is_mere_chain(layer) and not is_one_of_several:
            parts.extend(_parts(layer))
        else:
            parts.append(layer)
    return parts


def _name_siblings(
    prefix: str, nodes: list[Model[Any, Any]]
) -> Iterator[tuple[str, Model[Any, Any]]]:
    """Paths for nodes side by side. Those that would have the same one are numbered."""
    distinct = list({id(node): node for node in nodes}.values())
    names = [_short_name(node) for node in distinct]
    counts: dict[str, int] = {}
    for name, node in zip(names, distinct, strict=True):
        if names.count(name) > 1:
            number = counts[name] = counts.get(name, -1) + 1
            name = f"{name}-{number}"
        yield f"{prefix}/{name}" if prefix else name, node


def _is_chain(node: Model[Any, Any]) -> bool:
    return COMPOSED.get(node._func.__module__) == "chain"


def _is_mere_chain(node: Model[Any, Any]) -> bool:
    """Whether layers were only put behind one another, and nobody has given that a name."""
    return _is_chain(node) and ">>" in node.name and not any(_own_parameters(node))


def _short_name(node: Model[Any, Any]) -> str:
    if ">>" in node.name or "|" in node.name:
        kind = COMPOSED.get(node._func.__module__)
        if kind:
            return kind
    # "residual(maxout>>dropout)"
    return re.sub(r"[^\w.-]+", "_", node.name.split("(")[0]) or "layer"
