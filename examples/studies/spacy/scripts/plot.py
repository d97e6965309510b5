"""Picture of the differences to the baseline, with their intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from thinc_swa.schedules.plots import COLOURS
from thinc_swa.training.plots import save_figure

if TYPE_CHECKING:
    from analyse import Difference

N_COLUMNS = 4
GREY = "#8C8C8C"


def plot_differences(found: "Sequence[Difference]", measure: str) -> Any:
    """Plot a panel for each optimizer: a line per task, and the pooled difference below.

    found (Sequence[Difference]): Differences, the pooled ones too.
    measure (str): What they are differences of.
    RETURNS (Figure): The figure.
    """
    optimizers = list(dict.fromkeys(difference.optimizer for difference in found))
    tasks = list(dict.fromkeys(difference.task for difference in found))
    n_columns = min(N_COLUMNS, len(optimizers))
    n_rows = -(-len(optimizers) // n_columns)
    figure = Figure(figsize=(2.6 * n_columns + 1.0, 2.7 * n_rows + 0.5), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flat
    for panel, optimizer in zip(panels, optimizers, strict=False):
        by_task = {x.task: x for x in found if x.optimizer == optimizer}
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


def save(figure: Any, path: Path) -> None:
    """Save the figure as PNG and SVG.

    path (Path): Path without suffix.
    """
    save_figure(figure, path)
