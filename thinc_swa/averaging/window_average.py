"""The mean of the last snapshots of a model."""

from typing import Any

from ..types import Array, KeyT
from .cpu_kernels import (
    add_scaled,
    as_average,
    averages_dtype,
    is_finite,
    scale_to,
)
from .finite import SkipCount


class WindowAverage:
    """The arithmetic mean of the last `window` snapshots of a whole model, and of all of them
    while there are fewer.

    It keeps the snapshots themselves, so it is exact: a running sum from which the oldest
    snapshot is subtracted would collect rounding errors.

    window (int): The number of snapshots.
    check_finite (bool): Whether to leave out snapshots with non-finite weights. On a GPU this
        waits for the result.
    """

    window: int
    check_finite: bool
    slots: dict[str, dict[KeyT, Array]]
    n_taken: int
    _state = ("slots", "n_taken", "n_skipped")

    __slots__ = ["window", "check_finite", "slots", "n_taken", "_skipped"]

    def __init__(self, window: int, *, check_finite: bool = True) -> None:
        self.window = window
        self.check_finite = check_finite
        self.reset()

    def reset(self) -> None:
        """Remove all snapshots."""
        # By their position in a ring, in a form that can be saved.
        self.slots = {str(position): {} for position in range(self.window)}
        self.n_taken = 0
        self._skipped = SkipCount()

    @property
    def n_averaged(self) -> int:
        """The number of snapshots in the average."""
        return min(self.n_taken, self.window)

    @property
    def n_skipped(self) -> int:
        """The number of snapshots that were left out because of non-finite weights."""
        return self._skipped.n_skipped

    @n_skipped.setter
    def n_skipped(self, value: int) -> None:
        self._skipped.n_skipped = value

    def add_snapshot(self, weights: dict[KeyT, Array]) -> None:
        """Take the weights into the average, in place of the oldest snapshot.

        weights (dict[KeyT, Array]): The weights of all parameters. Those of a parameter that
            is not among them are caught up on by `add_parameter`.
        """
        if self.check_finite and not self._skipped.check(weights):
            return
        oldest = self.slots[str(self.n_taken % self.window)]
        self.n_taken += 1
        for key in oldest.keys() - weights.keys():
            del oldest[key]
        for key, array in weights.items():
            memory = oldest.get(key)
            if memory is None or self._is_shared(key, memory):
                oldest[key] = as_average(array, copy=True)
            else:
                memory[...] = array

    def add_parameter(self, key: KeyT, weights: Array) -> None:
        """Add a parameter to the snapshots that it has missed, as if it had had these weights
        in each of them. The array is kept. Non-finite weights are not taken: the parameter
        has its average from later snapshots then."""
        missed = [slot for slot in self._used_slots() if key not in slot]
        if missed and not (self.check_finite and not is_finite(weights)):
            memory = as_average(weights)
            for slot in missed:
                slot[key] = memory

    def averages(self) -> dict[KeyT, Array]:
        """The averages, in arrays of their own."""
        by_key: dict[KeyT, list[Array]] = {}
        for slot in self._used_slots():
            for key, array in slot.items():
                by_key.setdefault(key, []).append(array)
        return {key: _mean(arrays) for key, arrays in by_key.items()}

    def _used_slots(self) -> list[dict[KeyT, Array]]:
        return list(self.slots.values())[: self.n_averaged]

    def _is_shared(self, key: KeyT, memory: Array) -> bool:
        """Whether several snapshots have the same array, from `add_parameter`."""
        return sum(slot.get(key) is memory for slot in self.slots.values()) > 1

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def _mean(arrays: list[Array]) -> Array:
    mean = arrays[0].astype(averages_dtype(arrays[0]), copy=True)
    for array in arrays[1:]:
        add_scaled(mean, array, 1.0)
    scale_to(mean, mean, 1.0 / len(arrays))
    return mean
