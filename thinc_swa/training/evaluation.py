"""Evaluation of a model, and the scores that Thinc configs can name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy
from thinc.api import Model, Optimizer

from ..optimizers.all_averages import average_names, own_averages
from ..optimizers.averaging_optimizer import AveragingOptimizer
from ..optimizers.base import unwrap

SCORES = ("accuracy", "loss")
# Examples per call of `predict`.
PREDICT_BATCH_SIZE = 1024


@dataclass(frozen=True)
class Evaluation:
    """Result of one evaluation.

    step (int): Completed steps.
    epoch (int): Current pass over the data, from 0.
    loss (float): Mean training loss per step since the previous evaluation.
    learn_rate (float): Learning rate of the last step.
    n_averaged (int | None): Snapshots in the averages; None if the optimizer does not count
        any.
    raw (float): Score of the raw weights.
    averages (float | None): Score of the averages; None if there are none yet.
    is_best (bool): Whether the score is higher than all before; for spaCy, at least as high.
    other_scores (dict[str, Any]): Further scores of the weights that are saved, by name.
    all_averages (dict[str, float]): Scores of all averages that were evaluated, by their names
        in `all_averages(optimizer)`. The first one is `averages`.
    losses (dict[str, float]): Training losses by name (for spaCy, by component), summed over
        the steps since the previous evaluation.
    """

    step: int
    epoch: int
    loss: float
    learn_rate: float
    n_averaged: int | None
    raw: float
    averages: float | None
    is_best: bool = False
    other_scores: dict[str, Any] = field(default_factory=dict)
    all_averages: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Score of the weights that are saved: averages if there are any, else raw weights."""
        return self.raw if self.averages is None else self.averages


def evaluated_averages(optimizer: Optimizer) -> dict[str, Optimizer]:
    """Optimizers of a nesting whose averages are evaluated: the outermost one that has averages
    so far, whose averages are `optimizer.averages`, and all others with averages that never
    change the trajectory of the weights.

    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    RETURNS (dict[str, Optimizer]): The optimizers by their names in `all_averages(optimizer)`,
        outermost first. The `averages` of each are its own ones.
    """
    found: dict[str, Optimizer] = {}
    for name, level in zip(average_names(optimizer), unwrap(optimizer), strict=True):
        if has_own_averages(level) and (not found or getattr(level, "is_passive", False)):
            found[name] = level
    return found


def find_averages(optimizer: Optimizer, name: str | None) -> Optimizer:
    """The optimizer of a nesting whose `averages` are those with a name.

    optimizer (Optimizer): The outermost optimizer.
    name (str | None): Name in `all_averages(optimizer)`; None for the outermost averages, or
        the outermost optimizer if there are none.
    RAISES: ValueError if there is no optimizer with this name.
    """
    if name is None:
        return next(iter(evaluated_averages(optimizer).values()), optimizer)
    levels: dict[str, Optimizer] = dict(
        zip(average_names(optimizer), unwrap(optimizer), strict=True)
    )
    if name not in levels:
        raise ValueError(f"There are no averages {name!r}: the names are {list(levels)}")
    return levels[name]


def has_own_averages(optimizer: Any) -> bool:
    """Whether an optimizer has averages itself, apart from those of the one that it wraps."""
    return bool(own_averages(optimizer))


def passive_names(optimizer: Optimizer) -> list[str]:
    """Names in `all_averages(optimizer)` of the wrappers that never change the trajectory of
    the weights, outermost first, also of those without averages so far."""
    return [
        name
        for name, level in zip(average_names(optimizer), unwrap(optimizer), strict=True)
        if isinstance(level, AveragingOptimizer) and level.is_passive
    ]


def predict(
    model: Model[Any, Any],
    X: Any,
    convert: Callable[[Any], Any],
    *,
    batch_size: int = PREDICT_BATCH_SIZE,
) -> Any:
    """Predict all rows: arrays and lists in batches."""
    if not isinstance(X, list) and not hasattr(X, "shape"):
        return model.predict(X)
    pieces = [
        model.predict(convert(X[start : start + batch_size]))
        for start in range(0, len(X), batch_size)
    ]
    if isinstance(pieces[0], list):
        return [guess for piece in pieces for guess in piece]
    return model.ops.xp.concatenate(pieces)


def accuracy(predictions: Any, targets: Any) -> float:
    """Fraction of the rows whose highest output is that of the correct class.

    predictions (Floats2d | list[Floats2d]): A row of class scores per example, or per token
        of each example.
    targets (Ints1d | Floats2d | list[…]): The class of each row, as an index or as a one-hot
        row.
    RETURNS (float): From 0 to 1.
    RAISES: ValueError for other shapes, and for a single class.
    """
    predictions, targets = _to_numpy(predictions), _to_numpy(targets)
    # With a single class every prediction would be correct.
    fits = predictions.ndim == 2 and predictions.shape[1] > 1
    if not fits or targets.shape not in (predictions.shape, predictions.shape[:1]):
        raise ValueError(
            'score = "accuracy" needs a row of class scores and a target per example, but the '
            f"predictions have shape {predictions.shape} and the targets {targets.shape}: "
            'use score = "loss"'
        )
    if targets.ndim == 2:
        targets = targets.argmax(axis=-1)
    return float((predictions.argmax(axis=-1) == targets).mean())


def _to_numpy(data: Any | Iterable[Any]) -> Any:
    if isinstance(data, (list, tuple)):
        pieces = [_to_numpy(piece) for piece in data]
        is_rows = any(piece.ndim for piece in pieces)
        return numpy.concatenate(pieces) if is_rows else numpy.asarray(pieces)
    return data.get() if hasattr(data, "get") else numpy.asarray(data)


def format_score(value: float, score: str) -> str:
    """Format a score: accuracies in per cent, others as they are."""
    return f"{100.0 * value:.2f}" if score == "accuracy" else f"{value:.4g}"
