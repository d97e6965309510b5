"""Training of one run of a comparison, with a log in the same form for Thinc and for spaCy
configs. No models are saved.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from thinc.api import Config, Optimizer

from ..training.callbacks import Callback
from ..training.configs import is_spacy_config
from ..training.evaluation import Evaluation
from ..training.interface import TrainerInterface
from ..training.logs import Log
from ..training.spacy_trainer import SpacyTrainer
from ..training.trainer import BATCH_NORM_BATCHES, Trainer
from .run_checkpoints import RunCheckpoints

# Limits of the seconds between progress records in a log. Within them they are a hundredth of
# the duration so far, which keeps the logs of long runs small.
MIN_INTERVAL, MAX_INTERVAL = 0.2, 10.0

TrainerT = TypeVar("TrainerT", bound="RunSpacyTrainer")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of the training of one or several runs.

    checkpoints (RunCheckpoints): Checkpoints of the training.
    gpu_id (int): GPU id; -1 for the CPU.
    code (Path | None): The Python file that registers what the config names, already executed.
    output (Path | None): Output folder of the comparison.
    n_cores (int): Number of cores: more than one lets the averages of spaCy pipelines be
        evaluated beside a training for several runs.
    """

    checkpoints: RunCheckpoints
    gpu_id: int = -1
    code: Path | None = None
    output: Path | None = None
    n_cores: int = 1


def train_config(config: Config, log: Log, options: RunOptions) -> None:
    """Train a config without saving models.

    config (Config): With its seed, interpolated.
    log (Log): For records of evaluations, of the progress between them, and of the end.
    options (RunOptions): Options of the training.
    RAISES: ResumeError if it cannot be resumed; any error of the training.
    """
    recorder = _Recorder(log, options.checkpoints)
    trainer: Trainer | SpacyTrainer
    if is_spacy_config(config):
        trainer = RunSpacyTrainer.from_config(config, [recorder], options)
    else:
        trainer = Trainer.from_config(
            config, [recorder], code=options.code, output=options.output
        )
        if not options.checkpoints.is_resumed:
            log_data(log, trainer)
    options.checkpoints.resume(trainer)
    trainer.run()
    raise_if_diverged(recorder.last)
    log_end(log, **describe_end(trainer))


class RunSpacyTrainer(SpacyTrainer):
    """Trainer for spaCy configs that evaluates the averages that decide, and no others."""

    @classmethod
    def from_config(
        cls: type[TrainerT],
        config: Config,
        callbacks: Sequence[Callback],
        options: RunOptions,
    ) -> TrainerT:
        """Make a trainer.

        config (Config): The config, whose logger is replaced: it may write files.
        """
        config = config.copy()
        config["training"]["logger"] = {"@loggers": "spacy.ConsoleLogger.v3"}
        return cls(
            config,
            callbacks,
            gpu_id=options.gpu_id,
            code=options.code,
            output=options.output,
            batch_norm_batches=BATCH_NORM_BATCHES,
        )

    def _averages_to_evaluate(self) -> dict[str, Optimizer]:
        return dict(islice(super()._averages_to_evaluate().items(), 1))


def logged_step(trainer: TrainerInterface) -> int:
    """Step of a trainer as logs count: for a spaCy config as spaCy counts, from 0."""
    step = trainer.state.step
    return step - 1 if isinstance(trainer, SpacyTrainer) else step


def logged_evaluation(trainer: TrainerInterface, evaluation: Evaluation) -> Evaluation:
    """Evaluation as it is logged: for a spaCy config with the sum of the losses, as spaCy
    shows it."""
    if not isinstance(trainer, SpacyTrainer):
        return evaluation
    loss = float(sum(trainer.info["losses"].values()))
    return dataclasses.replace(evaluation, step=logged_step(trainer), loss=loss)


