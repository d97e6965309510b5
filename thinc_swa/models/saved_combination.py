"""Combination of saved models: their weights are moved towards one another."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..serialization.files import atomic_write
from ..serialization.folders import atomic_folder
from .saved_files import SavedModel
from .saved_pipelines import META, STRINGS, SavedPipeline, find_differences

# Of the differences in an error.
MAX_DIFFERENCES = 12


def mean_fractions(paths: Sequence[Path]) -> list[float]:
    """The fraction by which each model moves the mean of those before it."""
    return [1 / (i + 1) for i in range(len(paths))]


def combine(paths: Sequence[Path], fractions: Sequence[float], target: Path | None) -> None:
    """Move the weights of the first model towards those of each other one, in turn.

    fractions (Sequence[float]): The fraction of the difference for each model. That of the
        first is ignored.
    target (Path | None): The output. None only checks that the models fit.
    """
    run = _combine_pipelines if paths[0].is_dir() else _combine_files
    if target is None:
        run(paths, fractions, target)
        return
    with parent_folders(target):
        run(paths, fractions, target)


@contextmanager
def parent_folders(path: Path) -> Iterator[None]:
    """Context manager that makes the folders above a path, and after an error removes those
    that it has made."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            # Not if it has got other files meanwhile.
            with suppress(OSError):
                folder.rmdir()
        raise


def _combine_files(
    paths: Sequence[Path], fractions: Sequence[float], target: Path | None
) -> None:
    problems: dict[Path, list[str]] = {path: [] for path in paths[1:]}
    model = _fold(paths, fractions, problems, is_needed=target is not None)
    _raise_differences(paths[0], problems)
    if target is not None:
        with atomic_write(target) as temporary:
            model.write(temporary)


def _combine_pipelines(
    paths: Sequence[Path], fractions: Sequence[float], target: Path | None
) -> None:
    first, *others = map(SavedPipeline, paths)
    problems = {other.path: list(first.differences(other)) for other in others}
    with _output_folder(target) as temporary:
        for file in first.model_files():
            if not all(file in other.files for other in others):
                continue  # One of the differences.
            files = [path / file for path in paths]
            is_needed = temporary is not None and not any(problems.values())
            inner: dict[Path, list[str]] = {path: [] for path in files[1:]}
            model = _fold(files, fractions, inner, is_needed=is_needed)
            for path, found in zip(paths[1:], inner.values(), strict=True):
                problems[path] += [f"{file.as_posix()}: {problem}" for problem in found]
            if temporary is not None and not any(problems.values()):
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                model.write(temporary / file)
            # Its memory, before the next one is read.
            del model
        _raise_differences(paths[0], problems)
        if temporary is not None:
            _copy_rest(first, others, temporary)


def _fold(
    paths: Sequence[Path],
    fractions: Sequence[float],
    problems: dict[Path, list[str]],
    *,
    is_needed: bool,
) -> SavedModel:
    """Add models to the first one, as far as they fit.

    problems (dict[Path, list[str]]): Gets the differences of each model to the first one.
    is_needed (bool): Whether to calculate, or only to compare.
    """
    model = SavedModel(paths[0])
    if is_needed:
        model.prepare()
    for path, fraction in zip(paths[1:], fractions[1:], strict=True):
        other = SavedModel(path)
        problems[path] += _model_differences(model, other)
        if is_needed and not any(problems.values()):
            model.add(other, fraction)
        # Its memory, before the next one is read.
        del other
    return model


def _model_differences(model: SavedModel, other: SavedModel) -> list[str]:
    if len(model.description) != len(other.description):
        return [f"{len(model.description)} layers and {len(other.description)} layers"]
    found = []
    for (name, layer), (other_name, other_layer) in zip(
        model.description.items(), other.description.items(), strict=True
    ):
        if name != other_name:
            found.append(f"{name} and {other_name}")
        else:
            found += find_differences(layer, other_layer, name)
    return found


def _raise_differences(first: Path, problems: dict[Path, list[str]]) -> None:
    parts = []
    for path, found in problems.items():
        if found:
            shown = "; ".join(found[:MAX_DIFFERENCES])
            n_more = len(found) - MAX_DIFFERENCES
            parts.append(f"{path}: {shown}{f'; and {n_more} more' if n_more > 0 else ''}")
    if parts:
        raise ValueError(
            f"The models differ from the first one, {first}, so they cannot be averaged. "
            + ". ".join(parts)
        )


@contextmanager
def _output_folder(target: Path | None) -> Iterator[Path | None]:
    if target is None:
        yield None
        return
    try:
        with atomic_folder(target) as temporary:
            yield temporary
    except OSError as error:
        # Errors of writes, such as a full disk, have no file name.
        if error.filename is None:
            error.filename = str(target)
        raise


def _copy_rest(first: SavedPipeline, others: Sequence[SavedPipeline], folder: Path) -> None:
    """Copy everything that has no weights from the first pipeline."""
    models = set(first.model_files())
    for path in sorted(first.path.rglob("*")):
        file = path.relative_to(first.path)
        if path.is_dir():
            (folder / file).mkdir(exist_ok=True)
        elif file not in models:
            shutil.copyfile(path, folder / file)
    # Scores of the first pipeline.
    _write_json(folder / META, {**first.meta, "performance": {}})
    if STRINGS in first.files:
        strings = dict.fromkeys(
            string for pipeline in (first, *others) for string in pipeline.strings()
        )
        _write_json(folder / STRINGS, list(strings))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf8")
