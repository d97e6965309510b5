"""Array kernels of averages for the CPU. CuPy arrays are passed to `cupy_kernels.py`.

The kernels work in place. On the CPU they process large arrays in blocks that fit into the
cache. NumPy has no fused multiply-add and requires several passes over a block. PyTorch, if it
is installed, requires one pass over the same memory. On the GPU each kernel is one launch.
"""

import math
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy
import thinc.compat

from ..types import Array

torch: Any = thinc.compat.torch

# In elements. 32 Ki float32 elements are 128 KiB, so the blocks of all arrays of a kernel fit
# into the second-level cache of one core. Arrays up to this size are not divided.
BLOCK_SIZE = 32768

# The overhead of a PyTorch call is equivalent to some thousand elements, so its blocks are
# larger: two of them fill half of a second-level cache of 1 MiB, a common size. Larger blocks
# are faster on CPUs with a fast third-level cache (AMD EPYC: 4 %), but much slower on others
# (Intel Xeon: 22 %). Arrays of a few blocks are not divided.
TORCH_BLOCK_SIZE = 2 * BLOCK_SIZE
TORCH_WHOLE_SIZE = 16 * TORCH_BLOCK_SIZE


def averages_dtype(weights: Array) -> Any:
    """The dtype of averages of the given weights: float64 for float64, otherwise float32."""
    return numpy.float64 if weights.dtype == numpy.float64 else numpy.float32


def add_scaled(total: Array, weights: Array, factor: float) -> None:
    """Add scaled weights in place: total += factor * weights.

    total (Array): A contiguous array of any shape, changed in place.
    weights (Array): An array of the same shape and any floating-point dtype.
    factor (float): The factor.
    """
    if not isinstance(total, numpy.ndarray):
        load_cupy_kernels().add_scaled(weights, factor, total)
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


def interpolate(total: Array, weights: Array, factor: float) -> None:
    """Interpolate in place: total += factor * (weights - total).

    total (Array): A contiguous array of any shape, changed in place.
    weights (Array): An array of the same shape and any floating-point dtype.
    factor (float): The factor.
    """
    if not isinstance(total, numpy.ndarray):
        load_cupy_kernels().interpolate(weights, factor, total)
    elif total.size <= BLOCK_SIZE:
        total += total.dtype.type(factor) * (weights - total)
    elif _has_torch_for(weights) and weights.dtype == total.dtype:
        torch.from_numpy(total).lerp_(torch.from_numpy(weights), factor)
    else:
        scratch = _scratch(total.dtype)
        factor = total.dtype.type(factor)
        for total_block, weights_block in _blocks(total, weights):
            difference = scratch[: total_block.size]
            numpy.subtract(weights_block, total_block, difference)
            numpy.multiply(difference, factor, difference)
            numpy.add(total_block, difference, total_block)


def scale_to(out: Array, total: Array, factor: float) -> None:
    """Write a scaled array to another one: out = factor * total.

    out (Array): An array of the same shape and any floating-point dtype, overwritten.
    total (Array): The array.
    factor (float): The factor.
    """
    if not isinstance(total, numpy.ndarray):
        load_cupy_kernels().scale_to(total, factor, out)
    else:
        numpy.multiply(total, factor, out=out, dtype=total.dtype, casting="same_kind")


def pull_back(slow: Array, fast: Array, pullback: float) -> None:
    """Synchronise slow and fast weights in place: slow += pullback * (fast - slow), then
    fast = slow.

    slow (Array): A contiguous array of any shape, changed in place.
    fast (Array): An array of the same shape and any floating-point dtype, changed in place.
    pullback (float): The factor, in (0, 1].
    """
    if pullback == 1.0:
        # Without rounding, so that the result equals that of the wrapped optimizer alone.
        slow[...] = fast
    elif not isinstance(slow, numpy.ndarray):
        load_cupy_kernels().pull_back(pullback, slow, fast)
    elif slow.size <= BLOCK_SIZE or fast.dtype != slow.dtype or not fast.flags.c_contiguous:
        slow += slow.dtype.type(pullback) * (fast - slow)
        fast[...] = slow
    elif _has_torch_for(fast):
        if slow.size <= TORCH_WHOLE_SIZE:
            torch.from_numpy(slow).lerp_(torch.from_numpy(fast), pullback)
            fast[...] = slow
        else:
            # NumPy is faster at dividing and copying.
            for slow_block, fast_block in _blocks(slow, fast, TORCH_BLOCK_SIZE):
                torch.from_numpy(slow_block).lerp_(torch.from_numpy(fast_block), pullback)
                fast_block[...] = slow_block
    else:
        # The fast weights serve as a temporary array, because they are overwritten anyway.
        pullback = slow.dtype.type(pullback)
        for slow_block, fast_block in _blocks(slow, fast):
            numpy.subtract(fast_block, slow_block, fast_block)
            numpy.multiply(fast_block, pullback, fast_block)
            numpy.add(slow_block, fast_block, fast_block)
            slow_block[...] = fast_block