def describe_end(trainer: TrainerInterface) -> dict[str, Any]:
    """Arguments of `log_end`, as of the current step."""
    state, step, reason = trainer.state, logged_step(trainer), trainer.state.stop_reason
    if isinstance(trainer, SpacyTrainer):
        reason = "max_steps" if state.step == state.total_steps else "other"
    return {
        "reason": reason,
        "n_steps": step,
        "seconds_per_step": state.seconds / state.step,
    }


class Progress:
    """Progress records of a run.

    logs (list[Log]): The logs, from which those of complete entries may be removed.
    """

    def __init__(self, logs: list[Log]) -> None:
        self._logs = logs
        self._start = self._last = time.monotonic()

    def update(self, trainer: TrainerInterface) -> None:
        """Log the progress, unless the last record is too recent."""
        now = time.monotonic()
        interval = min(max(0.01 * (now - self._start), MIN_INTERVAL), MAX_INTERVAL)
        if now - self._last >= interval:
            self._last = now
            step = logged_step(trainer)
            # Logs count the maximum number of steps like the steps; 0 if it is unknown.
            difference = trainer.state.step - step
            total_steps = (trainer.state.total_steps or difference) - difference
            for log in self._logs:
                log.write("progress", step=step, total_steps=total_steps)
                log.flush()


class _Recorder(Callback):
    """Log of evaluations and of the progress, which stops a diverged training.

    log (Log): The log.
    checkpoints (RunCheckpoints): Checkpoints of the training.
    """

    def __init__(self, log: Log, checkpoints: RunCheckpoints) -> None:
        self._log = log
        self._checkpoints = checkpoints
        self._progress = Progress([log])
        # The last evaluation; None before the first, also in a resumed training.
        self.last: Evaluation | None = None

    def on_step(self, trainer: TrainerInterface) -> None:
        self._progress.update(trainer)

    def on_evaluate(self, trainer: TrainerInterface, evaluation: Evaluation) -> None:
        self.last = logged_evaluation(trainer, evaluation)
        log_evaluation(self._log, self.last)
        if has_diverged(self.last):
            trainer.stop("diverged")
        self._checkpoints.save_if_due(trainer, [self._log])


def has_diverged(evaluation: Evaluation) -> bool:
    """Whether a score is NaN or infinite, and cannot be compared."""
    return not (math.isfinite(evaluation.raw) and math.isfinite(evaluation.score))


def raise_if_diverged(evaluation: Evaluation | None) -> None:
    """RAISES: ValueError if the training has diverged."""
    if evaluation is not None and has_diverged(evaluation):
        raise ValueError(
            f"The training has diverged: the score after step {evaluation.step} is "
            f"{evaluation.score}, that of the raw weights {evaluation.raw}"
        )


def log_evaluation(log: Log, evaluation: Evaluation) -> None:
    """Log an evaluation of a run."""
    log.write(
        "evaluation",
        step=evaluation.step,
        loss=evaluation.loss,
        learn_rate=evaluation.learn_rate,
        n_averaged=evaluation.n_averaged,
        raw=evaluation.raw,
        averages=evaluation.averages,
        score=evaluation.score,
    )
    log.flush()


def log_dataset(config: Config, log: Log) -> None:
    """Log the fingerprint of the dataset of a Thinc config, loaded as for a training."""
    log_data(log, Trainer.from_config(config))


def log_data(log: Log, trainer: Trainer) -> None:
    """Log the fingerprint of the dataset of a trainer."""
    log.write("dataset", content=trainer.describe_data())
    log.flush()


def log_end(
    log: Log, *, reason: str | None, n_steps: int, seconds_per_step: float, n_shared: int = 1
) -> None:
    """Log the end of a run.

    reason (str | None): Why it ended.
    n_steps (int): Number of steps.
    seconds_per_step (float): Mean duration of a step.
    n_shared (int): Number of entries that this training was for.
    """
    log.write(
        "end",
        n_records=log.n_records,
        reason=reason,
        n_steps=n_steps,
        seconds_per_step=seconds_per_step,
        n_shared=n_shared,
    )
