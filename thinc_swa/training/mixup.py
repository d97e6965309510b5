"""Training callback for mixup."""

from typing import Any

import numpy

from ..validation import check_number
from .callbacks import Callback
from .interface import TrainerInterface

# Distinguishes its random numbers from others of the same seed and step.
PURPOSE = 2


class Mixup(Callback):
    """Train on convex combinations of the examples of a batch and of their targets (Zhang et
    al. 2018, arXiv:1710.09412, section 2).

    In each step a number λ is drawn from Beta(`alpha`, `alpha`), and a random order of the
    batch. Example i becomes λ·xᵢ + (1 − λ)·xⱼ with the target λ·yᵢ + (1 − λ)·yⱼ, where j is at
    place i of that order. As in the authors' code there is one λ for a batch.

    The random numbers follow from the seed, the step and the worker, so the random numbers of
    dropout are those of a training without mixup. Evaluations use the examples as they are.

    alpha (float): The parameter of the distribution, > 0: the larger, the more examples are
        mixed.
    RAISES: ValueError if it is not.
    """

    runs_on_all_workers = True

    def __init__(self, *, alpha: float) -> None:
        self.alpha = check_number("alpha", alpha, above=0.0)

    def on_start(self, trainer: TrainerInterface) -> None:
        if not hasattr(trainer, "dataset"):
            raise ValueError(
                "mixup.v1 mixes the arrays of Thinc configs; texts of spaCy configs cannot be "
                "mixed: remove it"
            )

    def on_batch(self, trainer: TrainerInterface, X: Any, Y: Any) -> tuple[Any, Any]:
        """Mix a batch.

        X (FloatsXd): The inputs.
        Y (FloatsXd): The targets, for classes one-hot rows.
        RAISES: ValueError if the inputs or targets are not float arrays.
        """
        for name, data in (("inputs", X), ("targets", Y)):
            if getattr(getattr(data, "dtype", None), "kind", None) != "f":
                what = str(data.dtype) if hasattr(data, "dtype") else type(data).__name__
                raise ValueError(
                    f"mixup.v1 needs {name} that are arrays of floats, for classes one-hot "
                    f"rows, but they are {what}"
                )
        communicator = getattr(trainer, "communicator", None)
        rank = 0 if communicator is None else communicator.rank
        random = numpy.random.default_rng(
            (trainer.seed or 0, trainer.state.step, rank, PURPOSE)
        )
        share = float(random.beta(self.alpha, self.alpha))
        order = random.permutation(len(X))
        return share * X + (1.0 - share) * X[order], share * Y + (1.0 - share) * Y[order]

    def describe(self) -> dict[str, str]:
        return {"alpha": repr(self.alpha)}


def make_mixup(alpha: Any | float) -> Mixup:
    """`mixup.v1`: train on convex combinations of the examples of a batch and of their targets.

    See `Mixup`.

    RETURNS (Mixup): The callback.
    """
    return Mixup(alpha=alpha)
