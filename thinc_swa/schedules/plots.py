"""Pictures of schedules. They need matplotlib, which is loaded when one is drawn."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from ..types import ScheduleT
from ..validation import check_int
from .compat import ScheduleClass

# Okabe and Ito's colours, which colour-blind people can tell apart, and ways to draw a line
# that can be told apart without any colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
LINES = ("-", "--", "-.", ":")


def plot_schedule(
    schedule: ScheduleT | Mapping[str, ScheduleT],
    n_steps: int,
    *,
    axes: Any | None = None,
) -> Any:
    """Draw the values of a schedule, or of several into one picture.

        plot_schedule(one_cycle(0.01, steps=1000), 1200).figure.savefig("one_cycle.png")

    schedule (ScheduleT | Mapping[str, ScheduleT]): A number, a list of numbers or a
        schedule, or several by name. It stays where it is, unless it is a generator of Thinc
        8.3: that is used up.
    n_steps (int): How many steps to draw, from step 0.
    axes (Axes | None): Where to draw. If None, in a new figure.
    RETURNS (Axes): What was drawn on, for a title and the like.
    RAISES: ValueError for bad arguments; ImportError if matplotlib is not installed.
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
            LINES[number % len(LINES)],
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
        # As an optimizer of Thinc 9.1 calls it.
        return [float(schedule(step, key=(0, ""), last_score=None)) for step in range(n_steps)]
    if isinstance(schedule, (int, float)):
        return [float(schedule)] * n_steps
    values = [float(value) for value in islice(schedule, n_steps)]
    if not values:
        raise ValueError(f"schedule must have a value, but was {schedule!r}")
    return values + values[-1:] * (n_steps - len(values))
