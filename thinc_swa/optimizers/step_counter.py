"""Count the steps of a training from what an optimizer sees of it."""

from collections.abc import Collection
from typing import ClassVar

from ..types import KeyT

# From so many updates of every parameter on, a step is suspected to be an epoch.
MANY_UPDATES = 5


class StepCounter:
    """Counts the steps of the whole model from the updates of its parameters and the calls of
    `step_schedules()`.

    `step_schedules()` completes a step, however often each parameter is updated before it. In
    a loop that never calls it, a step is an update of the most often updated parameter. Such a
    step is complete when the next one begins, or when it is flushed before: updates that still
    follow belong to the next step then. The first call of `step_schedules()` tells the two
    kinds of loop apart: what was counted as steps before it are the updates of one step.

    Every wrapper has a counter of its own, which begins when the wrapper is made: a wrapper
    can be put around an optimizer that has been trained, and its `start_step` and `freq` count
    from there.

    n_steps (int): The number of complete steps.
    n_calls (int): The number of calls of `step_schedules()`.
    is_open (bool): Whether there was an update since the last step was counted.
    is_flushed (bool): Whether the step under way is already counted in `n_steps`.
    uses_step_schedules (bool): Whether the loop calls `step_schedules()`.
    n_updates (dict[KeyT, int]): The number of updates of each parameter.
    most_updates (int): That of the most often updated parameter.
    unfinished (dict[KeyT, int]): In a loop without `step_schedules()`, the parameters whose
        update completes the step under way: a set, in a form that can be saved. Empty unless
        the end of the step cannot wait for the next one to begin.
    """

    n_updates: dict[KeyT, int]
    unfinished: dict[KeyT, int]
    _state: ClassVar[tuple[str, ...]] = (
        "n_steps",
        "n_calls",
        "is_open",
        "is_flushed",
        "uses_step_schedules",
        "n_updates",
        "most_updates",
        "unfinished",
        "_most_updates_before",
        "_is_warned",
    )

    __slots__ = list(_state)

    def __init__(self) -> None:
        self.n_steps = 0
        self.n_calls = 0
        self.is_open = False
        self.is_flushed = False
        self.uses_step_schedules = False
        self.n_updates = {}
        self.most_updates = 0
        self.unfinished = {}
        # At the last call of step_schedules().
        self._most_updates_before = 0
        self._is_warned = False

    @property
    def can_flush(self) -> bool:
        """Whether the step under way has updates and is not counted yet."""
        return self.is_open and not self.is_flushed

    @property
    def n_begun(self) -> int:
        """The number of steps, the one under way included."""
        return self.n_steps + self.can_flush

    def begins_step(self, key: KeyT) -> bool:
        """Whether the next update of a parameter begins a step, so that the one before it is
        complete. Never in a loop that calls `step_schedules()`.
        """
        return not self.uses_step_schedules and self.n_updates.get(key, 0) >= self.most_updates

    def add_update(self, key: KeyT) -> bool:
        """Count an update of a parameter.

        RETURNS (bool): Whether it has begun a step, in a loop without `step_schedules()`.
        """
        n_updates = self.n_updates.get(key, 0) + 1
        self.n_updates[key] = n_updates
        self.is_open = True
        if n_updates <= self.most_updates:
            return False
        self.most_updates = n_updates
        if self.uses_step_schedules:
            return False
        self.is_flushed = False
        return True

    def flush(self) -> None:
        """Count the step under way as complete."""
        self.n_steps += 1
        self.is_open = False
        self.is_flushed = True

    def begin_call(self) -> bool:
        """Take note of a call of `step_schedules()`.

        RETURNS (bool): Whether all steps so far turn out to be updates of one step. They are
            not counted any more then.
        """
        if self.uses_step_schedules:
            return False
        self.uses_step_schedules = True
        self.unfinished = {}
        # A step that was only completed early, by a flush, stays as it is.
        is_merged = self.n_steps > 1 or (self.n_steps == 1 and self.is_open)
        if is_merged:
            self.n_steps = 0
            self.is_flushed = False
        return is_merged

    def end_call(self) -> bool:
        """Complete the step under way at a call of `step_schedules()`.

        RETURNS (bool): Whether it is counted only now.
        """
        is_counted = not self.is_flushed
        self.n_calls += 1
        self.n_steps += is_counted
        self.is_open = self.is_flushed = False
        return is_counted

    def wait_for_all(self) -> None:
        """Let the step under way be complete as soon as every known parameter is updated."""
        self.unfinished = dict.fromkeys(self.n_updates, 1)

    def completes_step(self, key: KeyT) -> bool:
        """Whether the update of a parameter was the last one that `wait_for_all` waits for."""
        if not self.unfinished:
            return False
        self.unfinished.pop(key, None)
        return not self.unfinished

    def updates_per_epoch(self) -> int:
        """The number of updates since the last call of `step_schedules()`, if the loop seems to
        call it once per epoch and this was not said before; otherwise 0. To be called after
        each of these calls.
        """
        n_updates = self.most_updates - self._most_updates_before
        self._most_updates_before = self.most_updates
        # Components that share a layer update it several times in a step, but not all layers.
        if (
            self._is_warned
            or n_updates < MANY_UPDATES
            or min(self.n_updates.values()) < MANY_UPDATES * self.n_calls
        ):
            return 0
        self._is_warned = True
        return n_updates

    def forget(self, keys: Collection[KeyT]) -> None:
        """Drop parameters that the model no longer has. Some may be unknown."""
        for key in keys:
            self.n_updates.pop(key, None)
            self.unfinished.pop(key, None)
        # In a loop without step_schedules(), the others tell where a step ends.
        self.most_updates = max(self.n_updates.values(), default=0)
        self._most_updates_before = min(self._most_updates_before, self.most_updates)
