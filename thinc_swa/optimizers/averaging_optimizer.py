"""Base class of the optimizers that average snapshots of the weights."""

from typing import ClassVar

from thinc.api import Optimizer

from ..averaging.running_average import RunningAverage
from ..averaging.window_average import WindowAverage
from ..types import FloatsXd, KeyT
from .base import OptimizerWrapper


class AveragingOptimizer(OptimizerWrapper):
    """Base class of the wrappers that keep an average of snapshots of the whole model.

    optimizer (Optimizer): The optimizer to wrap.
    average (RunningAverage | WindowAverage): What the snapshots are taken into.
    """

    _average: RunningAverage | WindowAverage
    _state: ClassVar[tuple[str, ...]] = ("_average",)

    __slots__ = ["_average"]

    def __init__(self, optimizer: Optimizer, average: RunningAverage | WindowAverage) -> None:
        super().__init__(optimizer)
        self._average = average

    @property
    def n_averaged(self) -> int:
        """The number of snapshots in the average."""
        self._count_step()
        return self._average.n_averaged

    @property
    def n_skipped(self) -> int:
        """The number of snapshots that were left out because of non-finite weights."""
        self._count_step()
        return self._average.n_skipped

    @property
    def is_passive(self) -> bool:
        """Whether it never changes the trajectory of the weights."""
        return True

    def _on_new_parameter(self, key: KeyT, initial: FloatsXd) -> None:
        self._average.add_parameter(key, initial)

    def _on_steps_merged(self) -> None:
        self._average.reset()

    def _make_averages(self) -> dict[KeyT, FloatsXd]:
        return self._average.averages()
