"""Pictures of the differences to the baseline, with their intervals."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from inference import interval
from matplotlib.figure import Figure
from settings import AVERAGES, TITLES

from thinc_swa.schedules.plots import COLOURS

if TYPE_CHECKING:
    from inference import Difference
    from settings import Effects

N_COLUMNS = 4
GREY = "#8C8C8C"


def plot_differences(found: "Sequence[Difference]", measure: str) -> Any:
    """Plot a panel for each optimizer: a line per task, and the pooled difference below.

    found (Sequence[Difference]): Differences, the pooled ones too.
    measure (str): What they are differences of.
    RETURNS (Figure): The figure.
    """
    optimizers = list(dict.fromkeys(difference.name for difference in found))
    tasks = list(dict.fromkeys(difference.task for difference in found))
    n_columns = min(N_COLUMNS, len(optimizers))
    n_rows = -(-len(optimizers) // n_columns)
    figure = Figure(figsize=(2.6 * n_columns + 1.0, 2.7 * n_rows + 0.5), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flat
    for panel, optimizer in zip(panels, optimizers, strict=False):
        by_task = {x.task: x for x in found if x.name == optimizer}
        panel.axvline(0.0, color=GREY, linewidth=0.8)
        panel.axhline(len(tasks) - 1.5, color=GREY, linewidth=0.5)
        for row, task in enumerate(tasks):
            _draw(panel, row, by_task[task], is_pooled=row == len(tasks) - 1)
        panel.set_title(optimizer, fontsize=10)
        panel.grid(axis="x", alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    first = figure.axes[0]
    first.set_yticks(range(len(tasks)), tasks)
    first.set_ylim(len(tasks) - 0.5, -0.5)
    for panel in figure.axes[len(optimizers) :]:
        panel.set_visible(False)
    for panel in figure.axes[max(0, len(optimizers) - n_columns) : len(optimizers)]:
        panel.tick_params(axis="x", labelbottom=True)
    figure.supxlabel(
        f"difference to adam in the {measure}, in points; 95 % intervals, filled: "
        "significant after correction",
        fontsize=9,
    )
    return figure


def _draw(panel: Any, row: int, found: "Difference", *, is_pooled: bool) -> None:
    colour = COLOURS[5] if is_pooled else COLOURS[0]
    panel.plot([100 * found.low, 100 * found.high], [row, row], color=colour, linewidth=1.6)
    panel.plot(
        [100 * found.mean],
        [row],
        "D" if is_pooled else "o",
        color=colour,
        markerfacecolor=colour if found.is_significant else "white",
        markersize=6,
    )


def plot_effects(effects: "Mapping[str, Effects]") -> Any:
    """Plot the effects of the averages, a row per setting and a panel per measure.

    effects (Mapping[str, Effects]): Effects by measure.
    RETURNS (Figure): The figure.
    """
    settings = list(dict.fromkeys(setting for setting, _ in next(iter(effects.values()))))
    figure = Figure(figsize=(9.6, 1.6 + 0.6 * len(settings)), layout="constrained")
    panels = figure.subplots(1, len(effects), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (measure, found) in zip(panels, effects.items(), strict=True):
        _draw_effects(panel, found, settings)
        panel.set_title(measure, fontsize=10)
        panel.set_xlabel("difference to adam in points", fontsize=9)
    panels[0].set_yticks(range(len(settings)), [TITLES[name] for name in settings])
    panels[0].set_ylim(len(settings) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_effects(panel: Any, found: "Effects", settings: Sequence[str]) -> None:
    """Draw the mean of each effect with its interval, and the tasks as dots."""
    panel.axvline(0.0, color=GREY, linewidth=0.8)
    for (setting, average), by_task in found.items():
        i = AVERAGES.index(average)
        row = settings.index(setting) + 0.3 * (i - 0.5)
        low, high, _ = interval(by_task)
        panel.plot([100 * low, 100 * high], [row, row], color=COLOURS[i], linewidth=1.6)
        panel.plot([100 * x for x in by_task], [row] * len(by_task), ".", color=GREY)
        label = average if setting == settings[0] else None
        panel.plot([100 * mean(by_task)], [row], "D", color=COLOURS[i], label=label)
    panel.grid(axis="x", alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
