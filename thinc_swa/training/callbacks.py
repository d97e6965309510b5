"""Training callbacks: base class, progress bar, table of scores, log, saving, and Ctrl-C."""

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any, TextIO

from thinc.api import Optimizer

from ..distributed.communicator import Communicator, SingleWorker
from ..errors import CallbackError
from ..escaping import folder_name
from ..optimizers.all_averages import average_names
from .checkpoints import check_folder, save_checkpoint
from .evaluation import Evaluation, evaluated_averages, format_score, passive_names
from .interface import TrainerInterface
from .logs import Log

__all__ = [
    "Callback",
    "CallbackError",
    "CallbackList",
    "ProgressBar",
    "SaveCheckpoints",
    "SaveModels",
    "ScoreTable",
    "StopOnInterrupt",
    "TrainingLog",
    "check_callbacks",
]

# Weight of earlier steps in the loss that the progress bar shows.
SMOOTHING = 0.98
# Models that `SaveModels` saves.
MODELS = ("model-best", "model-last")


class Callback:
    """Base class for training callbacks. A method may call `trainer.stop()`; an exception ends
    the training.

    runs_on_all_workers (bool): Whether all workers call it, and not only rank 0.
    """

    runs_on_all_workers = False

    def on_start(self, trainer: TrainerInterface) -> None:
        """Called before the first step, also of a resumed training."""

    def on_batch(self, trainer: TrainerInterface, X: Any, Y: Any) -> tuple[Any, Any]:
        """Called by `Trainer` before every step with the inputs and targets of its batch, which
        may be empty on one of several workers, and returns those to train on. They must not be
        changed in place. Random numbers should follow from the seed and the step, so that a
        resumed training draws the same ones."""
        return X, Y

    def describe(self) -> dict[str, str]:
        """Settings on which the result of the training depends, by name. A training is resumed
        only with the same ones."""
        return {}

    def on_step(self, trainer: TrainerInterface) -> None:
        """Called after every step."""

    def on_evaluate(self, trainer: TrainerInterface, evaluation: Evaluation) -> None:
        """Called after every evaluation."""

    def on_end(self, trainer: TrainerInterface) -> None:
        """Called at the end, also after an error, which is `trainer.state.error` then."""


class CallbackList:
    """Callbacks of a trainer, called in their order.

    callbacks (Iterable[Callback]): The callbacks.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)

    def append(self, callback: Callback) -> None:
        """Add a callback, which is called after the others."""
        self._callbacks.append(callback)

    def change_batch(self, trainer: TrainerInterface, X: Any, Y: Any) -> tuple[Any, Any]:
        """Call `on_batch` of all callbacks, each with what the one before it has returned.

        RETURNS (tuple[Any, Any]): The inputs and targets to train on.
        RAISES: CallbackError if a callback fails.
        """
        for callback in self._callbacks:
            try:
                X, Y = callback.on_batch(trainer, X, Y)
            except Exception as error:
                raise CallbackError(callback, "on_batch", trainer.state.step, error) from error
        return X, Y

    def describe(self) -> dict[str, str]:
        """Settings of all callbacks on which the result of the training depends."""
        return {
            f"{type(callback).__name__}.{name}": value
            for callback in self._callbacks
            for name, value in callback.describe().items()
        }

    def dispatch(self, event: str, trainer: TrainerInterface, *arguments: Any) -> None:
        """Call a method of all callbacks. After an error the remaining ones are called only at
        the end of the training, for them to close files and to restore handlers.

        event (str): Name of the method: "on_start", "on_step", "on_evaluate" or "on_end".
        trainer (TrainerInterface): First argument of the method.
        arguments (Any): Further arguments.
        RAISES: CallbackError if a callback fails, unless the training has ended with an error
            already.
        """
        failed: CallbackError | None = None
        for callback in self._callbacks:
            try:
                getattr(callback, event)(trainer, *arguments)
            except Exception as error:
                failed = failed or CallbackError(callback, event, trainer.state.step, error)
                if event != "on_end":
                    raise failed from error
        # The error that ended the training matters more than one after that.
        if failed is not None and trainer.state.error is None:
            raise failed from failed.__cause__


def check_callbacks(section: Mapping[str, Any]) -> list[Callback]:
    """Check the resolved section [callbacks] of a config.

    section (Mapping[str, Any]): What the functions in the section have returned, by name.
    RETURNS (list[Callback]): The callbacks, in the order of the section.
    RAISES: TypeError if a function has returned something else.
    """
    for name, callback in section.items():
        if not isinstance(callback, Callback):
            raise TypeError(
                f"[callbacks.{name}] must make a thinc_swa.training.Callback, but made "
                f"{callback!r}"
            )
    return list(section.values())


class ProgressBar(Callback):
    """Progress bar with the smoothed loss, the learning rate and the number of snapshots. It is
    shown on terminals only. Needs rich.

    file (TextIO | None): By default the standard error.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._progress: Any = None
        self._task: Any = None
        self._loss = 0.0
        self._weight = 0.0

    def on_start(self, trainer: TrainerInterface) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=self._file or sys.stderr)
        self._progress = Progress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            expand=True,
            disable=not console.is_terminal or console.is_dumb_terminal,
            # A table that goes to a file must not end up on the terminal.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._progress.add_task(
            "", total=trainer.state.total_steps, completed=trainer.state.step
        )
        self._progress.start()

    def on_step(self, trainer: TrainerInterface) -> None:
        state = trainer.state
        self._loss = SMOOTHING * self._loss + (1.0 - SMOOTHING) * state.loss
        # Corrects the bias of a mean that starts at zero.
        self._weight = SMOOTHING * self._weight + (1.0 - SMOOTHING)
        text = f"loss {self._loss / self._weight:.4g}, learn rate {state.learn_rate:.3g}"
        if state.n_averaged is not None:
            text += f", snapshots {state.n_averaged}"
        self._progress.update(self._task, completed=state.step, description=text)

    def on_end(self, trainer: TrainerInterface) -> None:
        if self._progress is not None:
            self._progress.stop()


