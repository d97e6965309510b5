"""Learning rates that take over in the middle of training, on both Thinc lines.

On Thinc 8.3 `optimizer.learn_rate` is a float, and a generator in `optimizer.schedules`
overwrites it at every `step_schedules()`. On Thinc 9.1 it is a `Schedule`, called with
the step.
"""

from collections.abc import Iterator
from numbers import Real
from typing import Any, Optional

import thinc.schedules
from thinc.api import SGD, Optimizer

from ..types import KeyT, RateT
from ..validation import check_choice, check_int, check_number
from .annealing import ANNEAL_STRATEGIES, anneal
from .compat import DrawnSchedule, Schedule, ScheduleClass, describe_schedule


class LearnRateOverride:
    """A learning rate that begins when averaging does.

    learn_rate (RateT): A number, a list of numbers, or any Thinc schedule.
    anneal_steps (int | None): Over how many steps to move from the rate that was in
        force to a constant `learn_rate`. If None, it holds from the first step on.
    anneal_strategy (str): How to get there: "linear" or "cosine".
    """

    arguments: dict[str, Any]
    # The rate of the last step, as long as the next one has not begun.
    rate_used: float | None
    _state = ("rate_used", "_position", "_rate_before")

    __slots__ = [
        "arguments",
        "rate_used",
        "_anneal_steps",
        "_anneal_strategy",
        "_source",
        "_target",
        "_position",
        "_rate_before",
        "_displaced",
    ]

    def __init__(
        self, learn_rate: RateT, anneal_steps: int | None, anneal_strategy: str
    ) -> None:
        self._anneal_strategy = anneal_strategy
        self._anneal_steps: int | None = None
        # Which step under this rate comes next, from 1; 0 before it takes over.
        self._position = 0
        self._rate_before = 0.0
        self.rate_used = None
        # The wrapped optimizer's own rate and, on Thinc 8.3, its schedule.
        self._displaced: Any = None
        self._target: float | None = None
        if isinstance(learn_rate, Real):
            learn_rate = self._target = check_number("learn_rate", learn_rate, minimum=0.0)
        elif isinstance(learn_rate, (str, bytes)):
            raise ValueError(
                f"learn_rate must be a number or a schedule, but was {learn_rate!r}"
            )
        # An optimizer that trains nothing: it turns whatever Thinc takes for a learning
        # rate into Thinc's own form, and holds the schedule's place.
        self._source = SGD(repeatable(learn_rate), use_averages=False)
        if anneal_steps is not None:
            if self._target is None:
                raise ValueError(
                    "anneal_steps needs a constant learn_rate to arrive at, but learn_rate "
                    f"was a schedule ({type(learn_rate).__name__})"
                )
            self._anneal_steps = check_int("anneal_steps", anneal_steps, minimum=1)
        self.arguments = {"learn_rate": describe_rate(learn_rate)}
        if self._anneal_steps is not None:
            self.arguments["anneal_steps"] = self._anneal_steps
            self.arguments["anneal_strategy"] = anneal_strategy

    @classmethod
    def make(
        cls, learn_rate: RateT | None, anneal_steps: int | None, anneal_strategy: str
    ) -> Optional["LearnRateOverride"]:
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

    @property
    def is_schedule(self) -> bool:
        return self._target is None

    @property
    def has_taken_over(self) -> bool:
        """Whether it is the optimizer's learning rate now."""
        return self._position > 0

    def take_over(self, optimizer: Any) -> None:
        """Become the optimizer's learning rate, in place of the one that it has."""
        rate = current_rate(optimizer) if self.rate_used is None else self.rate_used
        self._rate_before = rate
        self.note_displaced(optimizer)
        if Schedule is None:
            optimizer.schedules.pop("learn_rate", None)
        self._position = 1
        self._set(optimizer)

    def note_displaced(self, optimizer: Any) -> None:
        """Remember the optimizer's own rate. If this one is in its place, that is known."""
        if not self.has_taken_over:
            schedule = optimizer.schedules.get("learn_rate") if Schedule is None else None
            self._displaced = (optimizer.learn_rate, schedule)

    def give_back(self, optimizer: Any) -> None:
        """Undo `take_over`, and begin anew with the next one."""
        if self._displaced is not None:
            rate, schedule = self._displaced
            optimizer.learn_rate = rate
            if schedule is not None:
                optimizer.schedules["learn_rate"] = schedule
            self._displaced = None
        self._position = 0
        if self._target is None:
            _rewind(self._source)

    def advance(self, optimizer: Optimizer) -> None:
        """Move on to the next step."""
        self._position += 1
        self._source.step_schedules()
        # A rate that has arrived is left alone: it may be changed by hand.
        if self._target is None or self._position <= (self._anneal_steps or 0):
            self._set(optimizer)

    def resume(self, optimizer: Optimizer) -> None:
        """Go on where a training stopped: `_position` says where. The rate of that moment is
        the optimizer's already, a schedule is not."""
        if self._target is None:
            for _ in range(self._position - 1):
                self._source.step_schedules()
            self._set(optimizer)

    @staticmethod
    def _upgrade(saved: dict[str, Any]) -> dict[str, Any]:
        """The state in a file of version 1."""
        return {"rate_used": None, **saved}

    def __getstate__(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self.__slots__}
        # Where it is a generator, it could not be copied.
        state["_displaced"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _set(self, optimizer: Optimizer) -> None:
        if self._target is None:
            optimizer.learn_rate = follow(self._source)
        elif self._anneal_steps is None or self._position >= self._anneal_steps:
            _set_constant(optimizer, self._target)
        else:
            progress = self._position / self._anneal_steps
            rate = anneal(self._rate_before, self._target, progress, self._anneal_strategy)
            _set_constant(optimizer, rate)


def repeatable(learn_rate: RateT) -> RateT:
    """A learning rate that can go back to its first step: Thinc's generators cannot, and it
    makes one of a list."""
    is_drawn = isinstance(learn_rate, Iterator) or (isinstance(learn_rate, list) and learn_rate)
    if is_drawn and not isinstance(learn_rate, ScheduleClass):
        return ScheduleClass("drawn", _drawn, attrs={"drawn": DrawnSchedule(iter(learn_rate))})
    return learn_rate


def _drawn(schedule: Any, step: int, **extra: Any) -> float:
    return float(schedule.attrs["drawn"](step))


def _rewind(source: Any) -> None:
    """Let an optimizer that only holds a schedule go back to its first step."""
    if Schedule is not None:
        source._step = 0
        return
    schedule = source.schedules["learn_rate"]
    schedule.position = 0
    source.learn_rate = next(schedule)


def follow(source: Any) -> Any:
    """What an optimizer that only holds a schedule has for its learning rate now, in Thinc's
    own form, to be put into another optimizer.

    source (Optimizer): Typed as Any: what it has depends on the Thinc version.
    """
    if Schedule is None:
        return source.learn_rate
    # Through a schedule of our own, so that it also sees what Thinc tells schedules beside
    # the step: the key and the last score.
    return Schedule("thinc_swa", _source_schedule, attrs={"source": source})


def current_rate(optimizer: Any) -> float:
    """The learning rate of the optimizer's next update.

    optimizer (Optimizer): Typed as Any: what it has depends on the Thinc version.
    """
    return current_value(optimizer, "learn_rate")


def current_value(optimizer: Any, name: str, key: KeyT | None = None) -> float:
    """The same of any hyperparameter that can have a schedule.

    name (str): The optimizer's attribute.
    key (KeyT | None): The parameter that is updated, which schedules of Thinc 9.1 are told. If
        None, any.
    """
    value = getattr(optimizer, name)
    if Schedule is None:
        return float(value)
    if key is None:
        key = next(iter(optimizer.nr_update), (0, ""))
    return float(value(optimizer.step, key=key, last_score=optimizer.last_score))


def describe_rate(learn_rate: RateT) -> Any:
    """What can be said of a rate in JSON. Of a generator of Thinc's that is its
    type only."""
    if isinstance(learn_rate, ScheduleClass):
        return describe_schedule(learn_rate)
    return learn_rate if isinstance(learn_rate, (float, list)) else type(learn_rate).__name__


def _set_constant(optimizer: Any, rate: float) -> None:
    if Schedule is None:
        optimizer.learn_rate = rate
    else:
        optimizer.learn_rate = thinc.schedules.constant(rate)


def _source_schedule(schedule: Any, step: int, **extra: Any) -> float:
    source = schedule.attrs["source"]
    return float(source.learn_rate(source.step, **extra))
