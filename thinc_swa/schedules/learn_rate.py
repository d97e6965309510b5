"""Learning rates that replace that of an optimizer during training.

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
from .compat import GeneratorSchedule, Schedule, ScheduleClass, describe_schedule


class LearnRateOverride:
    """A learning rate that replaces that of an optimizer when averaging starts.

    learn_rate (RateT): A number, a list of numbers, or any Thinc schedule.
    anneal_steps (int | None): The number of steps of the annealing from the rate that was last
        used to a constant `learn_rate`. None means no annealing.
    anneal_strategy (str): The shape of the annealing: "linear" or "cosine".
    RAISES: ValueError for invalid arguments.
    """

    arguments: dict[str, Any]
    # The rate of the last step, until the next step starts.
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
        "_original",
    ]

    def __init__(
        self, learn_rate: RateT, anneal_steps: int | None, anneal_strategy: str
    ) -> None:
        self._anneal_strategy = anneal_strategy
        self._anneal_steps: int | None = None
        # The number of the next step with this rate, from 1; 0 while it is not active.
        self._position = 0
        self._rate_before = 0.0
        self.rate_used = None
        # The optimizer's original rate and, on Thinc 8.3, the schedule of that.
        self._original: Any = None
        self._target: float | None = None
        if isinstance(learn_rate, Real):
            learn_rate = self._target = check_number("learn_rate", learn_rate, minimum=0.0)
        elif isinstance(learn_rate, (str, bytes)):
            raise ValueError(
                f"learn_rate must be a number or a schedule, but was {learn_rate!r}"
            )
        # An optimizer that trains nothing. It converts every kind of learning rate that Thinc
        # accepts, and keeps the position of the schedule.
        self._source = SGD(make_rewindable(learn_rate), use_averages=False)
        if anneal_steps is not None:
            if self._target is None:
                raise ValueError(
                    "anneal_steps needs a constant learn_rate to anneal to, but learn_rate was "
                    f"a schedule ({type(learn_rate).__name__})"
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
        """Make an override, or None without a learning rate.

        RAISES: ValueError for invalid arguments.
        """
        check_choice("anneal_strategy", anneal_strategy, ANNEAL_STRATEGIES)
        if learn_rate is not None:
            return cls(learn_rate, anneal_steps, anneal_strategy)
        if anneal_steps is not None:
            raise ValueError(
                f"anneal_steps = {anneal_steps!r} needs a learn_rate to anneal to, but "
                "learn_rate was not given"
            )
        return None

    @property
    def is_schedule(self) -> bool:
        """Whether the learning rate is not constant."""
        return self._target is None

    @property
    def is_active(self) -> bool:
        """Whether the optimizer has this learning rate now."""
        return self._position > 0

    def activate(self, optimizer: Any) -> None:
        """Replace the learning rate of the optimizer."""
        rate = current_rate(optimizer) if self.rate_used is None else self.rate_used
        self._rate_before = rate
        self.save_original(optimizer)
        if Schedule is None:
            optimizer.schedules.pop("learn_rate", None)
        self._position = 1
        self._set(optimizer)

    def save_original(self, optimizer: Any) -> None:
        """Save the learning rate of the optimizer, unless this one is active already."""
        if not self.is_active:
            schedule = optimizer.schedules.get("learn_rate") if Schedule is None else None
            self._original = (optimizer.learn_rate, schedule)

    def deactivate(self, optimizer: Any) -> None:
        """Restore the original learning rate, and rewind this one to its first step."""
        if self._original is not None:
            rate, schedule = self._original
            optimizer.learn_rate = rate
            if schedule is not None:
                optimizer.schedules["learn_rate"] = schedule
            self._original = None
        self._position = 0
        if self._target is None:
            _rewind(self._source)

    def advance(self, optimizer: Optimizer) -> None:
        """Set the rate of the next step."""
        self._position += 1
        self._source.step_schedules()
        # A constant rate is set only once, so that it can be changed manually.
        if self._target is None or self._position <= (self._anneal_steps or 0):
            self._set(optimizer)

    def resume(self, optimizer: Optimizer) -> None:
        """Restore the schedule after loading: move it to the loaded `_position`. The value of a
        constant rate has been loaded with the optimizer."""
        if self._target is None:
            for _ in range(self._position - 1):
                self._source.step_schedules()
            self._set(optimizer)

    @staticmethod
    def _upgrade(saved: dict[str, Any]) -> dict[str, Any]:
        """Convert the saved state of a file of version 1."""
        return {"rate_used": None, **saved}

    def __getstate__(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self.__slots__}
        # Generators cannot be copied or pickled.
        state["_original"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _set(self, optimizer: Optimizer) -> None:
        """Set the optimizer's learning rate to that of the current position."""
        if self._target is None:
            optimizer.learn_rate = follow(self._source)
        elif self._anneal_steps is None or self._position >= self._anneal_steps:
            _set_constant(optimizer, self._target)
        else:
            progress = self._position / self._anneal_steps
            rate = anneal(self._rate_before, self._target, progress, self._anneal_strategy)
            _set_constant(optimizer, rate)


