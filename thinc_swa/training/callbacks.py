"""Training callbacks: a base class, progress, log, saving, and Ctrl-C."""

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from thinc.api import registry

from ..errors import CallbackError
from ..serialization.files import replace_bytes
from .checkpoints import check_folder, save_checkpoint
from .evaluation import Evaluation, format_score
from .logs import Log

if TYPE_CHECKING:
    from .trainer import Trainer

# Thinc has none for callbacks; spaCy's is its own. So [callbacks.*] of a Thinc config can name
# what a file of the user registers with @thinc.registry.callbacks.
if not hasattr(registry, "callbacks"):
    registry.create("callbacks", entry_points=True)

__all__ = [
    "Callback",
    "CallbackError",
    "ProgressBar",
    "SaveCheckpoints",
    "SaveModels",
    "ScoreTable",
    "StopOnInterrupt",
    "TrainingLog",
]

# How much of the loss that is shown comes from earlier steps.
SMOOTHING = 0.98


class Callback:
    """Base class for training callbacks. A method may call `training.stop()`; an exception ends
    the training."""

    def on_start(self, training: "Trainer") -> None:
        """Called before the first step, also of a resumed training."""

    def on_step(self, training: "Trainer") -> None:
        """Called after every step."""

    def on_evaluate(self, training: "Trainer", evaluation: Evaluation) -> None:
        """Called after every evaluation."""

    def on_end(self, training: "Trainer") -> None:
        """Called at the end, also after an error, which is `training.error` then."""


class ProgressBar(Callback):
    """Progress bar with the smoothed loss, the learning rate and the number of snapshots. Needs
    tqdm. It is shown on terminals only.

    file (TextIO | None): By default the standard error.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._bar: Any = None
        self._loss = 0.0
        self._weight = 0.0

    def on_start(self, training: "Trainer") -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=training.total_steps,
            initial=training.step,
            unit="step",
            file=self._file,
            disable=None,
            dynamic_ncols=True,
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining}{postfix}]",
        )

    def on_step(self, training: "Trainer") -> None:
        self._loss = SMOOTHING * self._loss + (1.0 - SMOOTHING) * training.last_loss
        # Of the losses so far, without the zero that it began with.
        self._weight = SMOOTHING * self._weight + (1.0 - SMOOTHING)
        text = (
            f"loss {self._loss / self._weight:.4g}, learn rate {training.last_learn_rate:.3g}"
        )
        if training.n_averaged is not None:
            text += f", snapshots {training.n_averaged}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()

    def on_end(self, training: "Trainer") -> None:
        if self._bar is not None:
            self._bar.close()


class ScoreTable(Callback):
    """Table with a row per evaluation, above the progress bar if there is one. Needs tqdm.

    file (TextIO | None): By default the standard output.
    """

    HEADER = f"{'step':>8}{'epoch':>7}{'loss':>11}{'learn rate':>12}{'snapshots':>11}"

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file

    def on_start(self, training: "Trainer") -> None:
        self._write(f"{self.HEADER}{'weights':>10}{'averages':>10}")
        for evaluation in training.evaluations:
            self.on_evaluate(training, evaluation)

    def on_evaluate(self, training: "Trainer", evaluation: Evaluation) -> None:
        snapshots = "-" if evaluation.n_averaged is None else evaluation.n_averaged
        averages = "-"
        if evaluation.averages is not None:
            averages = format_score(evaluation.averages, training.score)
        self._write(
            f"{evaluation.step:>8}{evaluation.epoch:>7}{evaluation.loss:>11.4g}"
            f"{evaluation.learn_rate:>12.3g}{snapshots:>11}"
            f"{format_score(evaluation.raw, training.score):>10}{averages:>10}"
            f"{'  better' if evaluation.is_best else ''}"
        )

    def _write(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=self._file or sys.stdout)


class TrainingLog(Callback):
    """Log of steps, evaluations and the end of a training as JSON lines.

    path (Path): The file, which is appended to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log: Log | None = None

    def on_start(self, training: "Trainer") -> None:
        self._log = Log(self._path)
        self._log.write(
            "start",
            run=training.run_id,
            step=training.step,
            seed=training.seed,
            total_steps=training.total_steps,
            optimizer=repr(training.optimizer),
        )
        self._log.flush()

    def on_step(self, training: "Trainer") -> None:
        if self._log is not None:
            self._log.write(
                "step",
                step=training.step,
                epoch=training.epoch,
                loss=training.last_loss,
                learn_rate=training.last_learn_rate,
                n_averaged=training.n_averaged,
            )

    def on_evaluate(self, training: "Trainer", evaluation: Evaluation) -> None:
        if self._log is not None:
            self._log.write("evaluation", **asdict(evaluation), seconds=training.seconds)
            # Before the checkpoint, which must not be ahead of the log.
            self._log.sync()

    def write_checkpoint(self, training: "Trainer") -> None:
        """Note that a checkpoint was saved: without it the training cannot be resumed."""
        if self._log is not None:
            self._log.write("checkpoint", step=training.step)
            self._log.sync()

    def on_end(self, training: "Trainer") -> None:
        if self._log is not None:
            error = None if training.error is None else repr(training.error)
            reason = training.stop_reason
            self._log.write("end", step=training.step, reason=reason, error=error)
            self._log.close()


class SaveModels(Callback):
    """Save the model at every evaluation, with the averages as its weights if there are any
    (`Trainer.use_averages`): `model-best` when its score is the best so far, and `model-last`.
    `Model.from_disk` reads them.

    folder (Path): An existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_evaluate(self, training: "Trainer", evaluation: Evaluation) -> None:
        data = self._model_data(training)
        replace_bytes(self._folder / "model-last", data)
        if evaluation.is_best:
            replace_bytes(self._folder / "model-best", data)

    def on_end(self, training: "Trainer") -> None:
        # After an error weights may be half updated; those of the last evaluation are saved.
        is_saved = training.evaluations and training.evaluations[-1].step == training.step
        if training.error is None and not is_saved:
            replace_bytes(self._folder / "model-last", self._model_data(training))

    def _model_data(self, training: "Trainer") -> bytes:
        with training.use_averages():
            return training.model.to_bytes()


class SaveCheckpoints(Callback):
    """Save a checkpoint at every evaluation, and when the training is stopped before its end.
    See `save_checkpoint`.

    folder (Path): An existing folder, without checkpoints of another training.
    log (TrainingLog | None): Where each checkpoint is noted that is saved at an evaluation.
    """

    def __init__(self, folder: Path, log: TrainingLog | None = None) -> None:
        self._folder = folder
        self._log = log

    def on_start(self, training: "Trainer") -> None:
        check_folder(self._folder, training)

    def on_evaluate(self, training: "Trainer", evaluation: Evaluation) -> None:
        save_checkpoint(self._folder, training)
        if self._log is not None:
            self._log.write_checkpoint(training)

    def on_end(self, training: "Trainer") -> None:
        if training.error is None:
            save_checkpoint(self._folder, training)


class StopOnInterrupt(Callback):
    """Make Ctrl-C stop the training after the current step. A second one ends it at once. A
    process that ignores SIGINT, as background jobs of a shell do, goes on ignoring it. For the
    main thread only."""

    def __init__(self) -> None:
        self._handler: Any = None

    def on_start(self, training: "Trainer") -> None:
        def stop(number: int, frame: Any) -> None:
            signal.signal(signal.SIGINT, self._handler)
            training.stop("interrupted")

        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
            self._handler = signal.signal(signal.SIGINT, stop)

    def on_end(self, training: "Trainer") -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
