"""Schedule-free learning: averaging in the place of momentum and of a schedule."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy
import thinc.schedules
from thinc.api import Optimizer

from ..averaging.cpu_kernels import (
    as_average,
    average_and_blend,
    blend,
    empty_like,
    follow_changes,
    is_finite,
    load_cupy_kernels,
    scale_to,
)
from ..averaging.finite import SkipCount
from ..param_groups.optimizer import ParamGroups
from ..schedules.compat import Schedule
from ..schedules.learn_rate import current_value
from ..types import Array, FloatsXd, KeyT
from ..validation import check_bool, check_number
from .base import OptimizerWrapper, unwrap
from .config_factory import config_factory

# Thinc's Adam refuses a `beta1` of 0. This one is 0 in the float32 that it calculates with.
TINY = 1e-300
NO_MOMENTUM: Any = TINY if Schedule is None else thinc.schedules.constant(TINY)

# A running mean in float32 stops where a step is lost in the rounding. Once steps are as short
# as this, it is kept at several times its size, which then shrinks with every step, so that
# the rounding errors cancel each other. See `RunningAverage`.
SHORT_STEP = 1 / 64
LARGE_SCALE = 4.0
SMALL_SCALE = 2.0


class _Update(NamedTuple):
    """What an update needs to know while the wrapped optimizer is called."""

    weights: Array
    learn_rate: float
    is_finite: bool
    # On a GPU, what is set there if something is left out.
    flag: Array | None


class ScheduleFree(OptimizerWrapper):
    """Schedule-free learning (Defazio et al. 2024, arXiv:2405.15682, Algorithm 1).

    Three sequences start at the initial weights. In the t-th update of a parameter,

        y = (1 - beta) * z + beta * x   where the gradient is taken: the model's weights
        z = z - update(gradient at y)   the wrapped optimizer's
        x = (1 - c) * x + c * z         the average: `averages`
        c = rate_t² / (rate_1² + ... + rate_t²)

    with the learning rates that the wrapped optimizer used. With a constant rate c is 1 / t, as
    in Algorithm 1; the squares are what the paper has for a warmup. c is 0 as long as all rates
    were 0.

    It takes the place of momentum and of a learning rate that decays, and the length of the
    training need not be known: the averages are good to use at any time. Use a constant rate,
    with a warmup if it is high. Try higher rates than the wrapped optimizer needs alone. A rate
    that decays as well only makes training slower. Little is gained where training ends while
    the weights still move fast, because the average then lags behind them.

    The model's own weights are y: evaluate, save and use the averages. BatchNorm statistics
    were taken at y too: call `update_batch_norm` under the averages.

    The wrapped optimizer must not have momentum, which y takes the place of: `beta1` = 0.
    Thinc's `Adam`, which alone does not take 0, works here too. Its weight decay and the L2
    penalty are those of z.

    It keeps two float32 copies of the parameters, x and z (float64 for float64 weights), so it
    is exact for float16 weights, which it updates with any wrapped optimizer.

    Other wrappers: inside, they see z, and outside y, so that an average outside is one of y.
    Where y is changed by a wrapper outside (the pullback of `Lookahead`) or by hand, x and z
    move by the same difference. Where it is overwritten with averages (`apply_averages`,
    `end_step`, `overwrite_freq`), x and z start again there.

    Other implementations: steps are counted for each parameter, and one without a gradient
    keeps its x, y and z; elsewhere x also moves in steps without a gradient. The rate in c is
    the rate of the update, elsewhere the highest rate so far, which only differs for rates
    that decay.

    optimizer (Optimizer): The optimizer to wrap, without momentum. Its own averages, if any,
        are dropped.
    beta (float): How close to the average the gradients are taken, in [0, 1]: with 0 at z,
        which is the wrapped optimizer with its average (Polyak-Ruppert averaging), with 1 at x
        (primal averaging). The paper uses 0.9, and 0.95 or 0.98 for long training.
    check_finite (bool): Whether to keep weights that are NaN or infinite out of the averages,
        in which they would stay for good. `n_skipped` counts the updates of parameters with
        such weights.
    RAISES: ValueError if the wrapped optimizer has momentum: now, or later for a `beta1` that
        changes, when a parameter is updated, which is left as it was.
    """

    beta: float
    check_finite: bool
    _state = ("_z", "_totals", "_scales", "_rate_sums", "_skipped")

    __slots__ = [
        "beta",
        "check_finite",
        "_z",
        "_totals",
        "_scales",
        "_rate_sums",
        "_skipped",
        "_model_weights",
        "_update",
        "_is_overwriting",
    ]

    def __init__(
        self, optimizer: Optimizer, *, beta: float = 0.9, check_finite: bool = True
    ) -> None:
        super().__init__(optimizer)
        self.beta = check_number("beta", beta, minimum=0.0, maximum=1.0)
        self.check_finite = check_bool("check_finite", check_finite)
        _check_momentum(current_value(unwrap(optimizer)[-1], "b1"))
        self._skipped = SkipCount()
        # The weights of the wrapped optimizer, which are in `_weights` too.
        self._z: dict[KeyT, Array] = {}
        # The averages are totals / scales.
        self._totals: dict[KeyT, Array] = {}
        self._scales: dict[KeyT, float] = {}
        # The sums of the squared learning rates.
        self._rate_sums: dict[KeyT, float] = {}
        # The model's own arrays, as far as they are known.
        self._model_weights: dict[KeyT, Array] = {}
        self._update: _Update | None = None
        # Whether a wrapper further in overwrites z at the end of the step under way.
        self._is_overwriting = False
        self._set_arguments(beta=self.beta, check_finite=None if self.check_finite else False)
        self.optimizer.averages = None

    @property
    def n_skipped(self) -> int:
        """The number of updates of parameters in which non-finite weights were left out."""
        self._skipped.resolve()
        return self._skipped.n_skipped

    def __call__(
        self,
        key: KeyT,
        weights: FloatsXd,
        gradient: FloatsXd,
        *,
        lr_scale: float = 1.0,
    ) -> tuple[FloatsXd, FloatsXd]:
        """Update a parameter. See `OptimizerWrapper`."""
        z = self._z.get(key)
        if len(gradient) < 1 or (z is None and self._is_frozen(key)):
            weights, gradient = OptimizerWrapper.__call__(
                self, key, weights, gradient, lr_scale=lr_scale
            )
            return weights, gradient
        if z is None:
            z = as_average(weights, copy=True)
        elif not z.shape == weights.shape == gradient.shape:
            self._raise_shape_error(key, weights, gradient, z.shape)
        # The learning rate may be another one from the next step on.
        if self._steps.begins_step(key):
            self._flush_step()
        # As unwrap() does, without a list for every call.
        innermost: Any = self.optimizer
        scale = 1.0
        while isinstance(innermost, OptimizerWrapper):
            if isinstance(innermost, ParamGroups):
                scale *= _scale_in(innermost, key)
            innermost = innermost.optimizer
        _check_momentum(current_value(innermost, "b1", key))
        if not innermost.use_radam:  # Which ignores it.
            scale *= lr_scale
        rate = current_value(innermost, "learn_rate", key) * scale
        is_all_finite, flag = self._follow_changes(key, weights)
        self._update = _Update(weights, rate, is_all_finite, flag)
        # That of float16 weights: the wrapped optimizer updates z, which is float32.
        own: Any = gradient
        gradient = own.astype(z.dtype, copy=False)
        needs_momentum = not innermost.use_radam and current_value(innermost, "b2", key) > 0
        before = innermost.b1
        try:
            if needs_momentum:
                innermost.b1 = NO_MOMENTUM
            _, gradient = OptimizerWrapper.__call__(self, key, z, gradient, lr_scale=lr_scale)
        finally:
            self._update = None
            if needs_momentum:
                innermost.b1 = before
        if gradient.dtype != own.dtype:
            own[...] = gradient
            gradient = own
        return weights, gradient

    def _on_new_parameter(self, key: KeyT, initial: FloatsXd) -> None:
        if key not in self._totals and (not self.check_finite or is_finite(initial)):
            self._totals[key] = initial
            self._scales[key] = 1.0

    def _on_update(self, key: KeyT, weights: FloatsXd) -> None:
        update = self._update
        if update is None:
            return
        z: Array = weights
        self._z[key] = z
        self._model_weights[key] = update.weights
        square = update.learn_rate**2
        rate_sum = self._rate_sums.get(key, 0.0) + square
        self._rate_sums[key] = rate_sum
        if key in self._totals:
            is_all_finite = self._average(key, z, square / rate_sum if rate_sum else 0.0)
        else:
            # The parameter was not finite when it was first seen.
            is_all_finite = is_finite(z)
            if is_all_finite:
                self._totals[key] = z.copy()
                self._scales[key] = 1.0
            update.weights[...] = z
        if not (is_all_finite and update.is_finite):
            self._skipped.skip(key)

    def _average(self, key: KeyT, z: Array, c: float) -> bool:
        """Move the average towards z, and make the model's weights of both.

        c (float): How much of the way.
        RETURNS (bool): Whether nothing was left out, as far as that is known.
        """
        update = self._update
        if update is None:
            return True
        total, before = self._totals[key], self._scales[key]
        if 0.0 < c < SHORT_STEP and before < SMALL_SCALE:
            total *= LARGE_SCALE / before
            before = LARGE_SCALE
        # total / scale is the average before and after.
        factor = c * before / (1.0 - c + c * before)
        scale = self._scales[key] = (1.0 - factor) * before + factor
        left = scale / before
        if update.flag is not None:
            load_cupy_kernels().average_and_blend(
                z,
                factor,
                left,
                1.0 / scale,
                self.beta,
                self.check_finite,
                update.flag,
                total,
                update.weights,
            )
            return True
        return average_and_blend(
            update.weights,
            z,
            total,
            factor=factor,
            left=left,
            scale=scale,
            beta=self.beta,
            check_finite=self.check_finite,
        )

    def _follow_changes(self, key: KeyT, weights: Array) -> tuple[bool, Array | None]:
        """Find out whether the model's weights have been changed since the last update, and
        move x and z along.

        RETURNS (tuple[bool, Array | None]): Whether nothing was left out, as far as that is
            known, and on a GPU the flag that says whether something was.
        """
        flag = None
        if not isinstance(weights, numpy.ndarray):
            if self._skipped.is_full:
                self._skipped.resolve()
            flag = self._skipped.take_flag()
        z, total = self._z.get(key), self._totals.get(key)
        if z is None:
            return True, flag
        if total is None:
            z[...] = weights
            return True, flag
        scale = self._scales[key]
        if flag is not None:
            load_cupy_kernels().follow_changes(
                weights, scale, 1.0 / scale, self.beta, self.check_finite, flag, z, total
            )
            return True, flag
        is_all_finite = follow_changes(
            weights, z, total, scale=scale, beta=self.beta, check_finite=self.check_finite
        )
        return is_all_finite, None

    def _on_step_end(self) -> None:
        inner = self.optimizer
        self._is_overwriting = isinstance(inner, OptimizerWrapper) and inner._overwrites_next()
        if self._is_overwriting:
            for key, weights in self._model_weights.items():
                is_all_finite, _ = self._follow_changes(key, weights)
                if not is_all_finite:
                    self._skipped.skip(key)

    def _on_step(self, step: int) -> None:
        if self._is_overwriting:
            self._is_overwriting = False
            for key, weights in self._model_weights.items():
                z = self._z[key]
                if key in self._totals:
                    blend(
                        weights, z, self._totals[key], scale=self._scales[key], beta=self.beta
                    )
                else:
                    weights[...] = z

    def _on_overwritten(self, keys: Collection[KeyT]) -> None:
        for key in self._z.keys() & keys:
            weights = self._model_weights.get(key)
            if weights is None:
                # Its next update begins at the overwritten weights.
                del self._z[key]
                self._totals.pop(key, None)
                self._scales.pop(key, None)
                continue
            self._z[key][...] = weights
            if key in self._totals and (not self.check_finite or is_finite(weights)):
                self._totals[key][...] = weights
                self._scales[key] = 1.0
        self._averages = None
        super()._on_overwritten(keys)

    def _on_loaded(self, weights: dict[KeyT, FloatsXd]) -> None:
        self._model_weights = {key: weights[key] for key in self._z}
        super()._on_loaded({**weights, **self._z})

    def _forget(self, keys: Collection[KeyT]) -> None:
        super()._forget(keys)
        for key in keys:
            self._model_weights.pop(key, None)

    def _make_averages(self) -> dict[KeyT, FloatsXd]:
        averages = {}
        for key, total in self._totals.items():
            averages[key] = empty_like(total)
            scale_to(averages[key], total, 1.0 / self._scales[key])
        return averages

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_model_weights"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._model_weights = {}
        super().__setstate__(state)


def _check_momentum(beta1: float) -> None:
    if beta1 > TINY:  # Which is what one around this one has set.
        raise ValueError(
            "ScheduleFree takes the place of momentum: the wrapped optimizer must have none, "
            f"but its beta1 was {beta1!r}: set beta1 = 0.0 (SGD has 0.0)"
        )


def _scale_in(groups: ParamGroups, key: KeyT) -> float:
    """The factor for the learning rate of a parameter."""
    settings = groups.settings_for(key)
    if settings is None:
        return 1.0
    scale, changes = settings
    if "b1" in changes:
        raise ValueError(
            f"ParamGroups inside ScheduleFree sets the beta1 of parameter {key}, but "
            "ScheduleFree needs 0.0 for all: leave beta1 out of the groups"
        )
    return scale


make_schedule_free = config_factory(ScheduleFree)
