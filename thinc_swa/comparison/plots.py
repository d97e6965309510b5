"""Plots of a comparison. Needs matplotlib."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from ..schedules.plots import COLOURS
from ..training.evaluation import format_score
from ..training.plots import score_factor, score_label
from .results import Summary, complete, final_scores
from .runs import Run

GREY = "#8C8C8C"


def plot_learning_curves(runs: Sequence[Run], score: str) -> Figure:
    """Plot the scores over the training, a panel per entry: mean and standard deviation over
    the seeds, for averages and raw weights. Each panel also has the mean of the baseline.

    runs (Sequence[Run]): All runs of the comparison.
    score (str): Kind of score: "accuracy" or "loss".
    RETURNS (Figure): The figure.
    """
    names = [name for name in dict.fromkeys(run.name for run in runs) if complete(runs, name)]
    n_columns = min(len(names), 3) or 1
    n_rows = -(-len(names) // n_columns) or 1
    figure = Figure(figsize=(4.0 * n_columns, 2.6 * n_rows + 0.9), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
    curves = {
        name: {kind: _curve(complete(runs, name), kind, score) for kind in ("score", "raw")}
        for name in names
    }
    for i, panel in enumerate(panels.flat):
        if i >= len(names):
            panel.set_visible(False)
            continue
        name = names[i]
        _panel(panel, curves, name, names[0], _color(i))
        panel.set_title(name, loc="left", fontsize=10, parse_math=False)
        if i + n_columns >= len(names):
            panel.set_xlabel("steps")
            panel.tick_params(labelbottom=True)
        if i % n_columns == 0:
            panel.set_ylabel(score_label(score))
    if names:
        panels[0][0].set_ylim(_limits(curves))
        handles, labels = _legend(curves)
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=4, frameon=False
        )
        if len(names) > 1:
            # Set afterwards, because matplotlib hides labels with a leading underscore.
            legend.get_texts()[-1].set(text=names[0], parse_math=False)
    return figure


def _panel(panel: Any, curves: dict[str, Any], name: str, first: str, color: str) -> None:
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    if name != first:
        steps, middle, _ = curves[first]["score"]
        panel.plot(steps, middle, color=GREY, linewidth=1.0)
    if curves[name]["score"] != curves[name]["raw"]:
        steps, middle, _ = curves[name]["raw"]
        panel.plot(steps, middle, color=color, linewidth=1.0, linestyle=(0, (2, 1.5)))
    steps, middle, spread = curves[name]["score"]
    low = [value - deviation for value, deviation in zip(middle, spread, strict=True)]
    high = [value + deviation for value, deviation in zip(middle, spread, strict=True)]
    panel.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0.0)
    panel.plot(steps, middle, color=color, linewidth=1.8)


def _legend(curves: dict[str, Any]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dark = "#404040"
    handles: list[Any] = [Line2D([], [], color=dark, linewidth=1.8)]
    labels = ["averages if there are any, else raw weights"]
    if any(curve["score"] != curve["raw"] for curve in curves.values()):
        handles.append(Line2D([], [], color=dark, linewidth=1.0, linestyle=(0, (2, 1.5))))
        labels.append("raw weights")
    handles.append(Patch(color=dark, alpha=0.2, linewidth=0.0))
    labels.append("± standard deviation over seeds")
    if len(curves) > 1:
        handles.append(Line2D([], [], color=GREY, linewidth=1.0))
        labels.append("baseline")
    return handles, labels


def _curve(runs: Sequence[Run], kind: str, score: str) -> tuple[list[int], list[float], Any]:
    """Steps, means and standard deviations, up to the end of the shortest run."""
    rows = list(zip(*(run.evaluations for run in runs), strict=False))
    factor = score_factor(score)
    steps, middle, spread = [], [], []
    for row in rows:
        values = [factor * record[kind] for record in row]
        steps.append(row[0]["step"])
        middle.append(mean(values))
        spread.append(stdev(values) if len(values) > 1 else 0.0)
    return steps, middle, spread


def _limits(curves: dict[str, Any]) -> tuple[float, float]:
    """Limits of the score axis, without the first quarter of the training: its low scores would
    compress the differences."""
    values = []
    for curve in curves.values():
        for steps, middle, spread in curve.values():
            for step, value, deviation in zip(steps, middle, spread, strict=True):
                if step >= 0.25 * steps[-1]:
                    values += [value - deviation, value + deviation]
    margin = 0.05 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def plot_final_scores(runs: Sequence[Run], summaries: Sequence[Summary], score: str) -> Figure:
    """Plot the final scores: a bar per entry for the mean, a dot per seed, and a hollow dot per
    seed for the raw weights.

    runs (Sequence[Run]): All runs of the comparison.
    summaries (Sequence[Summary]): Summaries of these runs.
    score (str): Kind of score: "accuracy" or "loss".
    RETURNS (Figure): The figure.
    """
    shown = [summary for summary in summaries if summary.score is not None]
    figure = Figure(figsize=(8.0, 0.55 * len(shown) + 1.4), layout="constrained")
    panel = figure.subplots()
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.grid(axis="x", alpha=0.25, linewidth=0.6)
    panel.set_axisbelow(True)
    factor = score_factor(score)
    values = []
    for i, summary in enumerate(shown):
        scores, raw = (
            [factor * value for value in final_scores(runs, summary.name, kind)]
            for kind in ("score", "raw")
        )
        values += scores + raw
        color = _color(i)
        panel.barh(i, mean(scores), color=color, alpha=0.3, height=0.7)
        if summary.has_averages:
            _dots(panel, i + 0.18, raw, facecolors="white", edgecolors=color)
        _dots(panel, i - (0.16 if summary.has_averages else 0.0), scores, color=color)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.15 * (high - low) or 1.0
    panel.set_xlim(low - margin, high + margin)
    panel.set_ylim(len(shown) - 0.4, -0.6)
    labels = [_bar_label(summary, score) for summary in shown]
    panel.set_yticks(range(len(shown)), labels, parse_math=False)
    panel.tick_params(left=False)
    hollow = "; hollow: raw weights" if any(s.has_averages for s in shown) else ""
    panel.set_xlabel(
        f"final {score_label(score)} (the axis does not start at zero)\n"
        f"bars: means; dots: seeds{hollow}"
    )
    return figure


def _bar_label(summary: Summary, score: str) -> str:
    text = f"{summary.name}   {format_score(summary.score or 0.0, score)}"
    if summary.score_sd is not None:
        text += f" ± {format_score(summary.score_sd, score)}"
    return text


def _dots(panel: Any, y: float, values: Sequence[float], **style: Any) -> None:
    # Offsets, so that equal values are visible.
    heights = [y + 0.04 * (i - (len(values) - 1) / 2) for i in range(len(values))]
    panel.scatter(values, heights, s=22, zorder=3, linewidths=1.1, **style)


def _color(i: int) -> str:
    return COLOURS[i % len(COLOURS)]
