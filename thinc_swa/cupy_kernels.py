"""The kernels of `averaging.py` for CuPy. Imported by whoever passes a CuPy array.

None of them copies anything to the host or waits for the GPU.
"""

from typing import Any, List, Sequence, Tuple

import cupy
import numpy

from .types import Array

# T is the dtype of averages and W that of the weights.
add_scaled: Any = cupy.ElementwiseKernel(
    "W weights, T factor", "T total", "total += factor * (T)weights", "thinc_swa_add_scaled"
)
scale_to: Any = cupy.ElementwiseKernel(
    "T total, T factor", "W out", "out = (W)(factor * total)", "thinc_swa_scale_to"
)
pull_back: Any = cupy.ElementwiseKernel(
    "T pullback",
    "T slow, W fast",
    "slow += pullback * ((T)fast - slow); fast = (W)slow",
    "thinc_swa_pull_back",
)

# Elements that a block of threads goes through: many blocks for each multiprocessor, so that
# none waits long for the last ones.
PIECE_SIZE = 16384
N_THREADS = 512
_add_scaled_in_pieces: Any = cupy.RawKernel(
    r"""
    extern "C" __global__ void thinc_swa_add_scaled_in_pieces(
        const long long* pieces, const float factor
    ) {
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
                    total[i] = sums[k] + factor * summands[k];
                }
            }
        }
    }
    """,
    "thinc_swa_add_scaled_in_pieces",
)


class AddScaledTogether:
    """`add_scaled` for the same arrays again and again, in one launch for all of them. A model
    has hundreds of arrays, and a fast GPU adds most of them in less time than a launch takes.

    totals (Sequence[Array]): What is added to.
    weights (Sequence[Array]): What is added, in the same order and the same shapes.
    """

    def __init__(self, totals: Sequence[Array], weights: Sequence[Array]) -> None:
        # Keeps them from being freed, for the GPU knows them by their addresses.
        self._arrays = [*totals, *weights]
        self._others: List[Tuple[Array, Array]] = []
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

    def __call__(self, factor: float) -> None:
        if self._n_pieces:
            arguments = (self._pieces, numpy.float32(factor))
            _add_scaled_in_pieces((self._n_pieces,), (N_THREADS,), arguments)
        for total, array in self._others:
            add_scaled(array, factor, total)


def _layout(array: Array) -> Tuple[Any, ...]:
    return array.data.ptr, array.dtype, array.shape, array.strides


def _split(total: int, weights: int, size: int) -> Any:
    """RETURNS (numpy.ndarray): Rows of two addresses and a size, for one array."""
    starts = numpy.arange(0, size, PIECE_SIZE, dtype="int64")
    sizes = numpy.minimum(size - starts, PIECE_SIZE)
    return numpy.stack([total + 4 * starts, weights + 4 * starts, sizes], axis=1)
