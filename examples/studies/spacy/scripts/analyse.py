"""Analyse the runs as PLAN.md says: tables, pictures, and all scores in one file.

    python scripts/analyse.py --runs runs --output results

results.md answers the questions 1 and 2, settings.md the later ones. Needs SciPy, statsmodels
and Matplotlib.
"""

import argparse
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from inference import ALL, Difference, correct, interval, points, pool, to_markdown
from plot import plot_differences, plot_effects
from runs import (
    BASELINE,
    BEST,
    LAST,
    MEASURES,
    QUICKSTART,
    Key,
    Runs,
    complete_seeds,
    make_runs,
    measure_runs,
    read_rows,
)
from settings import measure_effects, report_settings

from thinc_swa.training.plots import save_figure

OPTIMIZERS = (
    BASELINE,
    "use_averages",
    "ema",
    "swa_half",
    "swa_late",
    "swa_plateau",
    "lawa",
    "schedule_free",
)
# With the baseline, in the plan.
N_COMPARISONS = len(OPTIMIZERS) - 1
N_SEEDS = 5
# A difference that matters.
RELEVANT = 0.01


# Statistics


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
                values[QUICKSTART, optimizer, task, seed]
                - values[QUICKSTART, BASELINE, task, seed]
                for seed in seeds
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
                stdev(values[QUICKSTART, name, task, seed] for seed in seeds)
                for name in (optimizer, BASELINE)
            )
            if own > 0.0 and other > 0.0:
                ratios.append(math.log(own / other))
        if len(ratios) > 1:
            family.append(Difference(optimizer, ALL, mean(ratios), *interval(ratios)))
    return correct(family, N_COMPARISONS)


# Results


def difference_table(found: Sequence[Difference]) -> list[list[str]]:
    tasks = list(dict.fromkeys(difference.task for difference in found))
    rows = [["optimizer", *tasks, "p, pooled", "Holm"]]
    for optimizer in dict.fromkeys(difference.name for difference in found):
        by_task = {x.task: x for x in found if x.name == optimizer}
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
            scores = [100 * values[QUICKSTART, optimizer, task, seed] for seed in seeds]
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
        text = f"- `{difference.name}`: {verdict} in the {measure}, {points(difference)}"
        if measure.startswith("test") and max(-difference.low, difference.high) < RELEVANT:
            text += "; differences of a point or more are excluded"
        lines.append(text.replace(" *", "") + ".")
    return lines


def report(runs: Runs, tasks: Sequence[str], optimizers: Sequence[str]) -> str:
    """The answers to the questions 1 and 2 in Markdown.

    tasks (Sequence[str]): All tasks of the plan.
    optimizers (Sequence[str]): Optimizers, the baseline among them.
    """
    seeds = seeds_of(runs, tasks, optimizers)
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
        "all evaluations: [scores.csv](scores.csv), other settings: [settings.md](settings.md)."
    )
    runs = {key: run for key, run in runs.items() if key[0] == QUICKSTART}
    for name in MEASURES:
        values = measure_runs(runs, name)
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
                        f"`{ratio.name}`",
                        "{:.2f} ({:.2f} to {:.2f})".format(*limits),
                        f"{ratio.p:.3f}",
                        f"{ratio.p_holm:.3f}",
                    ]
                )
            if len(rows) > 1:
                blocks.append(to_markdown(rows))
    return "\n\n".join(blocks) + "\n"


def seeds_of(runs: Runs, tasks: Sequence[str], optimizers: Sequence[str]) -> list[int]:
    """Seeds with which all tasks are trained with the quickstart and all optimizers."""
    return complete_seeds(runs, [(QUICKSTART, name) for name in optimizers], tasks)


def choose_optimizers(runs: Runs, tasks: Sequence[str]) -> list[str]:
    """Optimizers with complete runs: ScheduleFree is trained after the others, and counts when
    all of its seeds are complete."""
    names = {name for setting, name, *_ in runs if setting == QUICKSTART}
    optimizers = [name for name in OPTIMIZERS if name in names]
    shared = [name for name in optimizers if name != "schedule_free"]
    has_all = seeds_of(runs, tasks, optimizers) == seeds_of(runs, tasks, shared)
    return optimizers if has_all else shared


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
    rows = read_rows(paths)
    if not rows:
        raise ValueError("There are no complete runs")
    runs = make_runs(rows)
    optimizers = choose_optimizers(runs, tasks)
    seeds = seeds_of(runs, tasks, optimizers)
    output.mkdir(parents=True, exist_ok=True)
    (output / "scores.csv").write_text(to_csv(rows), encoding="utf8")
    text = report(runs, tasks, optimizers)
    if len(seeds) > 1:
        values = measure_runs(runs, BEST)
        found = differences(values, tasks, optimizers, seeds)
        save_figure(plot_differences(found, BEST), output / "differences")
        text += f"\n![Differences to {BASELINE} in the {BEST}](differences.png)\n"
    (output / "results.md").write_text(text, encoding="utf8")
    text = report_settings(runs, tasks)
    effects = {name: measure_effects(runs, tasks, name) for name in (BEST, LAST)}
    if all(effects.values()):
        save_figure(plot_effects(effects), output / "settings")
        text += f"\n![Differences to {BASELINE} in all settings](settings.png)\n"
    (output / "settings.md").write_text(text, encoding="utf8")


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
