"""Local SGD: several workers that train on their own and average their weights."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy
from thinc.api import Optimizer

from ..averaging.cpu_kernels import as_average, is_finite, pull_back, zeros_like
from ..averaging.finite import SkipCount, are_finite
from ..types import Array, FloatsXd, KeyT, StepT
from ..validation import (
    check_bool,
    check_choice,
    check_int,
    check_number,
    check_start_step,
    check_total_steps,
)
from .base import OptimizerWrapper
from .config_factory import config_factory
from .inner_state import INNER_STATES, initial_slow_moments, update_inner_state
from .slow_weights import overwrite_slow_weights

REDUCE_DTYPES = ("float32", "float16")

if TYPE_CHECKING:
    from ..distributed.exchange import ParameterExchange


class LocalSGD(OptimizerWrapper):
    """Local SGD (Stich 2019, arXiv:1805.09767) with an outer optimizer (DiLoCo: Douillard et
    al. 2023, arXiv:2311.08105, Algorithm 1).

    Several workers start from the same weights, and each trains a copy of the model on its own
    part of the data with the wrapped optimizer. Every `freq` steps of the whole model the
    workers exchange the changes of their weights, and all continue from the same synchronised
    weights. With w_i the weights of worker i, theta the synchronised weights, eta
    `outer_learn_rate` and mu `outer_momentum`:

        delta = sum of c_i * (theta - w_i) / max(1, sum of c_i)
        m     = mu * m + delta
        theta = theta - eta * (delta + mu * m)   with Nesterov momentum, else
        theta = theta - eta * m
        w_i   = theta

    c_i is 1 where worker i has updated the parameter since the last synchronisation and all
    elements of its change are finite, otherwise 0. `averages` are the synchronised weights.

    `thinc_swa.distributed.connect` connects the optimizer with those of other workers, and
    `thinc-swa train --workers` does so. Without a connection it is one worker: with
    outer_momentum = 0 this is `Lookahead` with pullback = outer_learn_rate.

    Known special cases: outer_learn_rate = 1 and outer_momentum = 0 average the weights (local
    SGD), 0.7 and 0.9 are the outer optimizer of DiLoCo. `start_step` at the end of the training
    is data parallelism, which sends the gradients of every step.

    It keeps one float32 copy of the parameters (float64 for float64 weights), another one with
    momentum, and on several workers a third one for the exchange.

    optimizer (Optimizer): The optimizer to wrap, which each worker has for itself. Its own
        averages, if any, are dropped.
    freq (int): Steps from one synchronisation to the next.
    outer_learn_rate (float): The fraction of the mean change that the synchronised weights
        take over, above 0.
    outer_momentum (float): The momentum of the synchronised weights, in [0, 1).
    nesterov (bool): Whether the momentum is Nesterov's.
    start_step (int | float): The number of steps, or the fraction of `total_steps` strictly
        between 0 and 1, during which the workers average the gradients of every step, so that
        their weights stay equal (post-local SGD: Lin et al. 2020, arXiv:1808.07217). On one
        worker the wrapped optimizer runs alone until then.
    inner_state (str): How to treat the wrapped optimizer's moments at a synchronisation. "keep"
        leaves them alone. "reset" sets the moments and the update count of the parameter to
        zero. "pullback" interpolates the moments with slow moments of their own by
        outer_learn_rate, as `Lookahead` does.
    reduce_dtype (str): The numbers that workers send, "float32" or "float16": half as many
        bytes, with a rounding error of up to 1/2000 of a change or gradient, and nothing left
        of one below 6e-8 of the largest in its parameter. Weights, sums over steps and moments
        are float32 in any case.
    total_steps (int | None): The length of the training in steps, for fractions.
    RAISES: ValueError if an argument is out of its range.
    """

    freq: int
    outer_learn_rate: float
    outer_momentum: float
    nesterov: bool
    start_step: int
    inner_state: str
    reduce_dtype: str
    _exchange: "ParameterExchange | None"
    _state = ("_slow", "_outer_moments", "_slow_moments", "_updated", "_skipped")

    __slots__ = [
        "freq",
        "outer_learn_rate",
        "outer_momentum",
        "nesterov",
        "start_step",
        "inner_state",
        "reduce_dtype",
        "_is_synchronous",
        "_slow",
        "_outer_moments",
        "_slow_moments",
        "_updated",
        "_skipped",
        "_exchange",
        "_pending",
    ]

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        freq: int = 50,
        outer_learn_rate: float = 0.7,
        outer_momentum: float = 0.5,
        nesterov: bool = True,
        start_step: StepT = 0,
        inner_state: str = "keep",
        reduce_dtype: str = "float32",
        total_steps: int | None = None,
    ) -> None:
        super().__init__(optimizer)
        self.freq = check_int("freq", freq, minimum=1)
        self.outer_learn_rate = check_number("outer_learn_rate", outer_learn_rate, above=0.0)
        self.outer_momentum = check_number(
            "outer_momentum", outer_momentum, minimum=0.0, below=1.0
        )
        self.nesterov = check_bool("nesterov", nesterov)
        total_steps = check_total_steps(total_steps)
        self.start_step = check_start_step(start_step, total_steps)
        self.inner_state = check_choice("inner_state", inner_state, INNER_STATES)
        if self.inner_state == "pullback" and self.outer_learn_rate > 1.0:
            raise ValueError(
                'inner_state = "pullback" needs an outer_learn_rate <= 1, but it was '
                f"{outer_learn_rate!r}"
            )
        self.reduce_dtype = check_choice("reduce_dtype", reduce_dtype, REDUCE_DTYPES)
        # Whether the gradients are averaged to the end of the training.
        self._is_synchronous = total_steps is not None and self.start_step >= total_steps
        # The synchronised weights, from start_step on.
        self._slow: dict[KeyT, Array] = {}
        self._outer_moments: dict[KeyT, Array] = {}
        self._slow_moments = initial_slow_moments(optimizer, self.inner_state)
        # The parameters updated since the last synchronisation: a set, in a form that can be
        # saved.
        self._updated: dict[KeyT, int] = {}
        self._skipped = SkipCount()
        self._exchange = None
        # Gradients and factors for the learning rate of the step under way, for the exchange.
        self._pending: dict[KeyT, tuple[Array, float]] = {}
        self._set_arguments(
            freq=self.freq,
            outer_learn_rate=self.outer_learn_rate,
            outer_momentum=self.outer_momentum,
            nesterov=None if self.nesterov else False,
            start_step=self.start_step,
            inner_state=self.inner_state,
            reduce_dtype=None if self.reduce_dtype == "float32" else self.reduce_dtype,
        )
        self.optimizer.averages = None

    @property
    def n_skipped(self) -> int:
        """The number of changes and gradients of parameters that were left out because they
        were NaN or infinite, summed over all workers."""
        return self._skipped.n_skipped

    @property
    def is_connected(self) -> bool:
        """Whether the optimizer is connected with those of other workers."""
        return self._exchange is not None

    def __call__(
        self, key: KeyT, weights: Array, gradient: Array, *, lr_scale: float = 1.0
    ) -> tuple[FloatsXd, FloatsXd]:
        """Update a parameter. Before `start_step`, on several workers, only collect its
        gradient: `step_schedules` exchanges the gradients and updates all parameters."""
        if self._exchange is None or self._is_started or key not in self._exchange.keys:
            return super().__call__(key, weights, gradient, lr_scale=lr_scale)
        if gradient.shape != weights.shape:
            self._raise_shape_error(key, weights, gradient, weights.shape)
        if key in self._pending:
            self._pending[key][0][...] += gradient
        else:
            self._pending[key] = (gradient.copy(), lr_scale)
        gradient[...] = 0
        return weights, gradient

    def step_schedules(self) -> None:
        """Complete a step: of the wrapped optimizer, then of this one."""
        if self._exchange is not None and not self._is_started:
            self._update_together(self._exchange)
        super().step_schedules()

    @property
    def _is_started(self) -> bool:
        """Whether the workers train on their own."""
        return self._steps.n_steps >= self.start_step

    def _update_together(self, exchange: "ParameterExchange") -> None:
        """Update all parameters with the mean of the gradients of the workers that have any."""
        pending, self._pending = self._pending, {}

        def write(key: KeyT, weights: Array, out: Array) -> bool:
            if key in pending:
                out[...] = pending[key][0]
            return key in pending

        for found in exchange.reduce(write, takes_part=bool(pending)):
            key, weights = found.key, found.weights
            if found.n_non_finite:
                self._skipped.skip(key, found.n_non_finite)
            if not found.n_values:
                continue
            # A worker without a gradient for this parameter counts as one with zeros, as the
            # examples of a batch do.
            gradient: Any = found.total / numpy.float32(found.n_parts - found.n_non_finite)
            gradient = gradient.astype(weights.dtype, copy=False)
            lr_scale = pending[key][1] if key in pending else 1.0
            updated, _ = super().__call__(key, weights, gradient, lr_scale=lr_scale)
            if updated is not weights:
                weights[...] = updated
                self._weights[key] = weights

    def _on_new_parameter(self, key: KeyT, initial: FloatsXd) -> None:
        if self._is_started and key not in self._slow and is_finite(initial):
            self._slow[key] = as_average(initial)

    def _on_update(self, key: KeyT, weights: FloatsXd) -> None:
        if self._is_started:
            self._updated[key] = 1

    def _on_step(self, step: int) -> None:
        if self._synchronises_after(step):
            if self._exchange is None:
                self._pull_back()
            else:
                self._synchronise(self._exchange)
            # Of wrappers further in, such as Lookahead's slow weights.
            super()._on_overwritten(self._slow.keys())
        elif step == self.start_step:
            self._slow = {
                key: as_average(weights, copy=True)
                for key, weights in self._weights.items()
                if is_finite(weights)
            }
            self._updated = {}

    def _synchronises_after(self, step: int) -> bool:
        return step > self.start_step and (step - self.start_step) % self.freq == 0

    def _overwrites_after(self, step: int) -> bool:
        return self._synchronises_after(step)

    def _pull_back(self) -> None:
        """Synchronise with no other workers."""
        keys = [key for key in self._weights if key in self._updated or self._outer_moments]
        finite = are_finite([self._weights[key] for key in keys])
        for key, is_all_finite in zip(keys, finite, strict=True):
            weights = self._weights[key]
            is_updated = self._updated.pop(key, None) is not None
            if not is_all_finite:
                self._skipped.skip(key)
            if key not in self._slow:
                # Non-finite when the parameter was first seen.
                if is_all_finite:
                    self._slow[key] = as_average(weights, copy=True)
                continue
            slow = self._slow[key]
            if self.outer_momentum:
                change = zeros_like(slow)
                if is_updated and is_all_finite:
                    change[...] = slow - weights
                self._step_outer(key, change)
                weights[...] = slow
            elif is_all_finite:
                pull_back(slow, weights, self.outer_learn_rate)
            else:
                weights[...] = slow
            if is_updated:
                self._update_inner_state(key)

    def _synchronise(self, exchange: "ParameterExchange") -> None:
        """Synchronise with other workers."""
        updated, self._updated = self._updated, {}

        def write(key: KeyT, weights: Array, out: Array) -> bool:
            is_sent = key in updated and key in self._slow
            if is_sent:
                out[...] = self._slow[key] - weights
            return is_sent

        for found in exchange.reduce(write, takes_part=bool(updated)):
            key, weights = found.key, found.weights
            if found.n_non_finite:
                self._skipped.skip(key, found.n_non_finite)
            if key not in self._slow:
                if not found.n_values or not is_finite(weights):
                    continue
                # Other workers have updated it, this one has not.
                self._slow[key] = as_average(weights, copy=True)
            change = found.total
            change /= numpy.float32(max(1, found.n_values))
            self._step_outer(key, change)
            weights[...] = self._slow[key]
            if key in updated:
                self._update_inner_state(key)

    def _step_outer(self, key: KeyT, change: Array) -> None:
        """Move the synchronised weights of a parameter.

        change (FloatsXd): The mean change, theta - w, which is overwritten.
        """
        slow = self._slow[key]
        step = change
        if self.outer_momentum:
            momentum = numpy.float32(self.outer_momentum)
            if key not in self._outer_moments:
                self._outer_moments[key] = zeros_like(slow)
            moment = self._outer_moments[key]
            moment *= momentum
            moment += change
            if self.nesterov:
                step += momentum * moment
            else:
                step = moment
        slow -= slow.dtype.type(self.outer_learn_rate) * step

    def _update_inner_state(self, key: KeyT) -> None:
        update_inner_state(
            self.optimizer, key, self.inner_state, self._slow_moments, self.outer_learn_rate
        )

    def _on_steps_merged(self) -> None:
        if self.start_step:
            self._slow, self._outer_moments, self._updated = {}, {}, {}

    def _on_overwritten(self, keys: Collection[KeyT]) -> None:
        for key in self._slow.keys() & keys:
            self._outer_moments.pop(key, None)
            self._updated.pop(key, None)
        overwrite_slow_weights(self._slow, self._weights, keys)
        self._averages = None
        super()._on_overwritten(keys)

    def _check_snapshot_steps(self, start_step: int | None, freq: int) -> None:
        start = self.start_step if start_step is None else start_step
        if not self._is_synchronous and (
            freq % self.freq or (start - self.start_step) % self.freq
        ):
            raise ValueError(
                f"An average around LocalSGD takes its snapshots when the workers are "
                f"synchronised, here every {self.freq} steps from step {self.start_step} on, "
                f"but it had start_step = {start_step} and freq = {freq}: set its freq to a "
                f"multiple of {self.freq}, and its start_step to {self.start_step} plus or "
                f"minus a multiple of {self.freq}"
            )

    def _next_snapshot_step(self, step: int) -> int:
        return step if self._is_synchronous else step + (self.start_step - step) % self.freq

    def _make_averages(self) -> dict[KeyT, FloatsXd]:
        return {key: slow.copy() for key, slow in self._slow.items()}

    def __getstate__(self) -> dict[str, Any]:
        # A copy is not connected: the other workers do not know it.
        state = super().__getstate__()
        del state["_exchange"], state["_pending"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._exchange = None
        self._pending = {}
        super().__setstate__(state)


make_local_sgd = config_factory(LocalSGD)
