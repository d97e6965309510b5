"""Files of serialised Thinc models: their weights as arrays, and everything else.

`Model.to_bytes` writes a msgpack message with the nodes, attributes, parameters and shims of a
model. PyTorch layers are shims whose message has the bytes of `torch.save` under "state".
"""

import io
import mmap
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import thinc.compat
from srsly import msgpack, msgpack_loads

from ..averaging.cpu_kernels import BLOCK_SIZE, averages_dtype
from ..errors import describe_error

# None without PyTorch.
torch: Any = thinc.compat.torch

# The first bytes of a message: a map of four, whose first key is "nodes".
MODEL_START = b"\x84\xa5nodes"
# Attributes that only matter for training.
TRAINING_ATTRIBUTES = ("dropout_rate",)
STATE = "state"


class SavedModel:
    """The content of a file of a Thinc model.

    path (Path): The file.
    RAISES: OSError if it cannot be read; ValueError if it is damaged, or if it has layers of
        another framework than Thinc and PyTorch; ImportError if it has PyTorch layers and
        PyTorch is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._message = _read_message(path)
            # The weights by parameter: where they are in the message, and under which key.
            self._places: dict[str, tuple[dict[str, Any], str]] = {}
            # What must be the same in two models, by node.
            self.description: dict[str, Any] = {}
            for i, node in enumerate(self._message["nodes"]):
                self._add_node(i, node)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a file of a Thinc model: {describe_error(error)}"
            ) from error
        # Dtypes of the weights that are averaged, set by `prepare`.
        self._dtypes: dict[str, Any] = {}
        # Further names of the same weights, with the first one.
        self._tied: dict[str, str] = {}

    def _add_node(self, i: int, node: dict[str, Any]) -> None:
        place = f"layer {i} ({node['name']})"
        message = self._message
        attributes = {
            name: _readable(value)
            for name, value in message["attrs"][i].items()
            if name not in TRAINING_ATTRIBUTES
        }
        weights: dict[str, Any] = {}
        description = {
            "dimensions": node["dims"],
            "references": node["refs"],
            "attributes": attributes,
            "weights": weights,
        }
        parameters = message["params"][i]
        for name, array in parameters.items():
            weights[name] = _describe_array(array)
            if array is not None:
                self._places[f"{place}, {name}"] = (parameters, name)
        shims = message["shims"][i]
        for j in range(len(shims)):
            shims[j] = shim = _read_shim(shims, j, f"{self.path}: {place}")
            description[f"PyTorch {j}"] = {k: v for k, v in shim.items() if k != STATE}
            state = shim[STATE]
            prefix = f"{j}." if len(shims) > 1 else ""
            for name, tensor in state.items():
                weights[prefix + name] = _describe_array(tensor)
                if isinstance(tensor, torch.Tensor):
                    self._places[f"{place}, {prefix}{name}"] = (state, name)
        self.description[place] = description

    def prepare(self) -> None:
        """Convert the weights to arrays that other models can be added to, in place."""
        seen: dict[Any, str] = {}
        for name, (owner, key) in self._places.items():
            array = owner[key]
            if not _is_float(array):
                continue
            _check_finite(array, self.path, name)
            if isinstance(array, numpy.ndarray):
                self._dtypes[name] = array.dtype
                # The arrays of a message are read-only.
                owner[key] = array.astype(averages_dtype(array))
                continue
            first = seen.setdefault(_identity(array), name)
            if first == name:
                self._dtypes[name] = array.dtype
                owner[key] = _as_accumulator(array)
            else:
                self._tied[name] = first
                owner[key] = None  # Its memory. See `write`.

    def add(self, other: "SavedModel", fraction: float) -> None:
        """Move the weights towards those of another model: weights += fraction * (other -
        weights). Call `prepare` before.

        other (SavedModel): A model with the same description.
        fraction (float): The fraction, from 0 to 1.
        RAISES: ValueError if weights of the other model are NaN or infinite.
        """
        for name in self._dtypes:
            owner, key = self._places[name]
            other_owner, other_key = other._places[name]
            array = other_owner[other_key]
            _check_finite(array, other.path, name)
            _move(owner[key], array, fraction)

    def write(self, path: Path) -> None:
        """Write the model as `Model.to_disk` does.

        path (Path): The file, which is overwritten.
        RAISES: OSError if it cannot be written.
        """
        for name, dtype in self._dtypes.items():
            owner, key = self._places[name]
            if owner[key].dtype != dtype:
                convert = "astype" if isinstance(owner[key], numpy.ndarray) else "to"
                owner[key] = getattr(owner[key], convert)(dtype)
        for name, first in self._tied.items():
            owner, key = self._places[name]
            first_owner, first_key = self._places[first]
            owner[key] = first_owner[first_key].detach()
        with path.open("wb") as file:
            # Making one takes long: it looks up entry points.
            packer = msgpack.Packer(use_bin_type=True)
            for chunk in _chunks(self._message, packer):
                file.write(chunk)


class _Shim(dict[str, Any]):
    """Message of a shim, with the state dict of PyTorch under "state"."""


def is_model_file(path: Path) -> bool:
    """Whether a file has the form that `Model.to_disk` writes."""
    with path.open("rb") as file:
        return file.read(len(MODEL_START)) == MODEL_START


def _read_message(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        if file.read(len(MODEL_START)) != MODEL_START:
            raise ValueError(f"{path} is not a file of a Thinc model")
        # Not read into memory in addition to the arrays.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                message = msgpack_loads(data)
            except Exception as error:
                # Errors of several kinds, depending on what is damaged.
                raise ValueError(f"{path} is damaged: {describe_error(error)}") from error
    if not isinstance(message, dict):
        raise TypeError("its content is not a map")
    return message


def _read_shim(shims: list[Any], i: int, place: str) -> _Shim:
    # Each copy of the weights is released as soon as there is the next one.
    data, shims[i] = shims[i], None
    shim = None
    if isinstance(data, bytes):
        try:
            shim = msgpack_loads(data)
        except Exception:
            shim = None
    del data
    if not isinstance(shim, dict) or not isinstance(shim.get(STATE), bytes):
        raise ValueError(
            f"{place} is a layer of another framework in a form that is not known: only "
            "Thinc's own layers and PyTorch layers can be averaged"
        )
    if torch is None:
        raise ImportError(f"{place} is a PyTorch layer, and PyTorch is not installed")
    try:
        state = torch.load(io.BytesIO(shim.pop(STATE)), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{place} is a PyTorch layer whose state cannot be read: {describe_error(error)}"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{place} is a PyTorch layer that has not saved a state dict")
    return _Shim(shim, **{STATE: state})


def _readable(value: Any) -> Any:
    """The value of an attribute, which is serialised by itself."""
    try:
        return msgpack_loads(value)
    except Exception:
        return value  # By a function of the layer's own.


def _describe_array(array: Any) -> Any:
    if array is None:
        return "not initialized"
    if not hasattr(array, "dtype"):
        return array
    return f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"


def _is_float(array: Any) -> bool:
    if isinstance(array, numpy.ndarray):
        return bool(array.dtype.kind == "f")
    return bool(array.dtype.is_floating_point)


def _check_finite(array: Any, path: Path, name: str) -> None:
    library = numpy if isinstance(array, numpy.ndarray) else torch
    if not library.isfinite(array).all():
        raise ValueError(f"{path} has weights that are NaN or infinite: {name}")


def _identity(tensor: Any) -> Any:
    """Equal for tensors that are the same part of the same memory."""
    memory = tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)
    return memory, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _as_accumulator(tensor: Any) -> Any:
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    is_part = tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()
    # Parts of the same memory may overlap.
    return tensor.to(dtype, copy=is_part)


def _move(total: Any, array: Any, fraction: float) -> None:
    if not isinstance(total, numpy.ndarray):
        total.lerp_(array.to(total.dtype), fraction)
    elif fraction == 1.0:
        # Without rounding.
        total[...] = array
    else:
        # In blocks, because an array of differences may be as large as the model.
        flat, other = total.reshape(-1), array.reshape(-1)
        factor = total.dtype.type(fraction)
        for start in range(0, flat.size, BLOCK_SIZE):
            block = flat[start : start + BLOCK_SIZE]
            block += factor * (other[start : start + BLOCK_SIZE] - block)


def _chunks(value: Any, packer: Any) -> Iterator[Any]:
    """Bytes-like pieces of a msgpack message, with arrays as srsly has them. Arrays are not
    copied."""
    if isinstance(value, _Shim):
        pieces = list(_chunks(_with_bytes(value), packer))
        yield _bytes_header(sum(memoryview(piece).nbytes for piece in pieces))
        yield from pieces
    elif isinstance(value, dict):
        yield packer.pack_map_header(len(value))
        for name, item in value.items():
            yield from _chunks(name, packer)
            yield from _chunks(item, packer)
    elif isinstance(value, list):
        yield packer.pack_array_header(len(value))
        for item in value:
            yield from _chunks(item, packer)
    elif isinstance(value, numpy.ndarray):
        array = numpy.ascontiguousarray(value).reshape(value.shape)
        header = {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape}
        yield packer.pack_map_header(len(header) + 1)
        for name, item in header.items():
            yield packer.pack(name)
            yield packer.pack(item)
        yield packer.pack(b"data")
        yield _bytes_header(array.nbytes)
        yield array.reshape(-1).view("u1")
    elif isinstance(value, bytes):
        yield _bytes_header(len(value))
        yield value
    else:
        yield packer.pack(value)


def _with_bytes(shim: _Shim) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(shim[STATE], buffer)
    return {**shim, STATE: buffer.getvalue()}


def _bytes_header(size: int) -> bytes:
    """Header of a byte string in msgpack."""
    for code, n_bytes in ((0xC4, 1), (0xC5, 2), (0xC6, 4)):
        if size < 1 << (8 * n_bytes):
            return bytes([code]) + size.to_bytes(n_bytes, "big")
    raise ValueError(f"A part of the model has {size} bytes: msgpack allows 4 GiB")
