"""The arithmetic of averages: array kernels and the running average they keep.

The kernels work in place on NumPy and on CuPy arrays, chosen array by array. On the CPU
they go through large arrays in blocks that stay in the cache. NumPy has no multiply-and-add
and needs several passes over a block; where Thinc has found PyTorch, that does it in one, on
the same memory. On the GPU each is one launch (`cupy_kernels.py`), and a snapshot of a model
is one launch for all its parameters.
"""

import threading
from functools import lru_cache
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy
import thinc.compat

from .types import Array, KeyT

torch: Any = thinc.compat.torch

# In numbers of elements. 32 Ki float32 are 128 KiB: what a kernel works on at a time fits
# into the second-level cache of one core. Arrays up to this size are taken as they are.
BLOCK_SIZE = 32768

# Calls of PyTorch cost more, so it gets larger blocks, which are in the third-level cache, and
# arrays that are a few blocks as they are.
TORCH_BLOCK_SIZE = 8 * BLOCK_SIZE
TORCH_WHOLE_SIZE = 4 * TORCH_BLOCK_SIZE

# With a decay below 1 the scale of a running average shrinks at every snapshot and the
# totals grow. They are brought back to a scale of 1 long before they leave the range of
# float32. What a smaller decay would leave is below the precision of any float.
MIN_SCALE = 2.0**-60


def averages_dtype(weights: Array) -> Any:
    """The dtype of averages of these weights: float32, or float64 for float64."""
    return numpy.float64 if weights.dtype == numpy.float64 else numpy.float32


def add_scaled(total: Array, weights: Array, factor: float) -> None:
    """total += factor * weights

    total (Array): A contiguous array of any shape, changed in place.
    weights (Array): An array of the same shape, of any floating point dtype.
    """
    if not isinstance(total, numpy.ndarray):
        _cupy_kernels().add_scaled(weights, factor, total)
    elif factor == 1.0:
        numpy.add(total, weights, total)
    elif total.size <= BLOCK_SIZE:
        total += total.dtype.type(factor) * weights
    elif _has_torch_for(weights):
        torch.from_numpy(total).add_(torch.from_numpy(weights), alpha=factor)
    else:
        scratch = _scratch(total.dtype)
        factor = total.dtype.type(factor)
        for total_block, weights_block in _blocks(total, weights):
            product = scratch[: total_block.size]
            numpy.multiply(weights_block, factor, product)
            numpy.add(total_block, product, total_block)


def scale_to(out: Array, total: Array, factor: float) -> None:
    """out = factor * total

    out (Array): An array of the same shape, overwritten in place.
    """
    if not isinstance(total, numpy.ndarray):
        _cupy_kernels().scale_to(total, factor, out)
    else:
        numpy.multiply(total, factor, out=out, dtype=total.dtype, casting="same_kind")


def pull_back(slow: Array, fast: Array, pullback: float) -> None:
    """slow += pullback * (fast - slow), then fast = slow

    slow (Array): A contiguous array of any shape, changed in place.
    fast (Array): An array of the same shape, changed in place.
    """
    if pullback == 1.0:
        # Exactly, not up to rounding: a pullback of 1 is the wrapped optimizer alone.
        slow[...] = fast
    elif not isinstance(slow, numpy.ndarray):
        _cupy_kernels().pull_back(pullback, slow, fast)
    elif slow.size <= BLOCK_SIZE or fast.dtype != slow.dtype or not fast.flags.c_contiguous:
        slow += slow.dtype.type(pullback) * (fast - slow)
        fast[...] = slow
    elif _has_torch_for(fast):
        if slow.size <= TORCH_WHOLE_SIZE:
            _pull_back_tensor(torch.from_numpy(slow), torch.from_numpy(fast), pullback)
        else:
            # Cut up by NumPy, which does it in less time.
            for slow_block, fast_block in _blocks(slow, fast, TORCH_BLOCK_SIZE):
                _pull_back_tensor(
                    torch.from_numpy(slow_block), torch.from_numpy(fast_block), pullback
                )
    else:
        # In the memory of the fast weights, which are overwritten anyway.
        pullback = slow.dtype.type(pullback)
        for slow_block, fast_block in _blocks(slow, fast):
            numpy.subtract(fast_block, slow_block, fast_block)
            numpy.multiply(fast_block, pullback, fast_block)
            numpy.add(slow_block, fast_block, fast_block)
            slow_block[...] = fast_block


def _pull_back_tensor(slow: Any, fast: Any, pullback: float) -> None:
    slow.lerp_(fast, pullback)
    fast.copy_(slow)


def _has_torch_for(array: Array) -> bool:
    # Other memory layouts PyTorch refuses in part, and it warns of what is read-only.
    return bool(torch is not None and array.flags.c_contiguous and array.flags.writeable)


def _blocks(
    first: Array, second: Array, size: int = BLOCK_SIZE
) -> Iterator[Tuple[Array, Array]]:
    """Matching pieces of two arrays of the same size, flattened."""
    first, second = first.reshape(-1), second.reshape(-1)
    whole = first.size - first.size % size
    # Rows of a matrix are faster to come by than slices.
    rows = (first[:whole].reshape(-1, size), second[:whole].reshape(-1, size))
    yield from zip(*rows, strict=True)
    if whole < first.size:
        yield first[whole:], second[whole:]


