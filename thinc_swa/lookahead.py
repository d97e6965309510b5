"""Lookahead: k steps forward, one step back."""

from typing import Any, Dict, Iterator, Optional, Tuple, Union

from thinc.api import Optimizer

from .arguments import (
    check_choice,
    check_end_step,
    check_int,
    check_number,
    check_total_steps,
    is_variable,
)
from .averaging import as_average, pull_back, zeros_like
from .types import Array, FloatsXd, KeyT, StepT
from .unfilled import Unfilled
from .wrapper import OptimizerWrapper

INNER_STATES = ("keep", "reset", "pullback")


class Lookahead(OptimizerWrapper):
    """Lookahead (Zhang et al. 2019, arXiv:1907.08610, Algorithm 1).

    The wrapped optimizer updates the weights, here the fast ones. Slow weights start as
    the weights before the first update. Every `freq` updates of a parameter they move a
    part of the way to the fast ones, slow += pullback * (fast - slow), and the fast ones
    go on from there. `averages` are the slow weights.

    It keeps one float32 copy of the parameters (float64 for float64 weights).

    optimizer (Optimizer): The optimizer to wrap. Its own averages, if any, are dropped.
    freq (int): Updates of a parameter from one pullback to the next (k in the paper).
    pullback (float): Which part of the way the slow weights go, in (0, 1] (alpha in the
        paper). With 1.0 this is the wrapped optimizer alone.
    inner_state (str): What becomes of the wrapped optimizer's moments at a pullback.
        "keep": nothing. "reset": the moments and the update count of the parameter start
        afresh, and Adam's bias correction with them. "pullback": the moments are pulled
        back to slow moments of their own, which costs two more copies of the parameters.
    end_step (Optional[Union[int, float]]): After which step to stop, as a number of steps
        or as a fraction of `total_steps` strictly between 0 and 1. From then on the
        wrapped optimizer runs alone, from the fast weights, and `averages` are its own.
    total_steps (Optional[int]): The length of the training in steps, for fractions.
    """

    freq: int
    pullback: float
    inner_state: str
    end_step: Optional[int]
    _state = ("_slow", "_slow_moments", "_is_ended")

    __slots__ = [
        "freq",
        "pullback",
        "inner_state",
        "end_step",
        "_slow",
        "_slow_moments",
        "_is_ended",
    ]

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        freq: int = 6,
        pullback: float = 0.5,
        inner_state: str = "keep",
        end_step: Optional[StepT] = None,
        total_steps: Optional[int] = None,
    ) -> None:
        super().__init__(optimizer)
        self.freq = check_int("freq", freq, minimum=1)
        self.pullback = check_number("pullback", pullback, above=0.0, maximum=1.0)
        self.inner_state = check_choice("inner_state", inner_state, INNER_STATES)
        total_steps = check_total_steps(total_steps)
        self.end_step = None
        if end_step is not None:
            self.end_step = check_end_step(end_step, total_steps)
        self._is_ended = False
        self._slow: Dict[KeyT, Array] = {}
        self._slow_moments: Dict[str, Dict[KeyT, Array]] = {"mom1": {}, "mom2": {}}
        if self.inner_state == "pullback":
            # An optimizer that has trained before brings its moments along. Those of
            # parameters that it has not seen start from zero, as Thinc's do.
            for key in optimizer.mom1:
                for name, moment in self._moments(key):
                    self._slow_moments[name][key] = moment.copy()
        self._arguments = {
            "freq": self.freq,
            "pullback": self.pullback,
            "inner_state": self.inner_state,
        }
        if self.end_step is not None:
            self._arguments["end_step"] = self.end_step
        self.optimizer.averages = None

    def _on_new_parameter(self, key: KeyT, initial: FloatsXd) -> None:
        if not self._is_ended:
            self._slow[key] = as_average(initial)

    def _on_update(self, key: KeyT, weights: FloatsXd) -> None:
        if self._is_ended or self._n_updates[key] % self.freq:
            return
        pull_back(self._slow[key], weights, self.pullback)
        if self.inner_state == "reset":
            for _, moment in self._moments(key):
                moment[...] = 0
            self.nr_update[key] = 0
        elif self.inner_state == "pullback":
            for name, moment in self._moments(key):
                slow = self._slow_moments[name]
                if key not in slow:
                    slow[key] = zeros_like(moment)
                pull_back(slow[key], moment, self.pullback)

    def _on_step(self, step: int) -> None:
        if step == self.end_step:
            self._is_ended = True
            self._slow = {}
            self._slow_moments = {"mom1": {}, "mom2": {}}

    def _on_overwritten(self) -> None:
        for key, slow in self._slow.items():
            slow[...] = self._weights[key]
        super()._on_overwritten()

    def _moments(self, key: KeyT) -> Iterator[Tuple[str, Array]]:
        """The wrapped optimizer's moments of a parameter. Plain SGD has none."""
        for name, moments in (("mom1", self.mom1), ("mom2", self.mom2)):
            if key in moments:
                yield name, moments[key]

    def _make_averages(self) -> Dict[KeyT, FloatsXd]:
        return {key: slow.copy() for key, slow in self._slow.items()}


def make_lookahead(
    optimizer: Optimizer,
    freq: Union[Any, int] = 6,
    pullback: Union[Any, float] = 0.5,
    inner_state: Union[Any, str] = "keep",
    end_step: Union[Any, int, float, None] = None,
    total_steps: Union[Any, int, None] = None,
) -> Optimizer:
    """`Lookahead.v1`: `Lookahead` from a config. See `Lookahead` for the arguments."""
    if is_variable(total_steps):
        return Unfilled(optimizer, total_steps)
    return Lookahead(
        optimizer,
        freq=freq,
        pullback=pullback,
        inner_state=inner_state,
        end_step=end_step,
        total_steps=total_steps,
    )
