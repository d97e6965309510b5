"""Plots of schedules with matplotlib, which is imported when a plot is made."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from ..types import ScheduleT
from ..validation import check_int
from .compat import ScheduleClass

# The palette of Okabe and Ito, which is safe for colour blindness, and line styles that can be
# told apart without colours.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
LINE_STYLES = ("-", "--", "-.", ":")


def plot_schedule(
    schedule: ScheduleT | Mapping[str, ScheduleT],
    n_steps: int,
    *,
    axes: Any | None = None,
) -> Any:
    """Plot the values of one or several schedules.

        plot_schedule(one_cycle(0.01, steps=1000), 1200).figure.savefig("one_cycle.png")

    schedule (ScheduleT | Mapping[str, ScheduleT]): A number, a list of numbers or a schedule,
        or several of them by name. Values are taken from a generator of Thinc 8.3, so it
        cannot be used afterwards. Other schedules are unchanged.
    n_steps (int): The number of steps to plot, starting at step 0.
    axes (Axes | None): The axes to plot into. None makes a new figure.
    RETURNS (Axes): The axes, with the figure as `axes.figure`.
    RAISES: ValueError for invalid arguments; ImportError if matplotlib is not installed.
    """
    n_steps = check_int("n_steps", n_steps, minimum=1)
    named: dict[str, ScheduleT] = (
        dict(schedule) if isinstance(schedule, Mapping) else {"": schedule}
    )
    lines = {name: _values(value, n_steps) for name, value in named.items()}
    if axes is None:
        from matplotlib.figure import Figure

        axes = Figure(figsize=(6.4, 3.6), layout="constrained").subplots()
    for number, (name, values) in enumerate(lines.items()):
        axes.plot(
            range(len(values)),
            values,
            LINE_STYLES[number % len(LINE_STYLES)],
            color=COLOURS[number % len(COLOURS)],
            label=name,
        )
    axes.set_xlabel("step")
    axes.spines[["top", "right"]].set_visible(False)
    if isinstance(schedule, Mapping):
        axes.legend(frameon=False)
    return axes


def _values(schedule: Any, n_steps: int) -> list[float]:
    """The values at steps 0 to n_steps - 1."""
    if isinstance(schedule, ScheduleClass):
        # The arguments that an optimizer of Thinc 9.1 passes.
        return [float(schedule(step, key=(0, ""), last_score=None)) for step in range(n_steps)]
    if isinstance(schedule, (int, float)):
        return [float(schedule)] * n_steps
    values = [float(value) for value in islice(schedule, n_steps)]
    if not values:
        raise ValueError(f"schedule must have at least one value, but was {schedule!r}")
    return values + values[-1:] * (n_steps - len(values))
