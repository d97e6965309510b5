"""L2 decay towards the weights at the start of the training."""

from typing import ClassVar

from thinc.api import Optimizer

from ..averaging.cpu_kernels import as_average
from ..types import Array, FloatsXd, KeyT
from ..validation import check_number
from .base import OptimizerWrapper
from .config_factory import config_factory


class L2SP(OptimizerWrapper):
    """L2-SP: L2 decay towards the weights at the start of the training, the "starting point"
    (Li et al. 2018, arXiv:1802.01483, equation 2).

    Before every update, alpha * (weights - weights at the start) is added to the gradient. This
    is the gradient of the penalty alpha / 2 * ||weights - weights at the start||². A model that
    is trained further on other data forgets less of what it has learned. The decay is coupled,
    as Thinc's `L2` with `L2_is_weight_decay = false`: it is part of the gradient that the
    wrapped optimizer clips and scales, so Adam adapts it too. An `L2` of the wrapped optimizer
    still pulls towards zero.

    The weights at the start are those before the first update of a parameter. They are saved
    with the state of the optimizer, so a resumed training has the same ones. New layers are
    drawn towards their initial weights; for those that begin with zeros, such as Thinc's output
    layers, this is an ordinary L2 penalty.

    It keeps one float32 copy of the parameters (float64 for float64 weights).

    optimizer (Optimizer): The optimizer to wrap.
    alpha (float): The strength of the decay, at least 0. With 0.0 this is the wrapped optimizer
        alone.
    RAISES: ValueError if an argument is out of its range.
    """

    alpha: float
    _state: ClassVar[tuple[str, ...]] = ("_anchors",)

    __slots__ = ["alpha", "_anchors"]

    def __init__(self, optimizer: Optimizer, *, alpha: float = 0.1) -> None:
        super().__init__(optimizer)
        self.alpha = check_number("alpha", alpha, minimum=0.0)
        # The weights at the start.
        self._anchors: dict[KeyT, Array] = {}
        self._set_arguments(alpha=self.alpha)

    def __call__(
        self,
        key: KeyT,
        weights: FloatsXd,
        gradient: FloatsXd,
        *,
        lr_scale: float = 1.0,
    ) -> tuple[FloatsXd, FloatsXd]:
        """Update a parameter. See `OptimizerWrapper`."""
        anchor = self._anchors.get(key)
        fits = anchor is not None and anchor.shape == weights.shape == gradient.shape
        if not fits or self.alpha == 0.0:
            # Before the first update, there is no difference to the weights at the start.
            weights, gradient = OptimizerWrapper.__call__(
                self, key, weights, gradient, lr_scale=lr_scale
            )
            return weights, gradient
        # A new array: if the wrapped optimizer refuses the update, the gradient is unchanged.
        total = self._add_decay(anchor, weights, gradient)
        weights, total = OptimizerWrapper.__call__(self, key, weights, total, lr_scale=lr_scale)
        result: Array = gradient
        result[...] = total
        return weights, gradient

    def _add_decay(self, anchor: Array, weights: Array, gradient: Array) -> FloatsXd:
        total = weights - anchor
        total *= total.dtype.type(self.alpha)
        total += gradient
        decayed: FloatsXd = total.astype(gradient.dtype, copy=False)
        return decayed

    def _on_new_parameter(self, key: KeyT, initial: Array) -> None:
        # A copied optimizer has it already.
        if key not in self._anchors:
            self._anchors[key] = as_average(initial)


make_l2sp = config_factory(L2SP)
