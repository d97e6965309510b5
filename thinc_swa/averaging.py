"""The arithmetic of averages: array kernels and the running average they keep.

The kernels work in place on NumPy and on CuPy arrays, chosen array by array. On the CPU
they go through large arrays in blocks that stay in the cache. NumPy has no multiply-and-add
and needs several passes over a block; where Thinc has found PyTorch, that does it in one, on
the same memory. On the GPU each is one launch (`cupy_kernels.py`), and a snapshot of a model
is one launch for all its parameters, or two with the check for non-finite weights.
"""

import math
import threading
import warnings
from functools import lru_cache
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy
import thinc.compat

from .types import Array, KeyT

torch: Any = thinc.compat.torch

# In numbers of elements. 32 Ki float32 are 128 KiB: what a kernel works on at a time fits
# into the second-level cache of one core. Arrays up to this size are taken as they are.
BLOCK_SIZE = 32768

# A call of PyTorch costs as much as some thousand elements, so it gets larger blocks: two of
# them are half of a second-level cache of 1 MiB, today's common size. Larger ones are faster
# on CPUs with a fast third-level cache (AMD EPYC: 4 %), but much slower elsewhere (Intel Xeon:
# 22 %). An array of a few blocks is taken as it is.
TORCH_BLOCK_SIZE = 2 * BLOCK_SIZE
TORCH_WHOLE_SIZE = 16 * TORCH_BLOCK_SIZE

# With a decay below 1 the scale of a running average shrinks at every snapshot and the
# totals grow. They are brought back to a scale of 1 long before they leave the range of
# float32. What a smaller decay would leave is below the precision of any float.
MIN_SCALE = 2.0**-60

# An arithmetic mean is a plain sum of its first snapshots. Then it is interpolated, at several
# times the size of the mean. See `RunningAverage`.
N_SUMMED = 64
MEAN_SCALE = 4.0


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


def interpolate(total: Array, weights: Array, factor: float) -> None:
    """total += factor * (weights - total)

    total (Array): A contiguous array of any shape, changed in place.
    weights (Array): An array of the same shape, of any floating point dtype.
    """
    if not isinstance(total, numpy.ndarray):
        _cupy_kernels().interpolate(weights, factor, total)
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
            torch.from_numpy(slow).lerp_(torch.from_numpy(fast), pullback)
            fast[...] = slow
        else:
            # NumPy cuts and copies in less time.
            for slow_block, fast_block in _blocks(slow, fast, TORCH_BLOCK_SIZE):
                torch.from_numpy(slow_block).lerp_(torch.from_numpy(fast_block), pullback)
                fast_block[...] = slow_block
    else:
        # In the memory of the fast weights, which are overwritten anyway.
        pullback = slow.dtype.type(pullback)
        for slow_block, fast_block in _blocks(slow, fast):
            numpy.subtract(fast_block, slow_block, fast_block)
            numpy.multiply(fast_block, pullback, fast_block)
            numpy.add(slow_block, fast_block, fast_block)
            slow_block[...] = fast_block


def pull_back_finite(
    key: KeyT, slow: Array, fast: Array, pullback: float, skipped: "SkipCount"
) -> bool:
    """The same, unless there are fast weights that are not finite. On a GPU, where the answer
    would have to be waited for, only these are left as they are.

    key (KeyT): The parameter.
    skipped (SkipCount): Is told.
    RETURNS (bool): False if it was left out.
    """
    if not isinstance(slow, numpy.ndarray):
        if skipped.is_full:
            skipped.resolve()
        _cupy_kernels().pull_back_finite(pullback, slow, fast, skipped.take_flag())
    elif is_finite(fast):
        pull_back(slow, fast, pullback)
    else:
        skipped.skip(key)
        return False
    return True


def _has_torch_for(array: Array) -> bool:
    # Other memory layouts PyTorch refuses in part, and it warns of what is read-only.
    return bool(torch is not None and array.flags.c_contiguous and array.flags.writeable)


def _blocks(
    first: Array, second: Array, size: int = BLOCK_SIZE
) -> Iterator[Tuple[Array, Array]]:
    """Matching pieces of two arrays of the same size: as they are if they are small, else
    flattened."""
    if first.size <= size:
        yield first, second
        return
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


