"""The running average of snapshots of a model."""

from typing import Any

import numpy

from ..types import Array, KeyT
from .cpu_kernels import (
    add_scaled,
    as_average,
    empty_like,
    interpolate,
    is_finite,
    load_cupy_kernels,
    scale_to,
    zeros_like,
)
from .finite import SkipCount

# Of a moving average, the sum of weights grows with every snapshot. The totals are scaled down
# long before they leave the range of float32.
MAX_WEIGHT = 2.0**60
# A smaller decay leaves less than the precision of any float.
MIN_DECAY = 2.0**-60

# From this number of snapshots on, an average that changes slowly is interpolated, at several
# times its size. See `RunningAverage`.
N_SUMMED = 64
INTERPOLATED_WEIGHT = 4.0


def is_due(step: int, start_step: int, freq: int) -> bool:
    """Whether a snapshot is taken after this step, counted from 1: after start_step, and
    then after every freq steps."""
    return step >= start_step and (step - start_step) % freq == 0


class RunningAverage:
    """A weighted average of snapshots of a whole model.

    One array per parameter holds a weighted sum, and `weight` the sum of the weights of the
    snapshots: average = total / weight. A snapshot is a single addition where that is exact;
    the averages themselves are computed when they are read.

    A long sum in float32 is not exact. Of 100,000 summands of the same size it loses the last
    five digits of each, and where weights stand still or move slowly, all additions round the
    same way. A running mean, total += (weights - total) / n, stops moving when the difference
    is below n * 2**-25. So an average that changes slowly, such as an arithmetic mean, is
    interpolated at four times its size after its first snapshots: the total shrinks in every
    step, so that every addition rounds in another place and the errors cancel each other, as
    far as 24 bits allow. Whenever the number of snapshots has doubled, it is brought back to
    that size.

    A snapshot with non-finite weights is left out as a whole: one NaN or infinity would stay
    in the sum for good. On the CPU this is known at once. On a GPU it sets a flag in device
    memory, which is only read with the averages or the counts. A moving average there still
    counts the snapshot as elapsed time.

    check_finite (bool): Whether to leave out snapshots with non-finite weights.
    """

    totals: dict[KeyT, Array]
    weight: float
    missed: dict[KeyT, float]
    check_finite: bool
    _state = ("totals", "weight", "missed", "n_averaged", "n_skipped")

    __slots__ = [
        "totals",
        "weight",
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
        """Remove all snapshots."""
        self.totals = {}
        self.weight = 0.0
        # The part of `weight` that a parameter has no summands for yet.
        self.missed = {}
        self._n_averaged = 0
        self._skipped = SkipCount()
        # The prepared launch of the GPU kernel, for as long as the arrays are the same.
        self._launch = None
        # The factors of additions on the GPU since the flags were read, and the sum of
        # weights before them.
        self._unresolved: list[tuple[float, bool]] = []
        self._resolved_weight = 0.0

    @property
    def n_taken(self) -> int:
        """`n_averaged` plus the snapshots of which a GPU has not reported yet whether they
        were left out. Reading it never waits for the GPU."""
        return self._n_averaged

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

    def __getstate__(self) -> dict[str, Any]:
        names = (*self._state, "check_finite", "_skipped")
        return {name: getattr(self, name) for name in names if name != "n_skipped"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy's arrays are elsewhere on the GPU.
        self._launch = None
        self._unresolved = []
        self._resolved_weight = 0.0
        for name, value in state.items():
            setattr(self, name, value)

    @staticmethod
    def _upgrade(saved: dict[str, Any]) -> dict[str, Any]:
        """The state in a file of version 1 or 2, which has the inverse of the weight too, or in
        version 1 instead."""
        saved = dict(saved)
        scale, weight = saved.pop("scale", None), 0.0
        if isinstance(scale, (int, float)) and scale > 0 and saved.get("n_averaged"):
            weight = 1.0 / scale
        return {"weight": weight, "missed": {"numbers": {}}, "n_skipped": 0, **saved}

    def add_snapshot(self, weights: dict[KeyT, Array], decay: float | None = None) -> None:
        """Take the weights into the average.

        weights (dict[KeyT, Array]): The weights of all parameters. Those of a parameter that
            is not among them are caught up on by `add_parameter`.
        decay (float | None): The part of the old average that remains, in [0, 1). If None,
            all snapshots weigh the same: the average is their arithmetic mean.
        """
        n = self._n_averaged
        if n == 0 or (decay is not None and decay < MIN_DECAY):
            if not self.check_finite or self._skipped.check(weights):
                self._start(weights)
            return
        share = 1.0 / (n + 1) if decay is None else 1.0 - decay
        shrinks = n >= N_SUMMED and share * (n + 1) < 2.0
        if shrinks:
            if self.weight > INTERPOLATED_WEIGHT or n & (n - 1) == 0:
                self._rescale(INTERPOLATED_WEIGHT / self.weight)
            factor = share * self.weight / (1.0 + share * (self.weight - 1.0))
        elif decay is None:
            factor = 1.0  # All weights so far are 1.
        else:
            if self.weight > MAX_WEIGHT:
                self._rescale(1.0 / self.weight)
            factor = share / decay * self.weight
        if self._add(weights, factor, shrinks):
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

    def averages(self) -> dict[KeyT, Array]:
        """The averages, in arrays of their own."""
        means = {}
        for key, total in self.totals.items():
            weight = self._weight_of(key)
            if weight:
                mean = empty_like(total)
                scale_to(mean, total, 1.0 / weight)
                means[key] = mean
        return means

    def write_to(self, weights: dict[KeyT, Array]) -> list[KeyT]:
        """Overwrite the weights with the averages. RETURNS (list[KeyT]): Whose."""
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

    def _start(self, weights: dict[KeyT, Array]) -> None:
        """The first snapshot is the average."""
        self.totals = {key: as_average(array, copy=True) for key, array in weights.items()}
        self.weight, self.missed, self._launch = 1.0, {}, None
        self._n_averaged += 1

    def _add(self, weights: dict[KeyT, Array], factor: float, shrinks: bool) -> bool:
        """Add a multiple of the weights to the totals.

        factor (float): The weight of the summand.
        shrinks (bool): Whether the total is multiplied by 1 - factor before.
        RETURNS (bool): False if it was left out, which is only known of NumPy arrays.
        """
        on_cpu: list[tuple[Array, Array]] = []
        on_gpu: list[tuple[Array, Array]] = []
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
        if on_cpu and self.check_finite and not self._skipped.check(weights):
            return False
        add = interpolate if shrinks else add_scaled
        for total, array in on_cpu:
            add(total, array, factor)
        if on_gpu:
            is_checked = self.check_finite and not on_cpu
            self._add_on_gpu(on_gpu, factor, shrinks, is_checked)
        return True

    def _note_missed(self, weights: dict[KeyT, Array], factor: float, shrinks: bool) -> None:
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
        pairs: list[tuple[Array, Array]],
        factor: float,
        shrinks: bool,
        is_checked: bool,
    ) -> None:
        totals = [total for total, _ in pairs]
        weights = [array for _, array in pairs]
        if self._launch is None or not self._launch.takes(totals, weights):
            self._launch = load_cupy_kernels().AddTogether(totals, weights)
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


def _add_weight(weight: float, factor: float, shrinks: bool) -> float:
    return weight + factor * (1.0 - weight if shrinks else 1.0)
