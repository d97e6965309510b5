"""Paths of parameters: their places in a model by names, for people and for globs.

An optimizer only sees a node's id and a parameter's name. `name_parameters` tells it, and
everybody else in the process, where in the model that is.
"""

import re
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from thinc.api import Model, PyTorchShim

from .models import ModelT, component_models
from .types import KeyT

# For every parameter the paths of all parameters of the model that it was named in. Only
# ids and strings, so models that are done with can go.
_named: Dict[KeyT, Dict[KeyT, str]] = {}

# Thinc names these by all that they consist of. What they are can only be told from what
# they do: in "a|b>>c" it may be a chain or a concatenation.
COMPOSED = {"thinc.layers.chain": "chain", "thinc.layers.concatenate": "concatenate"}


def name_parameters(model: ModelT) -> List[str]:
    """Make the paths of a model's parameters known, so that `ParamGroups` can select by
    them. Call it before the training, when the model has all its layers; another call
    replaces what was known.

    A path has the names of the nodes from the root down, with the component's name before
    them in a pipeline, and then the parameter's: "ner/parser_model/linear/W". PyTorch's
    names stay as they are: "transformer/…/encoder.layers.0.weight". Of nodes that Thinc
    names by their contents only the kind is left ("residual", "with_array"), a chain adds
    nothing unless there are several side by side, and nodes of the same name are numbered:
    "residual-0", "residual-1". What is in two places has the path of the first.

    model (Union[Model, Language]): A Thinc model or a spaCy pipeline.
    RETURNS (List[str]): The paths, which are the same in every process.
    RAISES: TypeError for anything else.
    """
    paths = parameter_paths(model)
    _named.update(dict.fromkeys(paths, paths))
    return list(paths.values())


def make_name_parameters() -> Callable[[Any], Any]:
    """`thinc_swa.name_parameters.v1`: `name_parameters` for `[initialize.after_init]` of a
    spaCy config."""

    def after_init(nlp: Any) -> Any:
        name_parameters(nlp)
        return nlp

    return after_init


def paths_around(key: KeyT) -> Optional[Dict[KeyT, str]]:
    """The paths of all parameters of the model that this one belongs to, or None if nobody
    has named them."""
    return _named.get(key)


def parameter_paths(model: ModelT) -> Dict[KeyT, str]:
    """The path of every parameter, from the first layer to the last. See `name_parameters`."""
    paths: Dict[KeyT, str] = {}
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


def _own_parameters(node: Model[Any, Any]) -> Iterator[Tuple[KeyT, str]]:
    # Also those that the initialization will make.
    for name in node.param_names:
        yield (node.id, name), name
    for position, shim in enumerate(node.shims):
        if isinstance(shim, PyTorchShim):
            prefix = f"{position}/" if len(node.shims) > 1 else ""
            for name, _ in shim._model.named_parameters():
                yield (shim.id, name), prefix + name


def _walk(root: Model[Any, Any], component: str) -> Iterator[Tuple[str, Model[Any, Any]]]:
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


def _parts(node: Model[Any, Any]) -> List[Model[Any, Any]]:
    """What a node consists of. `a >> b >> c` makes a chain in a chain; here it is one."""
    parts: List[Model[Any, Any]] = []
    for layer in node.layers:
        is_one_of_several = len(node.layers) > 1 and not _is_chain(node)
        if _is_mere_chain(layer) and not is_one_of_several:
            parts.extend(_parts(layer))
        else:
            parts.append(layer)
    return parts


def _name_siblings(
    prefix: str, nodes: List[Model[Any, Any]]
) -> Iterator[Tuple[str, Model[Any, Any]]]:
    """Paths for nodes side by side. Those that would have the same one are numbered."""
    distinct = list({id(node): node for node in nodes}.values())
    names = [_short_name(node) for node in distinct]
    counts: Dict[str, int] = {}
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
