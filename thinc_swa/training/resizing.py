"""Resuming a training with another number of workers than before.

All workers begin with the mean of the old workers' weights and optimizer states. Such a
training is not bit for bit the uninterrupted one.
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from thinc.api import fix_random_seed

from ..errors import TrainingWarning
from ..models.parameters import named_parameters
from ..serialization.optimizer_state import load_optimizer
from ..serialization.state_file import StateReader, write_state
from ..types import Array
from .interface import TrainerInterface

# Name of the number of workers among the settings of a training.
WORKERS = "--workers"


def load_mean(
    trainer: TrainerInterface, models: Sequence[Path], optimizers: Sequence[Path]
) -> None:
    """Load the mean of the weights and optimizer states of several workers. What is not a
    floating-point number is that of the first one.

    models (Sequence[Path]): Saved models.
    optimizers (Sequence[Path]): Saved optimizer states.
    """
    sums: dict[str, Array] = {}
    # The first one last, as it stays in the model.
    for path in reversed(models):
        trainer.load_model(path)
        for place, _, parameter in named_parameters(trainer.model):
            weights = parameter.get()
            if place in sums:
                sums[place] += weights
            else:
                sums[place] = weights.astype("float64")
    for place, _, parameter in named_parameters(trainer.model):
        parameter.write(sums[place] / len(models))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimizer.safetensors")
        _average_states(optimizers, path)
        load_optimizer(path, trainer.optimizer, trainer.model)


def _average_states(paths: Sequence[Path], result: Path) -> None:
    """Write the mean of optimizer states.

    paths (Sequence[Path]): State files. An array that is not in all of them is the mean of
        those that have it.
    result (Path): The new file, which has the arrays of the first one.
    """
    header: dict[str, Any] = {}
    sums: dict[str, Array] = {}
    counts: dict[str, int] = {}
    dtypes: dict[str, Any] = {}
    for path in paths:
        with path.open("rb", buffering=0) as file:
            reader = StateReader(path, file)
            header = header or reader.header
            arrays = reader.read_arrays()
        if path == paths[0]:
            dtypes = {name: array.dtype for name, array in arrays.items()}
        for name, array in arrays.items():
            is_number = numpy.issubdtype(array.dtype, numpy.floating)
            if name not in dtypes or (name in sums and not is_number):
                continue
            # Exact for values that are the same on all workers.
            wide = array.astype("float64") if is_number else array
            sums[name] = sums[name] + wide if name in sums else wide
            counts[name] = counts.get(name, 0) + 1
    means = {
        name: (array / counts[name]).astype(dtypes[name]) if counts[name] > 1 else array
        for name, array in sums.items()
    }
    means = {name: array.astype(dtypes[name], copy=False) for name, array in means.items()}
    write_state(result, {k: v for k, v in header.items() if k != "arrays"}, means)


def draw_random_numbers(seed: int, *, step: int, rank: int, n_workers: int) -> None:
    """Set the random generators to states that follow from where a training is resumed."""
    seeds = numpy.random.SeedSequence((seed, step, rank, n_workers))
    fix_random_seed(int(seeds.generate_state(1)[0]))


def warn_about_workers(path: Path, n_before: int, n_now: int) -> None:
    """Warn that a training is not the same as without an interruption."""
    warnings.warn(
        f"{path} was saved with {_name(n_before)}, and the training continues with "
        f"{_name(n_now)}: the results differ from those of an uninterrupted training. Weights "
        "and moments are means over the earlier workers",
        TrainingWarning,
        stacklevel=3,
    )


def _name(n_workers: int) -> str:
    return f"{n_workers} worker{'s' if n_workers != 1 else ''}"
