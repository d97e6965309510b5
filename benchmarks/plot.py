"""Plots of a benchmark run."""

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter
from rows import OURS, THINC
from updates import KINDS

# The palette of Okabe and Ito, which is safe for colour blindness.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#8C8C8C"


def draw(results, path):
    """Plot the available parts of a run and save the figure."""
    panels = []
    if "updates" in results:
        panels += [_draw_updates(results["updates"], kind) for kind in KINDS]
    if "growth" in results:
        panels.append(_draw_growth(results["growth"]))
    if "steps" in results:
        panels.append(_draw_steps(results["steps"]))
    if "rows" in results.get("train", {}):
        panels.append(_draw_train(results["train"]))
    if not panels:
        return
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, axes = pyplot.subplots(
        n_rows, n_columns, figsize=(6.4 * n_columns, 4.6 * n_rows), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis)
        axis.spines[["top", "right"]].set_visible(False)
    machine = results["machine"]
    figure.suptitle(
        f"Cost of averaging ({machine['processor']}, {machine['cores']} cores, "
        f"{machine['date']})",
        fontsize=15,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _largest_layout(rows):
    """The name of the largest layout: 30 million, or a smaller one in a quick run."""
    layouts = [row["layout"] for row in rows]
    return "30 million" if "30 million" in layouts else layouts[-1]


def _draw_updates(rows, kind):
    layout = _largest_layout(rows)
    rows = [
        row
        for row in rows
        if row["layout"] == layout
        and row["kind"] == kind
        and row["n_threads"] == 1
        and "missing" not in row
    ]

    def panel(axis):
        _bars(
            axis,
            [row["name"] for row in rows],
            [row["ratio"] for row in rows],
            [_colour(row["name"]) for row in rows],
            "{:.2f}",
        )
        axis.set_xscale("log")
        axis.set_xlim(0.5, 2 * max(row["ratio"]["high"] for row in rows))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.axvline(1, color="black", linewidth=1)
        axis.set_xlabel("times numpy.add, on one thread (log scale)")
        axis.set_title(f"{kind}: one update, {layout}")

    return panel


def _draw_growth(rows):
    lines = [
        ("yardstick", None, "yardstick, numpy.add", GREY, "--"),
        ("SWA", OURS, "thinc_swa SWA", BLUE, "-"),
        ("EMA", OURS, "thinc_swa EMA", GREEN, "-"),
        ("EMA", THINC, "Thinc's averaging", ORANGE, "-"),
        ("EMA", "torch AveragedModel", "PyTorch's EMA", PURPLE, "-"),
    ]

    def panel(axis):
        for kind, name, label, colour, style in lines:
            line = [
                row
                for row in rows
                if row["layout"].endswith(" x 1")
                and row["kind"] == kind
                and (row["library"] == "numpy" if name is None else row["name"] == name)
                and "missing" not in row
            ]
            axis.plot(
                [row["n_parameters"] for row in line],
                [row["seconds"]["median"] * 1e3 for row in line],
                style,
                color=colour,
                label=label,
                marker="o",
                markersize=4,
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("parameters in one array")
        axis.set_ylabel("ms per update")
        axis.legend(frameon=False, loc="upper left", fontsize="small")
        axis.set_title("Growth with the number of parameters")

    return panel


def _draw_steps(rows):
    layout = _largest_layout(rows)
    rows = [
        row
        for row in rows
        if row["layout"] == layout
        and row["library"] == "thinc"
        and row["kind"] != "yardstick"
        and row["name"] != "Adam"
    ]

    def panel(axis):
        _relative_bars(axis, rows)
        axis.set_xlabel("additional time, relative to Adam")
        axis.set_title(f"A whole optimizer step, {layout}")

    return panel


def _draw_train(result):
    rows = [row for row in result["rows"] if row["name"] != "Adam"]

    def panel(axis):
        _relative_bars(axis, rows, error="error")
        axis.axvline(0.02, color="black", linewidth=1, linestyle=":")
        axis.set_xlabel("additional time, relative to Adam (dotted: target)")
        axis.set_title("A whole spaCy training")

    return panel


def _relative_bars(axis, rows, error=None):
    """Bars of ratios minus 1."""
    values = []
    for row in rows:
        value = {key: number - 1 for key, number in row["ratio"].items()}
        if error:
            value["low"] = value["median"] - row[error]
            value["high"] = value["median"] + row[error]
        values.append(value)
    colours = [_colour(row["name"]) for row in rows]
    _bars(axis, [row["name"] for row in rows], values, colours, "{:.1%}")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.axvline(0, color="black", linewidth=1)
    axis.set_xlim(
        min(0.0, *(value["low"] for value in values)),
        1.15 * max(value["high"] for value in values),
    )


def _bars(axis, names, values, colours, form):
    """Horizontal bars with error bars, the first one at the top."""
    places = range(len(names))
    medians = [value["median"] for value in values]
    # Rounding can move a median slightly outside its quartiles.
    whiskers = [
        [max(0.0, value["median"] - value["low"]) for value in values],
        [max(0.0, value["high"] - value["median"]) for value in values],
    ]
    axis.barh(places, medians, xerr=whiskers, color=colours, height=0.65, ecolor="black")
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    for place, value in zip(places, values, strict=True):
        axis.annotate(
            form.format(value["median"]),
            (max(value["high"], 0.0), place),
            xytext=(5, 0),
            textcoords="offset points",
            verticalalignment="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def _colour(name):
    if name.startswith((OURS, "SWA", "EMA", "Lookahead")):
        return BLUE
    return GREY if name.startswith(("compiled", "Adam, again")) else ORANGE
