"""Interface between trainers and what they call: callbacks and checkpoints."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from thinc.api import Optimizer

from .fingerprints import TrainingFingerprint
from .state import TrainerState


class TrainerInterface(Protocol):
    """Part of a trainer that callbacks and checkpoints may use."""

    @property
    def state(self) -> TrainerState:
        """Progress and results of the training."""

    @property
    def model(self) -> Any:
        """Model that is trained: a Thinc `Model` or a spaCy `Language`."""

    @property
    def optimizer(self) -> Optimizer:
        """Optimizer, wrapped or not."""

    @property
    def seed(self) -> int | None:
        """Seed of the training; None if it has none."""

    @property
    def score(self) -> str:
        """What scores are: "accuracy" (a fraction, shown in per cent) or "loss"."""

    @property
    def fingerprint(self) -> TrainingFingerprint:
        """Everything that decides the result of the training."""

    def can_resize(self, state: TrainerState) -> bool:
        """Whether a state can be restored with another number of workers, after `resize`."""

    def resize(self, state: TrainerState, extras: Sequence[dict[str, Any]]) -> None:
        """Change a state to be restored to that of another number of workers.

        extras (Sequence[dict[str, Any]]): The `extra` of the states of all workers that it was
            saved with, by rank.
        """

    def stop(self, reason: str = "stopped") -> None:
        """Stop the training after the current step."""

    def use_averages(self, name: str | None = None) -> AbstractContextManager[None]:
        """Context manager in which the model has averages as its weights.

        name (str | None): Name of the averages in `all_averages(optimizer)`; by default those
            of the outermost optimizer that has any.
        """

    def save_model(self, path: Path) -> None:
        """Save the model with its current weights, atomically: a file for Thinc, a folder for
        spaCy. An earlier model at the path is replaced."""

    def load_model(self, path: Path) -> None:
        """Load the weights that `save_model` has saved."""

    def restore(self, state: TrainerState) -> None:
        """Continue from a state, whose model and optimizer are already loaded."""
