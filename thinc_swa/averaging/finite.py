"""Detection of weights that are NaN or infinite, which are left out of averages."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy

from ..types import Array, KeyT
from . import cpu_kernels


def pull_back_finite(
    key: KeyT, slow: Array, fast: Array, pullback: float, skipped: "SkipCount"
) -> None:
    """Synchronise the slow and fast weights of a parameter, except for elements of the fast
    weights that are NaN or infinite.

    key (KeyT): The key of the parameter, for the warning.
    slow (Array): Its slow weights, contiguous and of any shape, changed in place.
    fast (Array): Its fast weights, of the same shape, changed in place.
    pullback (float): The factor for the update of the slow weights, in (0, 1].
    skipped (SkipCount): The counter, which is incremented if there are such elements.
    """
    if isinstance(slow, numpy.ndarray):
        if not cpu_kernels.pull_back_finite(slow, fast, pullback):
            skipped.skip(key)
        return
    if skipped.is_full:
        skipped.resolve()
    cpu_kernels.load_cupy_kernels().pull_back_finite(pullback, slow, fast, skipped.take_flag())


def are_finite(arrays: Sequence[Array]) -> list[bool]:
    """Which arrays have only finite elements. Synchronises with the GPU once."""
    if not arrays or isinstance(arrays[0], numpy.ndarray):
        with numpy.errstate(over="ignore", invalid="ignore"):
            return [cpu_kernels.is_finite_quietly(array) for array in arrays]
    found: list[bool] = cpu_kernels.load_cupy_kernels().are_finite(arrays)
    return found


class SkipCount:
    """Count snapshots or pullbacks that left out weights that are not finite, and warn once.

    On a GPU they set flags, which are read only when the count is required, to avoid
    synchronisations.
    """

    n_skipped: int
    _state = ("n_skipped",)

    __slots__ = ["n_skipped", "_is_warned", "_flags"]

    def __init__(self) -> None:
        self.n_skipped = 0
        self._is_warned = False
        self._flags: Any = None

    def __getstate__(self) -> dict[str, Any]:
        self.resolve()
        return {"n_skipped": self.n_skipped, "_is_warned": self._is_warned}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._flags = None
        for name, value in state.items():
            setattr(self, name, value)

    def skip(self, key: KeyT | None, n_times: int = 1) -> None:
        """Increment the count, and warn at the first call.

        key (KeyT | None): The key of the parameter, if known.
        n_times (int): The increment.
        """
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

    def check(self, weights: dict[KeyT, Array]) -> bool:
        """Whether all weights of a snapshot are finite. If not, it is counted. On a GPU this
        waits for the result."""
        with numpy.errstate(over="ignore", invalid="ignore"):
            for key, array in weights.items():
                if not cpu_kernels.is_finite_quietly(array):
                    self.skip(key)
                    return False
        return True

    def take_flag(self) -> Array:
        """Get a flag on the GPU, to be set there if weights are left out."""
        if self._flags is None:
            self._flags = cpu_kernels.load_cupy_kernels().Flags()
        return self._flags.take()

    @property
    def is_full(self) -> bool:
        """Whether `resolve` must be called before the next `take_flag`."""
        return self._flags is not None and bool(self._flags.is_full)

    def resolve(self) -> list[bool]:
        """Read and reset the flags, and count those that are set. Synchronises with the GPU.

        RETURNS (list[bool]): The flags, in the order of `take_flag`.
        """
        flags: list[bool] = [] if self._flags is None else self._flags.read()
        if any(flags):
            self.skip(None, sum(flags))
        return flags

    def free(self) -> None:
        """Free the memory of the flags."""
        self.resolve()
        self._flags = None