class SkipCount:
    """Counts what was left out because of weights that are not finite, and warns once.

    A GPU raises flags, which are only read when the host wants to know.
    """

    n_skipped: int
    _state = ("n_skipped",)

    __slots__ = ["n_skipped", "_is_warned", "_flags"]

    def __init__(self) -> None:
        self.n_skipped = 0
        self._is_warned = False
        self._flags: Any = None

    def __getstate__(self) -> Dict[str, Any]:
        self.resolve()
        return {"n_skipped": self.n_skipped, "_is_warned": self._is_warned}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self._flags = None
        for name, value in state.items():
            setattr(self, name, value)

    def skip(self, key: Optional[KeyT], n_times: int = 1) -> None:
        """Count, and warn if it is the first time."""
        self.n_skipped += n_times
        if not self._is_warned:
            self._is_warned = True
            place = "" if key is None else f" (parameter {key})"
            warnings.warn(
                f"Weights that are NaN or infinite{place} are left out of averages: check the "
                "learning rate and the gradients. n_skipped counts how often this happens, and "
                "check_finite = False turns the check off",
                RuntimeWarning,
                stacklevel=2,
            )

    def take_flag(self) -> Array:
        """A flag on the GPU, to be set there if something is left out."""
        if self._flags is None:
            self._flags = _cupy_kernels().Flags()
        return self._flags.take()

    @property
    def is_full(self) -> bool:
        """Whether `resolve` must come before the next flag."""
        return self._flags is not None and bool(self._flags.is_full)

    def resolve(self) -> List[bool]:
        """Read the flags that were taken since the last time, and count those that are set."""
        flags: List[bool] = [] if self._flags is None else self._flags.read()
        if any(flags):
            self.skip(None, sum(flags))
        return flags

    def free(self) -> None:
        """Give back the memory of the flags."""
        self.resolve()
        self._flags = None


