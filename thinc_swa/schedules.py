"""Learning rates that take over in the middle of training, on both Thinc lines.

On Thinc 8.3 `optimizer.learn_rate` is a float, and a generator in `optimizer.schedules`
overwrites it at every `step_schedules()`. On Thinc 9.1 it is a `Schedule`, called with
the step. Nothing outside this module needs to know.
"""

import math
from typing import Any, Optional

import thinc.schedules
from thinc.api import SGD, Optimizer

from .arguments import check_choice, check_int, check_number
from .types import RateT

Schedule: Any = getattr(thinc.schedules, "Schedule", None)

ANNEAL_STRATEGIES = ("linear", "cosine")


class LearnRate:
    """A learning rate that begins when averaging does.

    learn_rate (RateT): A number, a list of numbers, or any Thinc schedule.
    anneal_steps (Optional[int]): Over how many steps to move from the rate that was in
        force to a constant `learn_rate`. If None, it holds from the first step on.
    anneal_strategy (str): How to get there: "linear" or "cosine".
    """

    anneal_steps: Optional[int]
    anneal_strategy: str

    __slots__ = ["anneal_steps", "anneal_strategy", "_source", "_target", "_rate_before"]

    def __init__(
        self, learn_rate: RateT, anneal_steps: Optional[int], anneal_strategy: str
    ) -> None:
        self.anneal_strategy = anneal_strategy
        self.anneal_steps = None
        self._rate_before = 0.0
        self._target: Optional[float] = None
        if isinstance(learn_rate, (bool, int, float)):
            self._target = check_number("learn_rate", learn_rate, minimum=0.0)
        elif isinstance(learn_rate, (str, bytes)):
            raise ValueError(
                f"learn_rate must be a number or a schedule, but was {learn_rate!r}"
            )
        # An optimizer that trains nothing: it turns whatever Thinc takes for a learning
        # rate into Thinc's own form, and holds the schedule's place.
        self._source = SGD(learn_rate, use_averages=False)
        if anneal_steps is not None:
            if self._target is None:
                raise ValueError(
                    "anneal_steps needs a constant learn_rate to arrive at, but learn_rate "
                    f"was a schedule ({type(learn_rate).__name__})"
                )
            self.anneal_steps = check_int("anneal_steps", anneal_steps, minimum=1)

    @classmethod
    def make(
        cls, learn_rate: Optional[RateT], anneal_steps: Optional[int], anneal_strategy: str
    ) -> Optional["LearnRate"]:
        """None if no learning rate is to take over."""
        check_choice("anneal_strategy", anneal_strategy, ANNEAL_STRATEGIES)
        if learn_rate is not None:
            return cls(learn_rate, anneal_steps, anneal_strategy)
        if anneal_steps is not None:
            raise ValueError(
                f"anneal_steps = {anneal_steps!r} needs a learn_rate to arrive at, but "
                "learn_rate was not given"
            )
        return None

    def take_over(self, optimizer: Optimizer) -> None:
        """Become the optimizer's learning rate, in place of the one that it has."""
        self._rate_before = current_rate(optimizer)
        if Schedule is None:
            optimizer.schedules.pop("learn_rate", None)
        self._set(optimizer, 1)

    def advance(self, optimizer: Optimizer, step: int) -> None:
        """Move on by one step.

        step (int): The step that comes next, 1 for the first one under this rate.
        """
        self._source.step_schedules()
        self._set(optimizer, step)

    def _set(self, optimizer: Optimizer, step: int) -> None:
        if self._target is None:
            if Schedule is None:
                optimizer.learn_rate = self._source.learn_rate
            else:
                # Through a schedule of our own, so that it also sees what Thinc tells
                # schedules beside the step: the key and the last score.
                optimizer.learn_rate = Schedule(
                    "thinc_swa", _source_schedule, attrs={"source": self._source}
                )
        elif self.anneal_steps is None or step >= self.anneal_steps:
            _set_constant(optimizer, self._target)
        else:
            progress = step / self.anneal_steps
            if self.anneal_strategy == "cosine":
                progress = (1.0 - math.cos(math.pi * progress)) / 2.0
            rate = self._rate_before + progress * (self._target - self._rate_before)
            _set_constant(optimizer, rate)

    def __repr__(self) -> str:
        if self._target is not None:
            return repr(self._target)
        return repr(self._source.learn_rate) if Schedule is None else "Schedule"


def current_rate(optimizer: Any) -> float:
    """The learning rate of the optimizer's next update.

    optimizer (Optimizer): Typed as Any: what it has depends on the Thinc version.
    """
    rate = optimizer.learn_rate
    if Schedule is None:
        return float(rate)
    key = next(iter(optimizer.nr_update), (0, ""))
    return float(rate(optimizer.step, key=key, last_score=optimizer.last_score))


def _set_constant(optimizer: Any, rate: float) -> None:
    if Schedule is None:
        optimizer.learn_rate = rate
    else:
        optimizer.learn_rate = thinc.schedules.constant(rate)


def _source_schedule(schedule: Any, step: int, **extra: Any) -> float:
    source = schedule.attrs["source"]
    return float(source.learn_rate(source.step, **extra))
