"""The kernels of `averaging.py` for CuPy. Imported by whoever passes a CuPy array.

None of them copies anything to the host or waits for the GPU, but `is_finite` and
`Flags.read`, whose answers are for the host.
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
# The same, but only if a flag is not set, and a kernel that sets it.
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
# The same, but what is not finite stays as it is, and sets a flag.
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

# Elements that a block of threads goes through: many blocks for each multiprocessor, so that
# none waits long for the last ones.
PIECE_SIZE = 16384
N_THREADS = 512
_KERNELS: Any = cupy.RawModule(
    code=r"""
    extern "C" __global__ void thinc_swa_add_in_pieces(
        const long long* pieces, const float factor, const float shrinkage, const int* flag
    ) {
        // Another launch has found weights that are not finite: nothing is added at all.
        if (flag != 0 && *flag != 0) return;
        const long long* piece = pieces + 3 * (long long)blockIdx.x;
        float* total = (float*)piece[0];
        const float* weights = (const float*)piece[1];
        const int size = (int)piece[2];
        // All loads of a round come before its stores, which the compiler, who does not know
        // that the arrays are apart, would not dare: so several are under way at a time.
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
            // NaN and infinities have all bits of the exponent set.
            is_finite = is_finite && (weights[i] & 0x7f800000u) != 0x7f800000u;
        }
        // Every thread that writes writes the same.
        if (!is_finite) *flag = 1;
    }
    """
)
_add_in_pieces: Any = _KERNELS.get_function("thinc_swa_add_in_pieces")
_find_non_finite_in_pieces: Any = _KERNELS.get_function("thinc_swa_find_non_finite_in_pieces")


def is_finite(array: Array) -> bool:
    """Whether there are neither NaN nor infinities. Waits for the GPU."""
    return bool(cupy.isfinite(array).all().item())


class Flags:
    """Whether snapshots had weights that are not finite: a flag on the GPU for each, which
    nobody waits for until they are read.

    size (int): How many snapshots fit in before they have to be read.
    """

    def __init__(self, size: int = 4096) -> None:
        self._flags = cupy.zeros(size, dtype="int32")
        self._n_taken = 0

    @property
    def is_full(self) -> bool:
        full: bool = self._n_taken == self._flags.size
        return full

    def take(self) -> Array:
        """The flag of the next snapshot, which is not set yet."""
        self._n_taken += 1
        return self._flags[self._n_taken - 1 : self._n_taken]

    def read(self) -> list[bool]:
        """The flags that were taken, which are forgotten then. Waits for the GPU."""
        taken = self._flags[: self._n_taken]
        flags = [bool(flag) for flag in taken.get()] if self._n_taken else []
        taken[...] = 0
        self._n_taken = 0
        return flags


class AddTogether:
    """`add_scaled` or `interpolate` for the same arrays again and again, in one launch for all
    of them. A model has hundreds of arrays, and a fast GPU adds most of them in less time than
    a launch takes.

    totals (Sequence[Array]): What is added to.
    weights (Sequence[Array]): What is added, in the same order and the same shapes.
    """

    def __init__(self, totals: Sequence[Array], weights: Sequence[Array]) -> None:
        # Keeps them from being freed, for the GPU knows them by their addresses.
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
        """Whether it was made for these arrays: the same memory, not equal numbers."""
        arrays = [*totals, *weights]
        # PyTorch's weights come in new array objects in every step.
        return len(arrays) == len(self._arrays) and all(
            one is other or _layout(one) == _layout(other)
            for one, other in zip(arrays, self._arrays, strict=True)
        )

    def __call__(self, factor: float, shrinks: bool = False, flag: Array | None = None) -> None:
        """Add factor * weights to the totals.

        shrinks (bool): Whether the totals are multiplied by 1 - factor before.
        flag (Array | None): Of `Flags`. With it the weights are checked first: if any of
            them is not finite, it is set, and nothing is added.
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
    """RETURNS (numpy.ndarray): Rows of two addresses and a size, for one array."""
    starts = numpy.arange(0, size, PIECE_SIZE, dtype="int64")
    sizes = numpy.minimum(size - starts, PIECE_SIZE)
    return numpy.stack([total + 4 * starts, weights + 4 * starts, sizes], axis=1)
