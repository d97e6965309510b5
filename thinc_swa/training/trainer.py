"""Train a Thinc model, and evaluate the averages beside the raw weights."""

import inspect
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

import numpy
from thinc.api import Config, Model, Optimizer, fix_random_seed, registry

from ..errors import CallbackError, naming_config
from ..models.averages import use_averages
from ..models.batch_norm import get_batch_norm, set_batch_norm, update_batch_norm
from ..models.parameter_paths import register_parameter_paths
from ..models.parameters import named_parameters
from ..optimizers.base import unwrap
from ..schedules.learn_rate import current_rate
from ..validation import check_choice, check_int
from .callbacks import Callback
from .checkpoints import (
    CheckpointState,
    check_names,
    get_random_state,
    keeping_random_state,
    load_checkpoint,
    set_random_state,
    sweep,
)
from .datasets import Dataset, Split, check_dataset
from .evaluation import SCORES, Evaluation, accuracy, predict
from .fingerprints import (
    SKIPPED,
    TrainingFingerprint,
    describe_code,
    describe_dataset,
    describe_files,
    describe_packages,
    describe_settings,
    digest,
    is_exact,
)
from .locks import lock_folder
from .output_folder import CHANGEABLE, TrainingFolder

SECTIONS = ("dataset", "model", "loss", "optimizer", "training")
# Batches that BatchNorm statistics of averages are estimated on, if the config does not say.
BATCH_NORM_BATCHES = 50


