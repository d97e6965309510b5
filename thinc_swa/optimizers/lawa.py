"""Latest weight averaging: the mean of the last snapshots."""

from typing import ClassVar

from thinc.api import Optimizer

from ..averaging.running_average import is_due
from ..averaging.window_average import WindowAverage
from ..types import StepT
from ..validation import check_bool, check_int, check_start_step, check_total_steps
from .averaging_optimizer import AveragingOptimizer
from .config_factory import config_factory


class LAWA(AveragingOptimizer):
    """Latest weight averaging (Kaddour 2022, arXiv:2209.14981).

    `averages` is the arithmetic mean of the last `window` snapshots of the whole model, one
    every `freq` steps, and of all of them while there are fewer. Which steps count, and the
    values of parameters that get no gradient or are first seen late, are as in `SWA`.

    The snapshots themselves are kept, so that the mean is exact: `window` float32 copies of the
    parameters (float64 for float64 weights), and one more when the averages are read. A moving
    average of about the same span (`EMA`) needs one.

    optimizer (Optimizer): The optimizer to wrap. Its own averages, if any, are dropped.
    window (int): The number of snapshots that are averaged.
    freq (int): Steps from one snapshot to the next.
    start_step (int | float): The step after which to start: a number of steps, or a
        fraction of `total_steps` strictly between 0 and 1. With 0, the first snapshot is
        taken after step `freq`.
    total_steps (int | None): The length of the training in steps, for fractions.
    check_finite (bool): Whether to leave out snapshots with weights that are NaN or infinite.
        `n_skipped` counts them.
    RAISES: ValueError if an argument is out of its range.
    """

    window: int
    freq: int
    start_step: int
    _average: WindowAverage
    _state: ClassVar[tuple[str, ...]] = ()

    __slots__ = ["window", "freq", "start_step"]

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        window: int = 6,
        freq: int = 100,
        start_step: StepT = 0,
        total_steps: int | None = None,
        check_finite: bool = True,
    ) -> None:
        self.window = check_int("window", window, minimum=1)
        check_finite = check_bool("check_finite", check_finite)
        super().__init__(optimizer, WindowAverage(self.window, check_finite=check_finite))
        self.freq = check_int("freq", freq, minimum=1)
        self.start_step = check_start_step(start_step, check_total_steps(total_steps))
        self._check_snapshot_steps(self.start_step, self.freq)
        self._set_arguments(
            window=self.window,
            freq=self.freq,
            start_step=self.start_step,
            check_finite=None if check_finite else False,
        )
        self.optimizer.averages = None

    def _on_step(self, step: int) -> None:
        if is_due(step, self.start_step, self.freq):
            self._average.add_snapshot(self._weights)


make_lawa = config_factory(LAWA)
