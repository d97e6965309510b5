"""Trainer for Thinc models, which evaluates averages and raw weights side by side."""

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy
from thinc.api import Config, Model, Optimizer, fix_random_seed

from ..distributed.communicator import Communicator
from ..errors import naming_config
from ..losses.weighted_sum import begin_step
from ..models.averages import use_averages
from ..models.batch_norm import get_batch_norm, set_batch_norm, update_batch_norm
from ..models.parameter_paths import register_parameter_paths
from ..models.parameters import named_parameters
from ..optimizers.base import unwrap
from ..optimizers.scores import report_score, scores_are_reported
from ..schedules.learn_rate import current_rate
from ..serialization.files import replace_bytes
from ..validation import check_choice, check_int
from .batch_plan import BatchPlan, PlannedBatch
from .callbacks import Callback, CallbackList, check_callbacks
from .checkpoints import keeping_random_state
from .datasets import Dataset, check_dataset, check_same_form
from .evaluation import (
    PREDICT_BATCH_SIZE,
    SCORES,
    accuracy,
    evaluated_averages,
    find_averages,
    predict,
)
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
from .layer_states import check_layer_states, initial_layer_states, reset_layers
from .output_folder import CHANGEABLE, TrainingFolder
from .registries import registry
from .resizing import WORKERS
from .state import TrainerState
from .streams import ORDERS, SHUFFLED, STREAMS, check_streams, stream_rows
from .training_phases import (
    THINC_SETTINGS,
    LayerDropout,
    PhaseEffects,
    TrainingPhase,
    check_fits,
    make_phases,
    make_spans,
    name_phases,
)
from .workers import Workers

SECTIONS = ("dataset", "model", "loss", "optimizer", "training")
# Default number of batches for the BatchNorm statistics of averages.
BATCH_NORM_BATCHES = 50

TrainerT = TypeVar("TrainerT", bound="Trainer")


