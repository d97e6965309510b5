"""Checks for weights that are NaN or infinite."""

import math
import warnings
from typing import Any

import numpy

from ..types import Array, KeyT
from .cpu_kernels import load_cupy_kernels, pull_back


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
        load_cupy_kernels().pull_back_finite(pullback, slow, fast, skipped.take_flag())
    elif is_finite(fast):
        pull_back(slow, fast, pullback)
    else:
        skipped.skip(key)
        return False
    return True


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

    def __getstate__(self) -> dict[str, Any]:
        self.resolve()
        return {"n_skipped": self.n_skipped, "_is_warned": self._is_warned}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._flags = None
        for name, value in state.items():
            setattr(self, name, value)

    def skip(self, key: KeyT | None, n_times: int = 1) -> None:
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
            self._flags = load_cupy_kernels().Flags()
        return self._flags.take()

    @property
    def is_full(self) -> bool:
        """Whether `resolve` must come before the next flag."""
        return self._flags is not None and bool(self._flags.is_full)

    def resolve(self) -> list[bool]:
        """Read the flags that were taken since the last time, and count those that are set."""
        flags: list[bool] = [] if self._flags is None else self._flags.read()
        if any(flags):
            self.skip(None, sum(flags))
        return flags

    def free(self) -> None:
        """Give back the memory of the flags."""
        self.resolve()
        self._flags = None


def is_finite(array: Array) -> bool:
    """Whether an array has neither NaN nor infinities. On a GPU this waits for the answer."""
    with numpy.errstate(over="ignore", invalid="ignore"):
        return is_finite_quietly(array)


def is_finite_quietly(array: Array) -> bool:
    # To be called where NumPy's warnings are off, which takes as long as a small array.
    if not isinstance(array, numpy.ndarray):
        return bool(load_cupy_kernels().is_finite(array))
    if array.flags.c_contiguous and array.dtype != numpy.float16:
        # BLAS is several times as fast as numpy.isfinite. A product with NaN or infinity is
        # not finite. Others can be infinite too, so that only the answer "finite" counts. One
        # half with the other takes less time than the squares of all; they share the element
        # in the middle of an odd number.
        flat = array.reshape(-1)
        half = (flat.size + 1) // 2
        if math.isfinite(flat[:half].dot(flat[flat.size - half :])):
            return True
    return bool(numpy.isfinite(array).all())