class ScoreTable(Callback):
    """Table with a row per evaluation, above the progress bar if there is one.

    file (TextIO | None): By default the standard output.
    """

    HEADER = (
        f"{'step':>8}{'epoch':>7}{'loss':>11}{'learn rate':>12}{'snapshots':>11}"
        f"{'raw':>10}{'averages':>10}"
    )

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        # Names of further averages, which have a column each.
        self._names: list[str] = []

    def on_start(self, trainer: TrainerInterface) -> None:
        self._names = passive_names(trainer.optimizer)[1:]
        columns = (f"{name:>{_width(name)}}" for name in self._names)
        self._write("".join([self.HEADER, *columns]))
        for evaluation in trainer.state.evaluations:
            self.on_evaluate(trainer, evaluation)

    def on_evaluate(self, trainer: TrainerInterface, evaluation: Evaluation) -> None:
        snapshots = "-" if evaluation.n_averaged is None else evaluation.n_averaged
        averages = "-"
        if evaluation.averages is not None:
            averages = format_score(evaluation.averages, trainer.score)
        self._write(
            f"{evaluation.step:>8}{evaluation.epoch:>7}{evaluation.loss:>11.4g}"
            f"{evaluation.learn_rate:>12.3g}{snapshots:>11}"
            f"{format_score(evaluation.raw, trainer.score):>10}{averages:>10}"
            f"{''.join(self._others(trainer, evaluation))}"
            f"{'  best' if evaluation.is_best else ''}"
        )

    def _others(self, trainer: TrainerInterface, evaluation: Evaluation) -> Iterator[str]:
        for name in self._names:
            score = evaluation.all_averages.get(name)
            text = "-" if score is None else format_score(score, trainer.score)
            yield f"{text:>{_width(name)}}"

    def _write(self, line: str) -> None:
        # Looked up each time: a progress bar replaces the standard output while it is shown.
        file = self._file or sys.stdout
        file.write(f"{line}\n")
        file.flush()


def _width(name: str) -> int:
    """Width of a column."""
    return max(10, len(name) + 2)


class TrainingLog(Callback):
    """Log of steps, evaluations, checkpoints and the end of a training as JSON lines.

    path (Path): The file, which is appended to.
    saves_all (bool): Whether the averages are saved as models of their own, which the log
        names.
    """

    def __init__(self, path: Path, *, saves_all: bool = False) -> None:
        self._path = path
        self._saves_all = saves_all
        self._log: Log | None = None

    def on_start(self, trainer: TrainerInterface) -> None:
        state = trainer.state
        names = model_names(trainer.optimizer) if self._saves_all else {}
        self._log = Log(self._path)
        self._log.write(
            "start",
            run=state.run_id,
            step=state.step,
            seed=trainer.seed,
            total_steps=state.total_steps,
            optimizer=repr(trainer.optimizer),
            models=[f"{prefix}-{name}" for name in names.values() for prefix in MODELS],
        )
        self._log.flush()

    def on_step(self, trainer: TrainerInterface) -> None:
        state = trainer.state
        if self._log is not None:
            self._log.write(
                "step",
                step=state.step,
                epoch=state.epoch,
                loss=state.loss,
                learn_rate=state.learn_rate,
                n_averaged=state.n_averaged,
            )

    def on_evaluate(self, trainer: TrainerInterface, evaluation: Evaluation) -> None:
        if self._log is not None:
            self._log.write("evaluation", **asdict(evaluation), seconds=trainer.state.seconds)
            # Before the checkpoint, which must not be ahead of the log.
            self._log.sync()

    def write_checkpoint(self, step: int) -> None:
        """Record that a checkpoint was saved, without which the training cannot be resumed.

        step (int): Step of the checkpoint.
        """
        if self._log is not None:
            self._log.write("checkpoint", step=step)
            self._log.sync()

    def on_end(self, trainer: TrainerInterface) -> None:
        state = trainer.state
        if self._log is not None:
            error = None if state.error is None else repr(state.error)
            self._log.write("end", step=state.step, reason=state.stop_reason, error=error)
            self._log.close()


