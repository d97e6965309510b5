"""Averages, interpolations and soups of saved models."""

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..serialization.folders import delete
from ..validation import check_number
from .saved_combination import combine, mean_fractions, parent_folders
from .saved_files import is_model_file
from .saved_pipelines import SavedPipeline, find_model

PathT = str | Path
ScoreT = TypeVar("ScoreT")


@dataclass(frozen=True)
class Soup:
    """Result of `greedy_soup`.

    scores (dict[Path, float]): Scores of the single models, in the order of the scores.
    ingredients (list[Path]): The models in the average.
    score (float): Score of the average.
    """

    scores: dict[Path, float]
    ingredients: list[Path]
    score: float


def average_models(paths: Sequence[PathT], output: PathT, *, overwrite: bool = False) -> None:
    """Average the weights of saved models, and save a model with the averages.

    The models are spaCy pipelines (folders that `nlp.to_disk` has written, or the names of
    installed packages) or Thinc models (files that `model.to_disk` has written, or with what
    `model.to_bytes` returns). They must
    come from one model: checkpoints of one training, or trainings that began with the same
    weights. Then their mean can be better than each of them (model soups, Wortsman et al. 2022,
    arXiv:2203.05482). The mean of models with different initial weights is useless.

    Floating-point weights are averaged, and so are the floating-point buffers of PyTorch
    layers, such as BatchNorm statistics. Integer buffers and everything in `meta.json` and
    `config.cfg` that only matters for training come from the first model. The vocabulary of the
    result has the strings of all pipelines. Everything else must be equal: layers, shapes,
    labels, vectors, lookup tables, tokenizers, the settings of components, and the minor
    version of spaCy.

    The mean is calculated in float32, or float64 for float64 weights, to a relative precision
    of 1e-6. The memory does not depend on the number of models. Models are read one by one, and
    of a pipeline one component after the other. At most the averages and two copies of the
    weights of the largest component are in memory.

    paths (Sequence[str | Path]): The models, at least two.
    output (str | Path): The folder or file to write, atomically.
    overwrite (bool): Whether to replace a saved model at that path.
    RAISES: ValueError if the models differ in what must be equal, which lists the differences,
        if weights are NaN or infinite, or if a path is not a saved model or is given twice;
        FileExistsError if the output exists and must not be overwritten; OSError if a file
        cannot be read or written; ImportError if there are PyTorch layers but no PyTorch.
    """
    models = _check_paths(paths)
    target = check_output(models, output, overwrite=overwrite)
    combine(models, mean_fractions(models), target)


def interpolate_models(
    base: PathT, tuned: PathT, alpha: float, output: PathT, *, overwrite: bool = False
) -> None:
    """Interpolate between the weights of two saved models: (1 - alpha) * base + alpha * tuned.

    With a model and one that was trained further from it, this undoes a part of the change
    (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903, equation 1). See `average_models` for what
    the models must have in common. What cannot be interpolated comes from the base.

    base (str | Path): The model for alpha = 0.
    tuned (str | Path): The model for alpha = 1.
    alpha (float): From 0 to 1.
    output (str | Path): The folder or file to write, atomically.
    overwrite (bool): Whether to replace a saved model at that path.
    RAISES: As `average_models`.
    """
    alpha = check_number("alpha", alpha, minimum=0.0, maximum=1.0)
    models = _check_paths([base, tuned])
    target = check_output(models, output, overwrite=overwrite)
    combine(models, [1.0, alpha], target)


def greedy_soup(
    paths: Sequence[PathT],
    score: Callable[[Path], float],
    output: PathT,
    *,
    overwrite: bool = False,
) -> Soup:
    """Average those saved models that improve the score of the average: a greedy soup
    (Wortsman et al. 2022, arXiv:2203.05482, recipe 1).

    The models are tried in the order of their scores, the best first. A model becomes part of
    the average if the score of the average does not fall. See `average_models` for what the
    models must have in common.

    paths (Sequence[str | Path]): The models, at least two.
    score (Callable[[Path], float]): Returns the score of the saved model at a path; higher is
        better. The path exists only during the call.
    output (str | Path): The folder or file to write, atomically.
    overwrite (bool): Whether to replace a saved model at that path.
    RETURNS (Soup): The models in the average, and the scores.
    RAISES: As `average_models`; ValueError if a score is NaN.
    """
    models = _check_paths(paths)
    target = check_output(models, output, overwrite=overwrite)
    # Before the evaluations, which may take long.
    combine(models, mean_fractions(models), None)
    found = {path: _check_score(score(path), path) for path in models}
    ranked = sorted(models, key=lambda path: -found[path])
    ingredients, best = ranked[:1], found[ranked[0]]
    with parent_folders(target), temporary_folder_in(target.parent) as folder:
        for i, path in enumerate(ranked[1:]):
            candidates = [*ingredients, path]
            candidate = folder / str(i)
            combine(candidates, mean_fractions(candidates), candidate)
            value = _check_score(score(candidate), candidate)
            if value >= best:
                ingredients, best = candidates, value
            delete(candidate)
    combine(ingredients, mean_fractions(ingredients), target)
    return Soup({path: found[path] for path in ranked}, ingredients, best)


