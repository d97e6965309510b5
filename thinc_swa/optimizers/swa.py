"""Stochastic weight averaging: the arithmetic mean of snapshots of the weights."""

import math
from collections.abc import Mapping
from typing import Any

from thinc.api import Optimizer

from ..averaging.running_average import RunningAverage, is_due
from ..schedules.learn_rate import LearnRateOverride, current_rate
from ..types import FloatsXd, KeyT, RateT, StepT
from ..validation import (
    check_bool,
    check_end_step,
    check_int,
    check_start_step,
    check_total_steps,
)
from .averaging_optimizer import AveragingOptimizer
from .config_factory import config_factory
from .scores import has_scores

PLATEAU = "plateau"
PHASE = "phase"
NEEDS_SCORES = (
    'start_step = "plateau" needs evaluation scores, which this training loop does not report '
    "to the optimizer: train with `thinc-swa train`, or set start_step to a number of steps or "
    "a fraction of total_steps"
)
NEEDS_PHASE = (
    'start_step = "phase" needs a training phase with start_swa = true, which this training '
    "loop does not have: train with `thinc-swa train`, or set start_step to a number of steps "
    "or a fraction of total_steps"
)


class SWA(AveragingOptimizer):
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407, Algorithm 1).

    From `start_step` on it takes a snapshot of the whole model every `freq` steps, and
    `averages` is the arithmetic mean of the snapshots. The weights at the start are the
    first snapshot; with `start_step=0` the first one is taken after step `freq`.

    A parameter without a gradient in some steps counts in every snapshot with its value at
    that step. A parameter that is first updated after some snapshots counts in them with its
    value before that update.

    It keeps one float32 copy of the parameters (float64 for float64 weights), and a
    snapshot is one addition.

    optimizer (Optimizer): The optimizer to wrap. Its own averages, if any, are used until
        this one starts, and are dropped then.
    start_step (int | float | str | None): The step after which to start: a number of
        steps, or a fraction of `total_steps` strictly between 0 and 1. "plateau" starts it
        when the scores of evaluations no longer improve, by the rule of NT-ASGD (Merity et
        al. 2018, arXiv:1708.02182, Algorithm 1): a score is lower than the best of all but the
        last `plateau_evals` before it. `thinc-swa train` and `compare` report the scores; other
        loops call `add_score()`. "phase": a training phase of these commands starts it, by
        `start_swa = true`. If None, only `start_swa()` starts it.
    freq (int): Steps from one snapshot to the next.
    learn_rate (RateT | None): The learning rate from the step after the start on: a
        number, or any Thinc schedule, which then begins at its step 0. If None, the
        learning rate of the wrapped optimizer is kept.
    anneal_steps (int | None): The number of steps over which the learning rate changes from
        that of the step before the start to a constant `learn_rate`, as in PyTorch's SWALR.
        If None, it changes at once.
    anneal_strategy (str): The form of that change: "linear" or "cosine".
    end_step (int | float | None): The step after which to stop: the averages are
        written into the weights, and training continues from there with the wrapped
        optimizer alone. A snapshot that is due at this step still counts.
    plateau_evals (int): The number of evaluations, for "plateau".
    total_steps (int | None): The length of the training in steps, for fractions.
    check_finite (bool): Whether to leave out snapshots with weights that are NaN or infinite,
        which would stay in the mean for good. `n_skipped` counts them.
    """

    start_step: int | None
    freq: int
    end_step: int | None
    _average: RunningAverage
    _state = (
        "start_step",
        "_learn_rate",
        "_is_started",
        "_is_ended",
        "_is_called",
        "_awaited",
        "_scores",
    )

    __slots__ = [
        "start_step",
        "freq",
        "end_step",
        "_learn_rate",
        "_is_started",
        "_is_ended",
        "_is_called",
        "_awaited",
        "_scores",
    ]

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        start_step: StepT | str | None = None,
        freq: int = 1,
        learn_rate: RateT | None = None,
        anneal_steps: int | None = None,
        anneal_strategy: str = "linear",
        end_step: StepT | None = None,
        plateau_evals: int = 5,
        total_steps: int | None = None,
        check_finite: bool = True,
    ) -> None:
        check_finite = check_bool("check_finite", check_finite)
        super().__init__(optimizer, RunningAverage(check_finite=check_finite))
        total_steps = check_total_steps(total_steps)
        self.start_step = self.end_step = None
        plateau_evals = check_int("plateau_evals", plateau_evals, minimum=1)
        # While it waits for a plateau: the best score before the last plateau_evals ones, and
        # these. None where there are not so many yet.
        self._scores: list[float | None] = []
        if start_step == PLATEAU:
            self._scores = [None] * (plateau_evals + 1)
        elif isinstance(start_step, str) and start_step != PHASE:
            raise ValueError(
                "start_step must be an int >= 0 (steps), a float strictly between 0 and 1 (a "
                f"fraction of total_steps), {PLATEAU!r} or {PHASE!r}, but was {start_step!r}"
            )
        elif start_step is not None and not isinstance(start_step, str):
            self.start_step = check_start_step(start_step, total_steps)
        if end_step is not None:
            self.end_step = check_end_step(end_step, total_steps, self.start_step)
        self.freq = check_int("freq", freq, minimum=1)
        self._learn_rate = LearnRateOverride.make(learn_rate, anneal_steps, anneal_strategy)
        self._is_started = False
        self._is_ended = False
        # Whether start_swa() has started it after the first update.
        self._is_called = False
        # The parameters whose first snapshot is taken again at their next update: a set, in a
        # form that can be saved.
        self._awaited: dict[KeyT, int] = {}
        self._check_snapshot_steps(self.start_step, self.freq)
        self._set_arguments(
            start_step=start_step if start_step in (PLATEAU, PHASE) else self.start_step,
            plateau_evals=plateau_evals if self._scores else None,
            freq=self.freq,
            **({} if self._learn_rate is None else self._learn_rate.arguments),
            end_step=self.end_step,
            check_finite=None if check_finite else False,
        )
        if self.start_step == 0:
            self._start()

    def start_swa(self) -> None:
        """Start averaging now, whatever `start_step` is: the current weights are the first
        snapshot. If averaging has already started, nothing changes.

        Weights that were replaced since the last update, by `Model.from_bytes` for example,
        are unknown to the optimizer until the next update. They replace the first snapshot
        then.

        RAISES: ValueError if `end_step` has been reached.
        """
        if self._is_started:
            return
        n_steps = self._steps.n_begun
        self.check_start(n_steps)
        self._flush_step()
        if not self._is_started:
            self.start_step = n_steps
            self._averages = None  # They may have been read before.
            self._start()
            if n_steps:
                self._is_called = True
                self._average.add_snapshot(self._weights)
                self._averages = None
                self._awaited = dict.fromkeys(self._weights, 1)
                self._forget_memory(self._awaited)

    def check_start(self, step: int) -> None:
        """Check that `start_swa()` can be called after a step.

        step (int): The number of complete steps.
        RAISES: ValueError if `end_step` is reached then, or if workers have different weights
            at the snapshots.
        """
        if self.end_step is not None and self.end_step <= step:
            raise ValueError(
                f"start_swa() must be called before end_step = {self.end_step}, but "
                f"{step} steps are complete"
            )
        self._check_snapshot_steps(step, self.freq)

    @property
    def waits_for_phase(self) -> bool:
        """Whether its `start_step` is "phase"."""
        return self._arguments.get("start_step") == PHASE

    @property
    def is_passive(self) -> bool:
        """Whether it never changes the trajectory of the weights: without learn_rate and
        end_step."""
        return self._learn_rate is None and self.end_step is None

    def add_score(self, score: float) -> None:
        """Take note of the score of an evaluation, and start averaging if it is a plateau.

        score (float): The score of the raw weights; higher is better. NaN is ignored.
        """
        super().add_score(score)
        if not self._scores or self.start_step is not None or math.isnan(score):
            return
        best, oldest, *recent = self._scores
        if best is not None and score < best:
            n_steps = self._steps.n_begun
            step = self._next_snapshot_step(n_steps)
            if step == n_steps:
                self.start_swa()
            else:
                self.start_step = step
        if oldest is not None:
            best = oldest if best is None else max(best, oldest)
        self._scores = [best, *recent, float(score)]

    def _start(self) -> None:
        self._is_started = True
        self.optimizer.averages = None
        if self._learn_rate is not None:
            self._learn_rate.activate(self.optimizer)

    def _end(self) -> None:
        self._is_ended = True
        if self._average.n_averaged:
            written = self._average.write_to(self._weights)
            self._average.clear()
            self._on_overwritten(written)

    def _on_new_parameter(self, key: KeyT, initial: FloatsXd) -> None:
        if self._is_ended:
            return
        if self._awaited.pop(key, None):
            self._average.replace_parameter(key, initial)
        else:
            super()._on_new_parameter(key, initial)

    def _on_update(self, key: KeyT, weights: FloatsXd) -> None:
        if self._learn_rate is not None:
            self._learn_rate.rate_used = None

    def _on_step_end(self) -> None:
        if self._learn_rate is not None and not self._is_started:
            self._learn_rate.rate_used = current_rate(self.optimizer)

    def _on_step(self, step: int) -> None:
        if self.start_step is None or step < self.start_step:
            return
        if not self._is_started:
            self._start()
        elif self._learn_rate is not None:
            self._learn_rate.advance(self.optimizer)
        if self._is_ended:
            return
        if is_due(step, self.start_step, self.freq):
            self._average.add_snapshot(self._weights)
        if step == self.end_step:
            self._end()

    def _on_steps_merged(self) -> None:
        super()._on_steps_merged()
        self._is_ended = False
        if self._learn_rate is not None and self._is_started:
            self._learn_rate.deactivate(self.optimizer)
        if self._is_called:
            # In the first step: it ends with the first snapshot.
            self.start_step = 1
        self._is_started = False
        if self.start_step == 0:
            self._start()

    def _overwrites_after(self, step: int) -> bool:
        return step == self.end_step

    def _has_schedules(self) -> bool:
        return self._learn_rate is not None and self._learn_rate.is_schedule

    def _before_load(self) -> None:
        if self._learn_rate is not None:
            self._learn_rate.save_original(self.optimizer)

    def _on_loaded(self, weights: dict[KeyT, FloatsXd]) -> None:
        super()._on_loaded(weights)
        self._forget_memory(self._awaited)
        if self._is_started and self._learn_rate is not None:
            self._learn_rate.resume(self.optimizer)


def _find_problem(arguments: Mapping[str, Any]) -> str | None:
    if arguments.get("start_step") == PLATEAU and not has_scores():
        return NEEDS_SCORES
    # The trainers have both.
    if arguments.get("start_step") == PHASE and not has_scores():
        return NEEDS_PHASE
    return None


make_swa = config_factory(
    SWA,
    find_problem=_find_problem,
    required={
        "start_step": "which cannot call start_swa(): steps, or a fraction of total_steps"
    },
)
