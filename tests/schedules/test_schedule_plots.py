"""Plots of schedules."""

import pytest
from helpers import require
from schedule_values import MAKERS, values
from thinc.api import decaying

from thinc_swa import cosine, plot_schedule


def plotted(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_plot_shows_the_values(make):
    require("matplotlib")
    schedule = make()
    axes = plot_schedule(schedule, 15)
    assert list(axes.lines[0].get_xdata()) == list(range(15))
    assert list(axes.lines[0].get_ydata()) == values(make(), 15)
    assert axes.get_legend() is None and axes.get_xlabel() == "step"
    # It is still at its beginning.
    assert values(schedule, 15) == values(make(), 15)


def test_plot_of_several_schedules(tmp_path):
    require("matplotlib")
    axes = plot_schedule(
        {
            "cosine": cosine(1.0, steps=5),
            "Thinc's": decaying(1.0, 0.5),
            "a list": [1, 2],
            "a number": 3,
        },
        8,
    )
    assert plotted(axes) == {
        "cosine": values(cosine(1.0, steps=5), 8),
        "Thinc's": values(decaying(1.0, 0.5), 8),
        "a list": [1, 2, 2, 2, 2, 2, 2, 2],
        "a number": [3] * 8,
    }
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(plotted(axes))
    assert len({line.get_color() for line in axes.lines}) == 4
    assert len({line.get_linestyle() for line in axes.lines}) == 4
    path = tmp_path / "schedules.png"
    axes.figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_plot_into_given_axes():
    require("matplotlib")
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert plot_schedule([1.0], 3, axes=axes) is axes
    assert list(axes.lines[0].get_ydata()) == [1, 1, 1]


@pytest.mark.parametrize("n_steps", [0, 2.5, True])
def test_plot_requires_positive_n_steps(n_steps):
    with pytest.raises(ValueError, match="n_steps must be an int >= 1, but was"):
        plot_schedule(0.1, n_steps)


def test_plot_requires_values():
    with pytest.raises(ValueError, match="schedule must have at least one value"):
        plot_schedule([], 5)
