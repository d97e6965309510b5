"""Parameter paths: readable names of parameters, to be matched by glob patterns.

An optimizer only knows the id of a node and the name of a parameter. `register_parameter_paths`
registers the paths of a model's parameters for all optimizers of the process.
"""

import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Union

from thinc.api import Model

from ..types import KeyT
from .parameters import ModelT, component_models, pytorch_shims


class _Registration(NamedTuple):
    """A call of `register_parameter_paths`.

    paths (dict[KeyT, str]): The paths of all parameters of the model.
    model (int | weakref.ref): The id of a Thinc model, or a weak reference to a pipeline.
        Neither keeps the model alive. Thinc models do not support weak references, but their
        ids are never reused.
    """

    paths: dict[KeyT, str]
    model: Union[int, "weakref.ref[Any]"]

    def is_of(self, model: ModelT) -> bool:
        """Whether this is a registration of the given model."""
        if isinstance(self.model, int):
            return isinstance(model, Model) and model.id == self.model
        return self.model() is model

    def find_pipeline(self) -> Any:
        """The pipeline, or None for a Thinc model or a pipeline that no longer exists."""
        return None if isinstance(self.model, int) else self.model()


# The last registration of each parameter.
_registered_paths: dict[KeyT, _Registration] = {}

# Thinc joins the names of the layers of these combinators. The kind is not clear from the name,
# since "a|b>>c" can be a chain or a concatenation, but from the module of the forward function.
COMBINATORS = {"thinc.layers.chain": "chain", "thinc.layers.concatenate": "concatenate"}


def register_parameter_paths(model: ModelT) -> list[str]:
    """Register the paths of a model's parameters, so that `ParamGroups` can select them.
    Call it when the model has all its layers, and again after layers were added or
    replaced, which replaces the registered paths. Layers added to a spaCy pipeline are found
    without another call.

    A path consists of the name of the component in a pipeline, the names of the nodes from the
    root to the parameter, and the name of the parameter: "ner/parser_model/linear/W". PyTorch
    parameters keep their names: "transformer/…/encoder.layers.0.weight". Names that Thinc
    composes of the layers inside are shortened to the kind ("residual", "with_array"). A chain
    is left out unless there are several siblings. Siblings with the same name are numbered:
    "residual-0", "residual-1". A parameter in two places has the path of the first place.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    RETURNS (list[str]): The paths, which are the same in every process.
    RAISES: TypeError if the model has the wrong type.
    """
    paths = parameter_paths(model)
    registered = model.id if isinstance(model, Model) else weakref.ref(model)
    _registered_paths.update(dict.fromkeys(paths, _Registration(paths, registered)))
    return list(paths.values())


def make_register_parameter_paths() -> Callable[[Any], Any]:
    """`thinc_swa.register_parameter_paths.v1`: callback for `[initialize.after_init]` of a
    spaCy config that calls `register_parameter_paths`.

    RETURNS (Callable): The callback, which takes and returns the pipeline.
    """

    def after_init(nlp: Any) -> Any:
        register_parameter_paths(nlp)
        return nlp

    return after_init


def find_model_paths(key: KeyT) -> dict[KeyT, str] | None:
    """Find the paths of all parameters of the model that a parameter belongs to. Registered
    pipelines are searched for parameters that were added after the registration.

    key (KeyT): The key of the parameter.
    RETURNS (dict[KeyT, str] | None): The paths by key, or None if the model is not registered.
    """
    if key not in _registered_paths:
        pipelines = {id(r.model): r.find_pipeline() for r in _registered_paths.values()}
        for pipeline in pipelines.values():
            if pipeline is not None and key in parameter_paths(pipeline):
                register_parameter_paths(pipeline)
                break
    registration = _registered_paths.get(key)
    return None if registration is None else registration.paths


def removed_parameters(model: ModelT) -> set[KeyT]:
    """Find the registered parameters that a model no longer has.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    RETURNS (set[KeyT]): The keys of the parameters; empty if the model is not registered.
    """
    removed = {
        key for key, registration in _registered_paths.items() if registration.is_of(model)
    }
    return removed.difference(parameter_paths(model))


def parameter_paths(model: ModelT) -> dict[KeyT, str]:
    """Make the paths of all parameters of a model. See `register_parameter_paths`.

    model (Model | Language): A Thinc model or a spaCy pipeline.
    RETURNS (dict[KeyT, str]): The path of each parameter by its key, from the first layer to
        the last.
    """
    paths: dict[KeyT, str] = {}
    taken = set()
    for component, root in component_models(model):
        for node_path, node in _walk(root, component):
            for key, name in _own_parameters(node):
                path = f"{node_path}/{name}" if node_path else name
                if key in paths:
                    continue
                while path in taken:  # For example, a node was named "linear-1".
                    path += "'"
                taken.add(path)
                paths[key] = path
    return paths


def _own_parameters(node: Model[Any, Any]) -> Iterator[tuple[KeyT, str]]:
    # Parameters that are not initialized yet are included.
    for name in node.param_names:
        yield (node.id, name), name
    for position, shim in pytorch_shims(node):
        if shim._model is not None:
            prefix = f"{position}/" if len(node.shims) > 1 else ""
            for name, _ in shim._model.named_parameters():
                yield (shim.id, name), prefix + name


def _walk(root: Model[Any, Any], component: str) -> Iterator[tuple[str, Model[Any, Any]]]:
    """All nodes and their paths, in the order of the forward pass."""
    is_seen = set()
    top = _children(root) if _is_unnamed_chain(root) else [root]
    stack = list(reversed(list(_name_siblings(component, top))))
    while stack:
        path, node = stack.pop()
        if id(node) in is_seen:
            continue
        is_seen.add(id(node))
        yield path, node
        stack.extend(reversed(list(_name_siblings(path, _children(node)))))


def _children(node: Model[Any, Any]) -> list[Model[Any, Any]]:
    """The layers of a node. The nested chains of `a >> b >> c` are merged into one."""
    children: list[Model[Any, Any]] = []
    for layer in node.layers:
        is_one_of_several = len(node.layers) > 1 and not _is_chain(node)
        if _is_unnamed_chain(layer) and not is_one_of_several:
            children.extend(_children(layer))
        else:
            children.append(layer)
    return children


def _name_siblings(
    prefix: str, nodes: list[Model[Any, Any]]
) -> Iterator[tuple[str, Model[Any, Any]]]:
    """The paths of sibling nodes. Siblings with the same name are numbered."""
    distinct = list({id(node): node for node in nodes}.values())
    names = [_short_name(node) for node in distinct]
    counts: dict[str, int] = {}
    for name, node in zip(names, distinct, strict=True):
        if names.count(name) > 1:
            number = counts[name] = counts.get(name, -1) + 1
            name = f"{name}-{number}"
        yield f"{prefix}/{name}" if prefix else name, node


def _is_chain(node: Model[Any, Any]) -> bool:
    return COMBINATORS.get(node._func.__module__) == "chain"


def _is_unnamed_chain(node: Model[Any, Any]) -> bool:
    """Whether a node is a chain with Thinc's default name and without own parameters."""
    return _is_chain(node) and ">>" in node.name and not any(_own_parameters(node))


def _short_name(node: Model[Any, Any]) -> str:
    """The name of a node without the names of the layers inside."""
    if ">>" in node.name or "|" in node.name:
        kind = COMBINATORS.get(node._func.__module__)
        if kind:
            return kind
    # "residual(maxout>>dropout)" becomes "residual".
    return re.sub(r"[^\w.-]+", "_", node.name.split("(")[0]) or "layer"
