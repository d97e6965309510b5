"""Pictures of what each optimizer does to one weight, made with the optimizers themselves.

One weight descends a parabola by SGD with noisy gradients. That of reconstructed averages
shows how they weigh the steps. Each picture is an SVG for the light scheme and one for the
dark.

python docs/generate/pictures.py FOLDER
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from thinc.api import SGD, Model, Optimizer
from thinc.types import FloatsXd

from thinc_swa import (
    EMA,
    L2SP,
    LAWA,
    SWA,
    LocalSGD,
    Lookahead,
    OptimizerWrapper,
    ParamGroups,
    ScheduleFree,
)
from thinc_swa.averaging.power_profiles import Profile, combine_profiles, power_exponent
from thinc_swa.distributed import Communicator, connect, run_simulated

KEY = (1, "W")
SCHEMES = {
    "light": {"text": "#37474f", "raw": "#9aa5ab", "first": "#0061a8", "second": "#c45500"},
    "dark": {"text": "#cfd8dc", "raw": "#78868d", "first": "#5db8ff", "second": "#ffab5c"},
}
Colours = dict[str, str]


def trace(
    optimizer: Optimizer,
    n_steps: int,
    *,
    start: float = 3.0,
    noise: float = 1.0,
    seed: int = 5,
) -> tuple[list[float], list[float]]:
    """Train one weight on the loss w² / 2.

    optimizer (Optimizer): The optimizer.
    n_steps (int): How many steps.
    start (float): The weight before the first step.
    noise (float): The standard deviation of what is added to each gradient.
    seed (int): Seed of the noise, so that all optimizers get the same one.
    RETURNS (tuple[list[float], list[float]]): The weight before the first step and after
        each, and the average after each (the weight itself as long as there is none).
    """
    random = numpy.random.default_rng(seed)
    weights = numpy.array([start], dtype="float32")
    raw, averages = [start], [start]
    for _ in range(n_steps):
        gradient = weights + numpy.float32(random.normal(scale=noise))
        weights, _ = optimizer(KEY, weights, gradient.astype("float32"))
        optimizer.step_schedules()
        raw.append(float(weights[0]))
        averages.append(float((optimizer.averages or {}).get(KEY, weights)[0]))
    return raw, averages


def sgd() -> Optimizer:
    return SGD(0.08, grad_clip=0.0, use_averages=False)


def draw_swa(axes: Axes, colours: Colours) -> None:
    n_steps, start, freq = 200, 100, 10
    raw, averages = trace(SWA(sgd(), start_step=start, freq=freq), n_steps)
    _draw_snapshots(
        axes,
        colours,
        raw,
        averages,
        range(start, n_steps + 1, freq),
        "average of the snapshots",
    )
    axes.axvline(start, color=colours["text"], lw=0.8, ls=":")
    axes.annotate("start_step", (start - 2, 2.6), color=colours["text"], ha="right")


def draw_ema(axes: Axes, colours: Colours) -> None:
    n_steps = 200
    raw, power = trace(EMA(sgd()), n_steps)
    _, exponential = trace(EMA(sgd(), decay=0.98), n_steps)
    axes.plot(raw, color=colours["raw"], label="raw weight")
    axes.plot(exponential, color=colours["second"], lw=2.2, ls="--", label="decay = 0.98")
    axes.plot(power, color=colours["first"], lw=2.2, label="without settings")


def draw_lawa(axes: Axes, colours: Colours) -> None:
    n_steps, freq, window = 200, 10, 6
    raw, averages = trace(LAWA(sgd(), window=window, freq=freq), n_steps)
    label = f"average of the last {window} snapshots"
    _draw_snapshots(axes, colours, raw, averages, range(freq, n_steps + 1, freq), label)


def _draw_snapshots(
    axes: Axes,
    colours: Colours,
    raw: list[float],
    averages: list[float],
    due: range,
    label: str,
) -> None:
    """due (range): The steps with a snapshot. Before the first one there is no average."""
    axes.plot(raw, color=colours["raw"], label="raw weight")
    axes.plot(due, [raw[i] for i in due], "o", ms=4, color=colours["second"], label="snapshots")
    axes.plot(
        range(due.start, len(averages)),
        averages[due.start :],
        color=colours["first"],
        lw=2.2,
        label=label,
    )


class Recorder(OptimizerWrapper):
    """Records the weight after each update, before a wrapper around it changes it."""

    __slots__ = ["values"]

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        self.values: list[float] = []

    def _on_update(self, key: tuple[int, str], weights: FloatsXd) -> None:
        self.values.append(float(weights[0]))


def draw_lookahead(axes: Axes, colours: Colours) -> None:
    n_steps, freq = 36, 6
    recorder = Recorder(sgd())
    raw, slow = trace(Lookahead(recorder, freq=freq, pullback=0.5), n_steps)
    # Each step twice: before and after a pullback.
    steps = [0, *(step for step in range(1, n_steps + 1) for _ in range(2))]
    pairs = zip(recorder.values, raw[1:], strict=True)
    fast = [raw[0], *(value for pair in pairs for value in pair)]
    pullbacks = range(freq, n_steps + 1, freq)
    axes.plot(steps, fast, color=colours["raw"], label="fast weight")
    axes.step(
        range(n_steps + 1),
        slow,
        where="post",
        color=colours["first"],
        lw=2.2,
        label="slow weight",
    )
    axes.plot(
        pullbacks,
        [raw[step] for step in pullbacks],
        "o",
        ms=4,
        color=colours["second"],
        label="pullback",
    )


def trace_workers(
    n_workers: int, n_steps: int, *, start: float = 3.0, noise: float = 1.0, **settings: Any
) -> list[tuple[list[float], list[float]]]:
    """Train one weight on several workers, each with noise of its own.

    settings (Any): Arguments of LocalSGD.
    RETURNS (list[tuple[list[float], list[float]]]): For each worker the weight before the
        first step and after each, without and with the exchange that follows the step.
    """

    def work(communicator: Communicator) -> tuple[list[float], list[float]]:
        random = numpy.random.default_rng((5, communicator.rank))
        weights = numpy.array([start], dtype="float32")
        model: Model[Any, Any] = Model("weight", lambda *_: (None, None), params={"W": weights})
        optimizer = LocalSGD(sgd(), **settings)
        connect(optimizer, model, communicator)
        own, raw = [start], [start]
        for _ in range(n_steps):
            weights = model.get_param("W")
            gradient = weights + numpy.float32(random.normal(scale=noise))
            weights, _ = optimizer((model.id, "W"), weights, gradient.astype("float32"))
            model.set_param("W", weights)
            own.append(float(weights[0]))
            optimizer.step_schedules()
            raw.append(float(model.get_param("W")[0]))
        return own, raw

    return run_simulated(n_workers, work)


def draw_local_sgd(lookahead: Axes, local: Axes, parallel: Axes, colours: Colours) -> None:
    """The same steps on one worker and on two of them."""
    n_steps, freq = 30, 10
    panels: dict[str, tuple[Axes, int, dict[str, Any]]] = {
        "Lookahead: one worker": (lookahead, 1, {"outer_learn_rate": 0.5}),
        "LocalSGD: two workers": (local, 2, {}),
        "Data parallelism: two workers": (parallel, 2, {"start_step": n_steps}),
    }
    for title, (axes, n_workers, settings) in panels.items():
        settings = {"outer_learn_rate": 1.0, "outer_momentum": 0.0, **settings}
        found = trace_workers(n_workers, n_steps, noise=3.0, freq=freq, **settings)
        exchanges = range(freq, n_steps + 1, freq)
        if axes is parallel:
            exchanges = range(1, n_steps + 1)
        _, weights = found[0]
        if axes is not parallel:
            for own, raw in found:
                # Each step twice: before and after an exchange.
                steps = [0, *(step for step in range(1, n_steps + 1) for _ in range(2))]
                pairs = zip(own[1:], raw[1:], strict=True)
                values = [raw[0], *(value for pair in pairs for value in pair)]
                label = "a worker's weight" if own is found[0][0] else None
                axes.plot(steps, values, color=colours["raw"], lw=1.2, label=label)
            due = [0, *exchanges]
            common = [weights[step] for step in due]
            axes.step(
                [*due, n_steps],
                [*common, common[-1]],
                where="post",
                color=colours["first"],
                lw=2.2,
                label="synchronised weight",
            )
        else:
            axes.plot(weights, color=colours["first"], lw=2.2)
        axes.plot(
            exchanges,
            [weights[step] for step in exchanges],
            "o",
            ms=4,
            color=colours["second"],
            label="exchange",
        )
        axes.set_title(title, fontsize=11)
    # Where there is room.
    parallel.legend(*local.get_legend_handles_labels(), frameon=False, fontsize=9)
    for axes in (lookahead, local):
        axes.legend().set_visible(False)


def draw_schedule_free(axes: Axes, colours: Colours) -> None:
    n_steps = 200
    recorder = Recorder(sgd())
    y, x = trace(ScheduleFree(recorder), n_steps)
    axes.plot([y[0], *recorder.values], color=colours["raw"], label="z: the wrapped optimizer")
    axes.plot(y, color=colours["second"], lw=1.4, label="y: the model's weight")
    axes.plot(x, color=colours["first"], lw=2.2, label="x: the average")


def draw_param_groups(axes: Axes, colours: Colours) -> None:
    n_steps = 80
    groups = {
        "no group": [],
        "lr_scale = 0.2": [{"name": "slow", "params": ["W"], "lr_scale": 0.2}],
        "frozen": [{"name": "frozen", "params": ["W"], "frozen": True}],
    }
    styles = (("first", "-"), ("second", "-"), ("raw", "--"))
    for (label, group), (colour, line) in zip(groups.items(), styles, strict=True):
        raw, _ = trace(ParamGroups(sgd(), groups=group), n_steps, noise=0.4)
        axes.plot(raw, color=colours[colour], ls=line, lw=1.8, label=label)


def draw_reconstruction(axes: Axes, colours: Colours) -> None:
    """Profiles instead of a weight: the share of each step in averages."""
    n_steps, freq = 200, 20
    steps = numpy.arange(n_steps + 1)
    stored = [
        Profile(step, power_exponent(sigma_rel))
        for step in range(freq, n_steps + 1, freq)
        for sigma_rel in (0.05, 0.1)
    ]
    wanted = Profile(n_steps, power_exponent(0.15))
    (found,) = combine_profiles(stored, [wanted], precision=2.0**-24)
    for i, profile in enumerate(stored):
        shares = profile.shares(steps)
        axes.plot(
            steps[1 : profile.n_averaged + 1],
            shares[: profile.n_averaged],
            color=colours["raw"],
            lw=0.8,
            label="stored: sigma_rel = 0.05 and 0.1" if i == 0 else None,
        )
    axes.plot(
        steps[1:],
        wanted.shares(steps),
        color=colours["first"],
        lw=3.2,
        label="wanted: sigma_rel = 0.15",
    )
    pairs = zip(found.coefficients, stored, strict=True)
    combined = sum(factor * profile.shares(steps) for factor, profile in pairs)
    axes.plot(steps[1:], combined, color=colours["second"], lw=1.4, label="reconstructed")
    axes.set_ylim(0, 0.06)
    axes.set_ylabel("share of the step")
    # Above: there is no room among the lines.
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def draw_l2sp(axes: Axes, colours: Colours) -> None:
    n_steps = 80
    styles = ((0.0, "raw", "--"), (0.5, "second", "-"), (2.0, "first", "-"))
    for alpha, colour, line in styles:
        raw, _ = trace(L2SP(sgd(), alpha=alpha), n_steps, noise=0.4)
        axes.plot(raw, color=colours[colour], ls=line, lw=1.8, label=f"alpha = {alpha:g}")


# The functions get as many axes as `N_PANELS` says, one by default.
PICTURES: dict[str, Callable[..., None]] = {
    "swa": draw_swa,
    "ema": draw_ema,
    "lawa": draw_lawa,
    "lookahead": draw_lookahead,
    "schedule_free": draw_schedule_free,
    "l2sp": draw_l2sp,
    "param_groups": draw_param_groups,
    "reconstruction": draw_reconstruction,
    "local_sgd": draw_local_sgd,
}
N_PANELS = {"local_sgd": 3}


def pictures() -> dict[str, bytes]:
    """RETURNS (dict[str, bytes]): SVG pictures by the names of their files."""
    return {
        f"{name}-{scheme}.svg": _draw(draw, colours, N_PANELS.get(name, 1))
        for name, draw in PICTURES.items()
        for scheme, colours in SCHEMES.items()
    }


def _draw(draw: Callable[..., None], colours: Colours, n_panels: int) -> bytes:
    settings = {
        "svg.fonttype": "none",
        # The same picture has the same bytes.
        "svg.hashsalt": "thinc-swa",
        "font.family": "sans-serif",
        "font.size": 11,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
            colours["text"],
        ),
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7.6, 3.2), layout="constrained")
        panels = figure.subplots(1, n_panels, sharey=True, squeeze=False)[0]
        draw(*panels, colours)
        for axes in panels:
            axes.set_xlabel("step")
            axes.spines[["top", "right"]].set_visible(False)
            if axes.get_legend() is None:
                axes.legend(frameon=False, loc="upper right")
        if not panels[0].get_ylabel():
            panels[0].set_ylabel("weight")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures().items():
        (folder / name).write_bytes(content)