def pull_back_finite(slow: Array, fast: Array, pullback: float) -> bool:
    """Synchronise slow and fast weights as `pull_back`, except for slow elements whose result
    would be NaN or infinite. For NumPy arrays only.

    slow (Array): A contiguous array of any shape, changed in place.
    fast (Array): An array of the same shape and any floating-point dtype, changed in place.
    pullback (float): The factor, in (0, 1].
    RETURNS (bool): Whether all results were finite.
    """
    is_all_finite = True
    with numpy.errstate(over="ignore", invalid="ignore"):
        if slow.size <= BLOCK_SIZE or fast.dtype != slow.dtype or not fast.flags.c_contiguous:
            if pullback == 1.0:
                result = fast.astype(slow.dtype)
            else:
                result = slow + slow.dtype.type(pullback) * (fast - slow)
            is_all_finite = _copy_finite(slow, result)
            fast[...] = result
            return is_all_finite
        # The fast weights serve as a temporary array, so that the slow weights are preserved
        # until the result is checked, while it is in the cache.
        has_torch, size = _has_torch_for(fast), BLOCK_SIZE
        if has_torch:
            size = slow.size if slow.size <= TORCH_WHOLE_SIZE else TORCH_BLOCK_SIZE
        for slow_block, fast_block in _blocks(slow, fast, size):
            if pullback == 1.0:
                pass
            elif has_torch:
                torch.from_numpy(fast_block).lerp_(torch.from_numpy(slow_block), 1.0 - pullback)
            else:
                numpy.subtract(fast_block, slow_block, fast_block)
                numpy.multiply(fast_block, slow.dtype.type(pullback), fast_block)
                numpy.add(fast_block, slow_block, fast_block)
            is_all_finite &= _copy_finite(slow_block, fast_block)
    return is_all_finite


def _copy_finite(out: Array, array: Array) -> bool:
    if is_finite_quietly(array):
        out[...] = array
        return True
    numpy.copyto(out, array, where=numpy.isfinite(array))
    return False


def average_and_blend(
    weights: Array,
    z: Array,
    total: Array,
    *,
    factor: float,
    left: float,
    scale: float,
    beta: float,
    check_finite: bool,
) -> bool:
    """total += factor * (z - total), then weights = z + beta * (total / scale - z)

    weights (Array): An array of any shape and floating point dtype, overwritten in place.
    z (Array): A contiguous array of the same shape.
    total (Array): A contiguous array of the same shape, changed in place.
    left (float): What the total is multiplied by where z is left out.
    scale (float): What the result is divided by for the weights.
    check_finite (bool): Whether to leave z out where the result is not finite.
    RETURNS (bool): Whether nothing was left out. NumPy arrays only.
    """
    is_all_finite = True
    dtype = total.dtype.type
    with numpy.errstate(over="ignore", invalid="ignore"):
        for weights_block, z_block, total_block, result in _blocks_with_scratch(
            weights, z, total
        ):
            numpy.subtract(z_block, total_block, result)
            numpy.multiply(result, dtype(factor), result)
            numpy.add(result, total_block, result)
            if not check_finite or is_finite_quietly(result):
                total_block[...] = result
            else:
                is_all_finite = False
                numpy.multiply(total_block, dtype(left), total_block)
                numpy.copyto(total_block, result, where=numpy.isfinite(result))
            weights_block[...] = _blend(z_block, total_block, scale, beta, result)
    return is_all_finite


def follow_changes(
    weights: Array, z: Array, total: Array, *, scale: float, beta: float, check_finite: bool
) -> bool:
    """Where the weights are no longer what `average_and_blend` has made of z and the total,
    move both by the difference, or to the weights if what it made is not finite.

    z (Array): A contiguous array of the shape of the weights, changed in place.
    total (Array): A contiguous array of the same shape, changed in place.
    scale (float): What the total is divided by for the average.
    check_finite (bool): Whether to leave out weights that are NaN or infinite.
    RETURNS (bool): Whether nothing was left out. NumPy arrays only.
    """
    is_all_finite = True
    dtype = total.dtype.type
    with numpy.errstate(over="ignore", invalid="ignore"):
        for weights_block, z_block, total_block, scratch in _blocks_with_scratch(
            weights, z, total
        ):
            _blend(z_block, total_block, scale, beta, scratch)
            before = scratch.astype(weights_block.dtype, copy=False)
            if (before == weights_block).all():
                continue
            now = weights_block.astype(dtype)
            is_finite = numpy.isfinite(now)
            if check_finite and not is_finite.all():
                is_all_finite = False
            change = now - before
            is_move = numpy.isfinite(change)
            numpy.add(z_block, change, z_block, where=is_move)
            numpy.add(total_block, dtype(scale) * change, total_block, where=is_move)
            is_reset = ~is_move & is_finite if check_finite else ~is_move
            numpy.copyto(z_block, now, where=is_reset)
            numpy.copyto(total_block, dtype(scale) * now, where=is_reset)
    return is_all_finite


