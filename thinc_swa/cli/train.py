"""`thinc-swa train`."""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from ..distributed.communicator import DEFAULT_TIMEOUT
from ..distributed.launcher import WorkerFailure, has_worker_error, run_workers
from ..distributed.ray_launcher import ClusterWorkers, WorkerRange
from ..distributed.torch_communicator import TorchCommunicator, is_launched
from ..errors import TrainingWarning, naming_config
from ..training.callbacks import ProgressBar, ScoreTable, StopOnInterrupt
from ..training.configs import is_spacy_config, prepare_process, read_config
from ..training.evaluation import format_score
from ..training.spacy_callbacks import SpacyTable
from ..training.spacy_trainer import SpacyTrainer
from ..training.spacy_training import read_spacy_config, train_spacy
from ..training.trainer import Trainer
from ..training.trainer import train as train_thinc
from .clusters import cluster_files, connected, parse_workers
from .errors import INTERRUPTED, UsageError, print_error, print_warning, printing_warnings
from .interruptions import stopping_on_signals
from .options import (
    CodeT,
    ConfigT,
    DebugT,
    GpuT,
    OutputT,
    OverwriteT,
    RayT,
    RestartsT,
    ResumeT,
    SaveAllT,
    SeedT,
    StorageT,
    TimeoutT,
    TrustT,
    VerboseT,
    WorkersT,
)
from .overrides import config_and_overrides, spacy_overrides
from .report import save_report


def train(
    context: typer.Context,
    config: ConfigT,
    output: OutputT = None,
    seed: SeedT = None,
    resume: ResumeT = False,
    overwrite: OverwriteT = False,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    workers: WorkersT = None,
    ray: RayT = None,
    storage: StorageT = None,
    max_restarts: RestartsT = 3,
    worker_timeout: TimeoutT = DEFAULT_TIMEOUT,
    trust: TrustT = False,
    save_all: SaveAllT = False,
    verbose: VerboseT = False,
    debug: DebugT = False,
) -> None:
    """Train a Thinc model or a spaCy pipeline from a config file.

    A config for Thinc needs the sections [dataset], [model], [loss], [optimizer] and
    [training]. A config for spaCy is trained as by `spacy train`. To override settings, use
    options such as --training.max_steps 500.

    With --workers, or started by torchrun, a config is trained on several workers. Its
    optimizer needs LocalSGD.

    With --ray, the workers run on the nodes of a Ray cluster, which must all see the output
    directory. If one of them dies, the training continues from its last checkpoint.

    With --output, saves model-best and model-last, both with averaged weights, a log and
    checkpoints.
    """
    name, overrides = config_and_overrides(config, context.args)
    path = Path(name)
    if output is None and (resume or overwrite or save_all):
        raise UsageError("--resume, --overwrite and --save-all require --output")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    n_workers = None if workers is None else parse_workers(workers)
    _check_ray_options(ray, storage, n_workers)
    if storage is not None:
        output = storage if output is None else storage / output
    if ray is not None and output is None:
        raise UsageError("--ray requires --output or --storage, for the checkpoints")
    settings = read_config(path, overrides)
    is_spacy = is_spacy_config(settings)
    is_worker = is_launched()
    if is_worker and workers is not None:
        raise UsageError("--workers starts the workers itself: leave it out under torchrun")
    if ray is not None or (n_workers is not None and n_workers.largest > 1):
        arguments = [str(path)]
        for key, value in overrides.items():
            # Not with "=", which changes hyphens.
            arguments += [f"--{key}", json.dumps(value)]
        given = {
            "--output": output,
            "--seed": seed,
            "--resume": resume,
            "--overwrite": overwrite,
            "--code": code,
            "--gpu-id": gpu_id,
            "--trust-checkpoint": trust,
            "--save-all": save_all,
            "--verbose": verbose,
            "--debug": debug,
            "--worker-timeout": worker_timeout if worker_timeout != DEFAULT_TIMEOUT else None,
        }
        command = [*arguments, *_as_arguments(given)]
        n_workers = n_workers or WorkerRange(1, 1)
        if ray is None:
            _run_workers(n_workers.largest, command)
            return
        again = [*arguments, *_as_arguments({**given, "--resume": True, "--overwrite": False})]
        with stopping_on_signals(), connected(ray, uses_gpu=gpu_id >= 0) as cluster:
            if cluster is not None and output is not None:
                cluster.check_files(output.absolute(), cluster_files(path, code))
                training = ClusterWorkers(
                    cluster,
                    n_workers=n_workers,
                    # See `TrainerInterface.can_resize`.
                    grows_from_one=not is_spacy,
                    max_restarts=max_restarts,
                    show=lambda text, is_error: typer.echo(text, nl=False, err=is_error),
                    warn=print_warning,
                )
                _run_on_cluster(training, command, again)
        return
    if is_spacy:
        settings = read_spacy_config(path, {**overrides, **spacy_overrides()})
    if seed is not None:
        settings.setdefault("training", {})["seed"] = seed
    if verbose:
        logging.getLogger("spacy").setLevel(logging.DEBUG)
    if is_worker and gpu_id >= 0:
        gpu_id += int(os.environ.get("LOCAL_RANK", 0))
    prepare_process(gpu_id, code)
    options: dict[str, Any] = {
        "output": output,
        "resume": resume,
        "overwrite": overwrite,
        "source": path,
        "code": code,
        "trust": trust,
        "save_all": save_all,
    }
    trainer: Trainer | SpacyTrainer
    with printing_warnings(), _communicator(is_worker, gpu_id, worker_timeout) as communicator:
        if communicator is not None and communicator.rank:
            # Those of rank 0 are shown.
            warnings.simplefilter("ignore", TrainingWarning)
        options["communicator"] = communicator
        if is_spacy:
            callbacks = [StopOnInterrupt(), ProgressBar(), SpacyTable()]
            trainer = train_spacy(settings, callbacks=callbacks, gpu_id=gpu_id, **options)
        else:
            with naming_config(path):
                settings = settings.interpolate()
            callbacks = [StopOnInterrupt(), ProgressBar(), ScoreTable()]
            trainer = train_thinc(settings, callbacks=callbacks, **options)
    if communicator is not None and communicator.rank:
        return
    state = trainer.state
    if state.best is not None:
        weights = "raw" if state.best.averages is None else "averaged"
        score = format_score(state.best.score, trainer.score)
        typer.echo(f"Best score: {score} at step {state.best.step}, {weights} weights.")
    if output is not None:
        save_report(output)
        typer.echo(f"Saved to {output}.")
    if state.stop_reason == "interrupted":
        hint = "; use --resume to continue" if output is not None else ""
        typer.echo(f"Stopped after step {state.step}{hint}.")
        raise typer.Exit(INTERRUPTED)
    if state.stop_reason == "patience":
        typer.echo(f"Stopped after step {state.step}: no improvement within `patience`.")


