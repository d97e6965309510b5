"""Exchange of one array per parameter between workers, in a single all-reduce."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy
from thinc.api import PyTorchShim, torch2xp, xp2torch

from ..averaging.cpu_kernels import array_module
from ..averaging.finite import are_finite
from ..models.parameters import (
    ModelT,
    Parameter,
    TorchParameter,
    component_models,
    named_parameters,
)
from ..types import Array, KeyT
from .communicator import Communicator

# Integers are sent as four numbers of 16 bits, which float32 represents exactly.
PIECES = 4


class Total(NamedTuple):
    """The sum over all workers for a parameter.

    key (KeyT): The parameter.
    weights (FloatsXd): Its weights on this worker, the memory of the model.
    total (FloatsXd): The sum of the values of all workers, float32, of the same shape. It may
        be overwritten, and is valid until the next exchange.
    n_values (int): The number of workers with values.
    n_non_finite (int): The number of workers whose values were left out because they were NaN
        or infinite.
    n_parts (int): The number of workers that took part in the work since the last exchange.
    """

    key: KeyT
    weights: Array
    total: Array
    n_values: int
    n_non_finite: int
    n_parts: int


class _Place(NamedTuple):
    name: str
    key: KeyT
    parameter: Parameter
    view: Array


class ParameterExchange:
    """Sums over the workers of one array per parameter of a model.

    The values of all parameters are in one buffer of float32, in the order of their places in
    the model, which are the same in all processes. Behind them are the numbers of workers with
    values, and the buffers of PyTorch layers, such as the statistics of BatchNorm.
    Floating-point buffers become their mean over all workers, and other ones those of rank 0.

    A request to stop the training is sent with the next exchange, so that all workers know of
    it after the same step.

    model (Model | Language): The initialized model of this worker.
    communicator (Communicator): The connection to the other workers.
    is_left_out (Callable[[KeyT], bool]): Whether a parameter is not exchanged, the same on all
        workers.
    exclude (Collection[str]): Names of pipeline components that are not exchanged.
    keys (Collection[KeyT]): The parameters that are exchanged.
    wants_stop (bool): Whether this worker asks all workers to stop.
    is_stopping (bool): Whether any worker had asked for that before the last exchange.
    """

    def __init__(
        self,
        model: ModelT,
        communicator: Communicator,
        is_left_out: Callable[[KeyT], bool],
        *,
        exclude: Collection[str] = (),
    ) -> None:
        self.communicator = communicator
        self.wants_stop = self.is_stopping = False
        found: dict[KeyT, tuple[str, Parameter]] = {}
        for name, key, parameter in named_parameters(model, exclude=exclude):
            is_fixed = isinstance(parameter, TorchParameter) and not (
                parameter.tensor.requires_grad
            )
            if key not in found and not is_fixed and not is_left_out(key):
                found[key] = (name, parameter)
        if not found:
            raise ValueError("The model has no parameters to train on several workers")
        self._module_buffers = list(_module_buffers(model, exclude))
        self.keys: Collection[KeyT] = found.keys()
        sizes = {key: int(parameter.get().size) for key, (_, parameter) in found.items()}
        size = sum(sizes.values()) + 2 * len(sizes) + 2
        size += sum(_sent_size(tensor) for _, tensor in self._module_buffers)
        xp = array_module(next(iter(found.values()))[1].get())
        self._buffer = xp.zeros((size,), dtype="float32")
        self._places: list[_Place] = []
        start = 0
        for key, (name, parameter) in found.items():
            view = self._buffer[start : start + sizes[key]].reshape(parameter.shape)
            self._places.append(_Place(name, key, parameter, view))
            start += sizes[key]
        n_counts = 2 * len(self._places) + 2
        self._counts = self._buffer[start : start + n_counts]
        self._sent = self._buffer[start + n_counts :]

    def describe(self) -> str:
        """The layout of the buffer, which all workers must have in common."""
        lines = [f"{place.name} {place.parameter.shape}" for place in self._places]
        lines += [
            f"{name} {tuple(tensor.shape)} {tensor.dtype}"
            for name, tensor in self._module_buffers
        ]
        return "\n".join(lines)

    def broadcast_weights(self) -> None:
        """Replace the weights of all workers by those of rank 0."""
        for place in self._places:
            weights = place.parameter.get()
            array = weights.copy(order="C")
            self.communicator.broadcast(array)
            weights[...] = array

    def reduce(
        self, write: Callable[[KeyT, Array, Array], bool], *, takes_part: bool = True
    ) -> Iterator[Total]:
        """Sum the values of all workers. All workers must call it equally often.

        write (Callable[[KeyT, FloatsXd, FloatsXd], bool]): Called with a parameter, its weights
            and an array, into which it writes the values of this worker. It returns whether
            there are any.
        takes_part (bool): Whether this worker has worked since the last exchange.
        RETURNS (Iterator[Total]): The sums of all parameters, in the order of their places.
        RAISES: WorkerError if another worker does not take part in time.
        """
        weights = [place.parameter.get() for place in self._places]
        counts = numpy.zeros(self._counts.shape, dtype="float32")
        has_values, is_non_finite = counts[:-2].reshape(2, -1)
        with numpy.errstate(over="ignore", invalid="ignore"):
            for i, (place, array) in enumerate(zip(self._places, weights, strict=True)):
                has_values[i] = write(place.key, array, place.view)
        present = numpy.flatnonzero(has_values)
        finite = are_finite([self._places[i].view for i in present])
        has_values[present] = finite
        is_non_finite[present] = numpy.logical_not(finite)
        for absent in numpy.flatnonzero(has_values == 0):
            self._places[absent].view[...] = 0
        counts[-2:] = takes_part, self.wants_stop
        xp = array_module(self._buffer)
        self._counts[...] = xp.asarray(counts)
        self._write_module_buffers()
        self.communicator.all_reduce(self._buffer)
        self._read_module_buffers()
        counts = self._counts.get() if hasattr(self._counts, "get") else self._counts.copy()
        has_values, is_non_finite = counts[:-2].reshape(2, -1)
        n_parts, self.is_stopping = int(counts[-2]), bool(counts[-1])
        for i, (place, array) in enumerate(zip(self._places, weights, strict=True)):
            n_values, n_non_finite = int(has_values[i]), int(is_non_finite[i])
            yield Total(place.key, array, place.view, n_values, n_non_finite, n_parts)

    def _sent_views(self) -> Iterator[tuple[Any, Array]]:
        start = 0
        for _, tensor in self._module_buffers:
            size = _sent_size(tensor)
            yield tensor, self._sent[start : start + size]
            start += size

    def _write_module_buffers(self) -> None:
        for tensor, view in self._sent_views():
            if tensor.is_floating_point():
                view[...] = torch2xp(tensor.detach().float().reshape(-1))
            elif self.communicator.rank == 0:
                numbers = tensor.detach().cpu().numpy().astype("int64").reshape(-1)
                pieces = numbers.view("uint16").astype("float32")
                view[...] = array_module(view).asarray(pieces)
            else:
                view[...] = 0

    def _read_module_buffers(self) -> None:
        for tensor, view in self._sent_views():
            if tensor.is_floating_point():
                mean = xp2torch(view / numpy.float32(self.communicator.size))
                tensor.copy_(mean.reshape(tensor.shape))
            else:
                pieces = view.get() if hasattr(view, "get") else view
                numbers = pieces.astype("uint16").view("int64")
                tensor.copy_(xp2torch(numbers, device=tensor.device).reshape(tensor.shape))


def _module_buffers(model: ModelT, exclude: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The buffers of PyTorch layers by their places, which are the same in all processes."""
    for component, root in component_models(model, exclude=exclude):
        for position, node in enumerate(root.walk()):
            for shim_position, shim in enumerate(node.shims):
                if isinstance(shim, PyTorchShim) and shim._model is not None:
                    for name, tensor in shim._model.named_buffers():
                        yield f"{component}/{position}/{shim_position}/{name}", tensor


def _sent_size(tensor: Any) -> int:
    size: int = tensor.numel()
    return size if tensor.is_floating_point() else PIECES * size
