"""Averages of several entries in one nesting of optimizers."""

from dataclasses import dataclass
from typing import Any

from thinc.api import Optimizer

from ..optimizers.base import OptimizerWrapper, unwrap
from ..training.evaluation import has_own_averages
from ..types import FloatsXd, KeyT


class EntryBoundary(OptimizerWrapper):
    """Wrapper between the averages of an entry and the rest of a nesting. The entry can drop
    Thinc's own averages, while other entries still use them.

    optimizer (Optimizer): The optimizer to wrap.
    entry (int): Index of the entry.
    """

    _state = ("has_dropped",)

    __slots__ = ["entry", "has_dropped"]

    def __init__(self, optimizer: Optimizer, *, entry: int) -> None:
        super().__init__(optimizer)
        self.entry = entry
        # Whether a wrapper of the entry has dropped Thinc's own averages.
        self.has_dropped = False

    @property
    def is_passive(self) -> bool:
        return True

    @property
    def averages(self) -> dict[KeyT, FloatsXd]:
        return self.optimizer.averages or {}

    @averages.setter
    def averages(self, averages: dict[KeyT, FloatsXd] | None) -> None:
        self.has_dropped = True


def make_boundary(optimizer: Optimizer, entry: int) -> Optimizer:
    """Make an `EntryBoundary` from a config."""
    return EntryBoundary(optimizer, entry=entry)


@dataclass(frozen=True)
class EntryOptimizer:
    """Optimizer of an entry as part of a nesting.

    wrappers (list[OptimizerWrapper]): Wrappers of this entry, outermost first.
    boundary (EntryBoundary): Wrapper inside them.
    optimizers (list[Any]): Optimizers that all entries have in common, outermost first.
    uses_averages (bool): Whether averages of Thinc's own belong to the entry.
    """

    wrappers: list[OptimizerWrapper]
    boundary: EntryBoundary
    optimizers: list[Any]
    uses_averages: bool

    @property
    def needs_thinc_averages(self) -> bool:
        """Whether averages of Thinc's own belong to the entry and are still used."""
        return self.uses_averages and not self.boundary.has_dropped

    @property
    def averaging(self) -> Any | None:
        """Optimizer of the nesting whose own averages are `averages` of this entry; None
        without averages."""
        for level in (*self.wrappers, *self.optimizers):
            if not (isinstance(level, OptimizerWrapper) or self.needs_thinc_averages):
                continue
            if has_own_averages(level):
                return level
        return None

    @property
    def n_averaged(self) -> int | None:
        """As `count_snapshots` of the entry's own optimizer."""
        counts = (
            getattr(level, "n_averaged", None) for level in (*self.wrappers, *self.optimizers)
        )
        return next((count for count in counts if count is not None), None)


def split_entries(optimizer: Optimizer, uses_averages: list[bool]) -> list[EntryOptimizer]:
    """Split a nesting that was made from the section of `nest`.

    optimizer (Optimizer): The nesting.
    uses_averages (list[bool]): Whether averages of Thinc's own belong to each entry.
    RETURNS (list[EntryOptimizer]): The optimizers of the entries.
    RAISES: ValueError if a wrapper of an entry changes the trajectory of the weights.
    """
    levels = unwrap(optimizer)
    places = [i for i, level in enumerate(levels) if isinstance(level, EntryBoundary)]
    common = levels[places[-1] + 1 :]
    entries = []
    for start, place in zip([-1, *places], places, strict=False):
        wrappers, boundary = levels[start + 1 : place], levels[place]
        for level in wrappers:
            if not level.is_passive:
                raise ValueError(f"{level!r} changes the trajectory of the weights")
        entries.append(
            EntryOptimizer(wrappers, boundary, common, uses_averages[boundary.entry])
        )
    return entries
