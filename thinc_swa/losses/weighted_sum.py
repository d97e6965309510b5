"""Weighted sum of losses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from thinc.loss import Loss

from ..schedules.compat import GeneratorSchedule, ScheduleClass
from ..types import Array
from ..validation import check_int, check_number

# Sums of weights are rounded.
TOLERANCE = 1e-6


class WeightedSum(Loss[Any, Any, Any, float]):
    """Weighted sum of losses of the same predictions and targets.

    The value is w₁·l₁ + w₂·l₂ + …, and the gradient w₁·g₁ + w₂·g₂ + …. A weight can be a
    schedule of the training steps. Training loops tell the loss its step with `begin_step`, as
    `Trainer` does, so that a resumed training has the right weights.

    losses (Sequence[Loss]): Thinc losses.
    weights (Sequence[float | ScheduleT]): The weight of each: a number >= 0, or a schedule of
        such numbers.
    total (float | None): What the weights must sum to at every step; None for any sum.
    RAISES: TypeError if a loss cannot be called; ValueError if there is no loss, if there are
        not as many weights as losses, or if a weight or a sum at step 0 is not as described.
    """

    def __init__(
        self,
        losses: Sequence[Any],
        weights: Sequence[Any],
        *,
        total: float | None = None,
    ) -> None:
        if not losses:
            raise ValueError("A weighted sum must have at least one loss, but had none")
        if len(losses) != len(weights):
            raise ValueError(
                "A weighted sum must have a weight for each loss, but had "
                f"{len(losses)} losses and {len(weights)} weights"
            )
        for number, loss in enumerate(losses, 1):
            if not callable(loss) or not hasattr(loss, "get_loss"):
                raise TypeError(f"Loss {number} must be a Thinc Loss, but was {loss!r}")
        self.losses = list(losses)
        self._schedules = [_make_weight(i, weight) for i, weight in enumerate(weights, 1)]
        self._total = None if total is None else check_number("total", total, above=0.0)
        self.begin_step(0)

    def begin_step(self, step: int) -> None:
        """Set the weights to those of a step, until it is called again.

        step (int): The number of complete steps.
        RAISES: ValueError if a weight is not a number >= 0, or if their sum is not `total`.
        """
        check_int("step", step, minimum=0)
        weights = [
            check_number(f"weight {i} at step {step}", find(step), minimum=0.0)
            for i, find in enumerate(self._schedules, 1)
        ]
        total = self._total
        if total is not None and abs(sum(weights) - total) > TOLERANCE * max(total, 1.0):
            raise ValueError(
                f"The weights must sum to {total:g}, but were {weights} at step {step}"
            )
        # The current weight of each loss.
        self.weights = weights
        for loss in self.losses:
            begin_step(loss, step)

    def __call__(self, guesses: Any, truths: Any) -> tuple[Any, float]:
        """RETURNS (tuple[Any, float]): The gradient, and the loss."""
        found = [loss(guesses, truths) for loss in self.losses]
        gradients, values = zip(*found, strict=True)
        return self._add(gradients), self._sum(values)

    def get_grad(self, guesses: Any, truths: Any) -> Any:
        return self._add([loss.get_grad(guesses, truths) for loss in self.losses])

    def get_loss(self, guesses: Any, truths: Any) -> float:
        return self._sum([loss.get_loss(guesses, truths) for loss in self.losses])

    def _sum(self, values: Sequence[Any]) -> float:
        pairs = zip(self.weights, values, strict=True)
        return sum((weight * float(value) for weight, value in pairs if weight), 0.0)

    def _add(self, gradients: Sequence[Any]) -> Any:
        """The weighted sum of gradients: arrays of one shape, or lists of arrays."""
        if isinstance(gradients[0], (list, tuple)):
            return [self._add(parts) for parts in zip(*gradients, strict=True)]
        total = _zeros_like(gradients[0])
        for weight, gradient in zip(self.weights, gradients, strict=True):
            if gradient.shape != total.shape:
                raise ValueError(
                    "The losses of a weighted sum must have gradients of one shape, but had "
                    f"{total.shape} and {gradient.shape}"
                )
            # Not 0 · NaN.
            if weight:
                total += weight * gradient
        return total


def _zeros_like(array: Array) -> Array:
    zeros = array.copy()
    zeros[...] = 0.0
    return zeros


def begin_step(loss: Any, step: int) -> None:
    """Tell a loss the step of the training, if it depends on it: if it has a method
    `begin_step`.

    loss (Loss): Any loss.
    step (int): The number of complete steps.
    """
    begin = getattr(loss, "begin_step", None)
    if begin is not None:
        begin(step)


def _make_weight(number: int, weight: Any) -> Callable[[int], Any]:
    """A weight as a function of the step."""
    if isinstance(weight, Real):
        value = check_number(f"weight {number}", weight, minimum=0.0)
        return lambda step: value
    if isinstance(weight, ScheduleClass):
        return lambda step: weight(step)
    if isinstance(weight, Iterator):
        return GeneratorSchedule(weight)
    if isinstance(weight, (list, tuple)) and weight:
        return GeneratorSchedule(iter(weight))
    raise ValueError(
        f"weight {number} must be a number >= 0, a list of numbers or a schedule, but was "
        f"{weight!r}"
    )


def make_weighted_sum(*losses: Any, total: Any | float | None = None) -> WeightedSum:
    """`weighted_sum.v1`: a weighted sum of losses of the same predictions and targets. In a
    config each loss is a section with `weight`, a number >= 0 or a schedule of the training
    steps, and `loss`:

        [loss]
        @losses = "weighted_sum.v1"

        [loss.*.entropy]
        weight = 0.9

        [loss.*.entropy.loss]
        @losses = "CategoricalCrossentropy.v3"

    losses (Mapping[str, Any]): The sections.
    total (float | None): What the weights must sum to at every step; None for any sum.
    RETURNS (WeightedSum): The loss.
    RAISES: ValueError if a section has other settings, and as for `WeightedSum`.
    """
    for number, section in enumerate(losses, 1):
        if not isinstance(section, Mapping) or set(section) != {"weight", "loss"}:
            had = list(section) if isinstance(section, Mapping) else repr(section)
            raise ValueError(f"Loss {number} must have weight and loss, but had {had}")
    return WeightedSum(
        [section["loss"] for section in losses],
        [section["weight"] for section in losses],
        total=total,
    )
