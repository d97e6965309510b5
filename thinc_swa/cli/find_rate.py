"""`thinc-swa find-rate`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import naming_config
from ..serialization.files import replace_text
from ..training.callbacks import ProgressBar
from ..training.configs import is_spacy_config, prepare_process, read_config
from ..training.spacy_training import read_spacy_config
from .errors import UsageError, printing_warnings
from .options import CodeT, ConfigT, DebugT, GpuT, OutputT, SeedT
from .overrides import config_and_overrides, spacy_overrides
from .tables import print_table

if TYPE_CHECKING:
    from ..training.rate_range import RateCurve

MinT = Annotated[float, typer.Option("--min", help="Lowest learning rate.")]
MaxT = Annotated[float, typer.Option("--max", help="Highest learning rate.")]
StepsT = Annotated[int, typer.Option(help="Number of steps, with a learning rate each.")]
OverwriteFilesT = Annotated[
    bool, typer.Option("--overwrite", help="Overwrite the files in the output directory.")
]
# Name of the files without suffix.
NAME = "rates"
# Rows of the printed table.
N_ROWS = 13


def find_rate(
    context: typer.Context,
    config: ConfigT,
    output: OutputT = None,
    min_rate: MinT = 1e-6,
    max_rate: MaxT = 1.0,
    steps: StepsT = 300,
    seed: SeedT = None,
    overwrite: OverwriteFilesT = False,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    debug: DebugT = False,
) -> None:
    """Find a learning rate by a range test.

    Trains a config for Thinc or for spaCy for a few steps, with a learning rate that rises
    exponentially from --min to --max, and suggests half of the rate with the lowest smoothed
    loss. The test ends early when the loss diverges. The config is not changed, and no model
    is saved. To override settings, use options such as --paths.train corpus/train.spacy.

    With --output, saves rates.csv, rates.png and rates.svg.
    """
    # Takes a while.
    from ..training.plots import FORMATS, save_figure
    from ..training.rate_range import RateRange, plot_rates, rate_setting
    from ..training.rate_range import find_rate as run_test

    name, overrides = config_and_overrides(config, context.args)
    path = Path(name)
    try:
        rate_range = RateRange(min_rate, max_rate, steps)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    if output is None and overwrite:
        raise UsageError("--overwrite requires --output")
    settings = read_config(path, overrides)
    if is_spacy_config(settings):
        settings = read_spacy_config(path, {**overrides, **spacy_overrides()})
    if seed is not None:
        settings.setdefault("training", {})["seed"] = seed
    if output is not None:
        for suffix in ("csv", *FORMATS):
            file = output / f"{NAME}.{suffix}"
            if os.path.lexists(file) and not overwrite:
                raise FileExistsError(
                    f"{file} already exists: use --overwrite, or choose another output"
                )
    prepare_process(gpu_id, code)
    with printing_warnings(), naming_config(path):
        section, has_schedule = rate_setting(settings.interpolate())
        curve = run_test(
            settings, rate_range=rate_range, code=code, gpu_id=gpu_id, callbacks=[ProgressBar()]
        )
    if curve.rates:
        print_table(_rows(curve))
    if output is not None and curve.rates:
        output.mkdir(parents=True, exist_ok=True)
        replace_text(output / f"{NAME}.csv", _to_csv(curve))
        paths = [output / f"{NAME}.csv", *save_figure(plot_rates(curve), output / NAME)]
        for file in paths:
            typer.echo(f"Saved {file}.")
    if curve.has_diverged:
        typer.echo(f"The loss diverged after {len(curve.rates)} of {steps} rates.")
    if curve.suggestion is None:
        raise ValueError(f"No suggestion: {curve.problem}")
    typer.echo("Suggested, half of the rate with the lowest loss:\n")
    if has_schedule:
        typer.echo(f"# Instead of the schedule in [{section}.learn_rate]")
    typer.echo(f"[{section}]\nlearn_rate = {curve.suggestion:g}")


def _rows(curve: "RateCurve") -> list[list[str]]:
    """Table of about `N_ROWS` rates, and those with the lowest loss and the steepest fall."""
    n_rates = len(curve.rates)
    spread = {round(i * (n_rates - 1) / (N_ROWS - 1)) for i in range(N_ROWS)}
    marks = {curve.lowest: "lowest"}
    if curve.lowest:
        marks = {curve.steepest: "steepest fall", **marks}
    rows = [["learning rate", "loss, smoothed", ""]]
    for i in sorted(spread | set(marks)):
        rows.append([f"{curve.rates[i]:.2e}", f"{curve.smoothed[i]:.4g}", marks.get(i, "")])
    return rows


def _to_csv(curve: "RateCurve") -> str:
    columns = zip(curve.rates, curve.losses, curve.smoothed, strict=True)
    lines = [",".join(map(repr, row)) for row in columns]
    return "\n".join(["learn_rate,loss,smoothed_loss", *lines]) + "\n"
