"""Analyse the runs as PLAN.md says: tables, pictures, and all scores in one file.

    python scripts/analyse.py --runs runs --output results

Needs SciPy and Matplotlib.
"""

import argparse
import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import numpy
from replay import chosen_indices
from scipy import stats

BASELINE = "adam"
ALL = "all tasks"
LEVEL = 0.05
# A difference that matters.
RELEVANT = 0.01
N_SEEDS = 5
# With the baseline, in the plan.
N_COMPARISONS = 7
# Task, optimizer and seed.
Key = tuple[str, str, int]


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


@dataclass(frozen=True)
class Difference:
    """Mean difference to the baseline, with its 95 % interval.

    task (str): A task, or `ALL` for the pooled difference.
    p (float): Uncorrected *p* value.
    p_holm (float): The same, corrected within its family.
    """

    optimizer: str
    task: str
    mean: float
    low: float
    high: float
    p: float
    p_holm: float = math.nan

    @property
    def is_significant(self) -> bool:
        return self.p_holm < LEVEL


# Reading


def read_rows(paths: Iterable[Path]) -> list[dict[str, str]]:
    """Rows of all files, sorted."""
    rows = []
    for path in paths:
        with path.open(encoding="utf8", newline="") as file:
            rows += list(csv.DictReader(file))
    return sorted(
        rows,
        key=lambda row: (row["task"], row["optimizer"], int(row["seed"]), int(row["step"])),
    )


def make_runs(rows: Iterable[Mapping[str, str]]) -> dict[Key, list[Evaluation]]:
    runs: dict[Key, list[Evaluation]] = {}
    for row in rows:
        evaluation = Evaluation(
            int(row["step"]),
            float(row["raw_score"]),
            float(row["score"]),
            float(row["test_score"]) if row["test_score"] else None,
        )
        runs.setdefault((row["task"], row["optimizer"], int(row["seed"])), []).append(
            evaluation
        )
    return runs


def complete_seeds(runs: Runs, tasks: Sequence[str], optimizers: Sequence[str]) -> list[int]:
    """Seeds with which all optimizers are trained on all tasks."""
    seeds = sorted({seed for _, _, seed in runs})
    return [
        seed
        for seed in seeds
        if all((task, name, seed) in runs for task in tasks for name in optimizers)
    ]


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


MEASURES: dict[str, Callable[[Sequence[Evaluation]], float]] = {
    "test score of model-best": lambda run: test_of(run, "best"),
    "test score after the last step": lambda run: test_of(run, "last"),
    "swing": swing,
    "loss by stopping at a random moment": loss_at_random,
}


# Statistics


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """95 % *t* interval of a mean, and the *p* value of its difference to zero."""
    error = stdev(values) / math.sqrt(len(values))
    if error == 0.0:
        # Equal differences: zero if an average never started.
        return mean(values), mean(values), 1.0 if mean(values) == 0.0 else 0.0
    low, high = stats.t.interval(1 - LEVEL, len(values) - 1, mean(values), error)
    return float(low), float(high), float(stats.ttest_1samp(values, 0.0).pvalue)


def pool(values: Mapping[str, Sequence[float]], optimizer: str) -> Difference:
    """Pooled difference over tasks: random effects by DerSimonian and Laird (1986), with the
    interval of Hartung and Knapp (2001), whose variance is never lower than without it (Röver,
    Knapp and Friede 2015).

    values (Mapping[str, Sequence[float]]): Differences of the seeds by task.
    """
    effects = numpy.array([mean(found) for found in values.values()])
    variances = numpy.array([stdev(found) ** 2 / len(found) for found in values.values()])
    if not variances.any():
        low, high, p = interval(list(effects))
        return Difference(optimizer, ALL, float(effects.mean()), low, high, p)
    # Without a variance a task would have all the weight.
    variances[variances == 0.0] = variances[variances > 0.0].mean()
    n_free = len(effects) - 1
    weights = 1 / variances
    fixed = numpy.average(effects, weights=weights)
    heterogeneity = weights @ (effects - fixed) ** 2 - n_free
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    weights = 1 / (variances + max(0.0, heterogeneity / scale))
    centre = numpy.average(effects, weights=weights)
    factor = weights @ (effects - centre) ** 2 / n_free
    error = math.sqrt(max(1.0, factor) / weights.sum())
    low, high = stats.t.interval(1 - LEVEL, n_free, centre, error)
    p = 2 * stats.t.sf(abs(centre) / error, n_free)
    return Difference(optimizer, ALL, float(centre), float(low), float(high), float(p))


