"""`thinc-swa train`."""

import typer

from ..errors import naming_config
from ..training.callbacks import ProgressBar, ScoreTable, StopOnInterrupt
from ..training.configs import is_spacy_config, prepare_process, read_config
from ..training.evaluation import format_score
from ..training.trainer import train as train_config
from .errors import INTERRUPTED, printing_warnings
from .options import CodeT, ConfigT, DebugT, GpuT, OutputT, OverwriteT, ResumeT, SeedT, TrustT


def train(
    context: typer.Context,
    config: ConfigT,
    output: OutputT = None,
    seed: SeedT = None,
    resume: ResumeT = False,
    overwrite: OverwriteT = False,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    trust: TrustT = False,
    debug: DebugT = False,
) -> None:
    """Train the Thinc model of a config.

    The config has the sections [dataset], [model], [loss], [optimizer] and [training]. Its
    settings can be changed: --training.max_steps 500.

    model-best and model-last are saved, both with the averages as their weights, a log, and
    checkpoints for --resume.
    """
    if output is None and (resume or overwrite):
        raise typer.BadParameter("--resume and --overwrite need an --output")
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    settings = read_config(config, context.obj)
    if is_spacy_config(settings):
        raise ValueError(
            f"{config} is a config for spaCy: `spacy train` trains it with its optimizer, and "
            "`thinc-swa compare` compares it with others"
        )
    if seed is not None:
        settings.setdefault("training", {})["seed"] = seed
    prepare_process(gpu_id, code)
    with naming_config(config):
        settings = settings.interpolate()
    with printing_warnings():
        training = train_config(
            settings,
            output=output,
            resume=resume,
            overwrite=overwrite,
            callbacks=[StopOnInterrupt(), ProgressBar(), ScoreTable()],
            source=config,
            code=code,
            trust=trust,
        )
    best = training.best
    if best is not None:
        what = "weights" if best.averages is None else "averages"
        score = format_score(best.score, training.score)
        typer.echo(f"Best: {score} with the {what} of step {best.step}.")
    if output is not None:
        typer.echo(f"Saved to {output}.")
    if training.stop_reason == "interrupted":
        hint = "; --resume goes on" if output is not None else ""
        typer.echo(f"Stopped after step {training.step}{hint}.")
        raise typer.Exit(INTERRUPTED)
    if training.stop_reason == "patience":
        typer.echo(f"Stopped after step {training.step}: no improvement within `patience`.")