class Trainer:
    """Trainer for a Thinc model. The same seed gives the same initial weights, batches and
    dropout for all optimizers.

    model (Model): Need not be initialized.
    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    loss (Loss): A Thinc loss: called with predictions and targets, it returns gradient and
        loss.
    dataset (Dataset): ((train_X, train_Y), (dev_X, dev_Y)): arrays, or lists of inputs and
        targets.
    seed (int): Seed of weights, batches and dropout.
    max_steps (int): Maximum number of steps; 0 for no limit.
    max_epochs (int): Maximum number of passes over the data; 0 for no limit. A pass that a
        phase ends early counts.
    batch_size (int): Examples per step.
    order (str): Order of the training examples. "shuffled": random, another one in every epoch.
        "streams": they are the pieces of a long sequence in their order, which is divided into
        `batch_size` parts of equal length, and each step has the next example of each part.
        Evaluations read the sequence of their examples in the same way. Layers with state
        between batches (see `reset_layers`) need this order. They are reset at the start of
        every epoch and of every evaluation, and have their states back after an evaluation.
    eval_frequency (int): Steps between evaluations.
    patience (int): Steps without a better score after which to stop; 0 for no early stopping.
    score (str): Score, higher is better. "accuracy": the fraction of rows whose highest output
        is that of the correct class. "loss": minus the loss.
    batch_norm_batches (int): Number of training batches for the BatchNorm statistics of the
        averages, which are estimated whenever the averages are evaluated or saved; 0 to use
        those of the raw weights. Without BatchNorm layers of PyTorch it has no effect.
    phases (Sequence[TrainingPhase] | Mapping[str, Mapping[str, Any]]): Parts of the training
        with other settings than the rest, in their order, or their settings by name. After the
        last one the settings of the training apply again.
    datasets (Mapping[str, Dataset] | None): Further datasets by name, whose training data can
        be used in phases. Evaluations always use that of `dataset`.
    callbacks (Sequence[Callback]): Training callbacks. Rank 0 calls all of them, other workers
        those with `runs_on_all_workers`.
    communicator (Communicator | None): The connection to other workers, which have the same
        arguments; by default there are none. A step is then one batch on every worker, and the
        optimizer needs a `LocalSGD`. Each worker trains on its own part of the examples of an
        epoch, and rank 0 evaluates.
    RAISES: ValueError if an argument is out of its range, if there are more workers than
        examples, or if the workers differ.
    """

    # Whether an incomplete batch at the end of a pass is left out.
    _drop_last = False

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
        order: str = SHUFFLED,
        eval_frequency: int = 100,
        patience: int = 0,
        score: str = "accuracy",
        batch_norm_batches: int = BATCH_NORM_BATCHES,
        phases: Sequence[TrainingPhase] | Mapping[str, Mapping[str, Any]] = (),
        datasets: Mapping[str, Dataset] | None = None,
        callbacks: Sequence[Callback] = (),
        communicator: Communicator | None = None,
    ) -> None:
        self._workers = Workers(communicator)
        self.communicator = self._workers.communicator
        self.seed = check_int("seed", seed, minimum=0)
        self.max_steps = check_int("max_steps", max_steps, minimum=0)
        self.max_epochs = check_int("max_epochs", max_epochs, minimum=0)
        if not max_steps and not max_epochs:
            raise ValueError("max_steps or max_epochs must be at least 1, but both were 0")
        self.batch_size = check_int("batch_size", batch_size, minimum=1)
        self.order = check_choice("order", order, ORDERS)
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
        self.datasets = {
            name: check_same_form(name, found, self.dataset)
            for name, found in (datasets or {}).items()
        }
        # Inputs and targets of each dataset by its name.
        self._training_data: dict[str | None, Any] = {None: self.dataset[0]}
        self._training_data.update((name, found[0]) for name, found in self.datasets.items())
        for name, (X, _) in self._training_data.items():
            self._workers.check_examples(len(X))
            if self._in_streams:
                section = "[dataset]" if name is None else f"[datasets.{name}]"
                check_streams(section, len(X), self.batch_size, self._workers.size)
        self.callbacks = CallbackList(self._workers.own_callbacks(callbacks))
        self._dropout = LayerDropout(model)
        self._plan_phases(make_phases(phases, settings=THINC_SETTINGS))
        # Index of the current phase; None if its settings are not in effect.
        self._phase: int | None = None
        self.state = self._prepare(TrainerState())
        # Order of the examples in the current epoch, and its dataset and number.
        self._order: tuple[tuple[str | None, int], Any] | None = None
        # BatchNorm statistics of the averages of this step, once they are estimated, by the
        # place of their optimizer in the nesting.
        self._batch_norm: dict[int, list[dict[str, Any]]] = {}
        # See `from_config`.
        self._config: Config | None = None
        self._code: Path | None = None
        self._output: Path | None = None

        self._check_layer_states()
        fix_random_seed(self.seed)
        X, Y = self.dataset[0]
        sample = numpy.arange(min(len(X), 2))
        if getattr(Y, "ndim", 0) == 1 and Y.dtype.kind in "iu":
            # The highest class index determines the number of outputs.
            sample = numpy.array([0, int(Y.argmax())])
        self.model.initialize(X=self._take(X, sample), Y=self._take(Y, sample))
        # The layers have predicted the sample.
        reset_layers(self.model)
        # ParamGroups selects parameters by their paths.
        register_parameter_paths(self.model)
        self._workers.connect(self.state, self.optimizer, self.model, seed=self.seed)

    @property
    def _in_streams(self) -> bool:
        return self.order == STREAMS

    def _check_layer_states(self) -> None:
        """RAISES: ValueError if the model has layers with state between batches, and the
        batches do not follow each other."""
        names = check_layer_states(self.model)
        if names and not self._in_streams:
            raise ValueError(
                f"The state of {', '.join(names)} goes on from one batch to the next, but the "
                f'examples are shuffled: set order = "{STREAMS}" in [training]'
            )

    @classmethod
    def from_config(
        cls: type[TrainerT],
        config: Config,
        callbacks: Sequence[Callback] = (),
        *,
        code: Path | None = None,
        output: Path | None = None,
        communicator: Communicator | None = None,
    ) -> TrainerT:
        """Make a trainer from the sections dataset, model, loss, optimizer and training of a
        config, the datasets for phases of its optional section [datasets], and the callbacks of
        its optional section [callbacks].

        config (Config): The config.
        callbacks (Sequence[Callback]): Further callbacks, which are called first.
        code (Path | None): The Python file that registers what the config names. It is not
            executed here, but belongs to the `fingerprint`.
        output (Path | None): The output folder, which does not belong to it.
        communicator (Communicator | None): The connection to other workers.
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
            if parameter.kind == parameter.KEYWORD_ONLY
            and parameter.name not in ("datasets", "callbacks", "communicator")
        ]
        unknown = [name for name in config["training"] if name not in known]
        if unknown:
            raise ValueError(
                f"[training] has the unknown settings {unknown}: there are {known}"
            )
        # Layers may draw random numbers when they are made.
        fix_random_seed(check_int("seed", config["training"].get("seed", 0), minimum=0))
        with scores_are_reported():
            resolved = registry.resolve(config)
        settings = dict(resolved["training"])
        if settings.get("phases") is not None:
            settings["phases"] = name_phases(
                config["training"]["phases"], settings["phases"], name="training.phases"
            )
        trainer = cls(
            resolved["model"],
            resolved["optimizer"],
            resolved["loss"],
            resolved["dataset"],
            datasets=resolved.get("datasets"),
            callbacks=[*callbacks, *check_callbacks(resolved.get("callbacks", {}))],
            communicator=communicator,
            **settings,
        )
        trainer._config, trainer._code, trainer._output = config, code, output
        return trainer

    @cached_property
    def fingerprint(self) -> TrainingFingerprint:
        """Everything that decides the result: settings, data, files and code, package versions,
        and without a config the shapes of the model's parameters."""
        data = self.describe_data()
        inputs = {**describe_code(self._code), **data}
        if self._config is None:
            settings = self._describe_arguments()
        else:
            try:
                config = self._config.interpolate()
            except ValueError:  # A config with objects cannot be interpolated.
                config = self._config
            settings = describe_settings(config, skip=(*SKIPPED, *CHANGEABLE))
            # The content decides, not the file.
            skip = (*SKIPPED, "dataset", "datasets") if is_exact(data) else SKIPPED
            inputs.update(describe_files(config, skip=skip, output=self._output))
        settings = {**settings, **self.callbacks.describe()}
        for span in self._plan.spans:
            for name, value in span.describe_length().items():
                # It changes with `max_steps`, which may be changed otherwise.
                settings = {**settings, f"training.phases.{span.name}.{name}": value}
        if self.communicator.size > 1:
            settings = {**settings, WORKERS: str(self.communicator.size)}
        return TrainingFingerprint(settings, inputs, describe_packages())

    def describe_data(self) -> dict[str, str]:
        """Fingerprint all datasets. See `describe_dataset`."""
        found = describe_dataset(self.dataset)
        for name, dataset in self.datasets.items():
            for part, content in describe_dataset(dataset).items():
                found[f"{name} {part}"] = content
        return found

    def _describe_arguments(self) -> dict[str, str]:
        names = ("seed", "batch_size", "eval_frequency", "score", "batch_norm_batches")
        arguments: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self._in_streams:
            arguments["order"] = self.order
        phases = {
            span.name: span.describe() for span in self._plan.spans if span.name is not None
        }
        if phases:
            arguments["phases"] = phases
        shapes = [
            (place, tuple(parameter.shape))
            for place, _, parameter in named_parameters(self.model)
        ]
        return {
            **describe_settings(Config({"training": arguments})),
            "loss": type(self.loss).__qualname__,
            "model": f"{len(shapes)} parameters, {digest(shapes)}",
        }

    def _plan_phases(self, phases: Sequence[TrainingPhase]) -> None:
        """Plan the batches of all phases.

        RAISES: ValueError if the phases do not fit the training, the model, the optimizer or
            the datasets.
        """
        for phase in phases:
            if phase.dataset is not None and phase.dataset not in self.datasets:
                raise ValueError(
                    f"Phase {phase.name!r} names the dataset {phase.dataset!r}, but there is "
                    f"no [datasets.{phase.dataset}]: there are {list(self.datasets)}"
                )
            if phase.batch_size is not None and self._in_streams:
                raise ValueError(
                    f'Phase {phase.name!r} cannot have batch_size: with order = "{STREAMS}" '
                    "the examples are divided into batch_size streams for the whole training"
                )
        self._dropout.check(phases)
        self._effects = PhaseEffects(phases, self.optimizer)
        plan = BatchPlan(
            make_spans(phases, self.max_steps),
            n_examples={name: len(X) for name, (X, _) in self._training_data.items()},
            batch_size=self.batch_size,
            n_workers=self._workers.size,
            drop_last=self._drop_last,
            in_streams=self._in_streams,
        )
        self._use(plan)
        starts = plan.starts()
        check_fits(plan.spans, starts[-1], self.total_steps)
        self._effects.check_starts(plan.spans, starts)

    def _use(self, plan: BatchPlan, step: int = 0) -> None:
        """Take the batches from a plan.

        step (int): Number of completed steps.
        """
        self._plan = plan
        # The batches from the current step on.
        self._batches: Iterator[PlannedBatch] = plan.batches(step)
        # Maximum number of steps, from `max_steps` and `max_epochs`.
        self.total_steps = plan.count_steps(
            max_steps=self.max_steps, max_epochs=self.max_epochs
        )

    @property
    def phase(self) -> str | None:
        """Name of the phase of the last step; None if it was in no phase."""
        return None if self._phase is None else self._plan.spans[self._phase].name

    def restore(self, state: TrainerState) -> None:
        """Continue from a state. `load_checkpoint` calls it, after loading the model and the
        optimizer."""
        changed = state.extra.get("resized")
        self._use(self._plan.changed(self._workers.size, changed), state.step)
        self.state = self._prepare(state)
        self._order, self._batch_norm = None, {}
        self._phase = None

    def can_resize(self, state: TrainerState) -> bool:
        """Whether a state can be restored with another number of workers, after `resize`."""
        return True

    def resize(self, state: TrainerState, extras: Sequence[dict[str, Any]]) -> None:
        """Change a state to be restored to that of another number of workers: the rest of the
        examples of the epoch is divided among them.

        extras (Sequence[dict[str, Any]]): The `extra` of the states of all workers that it was
            saved with, by rank.
        """
        plan = self._plan.changed(len(extras), state.extra.get("resized"))
        state.extra["resized"] = plan.describe(state.step)

    def _prepare(self, state: TrainerState) -> TrainerState:
        state.total_steps = self.total_steps
        state.n_averaged = count_snapshots(self.optimizer)
        return state

    def save_model(self, path: Path) -> None:
        """Save the model with its current weights and the initial states of its layers as a
        file, atomically. `Model.from_disk` reads it."""
        with self._dropout.reset(), initial_layer_states(self.model):
            content = self.model.to_bytes()
        replace_bytes(path, content)

    def load_model(self, path: Path) -> None:
        """Load the weights from a file that `save_model` has written."""
        self.model.from_bytes(path.read_bytes())
        self._phase = None

    def stop(self, reason: str = "stopped") -> None:
        """Stop the training after the current step; on several workers, after the next step
        that ends with an exchange.

        reason (str): For `state.stop_reason`. The first of several counts.
        """
        if not self._workers.request_stop(reason):
            self._end(reason)

    def _end(self, reason: str) -> None:
        self.state.stop_reason = self.state.stop_reason or reason

    def run(self) -> None:
        """Train from the current step to the end.

        RAISES: CallbackError if a callback fails; errors of the model and of the data. `on_end`
            of the callbacks is called in any case.
        """
        try:
            self.callbacks.dispatch("on_start", self)
            while True:
                # First of all: the checkpoint may have been saved before an evaluation.
                if self._needs_evaluation():
                    self._evaluate()
                    self.callbacks.dispatch("on_evaluate", self, self.state.evaluations[-1])
                if self._is_over():
                    break
                self._train_step()
                self.callbacks.dispatch("on_step", self)
        except BaseException as error:
            self.state.error = error
            raise
        finally:
            self.callbacks.dispatch("on_end", self)
        # For predictions. The last checkpoint has the states.
        reset_layers(self.model)

    def _needs_evaluation(self) -> bool:
        step = self.state.step
        is_due = step > 0 and (step % self.eval_frequency == 0 or self._is_at_limit())
        return is_due and not self.state.is_evaluated

    def _is_at_limit(self) -> bool:
        return self.state.step >= self.total_steps

    def _is_over(self) -> bool:
        if self._is_at_limit():
            self._end("max_steps" if self.total_steps == self.max_steps else "max_epochs")
        # Counted to the last evaluation, so that a resumed training stops at the same step.
        elif self.patience and self.state.steps_without_improvement >= self.patience:
            self._end("patience")
        elif self._workers.stop_reason is not None:
            self._end(self._workers.stop_reason)
        return self.state.stop_reason is not None

    def _train_step(self) -> None:
        epoch, X, Y = self._next_batch()
        start = time.perf_counter()
        learn_rate = current_rate(self.optimizer)
        loss: Any = 0.0
        if len(X):  # A worker may have no examples left, and waits for the others.
            begin_step(self.loss, self.state.step)
            X, Y = self.callbacks.change_batch(self, X, Y)
            predictions, backprop = self.model.begin_update(X)
            gradient, loss = self.loss(predictions, Y)
            backprop(gradient)
            self.model.finish_update(self._effects.optimizer)
        else:
            self.state.n_losses -= 1
        self.optimizer.step_schedules()  # type: ignore[no-untyped-call]
        self.state.add_step(
            {"loss": float(loss)},
            epoch=epoch,
            learn_rate=learn_rate,
            n_averaged=count_snapshots(self.optimizer),
            seconds=time.perf_counter() - start,
        )
        self._batch_norm = {}

    def _next_batch(self) -> tuple[int, Any, Any]:
        """The epoch, inputs and targets of the next step, for which the settings of its phase
        are put into effect."""
        planned = next(self._batches)
        phase = self._plan.spans[planned.index].phase
        if self._phase != planned.index:
            self._phase = planned.index
            self._dropout.set(phase.dropout)
            self._effects.enter(phase)
        if planned.step == 0:
            self._effects.begin(phase)
        X, Y = self._training_data[phase.dataset]
        key = (phase.dataset, planned.epoch)
        if self._order is None or self._order[0] != key:
            if self._in_streams:
                rank, size = self._workers.rank, self._workers.size
                order = stream_rows(len(X), self.batch_size, rank=rank, size=size)
            else:
                order = self._workers.shuffled_share(
                    len(X), seed=self.seed, epoch=planned.epoch, n_used=planned.n_used
                )
            self._order = (key, order)
        if planned.start == 0:
            reset_layers(self.model)
        rows = self._order[1][planned.start : planned.start + planned.size]
        return planned.epoch, self._take(X, rows), self._take(Y, rows)

    def _take(self, data: Any, rows: Any) -> Any:
        is_list = isinstance(data, (list, tuple))
        return self._on_device(type(data)([data[i] for i in rows]) if is_list else data[rows])

    def _on_device(self, data: Any) -> Any:
        ops: Any = self.model.ops
        if isinstance(data, (list, tuple)):
            return type(data)([self._on_device(item) for item in data])
        return ops.asarray(data) if isinstance(data, numpy.ndarray) else data

    def _evaluate(self) -> None:
        self._workers.sum_progress(self.state)
        raw = self._workers.from_rank(0, self._score)
        # First, because it may start an average.
        report_score(self.optimizer, raw)
        self.state.n_averaged = count_snapshots(self.optimizer)
        scores = self._workers.from_rank(0, self._score_averages)
        averages = next(iter(scores.values()), None)
        evaluation = self.state.add_evaluation(raw, averages, all_averages=scores)
        # Thinc 9.1: for schedules that depend on the score, such as `plateau`. Averages never
        # change the training, so it is not theirs.
        if hasattr(self.optimizer, "last_score"):
            self.optimizer.last_score = evaluation.raw

    def _score_averages(self) -> dict[str, float]:
        scores = {}
        for name, optimizer in self._averages_to_evaluate().items():
            # Layers that draw random numbers in predictions must not make the training depend
            # on the number of averages.
            with keeping_random_state(), self._use_averages_of(optimizer):
                scores[name] = self._score()
        return scores

    def _averages_to_evaluate(self) -> dict[str, Optimizer]:
        """Optimizers of the nesting whose averages are evaluated, by name, outermost first."""
        return evaluated_averages(self.optimizer)

    @contextmanager
    def use_averages(self, name: str | None = None) -> Iterator[None]:
        """Context manager in which the model has averages as its weights, and BatchNorm layers
        have the statistics of the averages (see `batch_norm_batches`). At its end weights,
        statistics and random states are restored bit for bit. Without averages nothing changes.

        name (str | None): Name of the averages in `all_averages(optimizer)`; by default those
            of the outermost optimizer that has any.
        RAISES: ValueError if there is no optimizer with this name.
        """
        with self._use_averages_of(find_averages(self.optimizer, name)):
            yield

    @contextmanager
    def _use_averages_of(self, optimizer: Optimizer) -> Iterator[None]:
        """Context manager like `use_averages`.

        optimizer (Optimizer): An optimizer of the nesting.
        """
        # Not the id: an optimizer may be made at the same place in memory.
        place = [level is optimizer for level in unwrap(self.optimizer)].index(True)
        with use_averages(self.model, optimizer):
            is_needed = self.batch_norm_batches and optimizer.averages
            raw = get_batch_norm(self.model) if is_needed else []
            if not raw:
                yield
                return
            try:
                if place not in self._batch_norm:
                    with keeping_random_state(), initial_layer_states(self.model):
                        update_batch_norm(self.model, self._batch_norm_data())
                    self._batch_norm[place] = get_batch_norm(self.model)
                set_batch_norm(self.model, self._batch_norm[place])
                yield
            finally:
                set_batch_norm(self.model, raw)

    def _batch_norm_data(self) -> Iterator[Any]:
        """Training batches for BatchNorm statistics. The random sample is always the same, so
        that differences between evaluations come from the weights. Of streams they are the
        first ones."""
        X, _ = self.dataset[0]
        size = min(self.batch_size, len(X))
        n_batches = min(self.batch_norm_batches, len(X) // size)
        if self._in_streams:
            rows = stream_rows(len(X), size)[: n_batches * size]
        else:
            random = numpy.random.default_rng((self.seed, 0, 1))
            rows = random.choice(len(X), n_batches * size, replace=False)
        for start in range(0, len(rows), size):
            yield self._take(X, rows[start : start + size])

    def _score(self) -> float:
        X, Y = self.dataset[1]
        size = PREDICT_BATCH_SIZE
        if self._in_streams:
            size = min(self.batch_size, len(X))
            rows = stream_rows(len(X), size)
            X, Y = self._take(X, rows), self._take(Y, rows)
        with initial_layer_states(self.model):
            predictions = predict(self.model, X, self._on_device, batch_size=size)
        if self.score == "loss":
            begin_step(self.loss, self.state.step)
            return -float(self.loss.get_loss(predictions, self._on_device(Y)))
        return accuracy(predictions, Y)


def count_snapshots(optimizer: Optimizer) -> int | None:
    """Number of snapshots in the averages of the outermost wrapper that counts them; None if
    there is no such wrapper."""
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
    save_all: bool = False,
    communicator: Communicator | None = None,
) -> Trainer:
    """Train a Thinc config, and save models, a log and checkpoints.

    config (Config): See `Trainer.from_config`.
    output (Path | None): Output directory, created if it does not exist, and locked until the
        training ends. By default nothing is saved.
    resume (bool): Resume the training in the output directory from its last checkpoint. If it
        has none yet, the training starts from the beginning.
    overwrite (bool): Delete the training in the output directory, and no other files.
    callbacks (Sequence[Callback]): Further callbacks, besides those of the config.
    source (Path | None): The file that the config was read from. It is never overwritten, and
        errors in the config name it.
    code (Path | None): The Python file that registers what the config names. A training is
        resumed only with the same content.
    trust (bool): Load PyTorch layers from a checkpoint also where that can execute code from
        the file: see `check_pytorch_loading`.
    save_all (bool): Also save a model with each of the averages of a nesting: see `SaveModels`.
    communicator (Communicator | None): The connection to other workers, which call this with
        the same arguments. Rank 0 saves the models and the log, and all workers take part in
        the checkpoints, for which they need the same file system.
    RETURNS (Trainer): The trainer after the end of the training.
    RAISES: BlockingIOError if another process trains in the directory; FileExistsError if it
        contains a training that is neither to be resumed nor to be overwritten, or other files
        with names that are needed; FileNotFoundError if the checkpoints of the training are
        missing; ValueError if they are damaged, or if the training has other settings, data,
        code or number of workers, or if the configs of the workers differ.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    Workers(communicator).check_equal("configs", config.to_str)
    if output is None:
        with naming_config(source):
            trainer = Trainer.from_config(
                config, callbacks, code=code, communicator=communicator
            )
        trainer.run()
        return trainer
    folder = TrainingFolder(output, config, save_all=save_all, communicator=communicator)
    # Before the data are loaded, which may take long.
    with folder.open(source=source, resume=resume, overwrite=overwrite) as checkpoint:
        # The callbacks that save come first: nothing is lost if another one fails.
        with naming_config(source):
            trainer = Trainer.from_config(
                config,
                [*folder.callbacks(), *callbacks],
                code=code,
                output=output,
                communicator=communicator,
            )
        folder.check_models(trainer.optimizer)
        folder.prepare(trainer, checkpoint, trust=trust)
        trainer.run()
    return trainer
