"""Evaluation scores for optimizers that depend on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from thinc.api import Optimizer

from .base import OptimizerWrapper

_are_reported: ContextVar[bool] = ContextVar("are_scores_reported", default=False)


@contextmanager
def scores_are_reported() -> Iterator[None]:
    """Let optimizers that are made from a config inside know that `report_score` will be called
    after every evaluation. For training loops."""
    token = _are_reported.set(True)
    try:
        yield
    finally:
        _are_reported.reset(token)


def has_scores() -> bool:
    """Whether the training loop that resolves the config reports scores."""
    return _are_reported.get()


def report_score(optimizer: Optimizer, score: float) -> None:
    """Pass the score of an evaluation to an optimizer, for `SWA(start_step="plateau")`.

    Call it after each evaluation, when the step before it is complete.

    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    score (float): The score of the raw weights; higher is better. NaN is ignored.
    """
    if isinstance(optimizer, OptimizerWrapper):
        optimizer.add_score(score)