def blend(weights: Array, z: Array, total: Array, *, scale: float, beta: float) -> None:
    """weights = z + beta * (total / scale - z)

    weights (Array): An array of any shape and floating point dtype, overwritten in place.
    """
    if not isinstance(total, numpy.ndarray):
        load_cupy_kernels().blend(z, total, 1.0 / scale, beta, weights)
        return
    with numpy.errstate(over="ignore", invalid="ignore"):
        for weights_block, z_block, total_block, result in _blocks_with_scratch(
            weights, z, total
        ):
            weights_block[...] = _blend(z_block, total_block, scale, beta, result)


def _blend(z: Array, total: Array, scale: float, beta: float, out: Array) -> Array:
    # Without PyTorch and BLAS: the same bits whenever it is calculated again.
    dtype = total.dtype.type
    numpy.multiply(total, dtype(1.0 / scale), out)
    numpy.subtract(out, z, out)
    numpy.multiply(out, dtype(beta), out)
    return numpy.add(out, z, out)


def _blocks_with_scratch(
    weights: Array, z: Array, total: Array
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Matching pieces of three arrays, and memory of that size to calculate in. Weights in
    another memory layout are taken as a whole."""
    if total.size <= BLOCK_SIZE or not (weights.flags.c_contiguous and z.flags.c_contiguous):
        yield weights, z, total, numpy.empty_like(total)
        return
    arrays = [array.reshape(-1) for array in (weights, z, total)]
    scratch = _scratch(total.dtype)
    for start in range(0, total.size, BLOCK_SIZE):
        first, second, third = (array[start : start + BLOCK_SIZE] for array in arrays)
        yield first, second, third, scratch[: third.size]


def is_finite(array: Array) -> bool:
    """Whether all elements of an array are finite. Synchronises with the GPU."""
    with numpy.errstate(over="ignore", invalid="ignore"):
        return is_finite_quietly(array)


def is_finite_quietly(array: Array) -> bool:
    """Whether all elements of an array are finite, for callers that have disabled NumPy's
    warnings: disabling them takes as long as the check of a small array."""
    if not isinstance(array, numpy.ndarray):
        return bool(load_cupy_kernels().is_finite(array))
    if array.flags.c_contiguous and array.dtype != numpy.float16:
        # BLAS is several times as fast as numpy.isfinite. The dot product of the two halves,
        # which share the middle element of an odd number, is not finite if an element is not.
        # It can also overflow, so only a finite product is conclusive. The dot product of the
        # whole array with itself would be slower.
        flat = array.reshape(-1)
        half = (flat.size + 1) // 2
        if math.isfinite(flat[:half].dot(flat[flat.size - half :])):
            return True
    return bool(numpy.isfinite(array).all())


def _has_torch_for(array: Array) -> bool:
    # PyTorch does not support all other memory layouts, and warns of read-only arrays.
    return bool(torch is not None and array.flags.c_contiguous and array.flags.writeable)


def _blocks(
    first: Array, second: Array, size: int = BLOCK_SIZE
) -> Iterator[tuple[Array, Array]]:
    """Iterate over the blocks of two arrays of the same size. Blocks are flattened, except for
    arrays of a single block."""
    if first.size <= size:
        yield first, second
        return
    first, second = first.reshape(-1), second.reshape(-1)
    whole = first.size - first.size % size
    # Iteration over the rows of a matrix is faster than slicing.
    rows = (first[:whole].reshape(-1, size), second[:whole].reshape(-1, size))
    yield from zip(*rows, strict=True)
    if whole < first.size:
        yield first[whole:], second[whole:]


def _scratch(dtype: Any) -> Array:
    """Get a temporary block. Allocating it in each call would take as long as the calculation,
    because the operating system maps new memory page by page."""
    blocks: dict[str, Array] = _per_thread.__dict__
    if dtype.name not in blocks:
        blocks[dtype.name] = numpy.empty(BLOCK_SIZE, dtype=dtype)
    return blocks[dtype.name]


_per_thread = threading.local()


@cache
def load_cupy_kernels() -> Any:
    """Import `cupy_kernels`, only where a CuPy array exists."""
    from . import cupy_kernels

    return cupy_kernels


def as_average(array: Array, *, copy: bool = False) -> Array:
    """Convert an array to a contiguous array with the dtype of averages.

    array (Array): The array.
    copy (bool): Whether to copy the array even if no conversion is required.
    RETURNS (Array): The converted array.
    """
    return array.astype(averages_dtype(array), order="C", copy=copy)


def array_module(array: Array) -> Any:
    """The library of an array: NumPy or CuPy."""
    if isinstance(array, numpy.ndarray):
        return numpy
    import cupy

    return cupy


def empty_like(array: Array) -> Array:
    """Make an uninitialized array with the shape, dtype and library of another one."""
    return array_module(array).empty_like(array)


def zeros_like(array: Array) -> Array:
    """Make an array of zeros with the shape, dtype and library of another one."""
    zeros = empty_like(array)
    zeros[...] = 0
    return zeros