def _scratch(dtype: Any) -> Array:
    """A block to calculate in. Allocating one for each call would cost as much as the
    calculation, for the operating system hands out its memory page by page."""
    blocks: Dict[str, Array] = _per_thread.__dict__
    if dtype.name not in blocks:
        blocks[dtype.name] = numpy.empty(BLOCK_SIZE, dtype=dtype)
    return blocks[dtype.name]


_per_thread = threading.local()


@lru_cache(maxsize=None)
def _cupy_kernels() -> Any:
    from . import cupy_kernels

    return cupy_kernels


def is_due(step: int, start_step: int, freq: int) -> bool:
    """Whether a snapshot is taken after this step, counted from 1: after start_step, and
    then after every freq steps."""
    return step >= start_step and (step - start_step) % freq == 0


class RunningAverage:
    """A weighted average of snapshots of a whole model.

    It keeps one array per parameter, a weighted sum, and one number for all of them:
    average = scale * total. So a snapshot costs as little as it can, for an arithmetic
    mean one addition; the averages themselves are only made when somebody reads them.
    """

    totals: Dict[KeyT, Array]
    scale: float
    n_averaged: int
    _state = ("totals", "scale", "n_averaged")

    __slots__ = ["totals", "scale", "n_averaged", "_launch"]

    def __init__(self) -> None:
        self.totals = {}
        self.scale = 1.0
        self.n_averaged = 0
        # Adds what is on the GPU, as long as it is the same arrays.
        self._launch: Any = None

    def __getstate__(self) -> Dict[str, Any]:
        return {name: getattr(self, name) for name in self._state}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        # A copy's arrays are elsewhere on the GPU.
        self._launch = None
        for name, value in state.items():
            setattr(self, name, value)

    def add_snapshot(self, weights: Dict[KeyT, Array], decay: Optional[float] = None) -> None:
        """Take the weights into the average.

        weights (Dict[KeyT, Array]): The weights of all parameters.
        decay (Optional[float]): What is left of the old average, in [0, 1]. If None,
            all snapshots weigh the same: the average is their arithmetic mean.
        """
        if self.n_averaged == 0 or (decay is not None and decay < MIN_SCALE):
            totals = {key: as_average(array, copy=True) for key, array in weights.items()}
            self.totals, self.scale, self._launch = totals, 1.0, None
        elif decay is None:
            self._add(weights, 1.0, 1.0 / (self.n_averaged + 1))
        else:
            scale = decay * self.scale
            if scale < MIN_SCALE:
                self._rescale()
                scale = decay
            self._add(weights, (1.0 - decay) / scale, scale)
        self.n_averaged += 1

    def add_parameter(self, key: KeyT, weights: Array) -> None:
        """Make a parameter known that all snapshots so far had missed, as if it had
        been in each of them with these weights. The array is kept."""
        if self.n_averaged:
            total = as_average(weights)
            total /= self.scale
            self.totals[key] = total

    def means(self) -> Dict[KeyT, Array]:
        """The averages, in arrays of their own."""
        means = {}
        for key, total in self.totals.items():
            mean = empty_like(total)
            scale_to(mean, total, self.scale)
            means[key] = mean
        return means

    def write_to(self, weights: Dict[KeyT, Array]) -> None:
        """Overwrite the weights with the averages."""
        for key, total in self.totals.items():
            scale_to(weights[key], total, self.scale)

    def clear(self) -> None:
        """Let go of the arrays. n_averaged stays, as the count of what was done."""
        self.totals, self._launch = {}, None

    def _add(self, weights: Dict[KeyT, Array], factor: float, scale: float) -> None:
        gpu_totals, gpu_weights = [], []
        for key, array in weights.items():
            if isinstance(array, numpy.ndarray):
                add_scaled(self.totals[key], array, factor)
            else:
                gpu_totals.append(self.totals[key])
                gpu_weights.append(array)
        if gpu_weights:
            if self._launch is None or not self._launch.takes(gpu_totals, gpu_weights):
                add_together = _cupy_kernels().AddScaledTogether
                self._launch = add_together(gpu_totals, gpu_weights)
            self._launch(factor)
        self.scale = scale

    def _rescale(self) -> None:
        for total in self.totals.values():
            total *= self.scale
        self.scale = 1.0


def as_average(array: Array, *, copy: bool = False) -> Array:
    """Contiguous and in the dtype of averages.

    copy (bool): Whether it must be a copy, even if the array is like that already.
    """
    return array.astype(averages_dtype(array), order="C", copy=copy)


def empty_like(array: Array) -> Array:
    if isinstance(array, numpy.ndarray):
        return numpy.empty_like(array)
    import cupy

    return cupy.empty_like(array)


def zeros_like(array: Array) -> Array:
    zeros = empty_like(array)
    zeros[...] = 0
    return zeros
