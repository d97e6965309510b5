"""The training of a Thinc model, with averages evaluated beside the plain weights.

A `Training` is the loop and what it knows; `callbacks.py` has those who watch it, and
`checkpoints.py` what a crash leaves to go on from.
"""

import inspect
import shutil
import time
from math import isnan
from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy
from thinc.api import Config, Model, Optimizer, fix_random_seed, registry

from .arguments import check_choice, check_int
from .callbacks import Callback, CallbackError, SaveCheckpoints, SaveModels, TrainingLog
from .checkpoints import checkpoints, find_checkpoint, load_checkpoint
from .datasets import Dataset, Split, check_dataset
from .evaluation import SCORES, Evaluation, accuracy, predict
from .files import replace_text
from .learn_rate import current_rate
from .logs import Record, keep_records
from .models import use_averages
from .paths import name_parameters
from .wrapper import nesting

SECTIONS = ("dataset", "model", "loss", "optimizer", "training")

# In the output folder, beside the checkpoints.
LOG = "log.jsonl"
CONFIG = "config.cfg"
OUTPUTS = (LOG, CONFIG, "model-best", "model-last")


class Training:
    """Trains a Thinc model. The same seed gives the same first weights, batches and dropout,
    whatever the optimizer is.

    model (Model): Need not be initialized.
    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    loss (Loss): A Thinc loss: called with guesses and truths, it gives gradient and loss.
    dataset (Dataset): ((train_X, train_Y), (dev_X, dev_Y)): arrays, or lists of what the
        model takes.
    seed (int): Of weights, batches and dropout.
    max_steps (int): Steps after which to stop; 0 for no limit.
    max_epochs (int): Passes over the data after which to stop; 0 for no limit.
    batch_size (int): Examples in a step.
    eval_frequency (int): Steps from one evaluation to the next.
    patience (int): Steps without a better score after which to stop; 0 for no end to it.
    score (str): What is compared, the more the better. "accuracy": the part of the rows that
        have their highest number in the right place. "loss": minus the loss.
    callbacks (Sequence[Callback]): Who is told.
    """

    def __init__(
        self,
        model: Model[Any, Any],
        optimizer: Optimizer,
        loss: Any,
        dataset: Dataset,
        *,
        seed: int = 0,
        max_steps: int = 0,
        max_epochs: int = 0,
        batch_size: int = 32,
        eval_frequency: int = 100,
        patience: int = 0,
        score: str = "accuracy",
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.seed = check_int("seed", seed, minimum=0)
        self.max_steps = check_int("max_steps", max_steps, minimum=0)
        self.max_epochs = check_int("max_epochs", max_epochs, minimum=0)
        if not max_steps and not max_epochs:
            raise ValueError("max_steps or max_epochs must be at least 1, but both were 0")
        self.batch_size = check_int("batch_size", batch_size, minimum=1)
        self.eval_frequency = check_int("eval_frequency", eval_frequency, minimum=1)
        self.patience = check_int("patience", patience, minimum=0)
        self.score = check_choice("score", score, SCORES)
        for what, value, kind in (("model", model, Model), ("optimizer", optimizer, Optimizer)):
            if not isinstance(value, kind):
                raise TypeError(
                    f"The {what} must be a Thinc {kind.__name__}, but was {value!r}"
                )
        if not callable(loss):
            raise TypeError(f"The loss must be a Thinc Loss, but was {loss!r}")
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.dataset = check_dataset(dataset)
        self.callbacks = list(callbacks)
        # How far it is.
        self.step = 0
        self.evaluations: List[Evaluation] = []
        # Of the last step.
        self.last_loss = 0.0
        self.last_learn_rate = 0.0
        # Sum and number of the losses since the last evaluation.
        self.loss_sum = 0.0
        self.n_losses = 0
        # Spent in training steps, evaluations not counted.
        self.seconds = 0.0
        # Why it stopped, and what stopped it if it was an error.
        self.stop_reason: Optional[str] = None
        self.error: Optional[BaseException] = None
        self._order: Any = None

        fix_random_seed(self.seed)
        X, Y = self.dataset[0]
        sample = numpy.arange(min(len(X), 2))
        if getattr(Y, "ndim", 0) == 1 and Y.dtype.kind in "iu":
            # Of numbers of classes, the highest says how many outputs there are.
            sample = numpy.array([0, int(Y.argmax())])
        self.model.initialize(X=self._take(X, sample), Y=self._take(Y, sample))
        # For ParamGroups.
        name_parameters(self.model)

    @classmethod
    def from_config(cls, config: Config, callbacks: Sequence[Callback] = ()) -> "Training":
        """Everything comes from the sections dataset, model, loss, optimizer and training. The
        callbacks of an optional section [callbacks] are told beside those that are given."""
        missing = [name for name in SECTIONS if name not in config]
        if missing:
            raise ValueError(
                "A config for a Thinc model needs the sections "
                f"{', '.join(f'[{name}]' for name in SECTIONS)}, but has no "
                f"{', '.join(f'[{name}]' for name in missing)}"
            )
        known = [
            parameter.name
            for parameter in inspect.signature(cls).parameters.values()
            if parameter.kind == parameter.KEYWORD_ONLY and parameter.name != "callbacks"
        ]
        unknown = [name for name in config["training"] if name not in known]
        if unknown:
            raise ValueError(
                f"[training] has the unknown settings {unknown}: there are {known}"
            )
        # A layer may draw its weights as soon as it is made.
        fix_random_seed(check_int("seed", config["training"].get("seed", 0), minimum=0))
        resolved = registry.resolve(config)
        extra = resolved.get("callbacks", {})
        for name, callback in extra.items():
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"[callbacks.{name}] must make a Callback, but made {callback!r}"
                )
        return cls(
            resolved["model"],
            resolved["optimizer"],
            resolved["loss"],
            resolved["dataset"],
            callbacks=[*callbacks, *extra.values()],
            **resolved["training"],
        )

    @property
    def n_batches(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.dataset[0][0]) // self.batch_size)

    @property
    def total_steps(self) -> int:
        """The most steps that it can take."""
        limits = (self.max_steps, self.max_epochs * self.n_batches)
        return min(limit for limit in limits if limit)

    @property
    def best(self) -> Optional[Evaluation]:
        """The evaluation with the highest score; the first of several."""
        return next((found for found in reversed(self.evaluations) if found.is_best), None)

    @property
    def epoch(self) -> int:
        """In which pass over the data the last step was, from 0."""
        return max(self.step - 1, 0) // self.n_batches

    @property
    def n_averaged(self) -> Optional[int]:
        """Snapshots in the optimizer's averages; None if it does not count any."""
        return count_snapshots(self.optimizer)

    def stop(self, reason: str = "stopped") -> None:
        """End the training when the step that is under way is done."""
        self.stop_reason = self.stop_reason or reason

    def run(self) -> None:
        """Train to the end, from where it is.

        RAISES: CallbackError if a callback fails; what the model or the data raise. Callbacks
            hear of the end in any case.
        """
        try:
            self._tell("on_start")
            while not self._is_over():
                self._train_step()
                self._tell("on_step")
                if self.step % self.eval_frequency == 0 or self._is_at_limit():
                    self._evaluate()
                    self._tell("on_evaluate", self.evaluations[-1])
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._tell("on_end")

    def _is_at_limit(self) -> bool:
        return self.step >= self.total_steps

    def _is_over(self) -> bool:
        if self._is_at_limit():
            self.stop("max_steps" if self.step == self.max_steps else "max_epochs")
        elif self.patience and self.best is not None:
            # Not since the last step: one that is gone on with is to stop where it had.
            if self.evaluations[-1].step - self.best.step >= self.patience:
                self.stop("patience")
        return self.stop_reason is not None

    def _train_step(self) -> None:
        X, Y = self._next_batch()
        start = time.perf_counter()
        self.last_learn_rate = current_rate(self.optimizer)
        guesses, backprop = self.model.begin_update(X)
        gradient, loss = self.loss(guesses, Y)
        backprop(gradient)
        self.model.finish_update(self.optimizer)
        self.optimizer.step_schedules()  # type: ignore[no-untyped-call]
        self.last_loss = float(loss)
        self.seconds += time.perf_counter() - start
        self.loss_sum += self.last_loss
        self.n_losses += 1
        self.step += 1

    def _next_batch(self) -> Split:
        X, Y = self.dataset[0]
        epoch, position = divmod(self.step, self.n_batches)
        if self._order is None or position == 0:
            # Of its own, so that it can be made again in the middle of an epoch, and does not
            # depend on how much randomness dropout has used.
            self._order = numpy.random.default_rng((self.seed, epoch)).permutation(len(X))
        start = position * self.batch_size
        rows = self._order[start : start + self.batch_size]
        return self._take(X, rows), self._take(Y, rows)

    def _take(self, data: Any, rows: Any) -> Any:
        is_list = isinstance(data, (list, tuple))
        return self._on_device(type(data)([data[i] for i in rows]) if is_list else data[rows])

    def _on_device(self, data: Any) -> Any:
        ops: Any = self.model.ops
        if isinstance(data, (list, tuple)):
            return type(data)([self._on_device(item) for item in data])
        return ops.asarray(data) if isinstance(data, numpy.ndarray) else data

    def _evaluate(self) -> None:
        plain = self._score()
        averages = None
        if self.optimizer.averages:
            with use_averages(self.model, self.optimizer):
                averages = self._score()
        score = plain if averages is None else averages
        evaluation = Evaluation(
            step=self.step,
            epoch=self.epoch,
            loss=self.loss_sum / max(self.n_losses, 1),
            learn_rate=self.last_learn_rate,
            n_averaged=self.n_averaged,
            plain=plain,
            averages=averages,
            # No number is better than what is none.
            is_best=self.best is None or score > self.best.score or isnan(self.best.score),
        )
        self.loss_sum, self.n_losses = 0.0, 0
        self.evaluations.append(evaluation)
        # Thinc 9.1 tells it to schedules, of which `plateau` needs it.
        if hasattr(self.optimizer, "last_score"):
            self.optimizer.last_score = score

    def _score(self) -> float:
        X, Y = self.dataset[1]
        guesses = predict(self.model, X, self._on_device)
        if self.score == "loss":
            return -float(self.loss.get_loss(guesses, self._on_device(Y)))
        return accuracy(guesses, Y)

    def _tell(self, event: str, *arguments: Any) -> None:
        """Tell all callbacks, at the end also those after one that fails."""
        failed: Optional[CallbackError] = None
        for callback in self.callbacks:
            try:
                getattr(callback, event)(self, *arguments)
            except Exception as error:
                failed = failed or CallbackError(callback, event, self.step, error)
                if event != "on_end":
                    raise failed from error
        # What ended the training matters more than what went wrong after that.
        if failed is not None and self.error is None:
            raise failed from failed.__cause__


