"""`thinc-swa train`."""

from pathlib import Path

import typer

from ..errors import naming_config
from ..training.callbacks import ProgressBar, ScoreTable, StopOnInterrupt
from ..training.configs import is_spacy_config, prepare_process, read_config
from ..training.evaluation import format_score
from ..training.trainer import train as train_config
from .errors import INTERRUPTED, UsageError, printing_warnings
from .options import (
    CodeT,
    ConfigT,
    DebugT,
    GpuT,
    OutputT,
    OverwriteT,
    ResumeT,
    SaveAllT,
    SeedT,
    TrustT,
)
from .overrides import config_and_overrides


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
    save_all: SaveAllT = False,
    debug: DebugT = False,
) -> None:
    """Train a Thinc model from a config file.

    The config needs the sections [dataset], [model], [loss], [optimizer] and [training]. To
    override settings, use options such as --training.max_steps 500.

    With --output, saves model-best and model-last, both with averaged weights, a log and
    checkpoints.
    """
    name, overrides = config_and_overrides(config, context.args)
    path = Path(name)
    if output is None and (resume or overwrite or save_all):
        raise UsageError("--resume, --overwrite and --save-all require --output")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    settings = read_config(path, overrides)
    if is_spacy_config(settings):
        raise ValueError(
            f"{path} is a config for spaCy: train it with `spacy train`, or compare it with "
            "others with `thinc-swa compare`"
        )
    if seed is not None:
        settings.setdefault("training", {})["seed"] = seed
    prepare_process(gpu_id, code)
    with naming_config(path):
        settings = settings.interpolate()
    with printing_warnings():
        trainer = train_config(
            settings,
            output=output,
            resume=resume,
            overwrite=overwrite,
            callbacks=[StopOnInterrupt(), ProgressBar(), ScoreTable()],
            source=path,
            code=code,
            trust=trust,
            save_all=save_all,
        )
    state = trainer.state
    if state.best is not None:
        weights = "raw" if state.best.averages is None else "averaged"
        score = format_score(state.best.score, trainer.score)
        typer.echo(f"Best score: {score} at step {state.best.step}, {weights} weights.")
    if output is not None:
        typer.echo(f"Saved to {output}.")
    if state.stop_reason == "interrupted":
        hint = "; use --resume to continue" if output is not None else ""
        typer.echo(f"Stopped after step {state.step}{hint}.")
        raise typer.Exit(INTERRUPTED)
    if state.stop_reason == "patience":
        typer.echo(f"Stopped after step {state.step}: no improvement within `patience`.")