def score_interpolations(
    base: PathT,
    tuned: PathT,
    alphas: Sequence[float],
    score: Callable[[Path], ScoreT],
    *,
    folder: PathT | None = None,
) -> Iterator[tuple[float, ScoreT]]:
    """Evaluate interpolations between two saved models. See `interpolate_models`.

    base (str | Path): The model for alpha = 0.
    tuned (str | Path): The model for alpha = 1.
    alphas (Sequence[float]): Values from 0 to 1.
    score (Callable[[Path], Any]): Evaluates the saved model at a path, which exists only during
        the call.
    folder (str | Path | None): An existing folder for one temporary model at a time. By default
        that of the system.
    RETURNS (Iterator[tuple[float, Any]]): Each alpha with its result.
    RAISES: As `interpolate_models`.
    """
    alphas = [check_number("alpha", alpha, minimum=0.0, maximum=1.0) for alpha in alphas]
    models = _check_paths([base, tuned])
    combine(models, [1.0, 0.0], None)
    with temporary_folder_in(folder) as temporary:
        for alpha in alphas:
            if alpha in (0.0, 1.0):
                yield alpha, score(models[int(alpha)])
                continue
            candidate = temporary / "model"
            combine(models, [1.0, alpha], candidate)
            yield alpha, score(candidate)
            delete(candidate)


@contextmanager
def temporary_folder_in(folder: PathT | None) -> Iterator[Path]:
    """Context manager with a new temporary folder, on the disk of another one."""
    prefix = ".thinc-swa-"
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=".tmp", dir=folder) as name:
        yield Path(name)


def check_output(inputs: Sequence[PathT], output: PathT, *, overwrite: bool = False) -> Path:
    """Check that a model can be saved at a path.

    inputs (Sequence[str | Path]): The models that it is made from.
    output (str | Path): The path.
    overwrite (bool): Whether it may replace a saved model.
    RETURNS (Path): The path.
    RAISES: ValueError if it is one of the models, or inside of one, or has one inside;
        FileExistsError if there is a model that must not be replaced, or something else.
    """
    target = Path(output)
    place = Path(os.path.realpath(target))
    for path in map(Path, inputs):
        model = Path(os.path.realpath(path))
        if place == model:
            raise ValueError(f"{target} is one of the models: choose another output")
        if model in place.parents or place in model.parents:
            raise ValueError(
                f"The output {target} and the model {path} are inside of one another: choose "
                "another output"
            )
    if not os.path.lexists(target) or _is_empty_folder(target):
        return target
    if not overwrite:
        raise FileExistsError(
            f"{target} already exists: overwrite it, or choose another output"
        )
    foreign = _find_foreign(target, Path(inputs[0]))
    if foreign is not None:
        raise FileExistsError(f"{foreign}, and is not overwritten: choose another output")
    return target


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _find_foreign(target: Path, model: Path) -> str | None:
    """Why a path must not be replaced by a model; None if it is a model itself."""
    if not target.is_dir():
        is_model = target.is_file() and not model.is_dir() and is_model_file(target)
        return None if is_model else f"{target} is not a saved model"
    if not model.is_dir():
        return f"{target} is a folder"
    try:
        pipeline = SavedPipeline(target)
    except ValueError as error:
        return str(error)
    # Other files in the folder of the model, such as a licence, have been copied from there.
    known = {path.name for path in model.iterdir()}
    others = sorted(
        path.name
        for path in target.iterdir()
        if path.name not in known and not pipeline.is_part(path.name)
    )
    if others:
        return f"{target} contains {', '.join(others)}, which is not part of a pipeline"
    return None


def _check_paths(paths: Sequence[PathT]) -> list[Path]:
    """Check that there are saved models of one kind at different paths."""
    if isinstance(paths, (str, Path)) or len(paths) < 2:
        raise ValueError(f"paths must be at least two saved models, but was {paths!r}")
    models = [find_model(path) for path in paths]
    seen: dict[str, Path] = {}
    for path in models:
        place = os.path.realpath(path)
        if place in seen:
            raise ValueError(f"{path} and {seen[place]} are the same model")
        seen[place] = path
        if path.is_dir() != models[0].is_dir():
            raise ValueError(
                f"{models[0]} and {path} are a folder and a file: a spaCy pipeline and a Thinc "
                "model cannot be averaged"
            )
        if path.is_dir():
            SavedPipeline(path)
        elif not is_model_file(path):
            raise ValueError(f"{path} is not a file of a Thinc model")
    return models


def _check_score(value: float, path: Path) -> float:
    if math.isnan(value):
        raise ValueError(f"The score of {path} is NaN")
    return value
