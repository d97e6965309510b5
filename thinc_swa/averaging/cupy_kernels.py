"""Array kernels of averages for CuPy, loaded by `cpu_kernels.py` for the first CuPy array.

Only `is_finite`, `are_finite` and `Flags.read` copy data to the host and synchronise with the
GPU.
"""

from collections.abc import Sequence
from typing import Any

import cupy
import numpy

from ..types import Array

# T is the dtype of averages and W that of the weights.
add_scaled: Any = cupy.ElementwiseKernel(
    "W weights, T factor", "T total", "total += factor * (T)weights", "thinc_swa_add_scaled"
)
scale_to: Any = cupy.ElementwiseKernel(
    "T total, T factor", "W out", "out = (W)(factor * total)", "thinc_swa_scale_to"
)
interpolate: Any = cupy.ElementwiseKernel(
    "W weights, T factor",
    "T total",
    "total += factor * ((T)weights - total)",
    "thinc_swa_interpolate",
)
# The same kernels, which do nothing if a flag is set, and a kernel that sets it.
_add_scaled_unless: Any = cupy.ElementwiseKernel(
    "W weights, T factor, raw int32 flag",
    "T total",
    "if (flag[0] == 0) total += factor * (T)weights",
    "thinc_swa_add_scaled_unless",
)
_interpolate_unless: Any = cupy.ElementwiseKernel(
    "W weights, T factor, raw int32 flag",
    "T total",
    "if (flag[0] == 0) total += factor * ((T)weights - total)",
    "thinc_swa_interpolate_unless",
)
_find_non_finite: Any = cupy.ElementwiseKernel(
    "W weights",
    "raw int32 flag",
    "if (!isfinite((double)weights)) flag[0] = 1",
    "thinc_swa_find_non_finite",
)
pull_back: Any = cupy.ElementwiseKernel(
    "T pullback",
    "T slow, W fast",
    "slow += pullback * ((T)fast - slow); fast = (W)slow",
    "thinc_swa_pull_back",
)
# The same kernel, except that elements that are not finite are left alone and set a flag.
pull_back_finite: Any = cupy.ElementwiseKernel(
    "T pullback",
    "T slow, W fast, raw int32 flag",
    """
    if (isfinite((double)fast)) {
        slow += pullback * ((T)fast - slow);
        fast = (W)slow;
    } else {
        flag[0] = 1;
    }
    """,
    "thinc_swa_pull_back_finite",
)

# Of schedule-free learning. Two kernels that calculate the same must round alike.
_BLEND = """
template<typename T> __device__ T thinc_swa_blended(T z, T total, T inverse, T beta) {
    return z + beta * (total * inverse - z);
}
"""
blend: Any = cupy.ElementwiseKernel(
    "T z, T total, T inverse, T beta",
    "W weights",
    "weights = (W)thinc_swa_blended<T>(z, total, inverse, beta)",
    "thinc_swa_blend",
    preamble=_BLEND,
)
average_and_blend: Any = cupy.ElementwiseKernel(
    "T z, T factor, T left, T inverse, T beta, bool check, raw int32 flag",
    "T total, W weights",
    """
    const T result = total + factor * (z - total);
    if (!check || isfinite((double)result)) {
        total = result;
    } else {
        total *= left;
        flag[0] = 1;
    }
    weights = (W)thinc_swa_blended<T>(z, total, inverse, beta);
    """,
    "thinc_swa_average_and_blend",
    preamble=_BLEND,
)
follow_changes: Any = cupy.ElementwiseKernel(
    "W weights, T scale, T inverse, T beta, bool check, raw int32 flag",
    "T z, T total",
    """
    const W before = (W)thinc_swa_blended<T>(z, total, inverse, beta);
    if (!(before == weights)) {
        const T now = (T)weights, change = now - (T)before;
        const bool is_finite = isfinite((double)now);
        if (isfinite((double)change)) {
            z += change;
            total += scale * change;
        } else if (is_finite || !check) {
            z = now;
            total = scale * now;
        }
        if (check && !is_finite) flag[0] = 1;
    }
    """,
    "thinc_swa_follow_changes",
    preamble=_BLEND,
)

# The number of elements per block of threads. Small pieces make many blocks per multiprocessor,
# which balances their load.
PIECE_SIZE = 16384
N_THREADS = 512
_KERNELS: Any = cupy.RawModule(
    code=r"""
    extern "C" __global__ void thinc_swa_add_in_pieces(
        const long long* pieces, const float factor, const float shrinkage, const int* flag
    ) {
        // A previous launch found weights that are not finite.
        if (flag != 0 && *flag != 0) return;
        const long long* piece = pieces + 3 * (long long)blockIdx.x;
        float* total = (float*)piece[0];
        const float* weights = (const float*)piece[1];
        const int size = (int)piece[2];
        // All loads of an iteration come before its stores, so that several are in flight. The
        // compiler cannot reorder them, because the arrays might overlap.
        float sums[4], summands[4];
        for (int start = threadIdx.x; start < size; start += 4 * blockDim.x) {
            #pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int i = start + k * blockDim.x;
                if (i < size) {
                    sums[k] = total[i];
                    summands[k] = weights[i];
                }
            }
            #pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int i = start + k * blockDim.x;
                if (i < size) {
                    total[i] = sums[k] + factor * (summands[k] - shrinkage * sums[k]);
                }
            }
        }
    }

    extern "C" __global__ void thinc_swa_find_non_finite_in_pieces(
        const long long* pieces, int* flag
    ) {
        const long long* piece = pieces + 3 * (long long)blockIdx.x;
        const unsigned int* weights = (const unsigned int*)piece[1];
        const int size = (int)piece[2];
        bool is_finite = true;
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            // All bits of the exponent are set in NaN and infinities.
            is_finite = is_finite && (weights[i] & 0x7f800000u) != 0x7f800000u;
        }
        // The race is harmless, because all threads write the same value.
        if (!is_finite) *flag = 1;
    }
    """
)
_add_in_pieces: Any = _KERNELS.get_function("thinc_swa_add_in_pieces")
_find_non_finite_in_pieces: Any = _KERNELS.get_function("thinc_swa_find_non_finite_in_pieces")


