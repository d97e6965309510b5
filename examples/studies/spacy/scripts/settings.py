"""Questions 3 to 6 of PLAN.md: other learning rates, fewer data, wrong labels, Lookahead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from inference import ALL, Difference, correct, interval, points, to_markdown
from runs import (
    BASELINE,
    BEST,
    LAST,
    QUICKSTART,
    Key,
    Method,
    Runs,
    complete_seeds,
    measure_runs,
)

AVERAGES = ("ema", "swa_late")
TITLES = {
    QUICKSTART: "quickstart",
    "rate_0.3": "learning rate 0.0003",
    "rate_3": "learning rate 0.003",
    "decayed": "decayed learning rate",
    "quarter": "a quarter of the data",
    "corrupted": "20 % wrong annotations",
}


@dataclass(frozen=True)
class Contrast:
    """Weighted sum of the scores of a task.

    weights (Mapping[Method, float]): Weights by setting and optimizer.
    """

    name: str
    weights: Mapping[Method, float]

    def by_task(
        self, values: Mapping[Key, float], tasks: Sequence[str], seeds: Sequence[int]
    ) -> dict[str, float]:
        """Means over the seeds."""
        return {
            task: mean(
                sum(weight * values[(*key, task, seed)] for key, weight in self.weights.items())
                for seed in seeds
            )
            for task in tasks
        }


def difference(one: Method, other: Method) -> Contrast:
    names = [f"`{name}`, {TITLES[setting]}" for setting, name in (one, other)]
    if one[0] == other[0]:
        names = [f"`{one[1]}`", f"`{other[1]}`, {TITLES[other[0]]}"]
    return Contrast(" − ".join(names), {one: 1.0, other: -1.0})


def effect(average: str, setting: str) -> Contrast:
    """The difference of an average to the baseline in the same setting."""
    return difference((setting, average), (setting, BASELINE))


def change(average: str, setting: str) -> Contrast:
    """The effect of an average in a setting, minus that with the quickstart."""
    weights = dict(effect(average, setting).weights)
    weights |= {key: -x for key, x in effect(average, QUICKSTART).weights.items()}
    name = f"the same, minus that with the {TITLES[QUICKSTART]}"
    return Contrast(name, weights)


def contrasts_of(settings: Sequence[str]) -> list[Contrast]:
    return [
        make(average, setting)
        for setting in settings
        for average in AVERAGES
        for make in (effect, change)
    ]


LOOKAHEAD = (
    difference((QUICKSTART, "lookahead"), (QUICKSTART, BASELINE)),
    difference(("rate_3", "lookahead"), (QUICKSTART, BASELINE)),
    difference(("rate_3", "lookahead"), ("rate_3", BASELINE)),
)
QUESTIONS: dict[str, Sequence[Contrast]] = {
    "3. Learning rates": contrasts_of(["rate_0.3", "rate_3", "decayed"]),
    "4. Fewer data": contrasts_of(["quarter"]),
    "5. Wrong annotations": contrasts_of(["corrupted"]),
    "6. Lookahead": LOOKAHEAD,
}


def methods_of(contrasts: Sequence[Contrast]) -> list[Method]:
    found = {method for contrast in contrasts for method in contrast.weights}
    settings = list(TITLES)
    names = (BASELINE, *AVERAGES, "lookahead")
    return sorted(found, key=lambda x: (settings.index(x[0]), names.index(x[1])))


def measure(
    contrasts: Sequence[Contrast],
    values: Mapping[Key, float],
    tasks: Sequence[str],
    seeds: Sequence[int],
    n_tests: int,
) -> list[Difference]:
    """Test contrasts as one family. The tasks are the units, not the seeds.

    values (Mapping[Key, float]): A measure of each run.
    n_tests (int): The size of the family, with contrasts that are still missing.
    """
    found = []
    for contrast in contrasts:
        by_task = list(contrast.by_task(values, tasks, seeds).values())
        found.append(Difference(contrast.name, ALL, mean(by_task), *interval(by_task)))
    return correct(found, n_tests)


# Results


def score_table(
    methods: Sequence[Method],
    values: Mapping[Key, float],
    tasks: Sequence[str],
    seeds: Sequence[int],
) -> list[list[str]]:
    rows = [["setting and optimizer", *tasks, "mean"]]
    for setting, name in methods:
        scores = [mean(values[setting, name, task, seed] for seed in seeds) for task in tasks]
        cells = [f"{100 * score:.2f}" for score in [*scores, mean(scores)]]
        rows.append([f"{TITLES[setting]}, `{name}`", *cells])
    return rows


def difference_table(
    contrasts: Sequence[Contrast],
    values: Mapping[Key, float],
    tasks: Sequence[str],
    seeds: Sequence[int],
    n_tests: int,
) -> list[list[str]]:
    rows = [["difference", *tasks, ALL, "p", "Holm"]]
    family = measure(contrasts, values, tasks, seeds, n_tests)
    for contrast, found in zip(contrasts, family, strict=True):
        by_task = contrast.by_task(values, tasks, seeds)
        cells = [*(f"{100 * by_task[task]:+.2f}" for task in tasks), points(found)]
        rows.append([found.name, *cells, f"{found.p:.3f}", f"{found.p_holm:.3f}"])
    return rows


def report_settings(runs: Runs, tasks: Sequence[str]) -> str:
    """The answers to the questions 3 to 6 in Markdown.

    tasks (Sequence[str]): All tasks of the plan.
    """
    blocks = [
        "# Other settings than the quickstart's",
        "Questions 3 to 6 of [PLAN.md](../PLAN.md). All scores are in %, means over the seeds. "
        "Differences are in points, as means over the tasks with 95 % *t* intervals; the tasks "
        "are the units. \\* corrected p below 0.05.",
    ]
    measures = {name: measure_runs(runs, name) for name in (BEST, LAST)}
    for question, planned in QUESTIONS.items():
        contrasts = [x for x in planned if complete_seeds(runs, methods_of([x]), tasks)]
        methods = methods_of(contrasts)
        blocks.append(f"## {question}")
        missing = [x for x in methods_of(planned) if not complete_seeds(runs, [x], tasks)]
        if missing:
            names = (f"{TITLES[setting]}, `{name}`" for setting, name in missing)
            blocks.append(
                f"Not trained: {'; '.join(names)}. *p* values are corrected for all planned "
                "differences."
            )
        seeds = complete_seeds(runs, methods, tasks)
        if not contrasts or not seeds:
            continue
        blocks.append(f"Seeds: {', '.join(map(str, seeds))}.")
        for name, values in measures.items():
            blocks += [
                f"### {name[0].upper()}{name[1:]}",
                to_markdown(score_table(methods, values, tasks, seeds)),
                to_markdown(difference_table(contrasts, values, tasks, seeds, len(planned))),
            ]
    return "\n\n".join(blocks) + "\n"


# Effects of the averages by setting and average: the differences of the tasks.
Effects = Mapping[Method, Sequence[float]]


def measure_effects(runs: Runs, tasks: Sequence[str], name: str) -> Effects:
    """Measure the effects of the averages in all settings that are trained, with the seeds that
    all of them have.

    name (str): Name of the measure.
    RETURNS (Effects): The effects; empty if only the quickstart is trained.
    """
    planned = {
        (setting, average): effect(average, setting)
        for setting in TITLES
        for average in AVERAGES
    }
    contrasts = {
        key: contrast
        for key, contrast in planned.items()
        if complete_seeds(runs, methods_of([contrast]), tasks)
    }
    seeds = complete_seeds(runs, methods_of(list(contrasts.values())), tasks)
    if not seeds or {setting for setting, _ in contrasts} == {QUICKSTART}:
        return {}
    values = measure_runs(runs, name)
    return {
        key: list(contrast.by_task(values, tasks, seeds).values())
        for key, contrast in contrasts.items()
    }