class Trainer:
    """Training loop for a Thinc model. The same seed gives the same initial weights, batches
    and dropout for all optimizers.

    model (Model): Need not be initialized.
    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    loss (Loss): A Thinc loss: called with predictions and targets, it returns gradient and
        loss.
    dataset (Dataset): ((train_X, train_Y), (dev_X, dev_Y)): arrays, or lists of what the
        model takes.
    seed (int): Seed of weights, batches and dropout.
    max_steps (int): Maximum number of steps; 0 for no limit.
    max_epochs (int): Maximum number of passes over the data; 0 for no limit.
    batch_size (int): Examples per step.
    eval_frequency (int): Steps between evaluations.
    patience (int): Stop after so many steps without a better score; 0 for no early stopping.
    score (str): The score, of which more is better. "accuracy": the fraction of the rows that
        have their highest number in the right place. "loss": minus the loss.
    batch_norm_batches (int): Number of training batches on which the running statistics of
        BatchNorm layers are estimated again whenever the averages are evaluated or saved, since
        those of the training belong to the raw weights; 0 to keep them. It has no effect on
        models without BatchNorm layers of PyTorch.
    callbacks (Sequence[Callback]): Training callbacks.
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
        batch_norm_batches: int = BATCH_NORM_BATCHES,
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
        self.batch_norm_batches = check_int("batch_norm_batches", batch_norm_batches, minimum=0)
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
        # The same for a training and those that resume it.
        self.run_id = uuid.uuid4().hex
        # Completed steps.
        self.step = 0
        self.evaluations: list[Evaluation] = []
        # Of the last step.
        self.last_loss = 0.0
        self.last_learn_rate = 0.0
        # Sum and number of the losses since the last evaluation.
        self.loss_sum = 0.0
        self.n_losses = 0
        # Time spent in training steps, without evaluations.
        self.seconds = 0.0
        # The checkpoint that was last saved or loaded.
        self.checkpoint: Path | None = None
        # Why it stopped, and the exception if that was an error.
        self.stop_reason: str | None = None
        self.error: BaseException | None = None
        self._order: Any = None
        # The BatchNorm statistics of the averages of this step, once they are estimated.
        self._batch_norm: list[dict[str, Any]] | None = None
        # See `from_config`.
        self._config: Config | None = None
        self._code: Path | None = None
        # The output folder, which is no input of the training.
        self._output: Path | None = None

        fix_random_seed(self.seed)
        X, Y = self.dataset[0]
        sample = numpy.arange(min(len(X), 2))
        if getattr(Y, "ndim", 0) == 1 and Y.dtype.kind in "iu":
            # Of numbers of classes, the highest says how many outputs there are.
            sample = numpy.array([0, int(Y.argmax())])
        self.model.initialize(X=self._take(X, sample), Y=self._take(Y, sample))
        # For ParamGroups.
        register_parameter_paths(self.model)

    @classmethod
    def from_config(
        cls,
        config: Config,
        callbacks: Sequence[Callback] = (),
        *,
        code: Path | None = None,
        output: Path | None = None,
    ) -> "Trainer":
        """Make a training from the sections dataset, model, loss, optimizer and training of a
        config, and the callbacks of its optional section [callbacks].

        callbacks (Sequence[Callback]): Further callbacks, which come first.
        code (Path | None): The Python file that registers what the config names. It is not
            executed here, but belongs to the `fingerprint`.
        output (Path | None): The output folder, which does not belong to it.
        """
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
        training = cls(
            resolved["model"],
            resolved["optimizer"],
            resolved["loss"],
            resolved["dataset"],
            callbacks=[*callbacks, *extra.values()],
            **resolved["training"],
        )
        training._config, training._code, training._output = config, code, output
        return training

    @cached_property
    def fingerprint(self) -> TrainingFingerprint:
        """What decides the result: settings, data, files and code, and package versions. Of a
        training that was not made from a config also the shapes of the model's parameters."""
        data = describe_dataset(self.dataset)
        inputs = {**describe_code(self._code), **data}
        if self._config is None:
            settings = self._describe_arguments()
        else:
            try:
                config = self._config.interpolate()
            except ValueError:  # With objects in it, it has no text and so no variables.
                config = self._config
            settings = describe_settings(config, skip=(*SKIPPED, *CHANGEABLE))
            # The file of a dataset may be written again with the same content.
            skip = (*SKIPPED, "dataset") if is_exact(data) else SKIPPED
            inputs.update(describe_files(config, skip=skip, output=self._output))
        return TrainingFingerprint(settings, inputs, describe_packages())

    def _describe_arguments(self) -> dict[str, str]:
        names = ("seed", "batch_size", "eval_frequency", "score", "batch_norm_batches")
        arguments = {name: getattr(self, name) for name in names}
        shapes = [
            (place, tuple(parameter.shape))
            for place, _, parameter in named_parameters(self.model)
        ]
        return {
            **describe_settings(Config({"training": arguments})),
            "loss": type(self.loss).__qualname__,
            "model": f"{len(shapes)} parameters, {digest(shapes)}",
        }

    @property
    def n_batches(self) -> int:
        """Steps per epoch."""
        return -(-len(self.dataset[0][0]) // self.batch_size)

    @property
    def total_steps(self) -> int:
        """The step at which the training ends at the latest."""
        limits = (self.max_steps, self.max_epochs * self.n_batches)
        return min(limit for limit in limits if limit)

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the highest score; the first of several."""
        return next((found for found in reversed(self.evaluations) if found.is_best), None)

    @property
    def epoch(self) -> int:
        """The epoch of the last step, from 0."""
        return max(self.step - 1, 0) // self.n_batches

    @property
    def n_averaged(self) -> int | None:
        """Snapshots in the optimizer's averages; None if it does not count any."""
        return count_snapshots(self.optimizer)

    def get_state(self) -> CheckpointState:
        """What a checkpoint holds beside the model and the optimizer."""
        return CheckpointState(
            run=self.run_id,
            fingerprint=self.fingerprint,
            step=self.step,
            evaluations=list(self.evaluations),
            learn_rate=self.last_learn_rate,
            loss_sum=self.loss_sum,
            n_losses=self.n_losses,
            seconds=self.seconds,
            random=get_random_state(),
        )

    def set_state(self, state: CheckpointState) -> None:
        """Restore what `get_state` returned. `load_checkpoint` restores the model and the
        optimizer too, and compares the fingerprints."""
        self.run_id = state.run
        self.step = state.step
        self.evaluations = list(state.evaluations)
        self.last_learn_rate = state.learn_rate
        self.loss_sum = state.loss_sum
        self.n_losses = state.n_losses
        self.seconds = state.seconds
        self.stop_reason, self.error = None, None
        self._order = self._batch_norm = None
        set_random_state(state.random)

    def stop(self, reason: str = "stopped") -> None:
        """Stop the training after the current step."""
        self.stop_reason = self.stop_reason or reason

    def run(self) -> None:
        """Train to the end, from the current step on.

        RAISES: CallbackError if a callback fails; what the model or the data raise. `on_end` of
            the callbacks is called in any case.
        """
        try:
            self._dispatch("on_start")
            while True:
                # Also first of all, if the checkpoint was saved before an evaluation.
                if self._needs_evaluation():
                    self._evaluate()
                    self._dispatch("on_evaluate", self.evaluations[-1])
                if self._is_over():
                    break
                self._train_step()
                self._dispatch("on_step")
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._dispatch("on_end")

    def _needs_evaluation(self) -> bool:
        is_due = self.step > 0 and (self.step % self.eval_frequency == 0 or self._is_at_limit())
        return is_due and not (self.evaluations and self.evaluations[-1].step == self.step)

    def _is_at_limit(self) -> bool:
        return self.step >= self.total_steps

    def _is_over(self) -> bool:
        if self._is_at_limit():
            self.stop("max_steps" if self.total_steps == self.max_steps else "max_epochs")
        elif self.patience and self.best is not None:
            # Not since the last step: a resumed training stops where the first one had.
            if self.evaluations[-1].step - self.best.step >= self.patience:
                self.stop("patience")
        return self.stop_reason is not None

    def _train_step(self) -> None:
        X, Y = self._next_batch()
        start = time.perf_counter()
        self.last_learn_rate = current_rate(self.optimizer)
        predictions, backprop = self.model.begin_update(X)
        gradient, loss = self.loss(predictions, Y)
        backprop(gradient)
        self.model.finish_update(self.optimizer)
        self.optimizer.step_schedules()  # type: ignore[no-untyped-call]
        self.last_loss = float(loss)
        self.seconds += time.perf_counter() - start
        self.loss_sum += self.last_loss
        self.n_losses += 1
        self.step += 1
        self._batch_norm = None

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
            with self.use_averages():
                averages = self._score()
        score = plain if averages is None else averages
        evaluation = Evaluation(
            step=self.step,
            epoch=self.epoch,
            loss=self.loss_sum / max(self.n_losses, 1),
            learn_rate=self.last_learn_rate,
            n_averaged=self.n_averaged,
            raw=plain,
            averages=averages,
            is_best=self._is_best(score),
        )
        self.loss_sum, self.n_losses = 0.0, 0
        self.evaluations.append(evaluation)
        # Thinc 9.1 tells it to schedules, of which `plateau` needs it.
        if hasattr(self.optimizer, "last_score"):
            self.optimizer.last_score = score

    def _is_best(self, score: float) -> bool:
        if self.best is None:
            return True
        # Any number is better than NaN, and NaN is never better.
        return score > self.best.score or (isnan(self.best.score) and not isnan(score))

    @contextmanager
    def use_averages(self) -> Iterator[None]:
        """Context manager in which the model has the averages as its weights, and BatchNorm
        layers the statistics that belong to them (see `batch_norm_batches`). Afterwards
        weights, statistics and random states are as before, bit for bit. Without averages
        nothing changes.
        """
        with use_averages(self.model, self.optimizer):
            is_needed = self.batch_norm_batches and self.optimizer.averages
            raw = get_batch_norm(self.model) if is_needed else []
            if not raw:
                yield
                return
            try:
                if self._batch_norm is None:
                    with keeping_random_state():
                        update_batch_norm(self.model, self._batch_norm_data())
                    self._batch_norm = get_batch_norm(self.model)
                set_batch_norm(self.model, self._batch_norm)
                yield
            finally:
                set_batch_norm(self.model, raw)

    def _batch_norm_data(self) -> Iterator[Any]:
        """Batches of the size that the layers are trained with: always the same random sample,
        so that differences between evaluations come from the weights."""
        X, _ = self.dataset[0]
        size = min(self.batch_size, len(X))
        n_batches = min(self.batch_norm_batches, len(X) // size)
        random = numpy.random.default_rng((self.seed, 0, 1))
        rows = random.choice(len(X), n_batches * size, replace=False)
        for start in range(0, len(rows), size):
            yield self._take(X, rows[start : start + size])

    def _score(self) -> float:
        X, Y = self.dataset[1]
        predictions = predict(self.model, X, self._on_device)
        if self.score == "loss":
            return -float(self.loss.get_loss(predictions, self._on_device(Y)))
        return accuracy(predictions, Y)

    def _dispatch(self, event: str, *arguments: Any) -> None:
        """Call all callbacks; at the end also those after one that fails."""
        failed: CallbackError | None = None
        for callback in self.callbacks:
            try:
                getattr(callback, event)(self, *arguments)
            except Exception as error:
                failed = failed or CallbackError(callback, event, self.step, error)
                if event != "on_end":
                    raise failed from error
        # The error that ended the training matters more than one after that.
        if failed is not None and self.error is None:
            raise failed from failed.__cause__


def count_snapshots(optimizer: Optimizer) -> int | None:
    """How many snapshots are in the averages of the optimizer, or of the first that it wraps
    which counts them; None if none does."""
    counts = (getattr(level, "n_averaged", None) for level in unwrap(optimizer))
    return next((count for count in counts if count is not None), None)


def train(
    config: Config,
    *,
    output: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    source: Path | None = None,
    code: Path | None = None,
    trust: bool = False,
) -> Trainer:
    """Train what a config describes, and save models, a log and checkpoints.

    config (Config): See `Trainer.from_config`.
    output (Path | None): The output folder, which is created if it does not exist, and
        locked until the training ends. By default nothing is saved.
    resume (bool): Resume the training in the folder from its last checkpoint. If it has not
        saved any yet, it begins anew.
    overwrite (bool): Delete the training in the folder. Other files are left alone.
    callbacks (Sequence[Callback]): Further callbacks, beside those of the config.
    source (Path | None): The file that the config comes from, which is never overwritten.
        Errors in the content of the config are a ValueError with its name then.
    code (Path | None): The Python file that registers what the config names. A training is
        resumed only with the same content.
    trust (bool): Load PyTorch layers from a checkpoint also where that can execute code from
        the file: see `check_pytorch_loading`.
    RETURNS (Training): The training after its end.
    RAISES: BlockingIOError if another process trains in the folder; FileExistsError if there is
        a training in it that is neither to be resumed nor to be overwritten, or another file
        with a name that is needed; FileNotFoundError if the checkpoints of the training are
        missing; ValueError if they are damaged, or if the training has other settings, data or
        code.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    if output is None:
        with naming_config(source):
            training = Trainer.from_config(config, callbacks, code=code)
        training.run()
        return training
    folder = TrainingFolder(output, config)
    with lock_folder(output):
        # Before the data are loaded.
        folder.check(source=source, resume=resume, overwrite=overwrite)
        checkpoint = folder.find_checkpoint() if resume else None
        # First the callbacks that save, so that nothing is lost if another one fails.
        with naming_config(source):
            training = Trainer.from_config(
                config, [*folder.callbacks(), *callbacks], code=code, output=output
            )
        if checkpoint is None:
            check_names(output, training)
            folder.begin()
        else:
            load_checkpoint(checkpoint, training, trust=trust)
            folder.resume_log(training)
            folder.write_config()
        sweep(output)
        training.run()
    return training