class RunningAverage:
    """A weighted average of snapshots of a whole model.

    It keeps one array per parameter, a weighted sum, and the sum of the weights of the
    snapshots: average = total / weight. So a snapshot costs as little as it can, for a moving
    average and for the first snapshots of an arithmetic mean one addition; the averages
    themselves are made when they are read.

    A long sum in float32 is not exact: of 100,000 summands of the same size, it loses the last
    five digits of each, and where weights stand still or move slowly, all additions round the
    same way. A running mean, total += (weights - total) / n, stops moving when the difference
    is below n * 2**-25. So later snapshots of an arithmetic mean are interpolated at four times
    the size of the mean: the total shrinks in every step, so that every addition rounds in
    another place and the errors cancel each other, as far as 24 bits allow. Whenever the number
    of snapshots has doubled, it is brought back to that size.

    A snapshot with non-finite weights is left out as a whole: one NaN or infinity would stay
    in the sum for good. On the CPU this is known at once. On a GPU a flag there says so, which
    is only read when the averages or the counts are asked for. For a moving average such a
    snapshot still counts as time that has passed there.

    check_finite (bool): Whether to look for non-finite weights.
    """

    totals: Dict[KeyT, Array]
    weight: float
    scale: float
    missed: Dict[KeyT, float]
    check_finite: bool
    _state = ("totals", "weight", "scale", "missed", "n_averaged", "n_skipped")

    __slots__ = [
        "totals",
        "weight",
        "scale",
        "missed",
        "check_finite",
        "_n_averaged",
        "_skipped",
        "_launch",
        "_unresolved",
        "_resolved_weight",
    ]

    def __init__(self, *, check_finite: bool = True) -> None:
        self.check_finite = check_finite
        self._launch: Any = None
        self.reset()

    def reset(self) -> None:
        """Start again from nothing."""
        self.totals = {}
        self.weight = 0.0
        # What a moving average has left of the weight of its first snapshot.
        self.scale = 1.0
        # The part of `weight` that a parameter has no summands for yet.
        self.missed = {}
        self._n_averaged = 0
        self._skipped = SkipCount()
        # Adds what is on the GPU, as long as it is the same arrays.
        self._launch = None
        # What was added there since the flags were read, and the sum of weights before that.
        self._unresolved: List[Tuple[float, bool]] = []
        self._resolved_weight = 0.0

    @property
    def n_averaged(self) -> int:
        """The number of snapshots in the average."""
        self._resolve()
        return self._n_averaged

    @n_averaged.setter
    def n_averaged(self, value: int) -> None:
        self._n_averaged = value

    @property
    def n_skipped(self) -> int:
        """The number of snapshots that were left out for their non-finite weights."""
        self._resolve()
        return self._skipped.n_skipped

    @n_skipped.setter
    def n_skipped(self, value: int) -> None:
        self._skipped.n_skipped = value

    def __getstate__(self) -> Dict[str, Any]:
        names = (*self._state, "check_finite", "_skipped")
        return {name: getattr(self, name) for name in names if name != "n_skipped"}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        # A copy's arrays are elsewhere on the GPU.
        self._launch = None
        self._unresolved = []
        self._resolved_weight = 0.0
        for name, value in state.items():
            setattr(self, name, value)

    @staticmethod
    def _upgrade(saved: Dict[str, Any]) -> Dict[str, Any]:
        """The state in a file of version 1, where the weight was the inverse of the scale."""
        scale = saved.get("scale")
        weight = 0.0
        if isinstance(scale, (int, float)) and scale > 0 and saved.get("n_averaged"):
            weight = 1.0 / scale
        return {"weight": weight, "missed": {"numbers": {}}, "n_skipped": 0, **saved}

    def add_snapshot(self, weights: Dict[KeyT, Array], decay: Optional[float] = None) -> None:
        """Take the weights into the average.

        weights (Dict[KeyT, Array]): The weights of all parameters. Those of a parameter that
            is not among them are caught up on by `add_parameter`.
        decay (Optional[float]): What is left of the old average, in [0, 1). If None,
            all snapshots weigh the same: the average is their arithmetic mean.
        """
        if self._n_averaged == 0 or (decay is not None and decay < MIN_SCALE):
            if not self.check_finite or self._is_finite(weights):
                self._start(weights)
            return
        shrinks = decay is None and self._n_averaged >= N_SUMMED
        scale = self.scale
        if decay is not None:
            scale *= decay
            if scale < MIN_SCALE:
                self._rescale(self.scale)
                scale = decay
            factor = (1.0 - decay) / scale
        elif shrinks:
            if self._n_averaged & (self._n_averaged - 1) == 0:
                self._rescale(MEAN_SCALE / self.weight)
            factor = self.weight / (self._n_averaged + self.weight)
        else:
            factor = 1.0
        if self._add(weights, factor, shrinks):
            self.scale = scale
            self._n_averaged += 1
            self.weight = _add_weight(self.weight, factor, shrinks)
            if self.missed or len(self.totals) > len(weights):
                self._note_missed(weights, factor, shrinks)

    def add_parameter(self, key: KeyT, weights: Array) -> None:
        """Let a parameter catch up on the snapshots that it has missed, as if it had been in
        each of them with these weights. The array is kept. Non-finite weights are not taken:
        the parameter has its average from later snapshots then."""
        missed = self.missed.pop(key, 0.0) if key in self.totals else self.weight
        if not missed or (self.check_finite and not is_finite(weights)):
            return
        total = as_average(weights)
        total *= missed
        if key in self.totals:
            total += self.totals[key]
        self.totals[key] = total
        self._launch = None

    def replace_parameter(self, key: KeyT, weights: Array) -> None:
        """Take all that is known of a parameter for outdated: it has had these weights in all
        snapshots. The array is kept."""
        self.totals.pop(key, None)
        self.missed.pop(key, None)
        self.add_parameter(key, weights)

    def means(self) -> Dict[KeyT, Array]:
        """The averages, in arrays of their own."""
        means = {}
        for key, total in self.totals.items():
            weight = self._weight_of(key)
            if weight:
                mean = empty_like(total)
                scale_to(mean, total, 1.0 / weight)
                means[key] = mean
        return means

    def write_to(self, weights: Dict[KeyT, Array]) -> List[KeyT]:
        """Overwrite the weights with the averages. RETURNS (List[KeyT]): Whose."""
        written = []
        for key, total in self.totals.items():
            weight = self._weight_of(key)
            if weight and key in weights:
                scale_to(weights[key], total, 1.0 / weight)
                written.append(key)
        return written

    def clear(self) -> None:
        """Let go of the arrays. The counts stay, as those of what was done."""
        self._resolve()
        self._skipped.free()
        self.totals, self.missed, self._launch = {}, {}, None

    def _weight_of(self, key: KeyT) -> float:
        self._resolve()
        return self.weight - self.missed.get(key, 0.0)

    def _start(self, weights: Dict[KeyT, Array]) -> None:
        """The first snapshot is the average."""
        self.totals = {key: as_average(array, copy=True) for key, array in weights.items()}
        self.weight, self.scale, self.missed, self._launch = 1.0, 1.0, {}, None
        self._n_averaged += 1

    def _is_finite(self, weights: Dict[KeyT, Array]) -> bool:
        with numpy.errstate(over="ignore", invalid="ignore"):
            for key, array in weights.items():
                if not _is_finite(array):
                    self._skipped.skip(key)
                    return False
        return True

    def _add(self, weights: Dict[KeyT, Array], factor: float, shrinks: bool) -> bool:
        """Add a multiple of the weights to the totals.

        factor (float): The weight of the summand.
        shrinks (bool): Whether the total is multiplied by 1 - factor before.
        RETURNS (bool): False if it was left out, which is only known of NumPy arrays.
        """
        on_cpu: List[Tuple[Array, Array]] = []
        on_gpu: List[Tuple[Array, Array]] = []
        for key, array in weights.items():
            total = self.totals.get(key)
            if total is None:
                # Its weights were not finite when the others had their first snapshot.
                total = self.totals[key] = zeros_like(as_average(array))
                self.missed[key] = self.weight
            is_on_cpu = isinstance(array, numpy.ndarray)
            (on_cpu if is_on_cpu else on_gpu).append((total, array))
        # Before anything is added: a sum of float32 numbers cannot be taken back exactly. What
        # is on the host cannot wait for what the GPU finds out later.
        if on_cpu and self.check_finite and not self._is_finite(weights):
            return False
        add = interpolate if shrinks else add_scaled
        for total, array in on_cpu:
            add(total, array, factor)
        if on_gpu:
            is_checked = self.check_finite and not on_cpu
            self._add_on_gpu(on_gpu, factor, shrinks, is_checked)
        return True

    def _note_missed(self, weights: Dict[KeyT, Array], factor: float, shrinks: bool) -> None:
        """Keep count of what parameters miss that were not in a snapshot, or not in all."""
        for key, total in self.totals.items():
            missed = self.missed.get(key, 0.0)
            if key not in weights:
                if shrinks:
                    total *= 1.0 - factor
                self.missed[key] = _add_weight(missed, factor, shrinks)
            elif missed and shrinks:
                self.missed[key] = (1.0 - factor) * missed

    def _add_on_gpu(
        self,
        pairs: List[Tuple[Array, Array]],
        factor: float,
        shrinks: bool,
        is_checked: bool,
    ) -> None:
        totals = [total for total, _ in pairs]
        weights = [array for _, array in pairs]
        if self._launch is None or not self._launch.takes(totals, weights):
            self._launch = _cupy_kernels().AddTogether(totals, weights)
        flag = None
        if is_checked:
            if self._skipped.is_full:
                self._resolve()
            if not self._unresolved:
                self._resolved_weight = self.weight
            self._unresolved.append((factor, shrinks))
            flag = self._skipped.take_flag()
        self._launch(factor, shrinks, flag)

    def _resolve(self) -> None:
        """Learn from the GPU which snapshots were left out there."""
        is_skipped = self._skipped.resolve()
        if any(is_skipped):
            self.weight = self._resolved_weight
            for (factor, shrinks), is_out in zip(self._unresolved, is_skipped, strict=True):
                if not is_out:
                    self.weight = _add_weight(self.weight, factor, shrinks)
            self._n_averaged -= sum(is_skipped)
        self._unresolved = []

    def _rescale(self, factor: float) -> None:
        self._resolve()
        for total in self.totals.values():
            total *= factor
        self.weight *= factor
        self.missed = {key: part * factor for key, part in self.missed.items()}
        self.scale = 1.0


def _add_weight(weight: float, factor: float, shrinks: bool) -> float:
    return weight + factor * (1.0 - weight if shrinks else 1.0)


def is_finite(array: Array) -> bool:
    """Whether an array has neither NaN nor infinities. On a GPU this waits for the answer."""
    with numpy.errstate(over="ignore", invalid="ignore"):
        return _is_finite(array)


def _is_finite(array: Array) -> bool:
    # To be called where NumPy's warnings are off, which takes as long as a small array.
    if not isinstance(array, numpy.ndarray):
        return bool(_cupy_kernels().is_finite(array))
    if array.flags.c_contiguous and array.dtype != numpy.float16:
        # BLAS is several times as fast as numpy.isfinite. Squares of large numbers are
        # infinite too, so that only the answer "finite" counts.
        flat = array.reshape(-1)
        if flat.dot(flat) < math.inf:
            return True
    return bool(numpy.isfinite(array).all())


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
