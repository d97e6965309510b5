"""`thinc-swa interpolate`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from ..models.saved_combination import parent_folders
from ..models.saved_models import check_output, interpolate_models, score_interpolations
from ..models.saved_pipelines import find_model
from ..training.configs import prepare_process
from ..validation import check_number
from .errors import UsageError, printing_warnings
from .options import CodeT, DebugT, DevT, GpuT, ModelOutputT, OverwriteModelT
from .ranges import parse_range
from .tables import make_table, print_table

if TYPE_CHECKING:
    from ..training.interpolation import AlphaScore

BaseT = Annotated[
    str,
    typer.Argument(
        metavar="BASE",
        help="The model at the start: a folder of a spaCy pipeline, the name of an installed "
        "one, or a file of a Thinc model.",
        show_default=False,
    ),
]
TunedT = Annotated[
    str,
    typer.Argument(
        metavar="TUNED", help="The model that was trained from it.", show_default=False
    ),
]
AlphaT = Annotated[
    float | None,
    typer.Option(help="Share of the tuned model, from 0 to 1.", show_default=False),
]
AlphasT = Annotated[
    str | None,
    typer.Option(
        metavar="START:STOP:STEP",
        help="Shares to evaluate, for example 0:1:0.1. Needs --dev.",
        show_default=False,
    ),
]
OldT = Annotated[
    Path | None,
    typer.Option(
        "--dev-old",
        help="Dev data of the base, a .spacy file or a folder of them.",
        show_default=False,
    ),
]
KeepT = Annotated[
    float,
    typer.Option(help="Share of the base's score on --dev-old that must be kept."),
]


def interpolate(
    context: typer.Context,
    base: BaseT,
    tuned: TunedT,
    output: ModelOutputT,
    alpha: AlphaT = None,
    alphas: AlphasT = None,
    dev: DevT = None,
    dev_old: OldT = None,
    keep: KeepT = 0.99,
    overwrite: OverwriteModelT = False,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    debug: DebugT = False,
) -> None:
    """Interpolate between the weights of two saved models: (1 - alpha) BASE + alpha TUNED.

    With --alphas, evaluates pipelines on the dev data, prints a table, plots the scores to
    OUTPUT.png and OUTPUT.svg, and saves the best pipeline: the one with the highest score on
    --dev. With --dev-old, only those count whose score there is at least --keep times that of
    the base.
    """
    if (alpha is None) == (alphas is None):
        raise UsageError("Give either --alpha or --alphas")
    if alphas is None and (dev is not None or dev_old is not None):
        raise UsageError("--dev and --dev-old are for --alphas")
    if alphas is not None and dev is None:
        raise UsageError("--alphas requires --dev")
    values = [alpha or 0.0]
    if alphas is not None:
        values = parse_range(alphas, option="--alphas", example="0:1:0.1")
        if dev_old is not None and values[0] != 0.0:
            # The old score of the base is what is to be kept.
            values = [0.0, *values]
    try:
        for value in values:
            check_number("alpha", value, minimum=0.0, maximum=1.0)
        check_number("--keep", keep, above=0.0, maximum=1.0)
    except ValueError as error:
        raise UsageError(str(error)) from None
    prepare_process(gpu_id, code)
    with printing_warnings():
        if dev is None:
            interpolate_models(base, tuned, values[0], output, overwrite=overwrite)
        else:
            _interpolate_best(base, tuned, values, output, dev, dev_old, keep, overwrite)
    typer.echo(f"Saved {output}.")


def _interpolate_best(
    base: str,
    tuned: str,
    alphas: Sequence[float],
    output: Path,
    dev: Path,
    dev_old: Path | None,
    keep: float,
    overwrite: bool,
) -> None:
    # Takes a while.
    from ..training.interpolation import AlphaScore, find_best, plot_interpolation
    from ..training.pipeline_scores import PipelineScorer
    from ..training.plots import FORMATS, save_figure

    check_output([find_model(base), find_model(tuned)], output, overwrite=overwrite)
    for suffix in FORMATS:
        figure_path = output.with_name(f"{output.name}.{suffix}")
        if os.path.lexists(figure_path) and not overwrite:
            raise FileExistsError(
                f"{figure_path} already exists: overwrite it, or choose another output"
            )
    new_scorer = PipelineScorer(dev)
    old_scorer = None if dev_old is None else PipelineScorer(dev_old)

    def score(path: Path) -> tuple[float, float | None]:
        return new_scorer(path), None if old_scorer is None else old_scorer(path)

    console = Console()
    scores: list[AlphaScore] = []
    # While it is evaluated, on a terminal only.
    live = Live(console=console, auto_refresh=False, transient=True)
    with parent_folders(output), live:
        for alpha, (new, old) in score_interpolations(
            base, tuned, alphas, score, folder=output.parent
        ):
            scores.append(AlphaScore(alpha, new, old))
            if console.is_terminal:
                live.update(make_table(_rows(scores, None), console), refresh=True)
    best = find_best(scores, keep)
    print_table(_rows(scores, best), console)
    rule = "the highest new score"
    if dev_old is not None:
        rule += f" of those that keep {100 * keep:g} % of the base's old score"
    typer.echo(f"Best alpha: {best.alpha:g}, {rule}.")
    interpolate_models(base, tuned, best.alpha, output, overwrite=overwrite)
    for path in save_figure(plot_interpolation(scores, keep), output):
        typer.echo(f"Saved {path}.")


def _rows(scores: Sequence["AlphaScore"], best: "AlphaScore | None") -> list[list[str]]:
    has_old = scores[0].old is not None
    rows = [["alpha", "new in %", *(["old in %"] if has_old else []), ""]]
    for found in scores:
        cells = [f"{found.alpha:g}", f"{100 * found.new:.2f}"]
        if found.old is not None:
            cells.append(f"{100 * found.old:.2f}")
        rows.append([*cells, "best" if found == best else ""])
    return rows
