"""Averages at work in a model: swapped in for a while, or written in for good.

Here is also the one thing that this package changes in Thinc, `fix_pytorch_shim`.
"""

import sys
import threading
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import (
    Any,
    Callable,
    Dict,
    Hashable,
    Iterable,
    Iterator,
    List,
    Sequence,
    Set,
    Tuple,
    Union,
)

import numpy
from thinc.api import Model, Optimizer, PyTorchShim, torch2xp, xp2torch
from thinc.compat import torch

from .types import Array, KeyT

# Union[Model, Language]; spaCy is an optional dependency.
ModelT = Any


@contextmanager
def use_averages(model: ModelT, optimizer: Optimizer) -> Iterator[None]:
    """A context in which the model has the optimizer's averages for weights. Whatever
    happens inside, it has its own weights back afterwards, down to the last bit.

    The model holds copies: training or assigning weights inside changes neither the averages
    nor the model's own weights. A parameter without an average keeps its weights. As long as
    the optimizer has no averages at all, as before the first step, the model is left as it is.

    A model can be in one such context at a time. A second thread or asynchronous task would
    save averages as the model's own weights.

    model (Union[Model, Language]): A Thinc model, with or without PyTorch layers, or a
        spaCy pipeline.
    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    RAISES: TypeError for anything else; ValueError if the optimizer has averages and none
        of them belongs to the model, or if one has another shape than its parameter;
        RuntimeError if a part of the model is in such a context already.
    """
    matches = _match(model, optimizer)
    with _reserved([parameter for parameter, _ in matches]), _swapped(matches, copy=True):
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


def update_batch_norm(
    model: ModelT,
    batches: Iterable[Any],
    *,
    progress: bool = False,
    exclude: Sequence[str] = (),
) -> None:
    """Estimate the running statistics of all BatchNorm layers anew, from data. Averaged
    weights need it: nothing in the training has computed the statistics that belong to them
    (arXiv:1803.05407, section 3.2).

    The layers of wrapped PyTorch models are found. They see every batch as in training,
    and take the plain mean over all batches; the rest of the model predicts, without dropout.
    A model without such layers is left alone, and no data is read. Call it under
    `use_averages` or after `apply_averages`. The new statistics stay.

    model (Union[Model, Language]): A Thinc model or a spaCy pipeline.
    batches (Iterable[Any]): What `model.predict` takes; for a spaCy pipeline, lists of texts
        or Docs.
    progress (bool): Show a progress bar, if tqdm is installed.
    exclude (Sequence[str]): Components of a pipeline that keep their statistics, as those that
        are not trained.
    RAISES: TypeError for something that is no model; ValueError for no batches, or for a
        batch that the model cannot take: the old statistics are in place then.
    """
    layers = _batch_norm_layers(model, exclude)
    if not layers:
        return
    backups = [(layer, layer.momentum, layer.training, _statistics(layer)) for layer in layers]
    n_batches = 0
    with ExitStack() as stack:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # PyTorch: a plain mean over all batches.
            # A shim puts its model into evaluation mode whenever it predicts.
            hook = layer.register_forward_pre_hook(_into_training_mode)
            stack.callback(hook.remove)
        try:
            for batch in _with_progress(batches) if progress else batches:
                n_batches += 1
                try:
                    _predict(model, batch)
                except Exception as error:
                    raise ValueError(
                        f"The model cannot take batch {n_batches} ({type(batch).__name__}) "
                        f"of the data for BatchNorm: {error}"
                    ) from error
            if n_batches == 0:
                raise ValueError("There are no batches to estimate BatchNorm statistics from")
        except BaseException:
            for layer, _, _, statistics in backups:
                for name, value in statistics.items():
                    getattr(layer, name).copy_(value)
            raise
        finally:
            for layer, momentum, training, _ in backups:
                layer.momentum = momentum
                layer.training = training


def get_batch_norm(model: ModelT, *, exclude: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """Copies of the running statistics of all BatchNorm layers.

    model (Union[Model, Language]): A Thinc model or a spaCy pipeline.
    exclude (Sequence[str]): Components of a pipeline to leave out.
    RETURNS (List[Dict[str, Any]]): One dict of tensors per layer; empty without such layers.
    """
    return [_statistics(layer) for layer in _batch_norm_layers(model, exclude)]


def set_batch_norm(
    model: ModelT, statistics: List[Dict[str, Any]], *, exclude: Sequence[str] = ()
) -> None:
    """Write running statistics into a model, bit for bit.

    model (Union[Model, Language]): The model that the statistics were read from.
    statistics (List[Dict[str, Any]]): As `get_batch_norm` returned them.
    exclude (Sequence[str]): The components that were left out there.
    """
    for layer, values in zip(_batch_norm_layers(model, exclude), statistics, strict=True):
        for name, value in values.items():
            getattr(layer, name).copy_(value)


@lru_cache(maxsize=None)
def fix_pytorch_shim() -> bool:
    """Make Thinc use the averages of PyTorch layers.

    Thinc's PyTorchShim calls the optimizer with the keys (shim id, name), but in
    `use_params` it looks for strings, "pytorch_{id}_{name}". So the averages that the
    optimizer keeps are silently ignored (Thinc 8.3.14, 9.1.1). This replaces the method by
    one that knows both, swaps parameter by parameter instead of copying the whole state,
    and restores them after an exception.

    RETURNS (bool): Whether there was something to do: not without PyTorch, nor with a Thinc
        that uses such averages by itself.
    """
    if torch is None or _shim_uses_averages():
        return False
    PyTorchShim.use_params = _use_params  # type: ignore[method-assign]
    return True


def _shim_uses_averages() -> bool:
    module = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(1))])
    # Without its constructor, which may switch CuPy's memory allocator.
    shim = PyTorchShim.__new__(PyTorchShim)
    shim.id, shim._model = 0, module
    with shim.use_params({(shim.id, "0"): numpy.ones((1,), dtype="f")}):
        return bool(module[0].item() == 1.0)


