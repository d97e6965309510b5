"""Write the tables, pictures and answers of the study from its evaluations.

    python examples/studies/lookahead_combined/analyse.py

It reads runs.csv beside this file, and writes results.md, differences.png and scores.png. Needs
SciPy, statsmodels and Matplotlib.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure
from scipy import stats
from statsmodels.stats.multitest import multipletests
from study import (
    HERE,
    METHODS,
    N_SEEDS,
    Cell,
    Row,
    choose_rate,
    final,
    make_cells,
    read_rows,
)

from thinc_swa.comparison.results import interval, to_markdown
from thinc_swa.schedules.plots import COLOURS
from thinc_swa.training.plots import save_figure

LEVEL = 0.05
# A difference that matters, in points.
RELEVANT = {"digits": 0.5, "cooking": 1.0}
TITLES = {"digits": "Digits: accuracy", "cooking": "Questions on cooking: macro AUC"}
GREY = "#8C8C8C"
KEEP, RESET, AROUND_SGD = "Lookahead/Adam, keep", "Lookahead/Adam, reset", "Lookahead/SGD"
# Differences that questions are about.
PAIRS = ((RESET, KEEP), (KEEP, "Adam"), (AROUND_SGD, "SGD"))
# Further ones, for the question which method is the best.
RIVALS = ("Adam", KEEP, RESET)
# Mixup and schedule.
Setting = tuple[bool, str]
# Scores in % by method, setting and seed.
Scores = Mapping[tuple[str, Setting], Mapping[int, float]]


@dataclass(frozen=True)
class Contrast:
    """A question: a weighted sum of the scores of one seed.

    weights (Mapping[tuple[str, Setting], float]): Weights by method and setting.
    """

    name: str
    weights: Mapping[tuple[str, Setting], float]

    def values(self, scores: Scores, seeds: Sequence[int]) -> list[float]:
        # Rounding errors would be differences.
        return [
            round(sum(weight * scores[key][seed] for key, weight in self.weights.items()), 9)
            for seed in seeds
        ]


@dataclass(frozen=True)
class Difference:
    """Mean of a contrast over the seeds, in points, with its 95 % interval.

    p (float): Uncorrected *p* value.
    p_holm (float): The same, corrected within its family.
    """

    name: str
    mean: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def is_significant(self) -> bool:
        return self.p_holm < LEVEL

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


# Contrasts


def subtract(
    first: Iterable[tuple[str, Setting]], second: Iterable[tuple[str, Setting]]
) -> dict[tuple[str, Setting], float]:
    """Weights of the mean of some scores minus the mean of others, none of them in both."""
    return {
        key: sign / len(keys)
        for keys, sign in ((list(first), 1.0), (list(second), -1.0))
        for key in keys
    }


def compare(
    one: str, other: str, settings: Sequence[Setting]
) -> dict[tuple[str, Setting], float]:
    """Weights of the difference of two methods, as a mean over settings."""
    return subtract(((one, s) for s in settings), ((other, s) for s in settings))


def interaction(
    on: Sequence[Setting], off: Sequence[Setting]
) -> dict[tuple[str, Setting], float]:
    """Weights of the effect of Lookahead in some settings minus that in others, as a mean over
    Adam and SGD."""
    pairs = [(KEEP, "Adam"), (AROUND_SGD, "SGD")]
    return {
        key: sign * weight / len(pairs)
        for settings, sign in ((on, 1.0), (off, -1.0))
        for one, other in pairs
        for key, weight in compare(one, other, settings).items()
    }


def make_contrasts(settings: Sequence[Setting]) -> list[Contrast]:
    """The questions of the plan, which are one family of tests."""
    pairs = [*PAIRS, *((AROUND_SGD, rival) for rival in RIVALS)]
    contrasts = [
        Contrast(against(one, other), compare(one, other, settings)) for one, other in pairs
    ]
    parts = {"one-cycle": [s for s in settings if s[1] == "one-cycle"]}
    if any(mixup for mixup, _ in settings):
        parts["mixup"] = [s for s in settings if s[0]]
    for name, on in parts.items():
        off = [s for s in settings if s not in on]
        both = [[(method, s) for method in METHODS for s in part] for part in (on, off)]
        contrasts += [
            Contrast(f"{name}, all methods", subtract(*both)),
            Contrast(change(name), interaction(on, off)),
        ]
    return contrasts


def make_single_contrasts(settings: Sequence[Setting]) -> list[Contrast]:
    """Differences within each setting, which are another family."""
    return [
        Contrast(f"{against(one, other)}: {describe(setting)}", compare(one, other, [setting]))
        for one, other in PAIRS
        for setting in settings
    ]


def against(one: str, other: str) -> str:
    return f"{one} against {other}"


def change(name: str) -> str:
    return f"Lookahead's effect, with against without {name}"


def describe(setting: Setting) -> str:
    mixup, schedule = setting
    return schedule + (", mixup" if mixup else "")


# Statistics


def measure(
    contrasts: Sequence[Contrast], scores: Scores, seeds: Sequence[int]
) -> list[Difference]:
    """Test contrasts, paired by seed, as one family.

    seeds (Sequence[int]): At least two.
    """
    found = []
    for contrast in contrasts:
        values = contrast.values(scores, seeds)
        low, high = interval(values)
        if len(set(values)) == 1:  # Without a spread there is no t.
            p = 0.0 if values[0] else 1.0
        else:
            p = float(stats.ttest_1samp(values, 0.0).pvalue)
        found.append(Difference(contrast.name, mean(values), low, high, p, p))
    corrected = multipletests([difference.p for difference in found], method="holm")[1]
    return [replace(x, p_holm=float(p)) for x, p in zip(found, corrected, strict=True)]


def read_scores(task: str, rows: Iterable[Row]) -> tuple[Scores, list[int]]:
    """RETURNS (tuple[Scores, list[int]]): The final scores, and the seeds that are complete for
    all methods and settings."""
    found: dict[tuple[str, Setting], dict[int, float]] = {
        (cell.method, (cell.mixup, cell.schedule)): {} for cell in make_cells(task)
    }
    results = (row for row in rows if row["task"] == task and row["part"] == "result")
    for (cell, _, seed), score in final(results).items():
        found[cell.method, (cell.mixup, cell.schedule)][seed] = 100 * score
    seeds = set.intersection(*(set(by_seed) for by_seed in found.values()))
    return found, sorted(seeds)


# Tables


def score_table(scores: Scores, seeds: Sequence[int]) -> list[list[str]]:
    settings = list(dict.fromkeys(setting for _, setting in scores))
    rows = [["method", *map(describe, settings)]]
    for method in METHODS:
        cells = []
        for setting in settings:
            values = [scores[method, setting][seed] for seed in seeds]
            cells.append(f"{mean(values):.2f} ± {stdev(values):.2f}")
        rows.append([method, *cells])
    return rows


def rate_table(task: str, rows: Sequence[Row]) -> list[list[str]]:
    """Chosen learning rates, those at an end of the grid in brackets."""
    cells = {(c.method, (c.mixup, c.schedule)): c for c in make_cells(task)}
    settings = list(dict.fromkeys(setting for _, setting in cells))
    choice = [row for row in rows if row["task"] == task and row["part"] == "choice"]
    table = [["method", *map(describe, settings)]]
    for method in METHODS:
        line = [method]
        for setting in settings:
            cell = cells[method, setting]
            rate = choose_rate(cell, choice)
            is_end = rate in (min(cell.grid), max(cell.grid))
            line.append(f"[{rate:g}]" if is_end else f"{rate:g}")
        table.append(line)
    return table


def beyond_table(task: str, rows: Sequence[Row]) -> list[list[str]]:
    """Scores of all rates with the data that choose them, those beyond the grid in brackets."""
    parts = ("choice", "beyond")
    scores: dict[Cell, dict[float, list[float]]] = {}
    for (cell, rate, _), score in final(
        row for row in rows if row["task"] == task and row["part"] in parts
    ).items():
        scores.setdefault(cell, {}).setdefault(rate, []).append(100 * score)
    rates = sorted({rate for by_rate in scores.values() for rate in by_rate})
    table = [["method", "setting", *(f"{rate:g}" for rate in rates)]]
    for cell, by_rate in scores.items():
        line = [cell.method, describe((cell.mixup, cell.schedule))]
        for rate in rates:
            text = f"{mean(by_rate[rate]):.1f}" if rate in by_rate else ""
            line.append(f"[{text}]" if text and rate not in cell.grid else text)
        table.append(line)
    return table


def difference_table(found: Sequence[Difference]) -> list[list[str]]:
    rows = [["difference", "points", "p", "Holm"]]
    for x in found:
        star = " *" if x.is_significant else ""
        rows.append([x.name, f"{x}{star}", format_p(x.p), format_p(x.p_holm)])
    return rows


def format_p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "below 0.001"


# Answers


def verdict(x: Difference, relevant: float) -> str:
    """Describe a difference.

    relevant (float): A difference that matters, in points.
    """
    if x.is_significant:
        return f"{'better' if x.mean > 0 else 'worse'}, {x}"
    text = f"no difference found, {x}"
    if max(-x.low, x.high) < relevant:
        text += f"; a difference of {relevant:g} or more is excluded"
    return text


def make_answers(families: Mapping[str, Sequence[Difference]]) -> list[str]:
    """Answer each question of the plan in one line.

    families (Mapping[str, Sequence[Difference]]): Differences by task.
    """
    by_name = {task: {x.name: x for x in family} for task, family in families.items()}

    def about(name: str) -> str:
        return ". ".join(
            f"{task.capitalize()}: {verdict(family[name], RELEVANT[task])}"
            for task, family in by_name.items()
            if name in family
        )

    lines = [
        f"**`reset` instead of `keep`, around Adam**: {about(against(RESET, KEEP))}",
        f"**Lookahead around Adam instead of Adam**: {about(against(KEEP, 'Adam'))}",
        f"**Lookahead around SGD instead of SGD**: {about(against(AROUND_SGD, 'SGD'))}",
        f"**Is Lookahead around SGD the best of the five?** {describe_best(by_name)}",
        "**Does Lookahead's effect change with the one-cycle schedule or with mixup?** "
        f"One-cycle: {about(change('one-cycle'))}. Mixup: {about(change('mixup'))}",
    ]
    return [f"{i}. {line}." for i, line in enumerate(lines, start=1)]


def describe_best(by_name: Mapping[str, Mapping[str, Difference]]) -> str:
    """Describe whether Lookahead around SGD is better than all other methods."""
    sentences = []
    for task, family in by_name.items():
        groups: dict[str, list[str]] = {}
        for rival in ("SGD", *RIVALS):
            x = family[against(AROUND_SGD, rival)]
            kind = "no difference found to"
            if x.is_significant:
                kind = "better than" if x.mean > 0 else "worse than"
            groups.setdefault(kind, []).append(rival)
        words = "; ".join(f"{kind} {' and '.join(names)}" for kind, names in groups.items())
        found = f"{'no' if 'worse than' in groups else 'not shown'}: {words}"
        if list(groups) == ["better than"]:
            found = "yes: better than all four"
        sentences.append(f"{task.capitalize()}: {found}")
    return ". ".join(sentences)


# Pictures


def plot_differences(families: Mapping[str, Sequence[Difference]]) -> Any:
    """Plot the differences of each task in a panel of its own."""
    most = max(len(family) for family in families.values())
    figure = Figure(
        figsize=(4.6 + 3.2 * len(families), 0.8 + 0.38 * most), layout="constrained"
    )
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(x.name for family in families.values() for x in family))
    for panel, (task, family) in zip(panels, families.items(), strict=True):
        relevant = RELEVANT[task]
        panel.axvspan(-relevant, relevant, color=GREY, alpha=0.15, linewidth=0)
        panel.axvline(0.0, color=GREY, linewidth=0.8)
        for x in family:
            row = names.index(x.name)
            panel.plot([x.low, x.high], [row, row], color=COLOURS[0], linewidth=1.8)
            face = COLOURS[0] if x.is_significant else "white"
            panel.plot([x.mean], [row], "o", color=COLOURS[0], markerfacecolor=face)
        panel.set_title(TITLES[task], fontsize=10, loc="left")
        panel.set_xlabel("worse  \N{LEFTWARDS ARROW}  points  \N{RIGHTWARDS ARROW}  better")
        panel.grid(axis="x", alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def plot_scores(found: Mapping[str, tuple[Scores, Sequence[int]]]) -> Any:
    """Plot the scores of all methods in all settings, a panel for each task."""
    figure = Figure(figsize=(2.0 + 4.2 * len(found), 3.8), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for panel, (task, (scores, seeds)) in zip(panels, found.items(), strict=True):
        settings = list(dict.fromkeys(setting for _, setting in scores))
        for i, setting in enumerate(settings):
            offset = 0.16 * (i - (len(settings) - 1) / 2)
            for j, method in enumerate(METHODS):
                values = [scores[method, setting][seed] for seed in seeds]
                place = j + offset
                panel.plot([place] * 2, interval(values), color=COLOURS[i], linewidth=1.8)
                label = describe(setting) if j == 0 else None
                panel.plot(
                    *([place], [mean(values)], "os^D"[i]),
                    **{"color": COLOURS[i], "markersize": 5, "label": label},
                )
        names = [name.replace("/", "/\n").replace(", ", "\n") for name in METHODS]
        panel.set_xticks(range(len(METHODS)), names, fontsize=8)
        panel.set_title(f"{TITLES[task]} in %", fontsize=10, loc="left")
        panel.grid(axis="y", alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    # The digits have all settings.
    handles, labels = max(
        (x.get_legend_handles_labels() for x in panels), key=lambda x: len(x[1])
    )
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


# Report


def report(rows: Sequence[Row]) -> tuple[str, dict[str, Any]]:
    """Analyse the evaluations.

    RETURNS (tuple[str, dict[str, Any]]): The results in Markdown, and the pictures by name.
    RAISES: ValueError if no task has two complete seeds.
    """
    found = {}
    for task in N_SEEDS:
        scores, seeds = read_scores(task, rows)
        if len(seeds) > 1:
            found[task] = scores, seeds
    if not found:
        raise ValueError("No task has two complete seeds: train with study.py first")
    settings = {
        task: list(dict.fromkeys(s for _, s in scores)) for task, (scores, _) in found.items()
    }
    families = {task: measure(make_contrasts(settings[task]), *found[task]) for task in found}
    blocks = [
        "# Lookahead with mixup and the one-cycle schedule",
        "What was asked and how it was measured: [PLAN.md](PLAN.md). All evaluations: "
        "[runs.csv](runs.csv).",
        "## Answers",
        "\n".join(make_answers(families)),
        "Differences are in points, as means over all settings, with 95 % intervals paired by "
        'seed. "Better" and "worse" are statistically significant after Holm\'s correction '
        'over all differences of the task; everything else is "no difference found".',
        "Where a chosen rate is at an end of its grid, a rate beyond it may be better: see the "
        "last tables of each task.",
        "![Differences with their intervals](differences.png)",
        "Filled: statistically significant. Grey: differences that do not matter by the plan.",
        "![Scores of all methods in all settings](scores.png)",
        "Means over the seeds with 95 % intervals. Around SGD, `reset` and `keep` are the "
        "same: Thinc's SGD has no moments.",
    ]
    for task, (scores, seeds) in found.items():
        single = measure(make_single_contrasts(settings[task]), scores, seeds)
        blocks.append(f"## {TITLES[task]}")
        if len(seeds) < N_SEEDS[task]:
            blocks.append(
                f"**Preliminary**: {len(seeds)} of the {N_SEEDS[task]} seeds of the plan are "
                "complete."
            )
        blocks += [
            f"Test scores in % after the last step, mean ± standard deviation of {len(seeds)} "
            "seeds:",
            to_markdown(score_table(scores, seeds)).rstrip(),
            "Differences, as means over all settings (\\* corrected p below 0.05):",
            to_markdown(difference_table(families[task])).rstrip(),
            "The same in each setting, a family of tests of their own:",
            to_markdown(difference_table(single)).rstrip(),
            "Chosen learning rates (of the one-cycle schedule the highest), in brackets at an "
            "end of the grid:",
            to_markdown(rate_table(task, rows)).rstrip(),
        ]
        if any(row["task"] == task and row["part"] == "beyond" for row in rows):
            blocks += [
                "After the results, rates beyond the ends of the grid were trained with the "
                "seed and the data that choose the rates. Scores in % with these data, those "
                "beyond the grid in brackets; they are no part of the plan, and the tables "
                "above do not use them:",
                to_markdown(beyond_table(task, rows)).rstrip(),
            ]
    blocks += [
        f"## {TITLES[task]}\n\n**Not measured yet**: fewer than two seeds are complete."
        for task in N_SEEDS
        if task not in found
    ]
    pictures = {"differences": plot_differences(families), "scores": plot_scores(found)}
    return "\n\n".join(blocks) + "\n", pictures


def analyse(path: Path, output: Path) -> None:
    """Write the results.

    path (Path): File of the evaluations.
    output (Path): A folder.
    """
    text, pictures = report(read_rows(path))
    output.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        save_figure(figure, output / name)
    (output / "results.md").write_text(text, encoding="utf8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=HERE / "runs.csv")
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    analyse(arguments.runs, arguments.output)


if __name__ == "__main__":
    main()