class SaveModels(Callback):
    """Save the model at every evaluation, with the averages as its weights if there are any:
    `model-best` when its score is the best so far, and `model-last`.

    folder (Path): An existing folder.
    save_all (bool): Also save a model with each of the averages of a nesting:
        `model-best-NAME` and `model-last-NAME`, for the names see `model_names`. Which one is
        the best is decided by the scores of these averages.
    """

    def __init__(self, folder: Path, *, save_all: bool = False) -> None:
        self._folder = folder
        self._save_all = save_all

    def on_evaluate(self, trainer: TrainerInterface, evaluation: Evaluation) -> None:
        self._save(trainer, None, evaluation.is_best)
        if self._save_all:
            for name in evaluation.all_averages:
                self._save(trainer, name, is_best(name, trainer.state.evaluations))

    def on_end(self, trainer: TrainerInterface) -> None:
        # After an error weights may be half updated; those of the last evaluation are saved.
        if trainer.state.error is None and not trainer.state.is_evaluated:
            self._save(trainer, None, False)
            for name in evaluated_averages(trainer.optimizer) if self._save_all else ():
                self._save(trainer, name, False)

    def _save(self, trainer: TrainerInterface, name: str | None, is_best: bool) -> None:
        suffix = "" if name is None else f"-{model_names(trainer.optimizer)[name]}"
        best, last = (self._folder / f"{prefix}{suffix}" for prefix in MODELS)
        with trainer.use_averages(name) if name else trainer.use_averages():
            trainer.save_model(last)
            if is_best:
                trainer.save_model(best)


def model_names(optimizer: Optimizer) -> dict[str, str]:
    """Suffixes of the models that `SaveModels` saves for each of the averages: the names in
    `all_averages(optimizer)` in lower case, escaped as far as needed.

    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    RETURNS (dict[str, str]): The suffixes by these names: {"SWA": "swa"}.
    """
    names = average_names(optimizer)
    lower = [name.lower() for name in names]
    return {
        # `folder_name` never gives the same for two names.
        name: folder_name(short if lower.count(short) == 1 else name)
        for name, short in zip(names, lower, strict=True)
    }


def is_best(name: str, evaluations: Sequence[Evaluation], *, ties: bool = False) -> bool:
    """Whether the last score of some averages is higher than all before. Any number is higher
    than NaN.

    name (str): Name of the averages, which the last evaluation has.
    evaluations (Sequence[Evaluation]): All evaluations.
    ties (bool): Whether an equal score is enough, as in spaCy.
    """
    *before, last = (
        found.all_averages[name] for found in evaluations if name in found.all_averages
    )
    numbers = [score for score in before if not isnan(score)]
    if isnan(last) or not numbers:
        return not before or not (isnan(last) or numbers)
    return last >= max(numbers) if ties else last > max(numbers)


class SaveCheckpoints(Callback):
    """Save a checkpoint at every evaluation, and when the training is stopped before its end.
    See `save_checkpoint`.

    folder (Path): An existing folder, without checkpoints of another training.
    log (TrainingLog | None): Log in which checkpoints are recorded, by rank 0.
    communicator (Communicator | None): The connection to other workers.
    """

    runs_on_all_workers = True

    def __init__(
        self,
        folder: Path,
        log: TrainingLog | None = None,
        *,
        communicator: Communicator | None = None,
    ) -> None:
        self._folder = folder
        self._log = log
        self._communicator = SingleWorker() if communicator is None else communicator

    def on_start(self, trainer: TrainerInterface) -> None:
        if self._communicator.rank == 0:
            check_folder(self._folder, trainer.state)
        trainer.state.output = self._folder

    def on_evaluate(self, trainer: TrainerInterface, evaluation: Evaluation) -> None:
        self._save(trainer)
        if self._log is not None and self._communicator.rank == 0:
            self._log.write_checkpoint(trainer.state.step)

    def on_end(self, trainer: TrainerInterface) -> None:
        if trainer.state.error is None:
            self._save(trainer)

    def _save(self, trainer: TrainerInterface) -> None:
        save_checkpoint(self._folder, trainer, communicator=self._communicator)


class StopOnInterrupt(Callback):
    """Stop the training after the current step on Ctrl-C; a second Ctrl-C raises
    KeyboardInterrupt at once. In a process that ignores SIGINT, such as a background job of a
    shell, nothing changes. For the main thread only."""

    # A terminal sends the signal to all of them.
    runs_on_all_workers = True

    def __init__(self) -> None:
        self._handler: Any = None

    def on_start(self, trainer: TrainerInterface) -> None:
        def stop(number: int, frame: Any) -> None:
            signal.signal(signal.SIGINT, self._handler)
            trainer.stop("interrupted")

        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
            self._handler = signal.signal(signal.SIGINT, stop)

    def on_end(self, trainer: TrainerInterface) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
