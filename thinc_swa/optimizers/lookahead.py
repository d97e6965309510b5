"""Lookahead: k steps forward, one step back."""

from collections.abc import Collection

from thinc.api import Optimizer

from ..averaging.cpu_kernels import as_average, is_finite, pull_back
from ..averaging.finite import SkipCount, pull_back_finite
from ..types import Array, FloatsXd, KeyT, StepT
from ..validation import (
    check_bool,
    check_choice,
    check_end_step,
    check_int,
    check_number,
    check_total_steps,
)
from .base import OptimizerWrapper
from .config_factory import config_factory
from .inner_state import INNER_STATES, initial_slow_moments, update_inner_state
from .slow_weights import overwrite_slow_weights


class Lookahead(OptimizerWrapper):
    """Lookahead (Zhang et al. 2019, arXiv:1907.08610, Algorithm 1).

    The wrapped optimizer updates the weights, which are the fast weights. The slow weights
    start as the weights before the first update. Every `freq` updates of a parameter, slow +=
    pullback * (fast - slow), and the fast weights continue from a copy of the slow ones.
    `averages` are the slow weights.

    It keeps one float32 copy of the parameters (float64 for float64 weights).

    optimizer (Optimizer): The optimizer to wrap. Its own averages, if any, are dropped.
    freq (int): Updates of a parameter from one pullback to the next (k in the paper).
    pullback (float): The fraction of the difference by which the slow weights change, in
        (0, 1] (alpha in the paper). With 1.0 this is the wrapped optimizer alone.
    inner_state (str): How to treat the wrapped optimizer's moments at a pullback. "keep"
        leaves them alone. "reset" sets the moments and the update count of the parameter
        to zero, which restarts Adam's bias correction. "pullback" interpolates the moments
        with slow moments of their own, which takes two more copies of the parameters.
    end_step (int | float | None): The step after which to stop, as a number of steps
        or as a fraction of `total_steps` strictly between 0 and 1. From then on the
        wrapped optimizer runs alone, from the fast weights, and `averages` are its own.
    total_steps (int | None): The length of the training in steps, for fractions.
    check_finite (bool): Whether to leave weights that are NaN or infinite out of pullbacks:
        they would stay in the slow weights for good. `n_skipped` counts the pullbacks of
        parameters with such weights.
    """

    freq: int
    pullback: float
    inner_state: str
    end_step: int | None
    check_finite: bool
    _state = ("_slow", "_slow_moments", "_is_ended", "_skipped")

    __slots__ = [
        "freq",
        "pullback",
        "inner_state",
        "end_step",
        "check_finite",
        "_slow",
        "_slow_moments",
        "_is_ended",
        "_skipped",
    ]

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        freq: int = 6,
        pullback: float = 0.5,
        inner_state: str = "keep",
        end_step: StepT | None = None,
        total_steps: int | None = None,
        check_finite: bool = True,
    ) -> None:
        super().__init__(optimizer)
        self.freq = check_int("freq", freq, minimum=1)
        self.pullback = check_number("pullback", pullback, above=0.0, maximum=1.0)
        self.inner_state = check_choice("inner_state", inner_state, INNER_STATES)
        total_steps = check_total_steps(total_steps)
        self.end_step = None
        if end_step is not None:
            self.end_step = check_end_step(end_step, total_steps)
        self.check_finite = check_bool("check_finite", check_finite)
        self._skipped = SkipCount()
        self._is_ended = False
        self._slow: dict[KeyT, Array] = {}
        self._slow_moments = initial_slow_moments(optimizer, self.inner_state)
        self._set_arguments(
            freq=self.freq,
            pullback=self.pullback,
            inner_state=self.inner_state,
            end_step=self.end_step,
            check_finite=None if self.check_finite else False,
        )
        self.optimizer.averages = None

    @property
    def n_skipped(self) -> int:
        """The number of pullbacks of parameters in which non-finite weights were left out."""
        self._skipped.resolve()
        return self._skipped.n_skipped

    def _on_new_parameter(self, key: KeyT, initial: FloatsXd) -> None:
        is_missing = not self._is_ended and key not in self._slow
        if is_missing and (not self.check_finite or is_finite(initial)):
            self._slow[key] = as_average(initial)

    def _on_update(self, key: KeyT, weights: FloatsXd) -> None:
        if self._is_ended or self._steps.n_updates[key] % self.freq:
            return
        if not self.check_finite:
            pull_back(self._slow[key], weights, self.pullback)
        elif key in self._slow:
            pull_back_finite(key, self._slow[key], weights, self.pullback, self._skipped)
        elif is_finite(weights):
            # Non-finite when the parameter was first seen.
            self._slow[key] = as_average(weights, copy=True)
        else:
            self._skipped.skip(key)
            return
        update_inner_state(
            self.optimizer,
            key,
            self.inner_state,
            self._slow_moments,
            self.pullback,
            check_finite=self.check_finite,
        )

    def _on_step(self, step: int) -> None:
        if step == self.end_step:
            self._is_ended = True
            self._slow = {}
            self._slow_moments = {"mom1": {}, "mom2": {}}

    def _on_steps_merged(self) -> None:
        if self._is_ended and self.end_step != 1:
            self._is_ended = False
            self._slow = {
                key: as_average(weights, copy=True) for key, weights in self._weights.items()
            }

    def _on_overwritten(self, keys: Collection[KeyT]) -> None:
        overwrite_slow_weights(self._slow, self._weights, keys)
        self._averages = None
        super()._on_overwritten(keys)

    def _make_averages(self) -> dict[KeyT, FloatsXd]:
        return {key: slow.copy() for key, slow in self._slow.items()}


make_lookahead = config_factory(Lookahead)
