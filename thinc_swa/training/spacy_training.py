"""Training of a spaCy config in an output folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinc.api import Config

from ..distributed.communicator import Communicator
from ..errors import naming_config
from .callbacks import Callback, SaveCheckpoints, TrainingLog
from .configs import check_spacy
from .output_folder import CURVES, LOG, TrainingFolder
from .plots import SaveLearningCurve
from .spacy_callbacks import ConfigLogger, SavePipelines
from .spacy_trainer import SpacyTrainer
from .workers import Workers


def read_spacy_config(path: Path, overrides: dict[str, Any]) -> Config:
    """Read a spaCy config as `spacy train` does. Variables are not interpolated.

    overrides (dict[str, Any]): Settings to change: {"training.max_steps": 100}.
    RAISES: ValueError that names the file if it is not a config.
    """
    check_spacy()
    from spacy.util import load_config

    with naming_config(path):
        config: Config = load_config(path, overrides=overrides, interpolate=False)
    return config


def train_spacy(
    config: Config,
    *,
    output: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    source: Path | None = None,
    code: Path | None = None,
    gpu_id: int = -1,
    trust: bool = False,
    save_all: bool = False,
    communicator: Communicator | None = None,
) -> SpacyTrainer:
    """Train a spaCy config, and save pipelines, a log and checkpoints.

    config (Config): As `read_spacy_config` reads it.
    output (Path | None): Output directory, created if it does not exist, and locked until the
        training ends. By default nothing is saved.
    resume (bool): Resume the training in the output directory from its last checkpoint. If it
        has none yet, the training starts from the beginning.
    overwrite (bool): Delete the training in the output directory, and no other files.
    callbacks (Sequence[Callback]): Further callbacks.
    source (Path | None): The file that the config was read from. It is never overwritten, and
        errors in the config name it.
    code (Path | None): The Python file that registers what the config names. A training is
        resumed only with the same content.
    gpu_id (int): GPU id, which is active already; -1 for the CPU.
    trust (bool): Load PyTorch layers from a checkpoint also where that can execute code from
        the file: see `check_pytorch_loading`.
    save_all (bool): Also save the pipeline with each of the averages of a nesting: see
        `SavePipelines`.
    communicator (Communicator | None): The connection to other workers, which call this with
        the same arguments. Rank 0 saves the pipelines and the log, and all workers take part in
        the checkpoints, for which they need the same file system.
    RETURNS (SpacyTrainer): The trainer after the end of the training.
    RAISES: As `thinc_swa.training.train`.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    with naming_config(source):
        # Without variables.
        interpolated = config.interpolate()
    Workers(communicator).check_equal("configs", interpolated.to_str)
    if output is None:
        with naming_config(source):
            trainer = SpacyTrainer(
                config,
                [ConfigLogger(), *callbacks],
                gpu_id=gpu_id,
                code=code,
                communicator=communicator,
            )
            trainer.check_data()
        trainer.run()
        return trainer
    folder = TrainingFolder(output, interpolated, save_all=save_all, communicator=communicator)
    # Before the pipeline is initialized, which may take long.
    with folder.open(source=source, resume=resume, overwrite=overwrite) as checkpoint:
        log = TrainingLog(output / LOG, saves_all=save_all)
        saving = [
            log,
            SavePipelines(output, save_all=save_all),
            # Before the checkpoint: the logger may draw random numbers.
            ConfigLogger(),
            SaveCheckpoints(output, log, communicator=communicator),
            SaveLearningCurve(output / CURVES[0].partition(".")[0]),
        ]
        with naming_config(source):
            trainer = SpacyTrainer(
                config,
                [*saving, *callbacks],
                gpu_id=gpu_id,
                code=code,
                output=output,
                communicator=communicator,
            )
            # Before anything is deleted.
            trainer.check_data()
        folder.check_models(trainer.optimizer)
        folder.prepare(trainer, checkpoint, trust=trust)
        trainer.run()
    return trainer
