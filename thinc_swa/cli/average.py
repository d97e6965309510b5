"""`thinc-swa average`."""

from typing import Annotated

import typer

from ..models.saved_models import average_models, greedy_soup
from ..training.configs import prepare_process
from .errors import UsageError, printing_warnings
from .options import CodeT, DebugT, DevT, GpuT, ModelOutputT, OverwriteModelT
from .tables import print_table

ModelsT = Annotated[
    list[str],
    typer.Argument(
        metavar="MODELS",
        help="Folders of spaCy pipelines, names of installed ones, or files of Thinc models.",
        show_default=False,
    ),
]
GreedyT = Annotated[
    bool,
    typer.Option(
        "--greedy",
        help="Only average the pipelines that improve the average. Needs --dev.",
    ),
]


def average(
    context: typer.Context,
    models: ModelsT,
    output: ModelOutputT,
    greedy: GreedyT = False,
    dev: DevT = None,
    overwrite: OverwriteModelT = False,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    debug: DebugT = False,
) -> None:
    """Average the weights of saved models.

    The models must come from one training, or from trainings that began with the same weights.
    With --greedy, the pipelines are tried in the order of their scores on the dev data, and
    each is added if the score of the average does not fall: a greedy soup. The score is the
    weighted one of [training.score_weights].
    """
    if greedy != (dev is not None):
        raise UsageError("--greedy and --dev require each other")
    prepare_process(gpu_id, code)
    with printing_warnings():
        if dev is None:
            average_models(models, output, overwrite=overwrite)
            typer.echo(f"Averaged {len(models)} models.")
        else:
            from ..training.pipeline_scores import PipelineScorer

            soup = greedy_soup(models, PipelineScorer(dev), output, overwrite=overwrite)
            rows = [["model", "score in %", "in the average"]]
            for path, score in soup.scores.items():
                is_in = "yes" if path in soup.ingredients else "no"
                rows.append([str(path), f"{100 * score:.2f}", is_in])
            print_table(rows)
            typer.echo(
                f"Averaged {len(soup.ingredients)} of {len(models)} models, score "
                f"{100 * soup.score:.2f}."
            )
    typer.echo(f"Saved {output}.")
