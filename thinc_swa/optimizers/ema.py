"""Moving averages of the weights: power function or exponential."""

import math
from typing import ClassVar

from thinc.api import Optimizer

from ..averaging.power_profiles import MAX_SIGMA_REL, power_exponent
from ..averaging.running_average import RunningAverage, is_due
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

# Used when neither decay nor half_life nor sigma_rel is given.
DEFAULT_SIGMA_REL = 0.1


class EMA(AveragingOptimizer):
    """Moving average of the weights: average = decay * average + (1 - decay) * weights.

    Without settings it is the power-function average (Karras et al. 2024, arXiv:2312.02696,
    section 3.1; polynomial-decay averaging of Shamir and Zhang 2013, arXiv:1212.1824). The
    decay of the t-th average is (1 - 1 / t) ** (gamma + 1), so the weights of step t count in
    proportion to t ** gamma. Whenever the training ends, the average spans the same share of
    it, and early weights are forgotten: it needs neither a start nor the length of the
    training. `sigma_rel` is its width, the standard deviation of the times that it averages,
    relative to the length of the training: sigma_rel ** 2 = (gamma + 1) / ((gamma + 2) ** 2 *
    (gamma + 3)).

    With `decay` or `half_life` it is the exponential moving average, which spans a fixed number
    of steps.

    The first average that is due is a copy of the weights, so it never starts from zero
    and needs no correction. Which steps count, and the values of parameters that get no
    gradient or are first seen late, are as in `SWA`.

    It keeps one float32 copy of the parameters (float64 for float64 weights).

    optimizer (Optimizer): The optimizer to wrap. Its own averages, if any, are dropped.
    sigma_rel (float | None): The width of the power-function average, in (0, 0.2886]: 0.05
        averages about the last tenth of the training (85 % of the average), 0.1 the last
        fifth (83 %), and 0.2886 is close to the arithmetic mean of all of it. If neither this
        nor decay nor half_life is given, 0.1.
    decay (float | None): The part of the old average that remains each time, in [0, 1).
    half_life (float | None): Instead of decay, the number of steps after which weights count
        half as much, whatever `freq` is: decay = 2 ** (-freq / half_life).
    warmup (bool): With decay or half_life, forget faster at first, while the weights still
        change fast: the decay of the t-th average is min(decay, (1 + t) / (10 + t)), Thinc's
        own curve.
    freq (int): Steps from one average to the next.
    start_step (int | float): The step after which to start: a number of steps, or a
        fraction of `total_steps` strictly between 0 and 1.
    overwrite_freq (int | None): The number of steps, from start_step on, after which the
        averages are written back into the weights each time (ema_overwrite_frequency in
        Keras, "switch EMA"). If None, never.
    total_steps (int | None): The length of the training in steps, for fractions.
    check_finite (bool): Whether to leave out weights that are NaN or infinite, which would
        stay in the average for good. `n_skipped` counts these snapshots.
    RAISES: ValueError if an argument is out of its range, or more than one of sigma_rel,
        decay and half_life is given.
    """

    sigma_rel: float | None
    decay: float | None
    warmup: bool
    freq: int
    start_step: int
    overwrite_freq: int | None
    _average: RunningAverage
    _state: ClassVar[tuple[str, ...]] = ()

    __slots__ = [
        "sigma_rel",
        "decay",
        "warmup",
        "freq",
        "start_step",
        "overwrite_freq",
        "_gamma",
    ]

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        sigma_rel: float | None = None,
        decay: float | None = None,
        half_life: float | None = None,
        warmup: bool = False,
        freq: int = 1,
        start_step: StepT = 0,
        overwrite_freq: int | None = None,
        total_steps: int | None = None,
        check_finite: bool = True,
    ) -> None:
        check_finite = check_bool("check_finite", check_finite)
        super().__init__(optimizer, RunningAverage(check_finite=check_finite))
        self.freq = check_int("freq", freq, minimum=1)
        widths = {"sigma_rel": sigma_rel, "decay": decay, "half_life": half_life}
        given = {name: value for name, value in widths.items() if value is not None}
        if len(given) > 1:
            described = ", ".join(f"{name} = {value!r}" for name, value in given.items())
            raise ValueError(
                f"Only one of sigma_rel, decay and half_life can be given, but got {described}"
            )
        self.warmup = check_bool("warmup", warmup)
        self.sigma_rel = self.decay = None
        self._gamma = 0.0
        if decay is not None:
            self.decay = check_number("decay", decay, minimum=0.0, below=1.0)
        elif half_life is not None:
            self.decay = _half_life_decay(half_life, self.freq)
        else:
            self.sigma_rel = DEFAULT_SIGMA_REL
            if sigma_rel is not None:
                self.sigma_rel = check_number(
                    "sigma_rel", sigma_rel, above=0.0, maximum=MAX_SIGMA_REL
                )
            self._gamma = power_exponent(self.sigma_rel)
            if self.warmup:
                raise ValueError(
                    "warmup = True needs decay or half_life: a power-function average (the "
                    "default, and with sigma_rel) forgets early weights by itself"
                )
        self.start_step = check_start_step(start_step, check_total_steps(total_steps))
        self.overwrite_freq = None
        if overwrite_freq is not None:
            self.overwrite_freq = check_int("overwrite_freq", overwrite_freq, minimum=1)
        self._check_snapshot_steps(self.start_step, self.freq)
        self._set_arguments(
            sigma_rel=self.sigma_rel,
            decay=self.decay,
            warmup=None if self.decay is None else self.warmup,
            freq=self.freq,
            start_step=self.start_step,
            overwrite_freq=self.overwrite_freq,
            check_finite=None if check_finite else False,
        )
        self.optimizer.averages = None

    @property
    def is_passive(self) -> bool:
        """Whether it never changes the trajectory of the weights: without overwrite_freq."""
        return self.overwrite_freq is None

    def _on_step(self, step: int) -> None:
        if is_due(step, self.start_step, self.freq):
            self._average.add_snapshot(self._weights, self._decay_of(self._average.n_taken + 1))
        if self._overwrites_after(step) and self._average.n_averaged:
            self._on_overwritten(self._average.write_to(self._weights))

    def _decay_of(self, t: int) -> float | None:
        """The decay of the t-th average, counted from 1; None for an arithmetic mean."""
        if self.decay is not None:
            return min(self.decay, (1.0 + t) / (10.0 + t)) if self.warmup else self.decay
        if self._gamma == 0.0:
            return None
        return math.pow(1.0 - 1.0 / t, self._gamma + 1.0)

    def _overwrites_after(self, step: int) -> bool:
        return self.overwrite_freq is not None and is_due(
            step, self.start_step, self.overwrite_freq
        )


def _half_life_decay(half_life: float, freq: int) -> float:
    steps = check_number("half_life", half_life, above=0.0)
    decay: float = 2.0 ** (-freq / steps)
    if decay == 1.0:
        raise ValueError(
            "half_life must be short enough for weights to enter the average, but was "
            f"{half_life!r}"
        )
    return decay


make_ema = config_factory(EMA)
