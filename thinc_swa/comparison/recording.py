"""Training of one run of a comparison, with a log in the same form for Thinc and for spaCy
configs. No models are saved.
"""

import io
import math
import random
import time
from itertools import islice
from typing import Any

import numpy
from thinc.api import Config, Optimizer

from ..models.batch_norm import get_batch_norm, set_batch_norm, update_batch_norm
from ..optimizers.scores import report_score, scores_are_reported
from ..schedules.learn_rate import current_rate
from ..training.callbacks import Callback
from ..training.checkpoints import keeping_random_state
from ..training.configs import check_spacy, is_spacy_config, take_batch_norm_batches
from ..training.evaluation import Evaluation
from ..training.fingerprints import describe_dataset
from ..training.interface import TrainerInterface
from ..training.logs import Log
from ..training.trainer import Trainer, count_snapshots

# Limits of the seconds between progress records in a log. Within them they are a hundredth of
# the duration so far, which keeps the logs of long runs small.
MIN_INTERVAL, MAX_INTERVAL = 0.2, 10.0


def train_config(config: Config, log: Log, *, gpu_id: int = -1) -> None:
    """Train a config without saving models.

    config (Config): With its seed, interpolated.
    log (Log): For records of evaluations, of the progress between them, and of the end.
    gpu_id (int): GPU id; -1 for the CPU.
    """
    if is_spacy_config(config):
        train_spacy(config, log, gpu_id)
    else:
        train_thinc(config, log)


class Progress:
    """Progress records of a run.

    logs (list[Log]): The logs, from which those of complete entries may be removed.
    """

    def __init__(self, logs: list[Log]) -> None:
        self._logs = logs
        self._start = self._last = time.monotonic()

    def update(self, step: int, total_steps: int) -> None:
        """Log the progress, unless the last record is too recent.

        step (int): Completed steps.
        total_steps (int): Maximum number of steps; 0 if it is unknown.
        """
        now = time.monotonic()
        interval = min(max(0.01 * (now - self._start), MIN_INTERVAL), MAX_INTERVAL)
        if now - self._last >= interval:
            self._last = now
            for log in self._logs:
                log.write("progress", step=step, total_steps=total_steps)
                log.flush()


