"""Placeholder for an optimizer that cannot be made from its config yet."""

from thinc.api import Optimizer
from thinc.types import FloatsXd

from ..types import KeyT
from .base import OptimizerWrapper


class UnresolvedOptimizer(OptimizerWrapper):
    """Placeholder for an optimizer whose config lacks something: every update is an error.

    spaCy also resolves the config, with its variables as they are written, where a pipeline
    makes an optimizer that may never be used: after `nlp.initialize()`, in `spacy assemble`
    and in `spacy debug data` (spaCy 3.8, `Language.create_optimizer`).

    optimizer (Optimizer): The optimizer to wrap.
    message (str): What is missing and what to do: the text of the error.
    """

    __slots__ = ["message"]

    def __init__(self, optimizer: Optimizer, message: str) -> None:
        super().__init__(optimizer)
        self.message = message
        self._set_arguments(message=message)

    def __call__(
        self,
        key: KeyT,
        weights: FloatsXd,
        gradient: FloatsXd,
        *,
        lr_scale: float = 1.0,
    ) -> tuple[FloatsXd, FloatsXd]:
        raise ValueError(self.message)
