"""Scores of interpolations between two saved pipelines, and the choice of one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..schedules.plots import COLOURS
from .plots import score_factor, score_label


class AlphaScore(NamedTuple):
    """Scores of an interpolation.

    alpha (float): 0 for the base, 1 for the tuned model.
    new (float): Score on the data of the tuned model.
    old (float | None): Score on the data of the base, if there are any.
    """

    alpha: float
    new: float
    old: float | None


def find_best(scores: Sequence[AlphaScore], keep: float) -> AlphaScore:
    """The interpolation with the highest new score among those that keep a share of the base's
    old score. Of equal ones the lowest alpha.

    scores (Sequence[AlphaScore]): The scores, with that of alpha = 0 if they have old ones.
    keep (float): The share, in (0, 1].
    """
    lowest = lowest_old_score(scores, keep)
    kept = [
        found
        for found in scores
        if lowest is None or (found.old is not None and found.old >= lowest)
    ]
    return max(kept, key=lambda found: (found.new, -found.alpha))


def lowest_old_score(scores: Sequence[AlphaScore], keep: float) -> float | None:
    """The lowest old score that `find_best` accepts; None without old scores."""
    base = next((found.old for found in scores if found.alpha == 0.0), None)
    return None if base is None else keep * base


def plot_interpolation(scores: Sequence[AlphaScore], keep: float) -> Any:
    """Plot the scores against alpha. Needs matplotlib.

    scores (Sequence[AlphaScore]): The scores, in the order of alpha.
    keep (float): As for `find_best`, whose choice is marked.
    RETURNS (Figure): The figure.
    """
    from matplotlib.figure import Figure

    factor = score_factor("accuracy")
    alphas = [found.alpha for found in scores]
    best, lowest = find_best(scores, keep), lowest_old_score(scores, keep)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    lines = [("new data", [found.new for found in scores], COLOURS[0], "-", best.new)]
    if lowest is not None:
        old = [found.old for found in scores if found.old is not None]
        lines.append(("old data", old, COLOURS[1], "--", best.old or 0.0))
        panel.axhline(
            factor * lowest,
            color="#8C8C8C",
            linestyle=(0, (2, 1.5)),
            linewidth=1.0,
            label=f"{100 * keep:g} % of the base's old score",
        )
    for name, values, colour, style, chosen in lines:
        plotted = [factor * value for value in values]
        panel.plot(alphas, plotted, style, color=colour, marker=".", label=name)
        panel.plot([best.alpha], [factor * chosen], "o", color=colour, markersize=8)
    panel.axvline(best.alpha, color="#404040", linewidth=0.6, label=f"best: {best.alpha:g}")
    panel.set_xlabel("alpha: 0 is the base, 1 the tuned pipeline")
    panel.set_ylabel(score_label("accuracy"))
    panel.legend(frameon=False, fontsize=9)
    return figure