class _Recorder(Callback):
    """Log of evaluations and of the progress, which stops a diverged training.

    log (Log): The log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._progress = Progress([log])

    def on_step(self, trainer: TrainerInterface) -> None:
        self._progress.update(trainer.state.step, trainer.state.total_steps or 0)

    def on_evaluate(self, trainer: TrainerInterface, evaluation: Evaluation) -> None:
        log_evaluation(self._log, evaluation)
        if has_diverged(evaluation):
            trainer.stop("diverged")


def has_diverged(evaluation: Evaluation) -> bool:
    """Whether a score is NaN or infinite, and cannot be compared."""
    return not (math.isfinite(evaluation.raw) and math.isfinite(evaluation.score))


def raise_if_diverged(evaluation: Evaluation) -> None:
    """RAISES: ValueError if the training has diverged."""
    if has_diverged(evaluation):
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
    log.write("dataset", content=describe_dataset(trainer.dataset))
    log.flush()


def train_thinc(config: Config, log: Log) -> None:
    trainer = Trainer.from_config(config, [_Recorder(log)])
    log_data(log, trainer)
    trainer.run()
    state = trainer.state
    raise_if_diverged(state.evaluations[-1])
    log_end(
        log,
        reason=state.stop_reason,
        n_steps=state.step,
        seconds_per_step=state.seconds / state.step,
    )


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


def train_spacy(config: Config, log: Log, gpu_id: int) -> None:
    check_spacy()
    recorder = SpacyRecorder(config, [log], take_batch_norm_batches(config))
    run_spacy_loop(config, recorder, gpu_id)
    log_end(log, **recorder.results)


def run_spacy_loop(config: Config, recorder: "SpacyRecorder", gpu_id: int) -> None:
    """Train a config with the loop of `spacy train`.

    config (Config): The config, whose optimizer and logger are replaced.
    recorder (SpacyRecorder): The recorder.
    gpu_id (int): GPU id; -1 for the CPU.
    """
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train
    from spacy.util import registry

    # Registered in this process only; the config with these names is not saved.
    registry.optimizers("thinc_swa.recorded.v1")(recorder.make_optimizer)
    registry.loggers("thinc_swa.recorder.v1")(lambda: recorder.set_up)
    settings = config["training"]
    settings["optimizer"] = {
        "@optimizers": "thinc_swa.recorded.v1",
        "optimizer": settings["optimizer"],
    }
    settings["logger"] = {"@loggers": "thinc_swa.recorder.v1"}
    with scores_are_reported():
        nlp = init_nlp(config, use_gpu=gpu_id)
        train(nlp, None, use_gpu=gpu_id, stdout=io.StringIO(), stderr=io.StringIO())


class SpacyRecorder:
    """Recorder of spaCy's training loop, which it uses as its logger.

    config (Config): The config that spaCy trains.
    logs (list[Log]): The log, or those of all entries of the training.
    n_batches (int): Number of training batches for the BatchNorm statistics of the averages; 0
        to use those of the raw weights, as spaCy does.
    """

    def __init__(self, config: Config, logs: list[Log], n_batches: int) -> None:
        self._config = config
        self._n_batches = n_batches
        # The batches, read when they are first needed.
        self._sample: list[list[Any]] = []
        self.nlp: Any = None
        self._logs = logs
        self._progress = Progress(logs)
        self.optimizer: Any = None
        self._evaluate: Any = None
        self._last_time: float | None = None
        # Learning rate of the current step.
        self._learn_rate = 0.0
        self.step = 0
        # Duration and number of the steps without an evaluation.
        self.seconds = 0.0
        self.n_timed = 0

    @property
    def results(self) -> dict[str, Any]:
        """Arguments of `log_end`, as of the current step."""
        max_steps = self._config["training"]["max_steps"]
        return {
            "reason": "max_steps" if self.step == max_steps else "other",
            "n_steps": self.step,
            "seconds_per_step": self.seconds / max(self.n_timed, 1),
        }

    def make_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Make the optimizer of spaCy's loop from that of the config."""
        self.optimizer = optimizer
        return optimizer

    def set_up(self, nlp: Any, stdout: Any, stderr: Any) -> tuple[Any, Any]:
        from spacy.training.loop import create_evaluation_callback
        from spacy.util import resolve_dot_names

        self.nlp = nlp
        # With spaCy's defaults for what the config leaves out.
        self._config = nlp.config.interpolate()
        settings = self._config["training"]
        (corpus,) = resolve_dot_names(self._config, [settings["dev_corpus"]])
        self._evaluate = create_evaluation_callback(nlp, corpus, settings["score_weights"])
        self._learn_rate = current_rate(self.optimizer)
        self._last_time = time.perf_counter()
        return self._log_step, lambda: None

    def _log_step(self, info: dict[str, Any] | None) -> None:
        now = time.perf_counter()
        if info is None:
            self.step += 1
            self.seconds += now - (self._last_time or now)
            self.n_timed += 1
        else:
            self.step = info["step"]
            self.log_evaluations(info)
        self._progress.update(self.step, self._config["training"]["max_steps"])
        self._learn_rate = current_rate(self.optimizer)
        self.end_step()
        self._last_time = time.perf_counter()

    def end_step(self) -> None:
        """Called after each step."""

    def log_evaluations(self, info: dict[str, Any]) -> None:
        """Log an evaluation of spaCy's loop.

        info (dict[str, Any]): As spaCy gives it to its loggers.
        """
        raw, averages = float(info["score"]), None
        if self.optimizer.averages:
            # The score is that of the averages; the model has its raw weights again.
            averages = raw
            with keeping_random_state():
                raw = self.evaluate()
                averages = self.renew_score(self.optimizer.averages, averages)
        evaluation = self.make_evaluation(
            info, raw=raw, averages=averages, n_averaged=count_snapshots(self.optimizer)
        )
        log_evaluation(self._logs[0], evaluation)
        raise_if_diverged(evaluation)
        report_score(self.optimizer, raw)

    def make_evaluation(
        self,
        info: dict[str, Any],
        *,
        raw: float,
        averages: float | None,
        n_averaged: int | None,
    ) -> Evaluation:
        """Make the result of an evaluation.

        info (dict[str, Any]): As spaCy gives it to its loggers.
        raw (float): Score of the raw weights.
        averages (float | None): Score of the averages.
        n_averaged (int | None): Snapshots in the averages.
        """
        return Evaluation(
            step=info["step"],
            epoch=info["epoch"],
            loss=float(sum(info["losses"].values())),
            learn_rate=self._learn_rate,
            n_averaged=n_averaged,
            raw=raw,
            averages=averages,
        )

    def evaluate(self) -> float:
        """Score of the current weights."""
        return float(self._evaluate()[0])

    def renew_score(self, averages: Any, score: float) -> float:
        """Evaluate averages with BatchNorm statistics of their own. Weights and statistics are
        restored bit for bit.

        averages (dict[KeyT, FloatsXd]): The averages.
        score (float): Their score with the statistics of the raw weights.
        RETURNS (float): Score with their own; without BatchNorm layers the same.
        """
        frozen = self._config["training"]["frozen_components"]
        raw = get_batch_norm(self.nlp, exclude=frozen) if self._n_batches else []
        if not raw:
            return score
        self._sample = self._sample or self._read_sample()
        try:
            # As in spaCy's loop.
            with self.nlp.use_params(averages):
                # Copies, because predictions add annotations to Docs.
                batches = ([doc.copy() for doc in batch] for batch in self._sample)
                update_batch_norm(self.nlp, batches, exclude=frozen)
                return self.evaluate()
        finally:
            set_batch_norm(self.nlp, raw, exclude=frozen)

    def _read_sample(self) -> list[list[Any]]:
        """Batches of training Docs. The random sample is always the same, so that differences
        between evaluations come from the weights. Changes random states."""
        from spacy.training import loop
        from spacy.util import registry, resolve_dot_names

        subdivide_batch: Any = loop.subdivide_batch
        settings = self._config["training"]
        (corpus,) = resolve_dot_names(self._config, [settings["train_corpus"]])
        batcher = registry.resolve({"batcher": settings["batcher"]})["batcher"]
        # Augmenters and batchers draw from these generators.
        random.seed(settings["seed"])
        numpy.random.seed(settings["seed"])
        examples = corpus(self.nlp)
        if settings["max_epochs"] >= 0:  # Otherwise it is streamed and may be infinite.
            examples = list(examples)
            random.shuffle(examples)
        # Without the last batch, which may be smaller than the others.
        batches = list(islice(batcher(examples), self._n_batches + 1))
        n_parts = settings["accumulate_gradient"]
        return [
            [example.predicted for example in part]
            for batch in batches[:-1] or batches
            for part in subdivide_batch(batch, n_parts)
        ]