def holm(p_values: Sequence[float], n_tests: int) -> list[float]:
    """*p* values, corrected by Holm's method (1979).

    n_tests (int): The size of the family. Tests that are still missing count as those with the
        highest *p* values.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (n_tests - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def correct(family: Sequence[Difference], n_tests: int) -> list[Difference]:
    """Correct the *p* values of a family of tests, of which some may be missing."""
    corrected = holm([found.p for found in family], n_tests)
    return [replace(found, p_holm=p) for found, p in zip(family, corrected, strict=True)]


def differences(
    values: Mapping[Key, float],
    tasks: Sequence[str],
    optimizers: Sequence[str],
    seeds: Sequence[int],
) -> list[Difference]:
    """Differences to the baseline, per task and pooled. Each is a family of its own.

    values (Mapping[Key, float]): A measure of each run.
    seeds (Sequence[int]): At least two.
    """
    single, pooled = [], []
    for optimizer in optimizers:
        if optimizer == BASELINE:
            continue
        by_task = {
            task: [
                values[task, optimizer, seed] - values[task, BASELINE, seed] for seed in seeds
            ]
            for task in tasks
        }
        for task, found in by_task.items():
            single.append(Difference(optimizer, task, mean(found), *interval(found)))
        pooled.append(pool(by_task, optimizer))
    return [
        *correct(single, N_COMPARISONS * len(tasks)),
        *correct(pooled, N_COMPARISONS),
    ]


def spreads(
    values: Mapping[Key, float],
    tasks: Sequence[str],
    optimizers: Sequence[str],
    seeds: Sequence[int],
) -> list[Difference]:
    """Ratios of the standard deviations over seeds to those of the baseline, as differences of
    logarithms with an interval over tasks."""
    family = []
    for optimizer in optimizers:
        if optimizer == BASELINE:
            continue
        ratios = []
        for task in tasks:
            own, other = (
                stdev(values[task, name, seed] for seed in seeds)
                for name in (optimizer, BASELINE)
            )
            if own > 0.0 and other > 0.0:
                ratios.append(math.log(own / other))
        if len(ratios) > 1:
            family.append(Difference(optimizer, ALL, mean(ratios), *interval(ratios)))
    return correct(family, N_COMPARISONS)


# Results


def in_order(names: Iterable[str]) -> list[str]:
    """Optimizers in the order of the plan."""
    order = (
        "adam",
        "use_averages",
        "ema",
        "swa_half",
        "swa_late",
        "swa_plateau",
        "lawa",
        "schedule_free",
    )
    return sorted(set(names), key=lambda name: (order.index(name), name))


def to_markdown(rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def points(found: Difference) -> str:
    """A difference in points, with its interval, and a star if it is significant."""
    values = [100 * value for value in (found.mean, found.low, found.high)]
    star = " *" if found.is_significant else ""
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(*values) + star


def difference_table(found: Sequence[Difference]) -> list[list[str]]:
    tasks = list(dict.fromkeys(difference.task for difference in found))
    rows = [["optimizer", *tasks, "p, pooled", "Holm"]]
    for optimizer in dict.fromkeys(difference.optimizer for difference in found):
        by_task = {x.task: x for x in found if x.optimizer == optimizer}
        pooled = by_task[ALL]
        cells = [points(by_task[task]) for task in tasks]
        rows.append([f"`{optimizer}`", *cells, f"{pooled.p:.3f}", f"{pooled.p_holm:.3f}"])
    return rows


def score_table(
    values: Mapping[Key, float],
    tasks: Sequence[str],
    optimizers: Sequence[str],
    seeds: Sequence[int],
) -> list[list[str]]:
    rows = [["optimizer", *tasks]]
    for optimizer in optimizers:
        cells = []
        for task in tasks:
            scores = [100 * values[task, optimizer, seed] for seed in seeds]
            spread = f" ± {stdev(scores):.2f}" if len(scores) > 1 else ""
            cells.append(f"{mean(scores):.2f}{spread}")
        rows.append([f"`{optimizer}`", *cells])
    return rows


def describe(found: Sequence[Difference], measure: str) -> list[str]:
    """Sentences about the pooled differences of a score."""
    lines = []
    for difference in found:
        if difference.task != ALL:
            continue
        verdict = "a statistically significant difference"
        if not difference.is_significant:
            verdict = "no statistically significant difference"
        text = f"- `{difference.optimizer}`: {verdict} in the {measure}, {points(difference)}"
        if measure.startswith("test") and max(-difference.low, difference.high) < RELEVANT:
            text += "; differences of a point or more are excluded"
        lines.append(text.replace(" *", "") + ".")
    return lines


def report(runs: Runs, tasks: Sequence[str], optimizers: Sequence[str]) -> str:
    """The results in Markdown.

    tasks (Sequence[str]): All tasks of the plan.
    optimizers (Sequence[str]): Optimizers, the baseline among them.
    """
    seeds = complete_seeds(runs, tasks, optimizers)
    blocks = ["# spaCy's quickstart with averages"]
    if len(seeds) < N_SEEDS:
        blocks.append(
            f"**Preliminary**: {len(seeds)} of {N_SEEDS} seeds are complete. Nothing follows "
            "from these numbers yet."
        )
    n_missing = N_COMPARISONS - len(optimizers) + 1
    if n_missing:
        blocks.append(
            f"{n_missing} of the {N_COMPARISONS} planned comparisons are not complete yet. The "
            "*p* values of the others are corrected for all of them."
        )
    if not seeds:
        return "\n\n".join(blocks) + "\n"
    blocks.append(
        f"Seeds {', '.join(map(str, seeds))}; all scores in %. Methods: [PLAN.md](../PLAN.md), "
        "all evaluations: [scores.csv](scores.csv)."
    )
    for name, measure in MEASURES.items():
        values = {key: measure(run) for key, run in runs.items() if key[2] in seeds}
        blocks += [f"## {name[0].upper()}{name[1:]}"]
        blocks += [to_markdown(score_table(values, tasks, optimizers, seeds))]
        if len(seeds) < 2:
            continue
        found = differences(values, tasks, optimizers, seeds)
        blocks += [
            f"Differences to `{BASELINE}` in points, paired by seed, with 95 % intervals. "
            "\\* corrected p below 0.05.",
            to_markdown(difference_table(found)),
        ]
        if len(seeds) == N_SEEDS:
            blocks.append("\n".join(describe(found, name)))
        if name.startswith("test"):
            rows = [["optimizer", "ratio of the spread over seeds", "p", "Holm"]]
            for ratio in spreads(values, tasks, optimizers, seeds):
                limits = [math.exp(x) for x in (ratio.mean, ratio.low, ratio.high)]
                rows.append(
                    [
                        f"`{ratio.optimizer}`",
                        "{:.2f} ({:.2f} to {:.2f})".format(*limits),
                        f"{ratio.p:.3f}",
                        f"{ratio.p_holm:.3f}",
                    ]
                )
            if len(rows) > 1:
                blocks.append(to_markdown(rows))
    return "\n\n".join(blocks) + "\n"


def to_csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def analyse(paths: Sequence[Path], tasks: Sequence[str], output: Path) -> None:
    """Write the results of the runs.

    paths (Sequence[Path]): Files of runs.
    tasks (Sequence[str]): All tasks of the plan.
    output (Path): A folder.
    """
    from plot import plot_differences, save

    rows = read_rows(paths)
    if not rows:
        raise ValueError("There are no complete runs")
    runs = make_runs(rows)
    names = in_order(name for _, name, _ in runs)
    shared = [name for name in names if name != "schedule_free"]
    # ScheduleFree is trained after the others.
    with_all = complete_seeds(runs, tasks, names) == complete_seeds(runs, tasks, shared)
    optimizers = names if with_all else shared
    output.mkdir(parents=True, exist_ok=True)
    seeds = complete_seeds(runs, tasks, optimizers)
    text = report(runs, tasks, optimizers)
    if len(seeds) > 1:
        measure = next(iter(MEASURES))
        values = {key: MEASURES[measure](run) for key, run in runs.items() if key[2] in seeds}
        found = differences(values, tasks, optimizers, seeds)
        save(plot_differences(found, measure), output / "differences")
        text += f"\n![Differences to {BASELINE} in the {measure}](differences.png)\n"
    (output / "results.md").write_text(text, encoding="utf8")
    (output / "scores.csv").write_text(to_csv(rows), encoding="utf8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    study = Path(__file__).resolve().parents[1]
    parser.add_argument("--runs", type=Path, default=study / "runs")
    parser.add_argument("--output", type=Path, default=study / "results")
    arguments = parser.parse_args()
    tasks = sorted(path.stem for path in (study / "configs").glob("*.cfg"))
    analyse(sorted(arguments.runs.glob("*.csv")), tasks, arguments.output)


if __name__ == "__main__":
    main()