def count_snapshots(optimizer: Optimizer) -> Optional[int]:
    """How many snapshots are in the averages of the optimizer, or of the first that it wraps
    which counts them; None if none does."""
    counts = (getattr(level, "n_averaged", None) for level in nesting(optimizer))
    return next((count for count in counts if count is not None), None)


def train(
    config: Config,
    *,
    output: Optional[Path] = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Training:
    """Train what a config describes, and save what comes out.

    config (Config): See `Training.from_config`.
    output (Optional[Path]): A folder for the models, the log and the checkpoints; made if need
        be. By default nothing is saved.
    resume (bool): Go on from the last checkpoint in the folder, if there is one.
    overwrite (bool): Delete what an earlier training has left in the folder.
    callbacks (Sequence[Callback]): Who is told, beside those of the config.
    RETURNS (Training): After its end.
    RAISES: FileExistsError if there is a training in the folder, and it is neither to be gone
        on with nor to be overwritten, or anything else of the same name; ValueError if it is
        another training than the config's.
    """
    if output is None:
        training = Training.from_config(config, callbacks)
        training.run()
        return training
    # Before the data are read.
    is_there = (output / LOG).exists()
    if is_there and not (resume or overwrite):
        raise FileExistsError(
            f"There is a training in {output} already: resume it, overwrite it, or choose "
            "another folder"
        )
    others = sorted(path.name for path in _left_by_a_training(output))
    if others and not (is_there or overwrite):
        raise FileExistsError(
            f"There is {', '.join(others)} in {output} already, but no log of a training: "
            "choose another folder, or overwrite it"
        )
    saving = [TrainingLog(output / LOG), SaveModels(output), SaveCheckpoints(output)]
    # First what saves, so that nothing is lost if one of the others fails.
    training = Training.from_config(config, [*saving, *callbacks])
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = None
    if is_there and resume:
        _check_same(output / CONFIG, config)
        checkpoint = find_checkpoint(output)
    if checkpoint is None:
        for path in _left_by_a_training(output):
            if path.name in OUTPUTS:
                path.unlink()  # A folder of this name, as spaCy's model-best, is none of ours.
            else:
                shutil.rmtree(path)
    else:
        load_checkpoint(checkpoint, training)
        # What was logged after the checkpoint will be done once more.
        keep_records(output / LOG, lambda record: _is_before(record, training.step))
    replace_text(output / CONFIG, config.to_str())
    training.run()
    return training


def _left_by_a_training(output: Path) -> List[Path]:
    paths = [output / name for name in OUTPUTS]
    return [path for path in paths if path.exists()] + checkpoints(output)


def _is_before(record: Record, step: int) -> bool:
    return bool(record["type"] != "end" and record["step"] <= step)


def _check_same(path: Path, config: Config) -> None:
    """RAISES: ValueError if a training would be another one with this config."""
    before, now = Config().from_disk(path), Config().from_str(config.to_str())
    # A training may be made longer, and others may watch it.
    for settings in (before, now):
        settings.pop("callbacks", None)
        for name in ("max_steps", "max_epochs", "patience"):
            settings["training"].pop(name, None)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        raise ValueError(
            f"The config differs from that of the training in {path.parent} in "
            f"{', '.join(f'[{name}]' for name in names)}: it cannot be gone on with. (What is "
            "taken from max_steps changes with it.)"
        )