def make_rewindable(learn_rate: RateT) -> RateT:
    """Convert a learning rate so that it can be rewound to its first step. Generators cannot,
    and Thinc makes generators of lists.

    learn_rate (RateT): A number, a list of numbers, a generator or any Thinc schedule.
    RETURNS (RateT): A schedule of this package for lists and generators; else the same object.
    """
    is_iterated = isinstance(learn_rate, Iterator) or (
        isinstance(learn_rate, list) and learn_rate
    )
    if is_iterated and not isinstance(learn_rate, ScheduleClass):
        return ScheduleClass(
            "drawn", _iterated, attrs={"drawn": GeneratorSchedule(iter(learn_rate))}
        )
    return learn_rate


def _iterated(schedule: Any, step: int, **extra: Any) -> float:
    return float(schedule.attrs["drawn"](step))


def _rewind(source: Any) -> None:
    """Rewind an optimizer that only holds a schedule to its first step."""
    if Schedule is not None:
        source._step = 0
        return
    schedule = source.schedules["learn_rate"]
    schedule.position = 0
    source.learn_rate = next(schedule)


def follow(source: Any) -> Any:
    """Make a hyperparameter value that follows the learning rate of another optimizer.

    source (Optimizer): An optimizer that only holds a schedule. Typed as Any, because its
        attributes depend on the Thinc version.
    RETURNS (ScheduleT | float): On Thinc 8.3 the current learning rate of the source; on Thinc
        9.1 a `Schedule` that returns it at any time.
    """
    if Schedule is None:
        return source.learn_rate
    # The schedule of the source is called with the step of the source, but with the key and
    # the last score that Thinc passes to this one.
    return Schedule("thinc_swa", _source_schedule, attrs={"source": source})


def current_rate(optimizer: Any) -> float:
    """The learning rate of the optimizer's next update.

    optimizer (Optimizer): Any Thinc optimizer. Typed as Any, because its attributes depend on
        the Thinc version.
    RETURNS (float): The learning rate.
    """
    return current_value(optimizer, "learn_rate")


def current_value(optimizer: Any, name: str, key: KeyT | None = None) -> float:
    """The value of a hyperparameter in the optimizer's next update.

    optimizer (Optimizer): Any Thinc optimizer.
    name (str): The name of the attribute, which may have a schedule.
    key (KeyT | None): The parameter that is updated, which schedules of Thinc 9.1 may depend
        on. If None, any.
    RETURNS (float): The value.
    """
    value = getattr(optimizer, name)
    if Schedule is None:
        return float(value)
    if key is None:
        key = next(iter(optimizer.nr_update), (0, ""))
    return float(value(optimizer.step, key=key, last_score=optimizer.last_score))


def replace_rate(optimizer: Any, rate: float) -> None:
    """Replace the learning rate of an optimizer, which may be a schedule, by a constant.

    optimizer (Optimizer): Any Thinc optimizer.
    rate (float): The learning rate.
    """
    if Schedule is None:
        optimizer.schedules.pop("learn_rate", None)
    _set_constant(optimizer, rate)


def describe_rate(learn_rate: RateT) -> Any:
    """Describe a learning rate in JSON: a number or list as it is, the name and arguments of a
    schedule, and only the type's name of a generator."""
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
