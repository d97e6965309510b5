"""Results of a comparison: statistics over seeds, and tables."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median, stdev
from typing import Any

from ..escaping import as_code, for_markdown, printable
from ..training.evaluation import format_score
from .runs import Run, Training

# Level of confidence intervals.
CONFIDENCE = 0.95
# Last fraction of the training, over which the swing is computed.
SWING_PART = 0.25


@dataclass(frozen=True)
class Summary:
    """Statistics of one entry over its seeds. The baseline is the first entry.

    name (str): Name of the entry.
    n_runs (int): Number of complete runs.
    n_failed (int): Number of failed runs.
    has_averages (bool): Whether there are averages at the end of the training.
    score (float | None): Mean final score of the weights that are saved: averages if there are
        any, else raw weights.
    score_sd (float | None): Standard deviation of these scores.
    raw (float | None): Mean final score of the raw weights.
    raw_sd (float | None): Standard deviation of these scores.
    best (float | None): Mean of the highest score of each run.
    difference (float | None): Mean paired difference of the final score to the baseline's, with
        the same seed.
    difference_low (float | None): Lower end of its 95 % confidence interval (Student's t).
    difference_high (float | None): Upper end.
    swing (float | None): Mean absolute change of the score from one evaluation to the next,
        over the last quarter of the training.
    steps_to_baseline (float | None): Median number of steps until the score reaches the
        baseline's final score with the same seed.
    n_reached (int): Number of runs that reach it.
    n_averaged (int | None): Snapshots in the averages at the end.
    seconds_per_step (float | None): Median over the runs, without evaluations.
    n_shared (int): Number of runs that were trained together with runs of other entries. Their
        steps include the time of the averages of all these entries.
    """

    name: str
    n_runs: int
    n_failed: int
    has_averages: bool
    score: float | None
    score_sd: float | None
    raw: float | None
    raw_sd: float | None
    best: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    swing: float | None
    steps_to_baseline: float | None
    n_reached: int
    n_averaged: int | None
    seconds_per_step: float | None
    n_shared: int


def summarize(runs: Sequence[Run]) -> list[Summary]:
    """Summarize the runs of each entry.

    runs (Sequence[Run]): All runs of a comparison. Incomplete ones are ignored.
    RETURNS (list[Summary]): A summary per entry, the baseline first.
    """
    names = list(dict.fromkeys(run.name for run in runs))
    baseline = {run.seed_index: run for run in complete(runs, names[0])}
    return [_summarize(name, runs, baseline) for name in names]


def complete(runs: Sequence[Run], name: str) -> list[Run]:
    """Complete runs of an entry."""
    return [run for run in runs if run.name == name and run.state == "done" and run.evaluations]


def final_scores(runs: Sequence[Run], name: str, kind: str = "score") -> list[float]:
    """Last scores of the complete runs of an entry.

    kind (str): "score" for the weights that are saved, averages if there are any; "raw" for
        the raw weights.
    """
    return [run.evaluations[-1][kind] for run in complete(runs, name)]


def _summarize(name: str, runs: Sequence[Run], baseline: dict[int, Run]) -> Summary:
    own = complete(runs, name)
    last = [run.evaluations[-1] for run in own]
    scores, raw = final_scores(runs, name), final_scores(runs, name, "raw")
    pairs = [(run, baseline[run.seed_index]) for run in own if run.seed_index in baseline]
    is_baseline = all(run is other for run, other in pairs)
    differences = [_final(run) - _final(other) for run, other in pairs]
    low, high = (None, None) if is_baseline else interval(differences)
    reached = [_steps_to(run, _final(other)) for run, other in pairs]
    steps = [n_steps for n_steps in reached if n_steps is not None]
    return Summary(
        name=name,
        n_runs=len(own),
        n_failed=sum(run.name == name and run.state == "failed" for run in runs),
        has_averages=any(record["averages"] is not None for record in last),
        score=_mean(scores),
        score_sd=_sd(scores),
        raw=_mean(raw),
        raw_sd=_sd(raw),
        best=_mean([max(record["score"] for record in run.evaluations) for run in own]),
        difference=None if is_baseline else _mean(differences),
        difference_low=low,
        difference_high=high,
        swing=_mean([found for found in map(_swing, own) if found is not None]),
        steps_to_baseline=median(steps) if steps else None,
        n_reached=len(steps),
        n_averaged=last[-1]["n_averaged"] if last else None,
        seconds_per_step=_median([run.records[-1]["seconds_per_step"] for run in own]),
        n_shared=sum(run.records[-1]["n_shared"] > 1 for run in own),
    )


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % confidence interval of a mean (Student's t); (None, None) for fewer than two
    values."""
    if len(values) < 2:
        return None, None
    from scipy.stats import t

    half = float(t.ppf((1.0 + CONFIDENCE) / 2.0, len(values) - 1)) * stdev(values)
    half /= math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def _final(run: Run) -> float:
    score: float = run.evaluations[-1]["score"]
    return score


def _steps_to(run: Run, score: float) -> int | None:
    steps = [record["step"] for record in run.evaluations if record["score"] >= score]
    return steps[0] if steps else None


def _swing(run: Run) -> float | None:
    last = run.evaluations[-1]["step"]
    scores = [
        record["score"]
        for record in run.evaluations
        if record["step"] >= (1.0 - SWING_PART) * last
    ]
    changes = [abs(b - a) for a, b in zip(scores, scores[1:], strict=False)]
    return mean(changes) if changes else None


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _sd(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


# Tables


def table(summaries: Sequence[Summary], score: str) -> list[list[str]]:
    """Format the results as a table. Accuracies are in per cent.

    summaries (Sequence[Summary]): A summary per entry, the baseline first.
    score (str): Kind of score: "accuracy" or "loss".
    RETURNS (list[list[str]]): The rows, the header first.
    """
    header = [
        "optimizer",
        "final score",
        "raw weights",
        "difference to baseline",
        "95 % interval",
        "swing",
        "steps to baseline",
        "ms/step",
        "runs",
    ]
    return [header, *(_row(summary, score) for summary in summaries)]


def _row(summary: Summary, score: str) -> list[str]:
    def number(value: float | None, sign: str = "") -> str:
        if value is None:
            return "-"
        text = format_score(value, score)
        return f"+{text}" if sign and value >= 0 else text

    def spread(value: float | None, sd: float | None) -> str:
        return number(value) if sd is None else f"{number(value)} ± {number(sd)}"

    low, high = summary.difference_low, summary.difference_high
    runs = str(summary.n_runs)
    reached = time = "-"
    if summary.seconds_per_step is not None:
        time = f"{1e3 * summary.seconds_per_step:.3g}{' (shared)' if summary.n_shared else ''}"
    if summary.steps_to_baseline is not None:
        reached = f"{summary.steps_to_baseline:.0f}"
        if summary.n_reached < summary.n_runs:
            reached += f" ({summary.n_reached} of {summary.n_runs})"
    return [
        summary.name,
        spread(summary.score, summary.score_sd),
        spread(summary.raw, summary.raw_sd) if summary.has_averages else "",
        number(summary.difference, "+"),
        "-" if low is None else f"{number(low, '+')} to {number(high, '+')}",
        number(summary.swing),
        reached,
        time,
        f"{runs}, {summary.n_failed} failed" if summary.n_failed else runs,
    ]


def to_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown, with padded columns so that the source is readable too."""
    rows = [[for_markdown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, f"| {' | '.join(rules)} |")
    return "\n".join(lines) + "\n"


def to_csv(summaries: Sequence[Summary]) -> str:
    """Format the summaries as CSV, without rounding."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(asdict(summaries[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(summary) for summary in summaries)
    return file.getvalue()


def to_json(summaries: Sequence[Summary], runs: Sequence[Run], **more: Any) -> str:
    """Format the summaries and the evaluations of all runs as JSON, without rounding.

    more (Any): Further values, by name.
    """
    content = {
        **more,
        "summaries": [asdict(summary) for summary in summaries],
        "runs": [
            {
                "name": run.name,
                "seed": run.seed,
                "state": run.state,
                "error": run.error,
                "evaluations": [
                    {name: value for name, value in record.items() if name != "type"}
                    for record in run.evaluations
                ],
            }
            for run in runs
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def describe_failures(runs: Sequence[Run]) -> Iterator[str]:
    """Describe failed runs, one line per entry and error."""
    failures: dict[tuple[str, str | None], list[Run]] = {}
    for run in runs:
        if run.state == "failed":
            failures.setdefault((run.name, run.error), []).append(run)
    for (name, error), failed in failures.items():
        seeds = ", ".join(str(run.seed) for run in failed)
        folder = printable(str(failed[0].folder))
        yield f"{name} failed with seed {seeds}: {error} (details in {folder})"


def describe_outdated(runs: Sequence[Run]) -> Iterator[str]:
    """Describe complete runs that are not used, one line per reason."""
    outdated: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        if run.outdated is not None:
            names = outdated.setdefault(run.outdated, {})
            names.setdefault(run.name, []).append(str(run.seed))
    for reason, names in outdated.items():
        which = "; ".join(
            f"{name} with seed {', '.join(seeds)}" for name, seeds in names.items()
        )
        yield printable(f"Trained again: {which}: {reason}")


def describe_resumed(trainings: Sequence[Training]) -> Iterator[str]:
    """Describe the interrupted trainings that are resumed, one line each."""
    for training in trainings:
        if training.checkpoint is not None:
            names = ", ".join(run.name for run in training.open_runs)
            seed = training.runs[0].seed
            yield printable(f"Resumed after step {training.step}: {names} with seed {seed}")


def describe_restarted(runs: Sequence[Run]) -> Iterator[str]:
    """Describe the interrupted runs that could not be resumed, one line each."""
    for run in runs:
        if run.restarted is not None:
            which = f"{run.name} with seed {run.seed}"
            yield printable(f"Trained from the beginning: {which}: {run.restarted}")


def report(
    runs: Sequence[Run], summaries: Sequence[Summary], score: str, about: dict[str, Any]
) -> str:
    """Write the report of a comparison in Markdown, with links to the plots beside it.

    about (dict[str, Any]): "date", "machine", "versions" and "changed_settings".
    """
    baseline = for_markdown(summaries[0].name)
    versions = ", ".join(f"{name} {found}" for name, found in about["versions"].items())
    settings = [
        as_code(printable(f"{name} = {value!r}"))
        for name, value in about["changed_settings"].items()
    ]
    failures = [f"- {for_markdown(line)}" for line in describe_failures(runs)]
    blocks = [
        "# Comparison of optimizers",
        to_markdown(table(summaries, score)).rstrip(),
        f"""\
Scores{" in %" if score == "accuracy" else ""} on the development data, mean ± standard
deviation over the seeds. The baseline is {baseline}. Final score: that of the averages if there
are any, else of the raw weights. Difference to baseline: the mean paired difference over the
seeds, with its 95 % confidence interval (Student's t). Swing: the mean absolute change of the
score from one evaluation to the next, over the last quarter of the training. Steps to baseline:
the median number of steps until the score reaches the final score of the baseline with the same
seed. ms/step: milliseconds per step, without evaluations; "shared" is the time of a training
with the averages of several entries.""",
        "![Learning curves](learning_curves.png)",
        "![Final scores](final_scores.png)",
        "\n".join(failures),
        f"{about['date']}, {about['machine']}, {versions}.",
        f"Changed settings: {', '.join(settings)}." if settings else "",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"