@contextmanager
def _use_params(self: Any, params: Dict[Any, Any]) -> Iterator[None]:
    """Replaces `PyTorchShim.use_params`. See `fix_pytorch_shim`."""
    if self._model is None:  # Thinc allows it.
        yield
        return
    tensors = dict(self._model.named_parameters(remove_duplicate=False))
    tensors.update(self._model.named_buffers())
    swaps: List[Tuple[_Parameter, Array]] = []
    for name, tensor in tensors.items():
        for key in ((self.id, name), f"pytorch_{self.id}_{name}"):
            if key in params:
                parameter = _TorchParameter(tensor)
                _check_shape(key, parameter, params[key])
                swaps.append((parameter, params[key]))
    with _swapped(swaps):
        yield


class _NodeParameter:
    """A parameter of a Thinc node."""

    def __init__(self, node: Model[Any, Any], name: str) -> None:
        self.node = node
        self.name = name

    @property
    def shape(self) -> Tuple[int, ...]:
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


class _TorchParameter:
    """A parameter of a PyTorch module. Gradient and requires_grad stay with it."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> Tuple[int, ...]:
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


_Parameter = Union[_NodeParameter, _TorchParameter]


@contextmanager
def _swapped(
    swaps: Iterable[Tuple[_Parameter, Array]], *, copy: bool = False
) -> Iterator[None]:
    # Undone last first: what stands in two places, as a layer that two components of a
    # pipeline share, has its own weights at the end.
    with ExitStack() as stack:
        for parameter, array in swaps:
            stack.callback(parameter.swap(array, copy=copy))
        yield


# The parameters that are in `use_averages` now.
_in_use: Set[Hashable] = set()
_in_use_lock = threading.Lock()


@contextmanager
def _reserved(parameters: List[_Parameter]) -> Iterator[None]:
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


def _match(model: ModelT, optimizer: Optimizer) -> List[Tuple[_Parameter, Array]]:
    """The parameters of the model that have an average, each with it."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"Averages come from a Thinc Optimizer, but got {type(optimizer).__name__}"
        )
    averages = optimizer.averages or {}
    matches: List[Tuple[_Parameter, Array]] = []
    for _, key, parameter in named_parameters(model):
        if key in averages:
            _check_shape(key, parameter, averages[key])
            matches.append((parameter, averages[key]))
    if averages and not matches:
        raise ValueError(
            f"The optimizer has averages of {len(averages)} parameters, but none of them "
            "belongs to this model: was it trained with another optimizer?"
        )
    return matches


def _check_shape(key: Any, parameter: _Parameter, array: Array) -> None:
    if tuple(array.shape) != parameter.shape:
        raise ValueError(
            f"Parameter {key} has the shape {parameter.shape}, but its average has the shape "
            f"{tuple(array.shape)}"
        )


def named_parameters(model: ModelT) -> Iterator[Tuple[str, KeyT, "_Parameter"]]:
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
                        _NodeParameter(node, name),
                    )
            for shim_position, shim in enumerate(node.shims):
                if isinstance(shim, PyTorchShim) and shim._model is not None:
                    place = f"{prefix}{position}/{shim_position}"
                    for name, tensor in shim._model.named_parameters():
                        yield f"{place}/{name}", (shim.id, name), _TorchParameter(tensor)


def component_models(model: ModelT) -> List[Tuple[str, Model[Any, Any]]]:
    """The Thinc models of a model, each with its component's name in a pipeline, which is
    empty for a Thinc model."""
    if isinstance(model, Model):
        return [("", model)]
    if _is_language(model):
        return [
            (name, component.model)
            for name, component in model.components
            if isinstance(getattr(component, "model", None), Model)
        ]
    raise TypeError(f"Not a Thinc Model or a spaCy Language: {type(model).__name__} {model!r}")


def _is_language(model: Any) -> bool:
    # Who has a Language has imported spaCy.
    language = sys.modules.get("spacy.language")
    return language is not None and isinstance(model, language.Language)


def _predict(model: ModelT, batch: Any) -> None:
    if _is_language(model):
        for _ in model.pipe(batch):
            pass
    else:
        model.predict(batch)


def _batch_norm_layers(model: ModelT, exclude: Sequence[str]) -> List[Any]:
    return [
        layer
        for component, root in component_models(model)
        if component not in exclude
        for node in root.walk()
        for shim in node.shims
        if isinstance(shim, PyTorchShim) and shim._model is not None
        for layer in shim._model.modules()
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)
        and layer.running_mean is not None
    ]


def _statistics(layer: Any) -> Dict[str, Any]:
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {name: getattr(layer, name).clone() for name in names}


def _into_training_mode(layer: Any, inputs: Any) -> None:
    layer.training = True


def _with_progress(batches: Iterable[Any]) -> Iterable[Any]:
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    progress: Iterable[Any] = tqdm(batches, desc="BatchNorm", unit="batch")
    return progress
