"""Exponential moving average of the weights."""

from thinc.api import Optimizer

from ..averaging.running_average import is_due
from ..types import StepT
from ..validation import (
    check_bool,
    check_int,
    check_number,
    check_start_step,
    check_total_steps,
)
from .averaging_optimizer import AveragingOptimizer
from .config_factory import config_factory


class EMA(AveragingOptimizer):
    """Exponential moving average: average = decay * average + (1 - decay) * weights.

    The first average that is due is a copy of the weights, so it never starts from zero
    and needs no correction. Which steps count, and what a parameter counts with that gets
    no gradient or is first seen late, is as in `SWA`.

    It keeps one float32 copy of the parameters (float64 for float64 weights).

    optimizer (Optimizer): The optimizer to wrap. Its own averages, if any, are dropped.
    decay (float | None): What is left of the old average each time, in [0, 1). If
        neither this nor half_life is given, 0.999.
    half_life (float | None): Instead of decay: after how many steps the weights count
        half as much, whatever `freq` is: decay = 2 ** (-freq / half_life).
    warmup (bool): Forget faster at first, when the weights still move fast: the decay of
        the t-th average is min(decay, (1 + t) / (10 + t)), Thinc's own curve.
    freq (int): Steps from one average to the next.
    start_step (int | float): After which step to start: a number of steps, or a
        fraction of `total_steps` strictly between 0 and 1.
    overwrite_freq (int | None): Every so many steps after start_step the averages are
        written back into the weights (ema_overwrite_frequency in Keras, "switch EMA").
        If None, never.
    total_steps (int | None): The length of the training in steps, for fractions.
    check_finite (bool): Whether to leave out weights that are NaN or infinite, which would
        stay in the average for good. `n_skipped` counts how often this happens.
    """

    decay: float
    warmup: bool
    freq: int
    start_step: int
    overwrite_freq: int | None
    _state = ()

    __slots__ = [
        "decay",
        "warmup",
        "freq",
        "start_step",
        "overwrite_freq",
    ]

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        decay: float | None = None,
        half_life: float | None = None,
        warmup: bool = False,
        freq: int = 1,
        start_step: StepT = 0,
        overwrite_freq: int | None = None,
        total_steps: int | None = None,
        check_finite: bool = True,
    ) -> None:
        super().__init__(optimizer, check_finite=check_finite)
        self.freq = check_int("freq", freq, minimum=1)
        if decay is not None and half_life is not None:
            raise ValueError(
                "Only one of decay and half_life can be given, but decay was "
                f"{decay!r} and half_life was {half_life!r}"
            )
        if half_life is not None:
            steps = check_number("half_life", half_life, above=0.0)
            self.decay = 2.0 ** (-self.freq / steps)
            if self.decay == 1.0:
                raise ValueError(
                    "half_life must be short enough for weights to enter the average, but was "
                    f"{half_life!r}"
                )
        elif decay is not None:
            self.decay = check_number("decay", decay, minimum=0.0, below=1.0)
        else:
            self.decay = 0.999
        self.warmup = check_bool("warmup", warmup)
        self.start_step = check_start_step(start_step, check_total_steps(total_steps))
        self.overwrite_freq = None
        if overwrite_freq is not None:
            self.overwrite_freq = check_int("overwrite_freq", overwrite_freq, minimum=1)
        self._set_arguments(
            decay=self.decay,
            warmup=self.warmup,
            freq=self.freq,
            start_step=self.start_step,
            overwrite_freq=self.overwrite_freq,
            check_finite=None if check_finite else False,
        )
        self.optimizer.averages = None

    def _on_step(self, step: int) -> None:
        if is_due(step, self.start_step, self.freq):
            decay = self.decay
            if self.warmup:
                t = self._average.n_averaged + 1
                decay = min(decay, (1.0 + t) / (10.0 + t))
            self._average.add_snapshot(self._weights, decay)
        if self._overwrites_after(step) and self._average.n_averaged:
            self._on_overwritten(self._average.write_to(self._weights))

    def _overwrites_after(self, step: int) -> bool:
        return self.overwrite_freq is not None and is_due(
            step, self.start_step, self.overwrite_freq
        )


make_ema = config_factory(EMA)
