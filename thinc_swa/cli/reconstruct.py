"""`thinc-swa reconstruct`."""

import math
import os
from pathlib import Path
from typing import Annotated

import typer

from ..averaging.power_profiles import MAX_SIGMA_REL
from ..training.configs import prepare_process
from ..training.evaluation import format_score
from ..validation import check_number
from .errors import UsageError, printing_warnings
from .options import CodeT, DebugT, GpuT, TrustT
from .ranges import parse_range

PLOT = "widths"

FolderT = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="Output directory of a training.", show_default=False
    ),
]
SigmaRelT = Annotated[
    float | None,
    typer.Option("--sigma-rel", help="Width of the average.", show_default=False),
]
SigmaRelsT = Annotated[
    str | None,
    typer.Option(
        "--sigma-rels",
        metavar="START:STOP:STEP",
        help="Widths to evaluate, for example 0.03:0.25:0.01.",
        show_default=False,
    ),
]
StepT = Annotated[
    int | None,
    typer.Option(help="Step of the average, by default the last one.", show_default=False),
]
ModelT = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="File for the model, with --sigma-rels that of the best width.",
        show_default=False,
    ),
]


def reconstruct(
    context: typer.Context,
    folder: FolderT,
    sigma_rel: SigmaRelT = None,
    sigma_rels: SigmaRelsT = None,
    step: StepT = None,
    output: ModelT = None,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    trust: TrustT = False,
    debug: DebugT = False,
) -> None:
    """Reconstruct averages of other widths after a training, and evaluate them.

    The training must have kept snapshots of power-function averages: its config has a section
    [callbacks.keep] with @callbacks = "keep_averages.v1". Averages are evaluated on the dev
    data of the training. With --sigma-rels, prints a table and plots the scores to widths.png
    and widths.svg in the folder of the snapshots.
    """
    if (sigma_rel is None) == (sigma_rels is None):
        raise UsageError("Give either --sigma-rel or --sigma-rels")
    widths = [sigma_rel or 0.0]
    if sigma_rels is not None:
        widths = parse_range(sigma_rels, option="--sigma-rels", example="0.03:0.25:0.01")
    try:
        for width in widths:
            check_number("sigma_rel", width, above=0.0, maximum=MAX_SIGMA_REL)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if output is not None and os.path.lexists(output):
        raise FileExistsError(f"{output} exists: delete it, or choose another file")
    # Takes a while.
    from ..training.widths import WidthEvaluator, find_best, plot_widths

    prepare_process(gpu_id, code)
    with printing_warnings():
        evaluator = WidthEvaluator(folder, step=step, code=code, trust=trust)
        kept = evaluator.stored.sigma_rels
        typer.echo(f"{'sigma_rel':>11}{'score':>10}{'profile error':>16}")
        scores = []
        for width in widths:
            found = evaluator.evaluate(width)
            scores.append(found)
            note = "  kept" if any(math.isclose(width, other) for other in kept) else ""
            typer.echo(
                f"{width:>11.5g}{format_score(found.score, evaluator.score):>10}"
                f"{found.error:>16.2g}{note}"
            )
        best = find_best(scores)
        roughness = evaluator.describe_roughness(best)
        if roughness is not None:
            typer.secho(f"Warning: {roughness}", err=True, fg=typer.colors.YELLOW)
        if len(widths) > 1:
            text = format_score(best.score, evaluator.score)
            typer.echo(
                f"Best width: {best.sigma_rel:g}, score {text} at step {evaluator.step}."
            )
        if sigma_rels is not None:
            from ..training.plots import save_figure

            figure = plot_widths(scores, kept, evaluator.score)
            for path in save_figure(figure, evaluator.stored.folder / PLOT):
                typer.echo(f"Saved {path}.")
        if output is not None:
            evaluator.save(output, best.sigma_rel)
            typer.echo(f"Saved {output}.")
