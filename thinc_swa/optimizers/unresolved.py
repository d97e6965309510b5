"""What stands for an optimizer whose config has a variable that nobody has filled in."""

from thinc.api import Optimizer
from thinc.types import FloatsXd

from ..types import KeyT
from ..validation import UNRESOLVED
from .base import OptimizerWrapper


class UnresolvedOptimizer(OptimizerWrapper):
    """Can do anything but train.

    spaCy resolves the config as it is written, with its variables, where a pipeline makes an
    optimizer for itself, and often nobody uses that: after `nlp.initialize()`, in
    `spacy assemble` and `spacy debug data`. (spaCy 3.8, `Language.create_optimizer`.)

    optimizer (Optimizer): The optimizer to wrap.
    total_steps (str): The variable: "${training.max_steps}".
    """

    __slots__ = ["total_steps"]

    def __init__(self, optimizer: Optimizer, total_steps: str) -> None:
        super().__init__(optimizer)
        self.total_steps = total_steps
        self._arguments = {"total_steps": total_steps}

    def __call__(
        self,
        key: KeyT,
        weights: FloatsXd,
        gradient: FloatsXd,
        *,
        lr_scale: float = 1.0,
    ) -> tuple[FloatsXd, FloatsXd]:
        raise ValueError(UNRESOLVED.format(value=self.total_steps))