@contextmanager
def _communicator(
    is_worker: bool, gpu_id: int, timeout: float
) -> Iterator[TorchCommunicator | None]:
    """Context manager with the connection to other workers, which is closed at its end.

    is_worker (bool): Whether this process is a worker; otherwise there is no connection.
    """
    communicator = None
    if is_worker:
        communicator = TorchCommunicator(timeout=timeout, uses_gpu=gpu_id >= 0)
    is_usable = True
    try:
        yield communicator
    except BaseException as error:
        # Closing could wait for a worker that has failed.
        is_usable = not has_worker_error(error)
        raise
    finally:
        # Otherwise the threads of the connection can abort the process at its exit.
        if communicator is not None and is_usable:
            communicator.close()


def _check_ray_options(
    ray: str | None, storage: Path | None, n_workers: WorkerRange | None
) -> None:
    """RAISES: UsageError if options need --ray."""
    if ray is None and storage is not None:
        raise UsageError("--storage requires --ray")
    if ray is None and n_workers is not None and n_workers.smallest != n_workers.largest:
        raise UsageError(
            f"--workers {n_workers.smallest}:{n_workers.largest} requires --ray: on this "
            "machine use a number of workers"
        )


def _as_arguments(options: dict[str, Any]) -> list[str]:
    """Options as arguments.

    options (dict[str, Any]): Options by name: their value, whether a flag is given, or None.
    """
    arguments = []
    for name, value in options.items():
        if value is True:
            arguments.append(name)
        elif value is not None and value is not False:
            arguments.append(f"{name}={value}")
    return arguments


def _run_workers(n_workers: int, command: list[str]) -> None:
    """Run this command as several workers.

    command (list[str]): The config, its overrides and options.
    """
    with _failing_with_workers():
        run_workers(n_workers, ["-m", "thinc_swa", "train", *command])


def _run_on_cluster(training: ClusterWorkers, command: list[str], again: list[str]) -> None:
    """Run this command as several workers on a cluster.

    command (list[str]): The config, its overrides and options.
    again (list[str]): Those after a restart.
    """
    started = ["-m", "thinc_swa.cli.cluster_worker", "train"]
    with _failing_with_workers():
        exit_code = training.run([*started, *command], [*started, *again])
    if exit_code:
        raise typer.Exit(exit_code)


@contextmanager
def _failing_with_workers() -> Iterator[None]:
    """Context manager that ends the command as the worker that has failed."""
    try:
        yield
    except WorkerFailure as error:
        if str(error):
            print_error(str(error))
        raise typer.Exit(error.exit_code) from None
