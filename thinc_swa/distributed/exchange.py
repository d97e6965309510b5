"""Exchange of one array per parameter between workers, in a single all-reduce."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy
from thinc.api import torch2xp, xp2torch

from ..averaging.cpu_kernels import array_module
from ..averaging.finite import are_finite
from ..models.parameters import (
    ModelT,
    Parameter,
    TorchParameter,
    named_parameters,
    named_shims,
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
    # What is sent: the values themselves, or their float16 array.
    sent: Array


class ParameterExchange:
    """Sums over the workers of one array per parameter of a model.

    The values of all parameters are in one buffer of float32, in the order of their places in
    the model, which are the same in all processes. Behind them, in the tail of the buffer, are
    the numbers of workers with values, and the buffers of PyTorch layers, such as the
    statistics of BatchNorm. Floating-point buffers become their mean over all workers, and
    other ones those of rank 0. One all-reduce sums all of it.

    With float16 the tail goes first, in float32, with a scale for each parameter: the mean over
    the workers of the largest absolute value. The values are sent as multiples of it, so that
    they do not overflow, and are as exact for small gradients as for large ones.

    A request to stop the training is sent with the next exchange, so that all workers know of
    it after the same step.

    model (Model | Language): The initialized model of this worker.
    communicator (Communicator): The connection to the other workers.
    is_left_out (Callable[[KeyT], bool]): Whether a parameter is not exchanged, the same on all
        workers.
    exclude (Collection[str]): Names of pipeline components that are not exchanged.
    reduce_dtype (str): The type in which values are sent and summed, "float32" or "float16".
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
        reduce_dtype: str = "float32",
    ) -> None:
        self.communicator = communicator
        self.reduce_dtype = reduce_dtype
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
        n_values = sum(sizes.values())
        n_counts = 2 * len(sizes) + 2
        n_scales = 0 if reduce_dtype == "float32" else len(sizes)
        n_sent_buffers = sum(_sent_size(tensor) for _, tensor in self._module_buffers)
        xp = array_module(next(iter(found.values()))[1].get())
        size = n_values + n_counts + n_scales + n_sent_buffers
        self._buffer = xp.zeros((size,), dtype="float32")
        self._tail = self._buffer[n_values:]
        self._counts = self._tail[:n_counts]
        self._scales = self._tail[n_counts : n_counts + n_scales]
        self._sent_buffers = self._tail[n_counts + n_scales :]
        values = self._buffer[:n_values]
        self._values = xp.zeros_like(values, dtype="float16") if n_scales else values
        self._places: list[_Place] = []
        start = 0
        for key, (name, parameter) in found.items():
            view, sent = (
                array[start : start + sizes[key]].reshape(parameter.shape)
                for array in (values, self._values)
            )
            self._places.append(_Place(name, key, parameter, view, sent))
            start += sizes[key]

    def describe(self) -> str:
        """The layout of the buffer, which all workers must have in common."""
        lines = [f"reduce_dtype = {self.reduce_dtype}"]
        lines += [f"{place.name} {place.parameter.shape}" for place in self._places]
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
        self._all_reduce()
        self._read_module_buffers()
        counts = self._counts.get() if hasattr(self._counts, "get") else self._counts.copy()
        has_values, is_non_finite = counts[:-2].reshape(2, -1)
        n_parts, self.is_stopping = int(counts[-2]), bool(counts[-1])
        for i, (place, array) in enumerate(zip(self._places, weights, strict=True)):
            n_values, n_non_finite = int(has_values[i]), int(is_non_finite[i])
            yield Total(place.key, array, place.view, n_values, n_non_finite, n_parts)

    def _all_reduce(self) -> None:
        """Sum the buffer over all workers."""
        if self.reduce_dtype == "float32":
            self.communicator.all_reduce(self._buffer)
            return
        for i, place in enumerate(self._places):
            largest = abs(place.view).max(initial=0.0)
            self._scales[i] = largest / numpy.float32(self.communicator.size)
        self.communicator.all_reduce(self._tail)
        # Where all values are zero.
        self._scales[self._scales == 0] = 1
        for i, place in enumerate(self._places):
            place.sent[...] = place.view / self._scales[i]
        self.communicator.all_reduce(self._values)
        for i, place in enumerate(self._places):
            total = place.view
            total[...] = place.sent
            total *= self._scales[i]

    def _sent_views(self) -> Iterator[tuple[Any, Array]]:
        start = 0
        for _, tensor in self._module_buffers:
            size = _sent_size(tensor)
            yield tensor, self._sent_buffers[start : start + size]
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
    for place, shim in named_shims(model, exclude=exclude):
        if shim._model is not None:
            for name, tensor in shim._model.named_buffers():
                yield f"{place}/{name}", tensor


def _sent_size(tensor: Any) -> int:
    size: int = tensor.numel()
    return size if tensor.is_floating_point() else PIECES * size
