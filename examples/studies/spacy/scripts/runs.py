"""The runs of the study: their evaluations, and the measures of a run."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from replay import chosen_indices

QUICKSTART = "quickstart"
BASELINE = "adam"
# Setting and optimizer.
Method = tuple[str, str]
# Setting, optimizer, task and seed.
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a run. Scores are fractions.

    test (float | None): Test score, of the chosen evaluations only.
    """

    step: int
    raw: float
    score: float
    test: float | None


Runs = Mapping[Key, Sequence[Evaluation]]


# Reading


def read_rows(paths: Iterable[Path]) -> list[dict[str, str]]:
    """Rows of all files, sorted."""
    rows = []
    for path in paths:
        with path.open(encoding="utf8", newline="") as file:
            rows += list(csv.DictReader(file))
    return sorted(rows, key=lambda row: (*key_of(row), int(row["step"])))


def key_of(row: Mapping[str, str]) -> Key:
    return row["setting"], row["optimizer"], row["task"], int(row["seed"])


def make_runs(rows: Iterable[Mapping[str, str]]) -> dict[Key, list[Evaluation]]:
    runs: dict[Key, list[Evaluation]] = {}
    for row in rows:
        evaluation = Evaluation(
            int(row["step"]),
            float(row["raw_score"]),
            float(row["score"]),
            float(row["test_score"]) if row["test_score"] else None,
        )
        runs.setdefault(key_of(row), []).append(evaluation)
    return runs


def complete_seeds(runs: Runs, methods: Iterable[Method], tasks: Sequence[str]) -> list[int]:
    """Seeds with which all tasks are trained with all methods."""
    needed = [(*method, task) for method in methods for task in tasks]
    seeds = sorted({seed for *_, seed in runs})
    return [seed for seed in seeds if all((*key, seed) in runs for key in needed)]


# Measures of a run


def test_of(run: Sequence[Evaluation], choice: str) -> float:
    """Test score of a choice of `chosen_indices`."""
    indices = chosen_indices([found.step for found in run], [found.score for found in run])
    score = run[indices[choice]].test
    if score is None:
        raise ValueError(f"step {run[indices[choice]].step} has no test score")
    return score


def second_half(run: Sequence[Evaluation]) -> list[float]:
    return [found.score for found in run if found.step >= run[-1].step / 2]


def swing(run: Sequence[Evaluation]) -> float:
    """Mean absolute change between evaluations in the second half."""
    scores = second_half(run)
    return mean(abs(b - a) for a, b in zip(scores, scores[1:], strict=False))


def loss_at_random(run: Sequence[Evaluation]) -> float:
    """Highest score minus the mean of the second half."""
    return max(found.score for found in run) - mean(second_half(run))


BEST, LAST = "test score of model-best", "test score after the last step"
MEASURES: dict[str, Callable[[Sequence[Evaluation]], float]] = {
    BEST: lambda run: test_of(run, "best"),
    LAST: lambda run: test_of(run, "last"),
    "swing": swing,
    "loss by stopping at a random moment": loss_at_random,
}


def measure_runs(runs: Runs, name: str) -> dict[Key, float]:
    """The values of a measure by run.

    name (str): A name of `MEASURES`.
    """
    measure = MEASURES[name]
    return {key: measure(run) for key, run in runs.items()}
