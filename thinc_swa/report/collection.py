"""Collection of what the report has, from output folders of either kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thinc.api import Config

from ..errors import describe_error
from ..escaping import printable
from .comparisons import ReportedComparison, is_comparison, read_comparison
from .runs import ReportedRun
from .settings import Differences, find_differences
from .trainings import is_training, read_training


@dataclass
class Group:
    """Runs that have the same colour: those of an entry of a comparison, or a training.

    name (str): Name in the report.
    runs (list[ReportedRun]): The runs, ordered by seed.
    """

    name: str
    runs: list[ReportedRun]


@dataclass
class Report:
    """Content of the report.

    groups (list[Group]): All runs, in the order of the folders.
    comparisons (list[ReportedComparison]): The comparisons.
    differences (Differences): Settings that differ between the configs.
    errors (list[str]): What could not be read, one line each.
    """

    groups: list[Group]
    comparisons: list[ReportedComparison]
    differences: Differences
    errors: list[str]


def collect(folders: Sequence[Path]) -> Report:
    """Read output folders of trainings and comparisons.

    folders (Sequence[Path]): Output folders of `thinc-swa train` and `thinc-swa compare`.
    RETURNS (Report): What could be read, and the errors of the rest.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    groups: list[Group] = []
    comparisons: list[ReportedComparison] = []
    errors: list[str] = []
    for folder, name in zip(unique, _short_names(unique), strict=True):
        try:
            if is_training(_check(folder)):
                groups.append(Group(name, [read_training(folder, name)]))
            elif is_comparison(folder):
                comparison = read_comparison(folder, name)
                comparisons.append(comparison)
                groups += _entries(comparison, prefix=f"{name}: " if len(unique) > 1 else "")
                errors += comparison.errors
                if not comparison.runs and not comparison.errors:
                    errors.append(f"{folder} has no run yet")
            else:
                raise ValueError(
                    f"{folder} {_what_it_has(folder)}: give the output folder of a thinc-swa "
                    "train or of a thinc-swa compare"
                )
        except (OSError, ValueError) as error:
            errors.append(describe_error(error))
    configs = [(group.name, config) for group in groups if (config := _config_of(group))]
    return Report(groups, comparisons, find_differences(configs), errors)


def _check(folder: Path) -> Path:
    """RAISES: FileNotFoundError or NotADirectoryError if it is not a folder."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder")
    return folder


def _what_it_has(folder: Path) -> str:
    if any(folder.iterdir()):
        return "has neither a training (log.jsonl) nor a comparison (runs)"
    return "is empty"


def _short_names(folders: Sequence[Path]) -> list[str]:
    """Names of folders, with as many of the folders around them as tell them apart."""
    paths = [folder.resolve().parts for folder in folders]
    names = []
    for parts in paths:
        n_parts = 1
        while n_parts < len(parts) and (
            sum(other[-n_parts:] == parts[-n_parts:] for other in paths) > 1
        ):
            n_parts += 1
        names.append(printable(str(Path(*parts[-n_parts:]))))
    return names


def _entries(comparison: ReportedComparison, *, prefix: str) -> list[Group]:
    """A group for each entry of a comparison."""
    entries: dict[str, list[ReportedRun]] = {}
    for run in comparison.runs:
        entries.setdefault(run.name, []).append(run)
    return [Group(prefix + printable(name), runs) for name, runs in entries.items()]


def _config_of(group: Group) -> Config | None:
    """The config of a group: of an entry that with the first seed."""
    return next((run.config for run in group.runs if run.config is not None), None)