def is_finite(array: Array) -> bool:
    """Whether all elements of an array are finite. Synchronises with the GPU."""
    return bool(cupy.isfinite(array).all().item())


def are_finite(arrays: Sequence[Array]) -> list[bool]:
    """Which arrays have only finite elements. Synchronises with the GPU once."""
    found = cupy.stack([cupy.isfinite(array).all() for array in arrays])
    return [bool(value) for value in found.get()]


class Flags:
    """Flags on the GPU for snapshots with weights that are not finite, which are read later to
    avoid a synchronisation per snapshot.

    size (int): The maximum number of flags before they must be read.
    """

    def __init__(self, size: int = 4096) -> None:
        self._flags = cupy.zeros(size, dtype="int32")
        self._n_taken = 0

    @property
    def is_full(self) -> bool:
        """Whether `read` must be called before the next `take`."""
        full: bool = self._n_taken == self._flags.size
        return full

    def take(self) -> Array:
        """Get the flag of the next snapshot, initially 0.

        RETURNS (Array): A view of shape (1,) and dtype int32.
        """
        self._n_taken += 1
        return self._flags[self._n_taken - 1 : self._n_taken]

    def read(self) -> list[bool]:
        """Read the flags that were taken, and reset them. Synchronises with the GPU.

        RETURNS (list[bool]): The flags, in the order of `take`.
        """
        taken = self._flags[: self._n_taken]
        flags = [bool(flag) for flag in taken.get()] if self._n_taken else []
        taken[...] = 0
        self._n_taken = 0
        return flags


class AddTogether:
    """Repeated `add_scaled` or `interpolate` of the same arrays, in one launch for all. A model
    has hundreds of arrays, most of which take a GPU less time than a launch.

    totals (Sequence[Array]): The arrays to add to.
    weights (Sequence[Array]): The arrays to add, in the same order and with the same shapes.
    """

    def __init__(self, totals: Sequence[Array], weights: Sequence[Array]) -> None:
        # References keep the arrays alive, because the table has only their addresses.
        self._arrays = [*totals, *weights]
        self._others: list[tuple[Array, Array]] = []
        device_id = cupy.cuda.Device().id
        pieces = [numpy.empty((0, 3), dtype="int64")]
        for total, array in zip(totals, weights, strict=True):
            if (
                total.dtype == array.dtype == numpy.float32
                and total.flags.c_contiguous
                and array.flags.c_contiguous
                and total.data.device_id == array.data.device_id == device_id
            ):
                pieces.append(_split(total.data.ptr, array.data.ptr, total.size))
            else:
                self._others.append((total, array))
        table = numpy.concatenate(pieces)
        self._n_pieces = len(table)
        self._pieces = cupy.asarray(table)

    def takes(self, totals: Sequence[Array], weights: Sequence[Array]) -> bool:
        """Whether the given arrays have the memory and layout of those of this object."""
        arrays = [*totals, *weights]
        # PyTorch's weights are new array objects in every step.
        return len(arrays) == len(self._arrays) and all(
            one is other or _layout(one) == _layout(other)
            for one, other in zip(arrays, self._arrays, strict=True)
        )

    def __call__(self, factor: float, shrinks: bool = False, flag: Array | None = None) -> None:
        """Add factor * weights to the totals.

        factor (float): The factor.
        shrinks (bool): Whether to multiply the totals by 1 - factor before.
        flag (Array | None): A flag of `Flags`, or None to add without a check. If any weight is
            not finite, the flag is set and nothing is added.
        """
        grid, block = (self._n_pieces,), (N_THREADS,)
        if flag is not None:
            if self._n_pieces:
                _find_non_finite_in_pieces(grid, block, (self._pieces, flag))
            for _, array in self._others:
                _find_non_finite(array, flag)
        if self._n_pieces:
            numbers = (numpy.float32(factor), numpy.float32(shrinks))
            pointer = numpy.intp(0) if flag is None else flag
            _add_in_pieces(grid, block, (self._pieces, *numbers, pointer))
        for total, array in self._others:
            if flag is None:
                (interpolate if shrinks else add_scaled)(array, factor, total)
            else:
                unless = _interpolate_unless if shrinks else _add_scaled_unless
                unless(array, factor, flag, total)


def _layout(array: Array) -> tuple[Any, ...]:
    return array.data.ptr, array.dtype, array.shape, array.strides


def _split(total: int, weights: int, size: int) -> Any:
    """Split a pair of arrays into pieces.

    total (int): The address of the total.
    weights (int): The address of the weights.
    size (int): The number of elements.
    RETURNS (numpy.ndarray): A row for each piece: the two addresses and the size. Shape
        (n_pieces, 3), dtype int64.
    """
    starts = numpy.arange(0, size, PIECE_SIZE, dtype="int64")
    sizes = numpy.minimum(size - starts, PIECE_SIZE)
    return numpy.stack([total + 4 * starts, weights + 4 * starts, sizes], axis=1)
