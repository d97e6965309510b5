"""One training for several entries of a comparison that differ only in averages.

Each entry gets the log that a training of its own would have written.
"""

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thinc.api import Config, Optimizer, registry

from ..errors import describe_error
from ..optimizers.base import unwrap
from ..training.callbacks import Callback
from ..training.configs import check_spacy, is_spacy_config, optimizer_section
from ..training.evaluation import Evaluation
from ..training.interface import TrainerInterface
from ..training.logs import Log, Record, read_log
from ..training.spacy_trainer import SpacyTrainer
from ..training.state import TrainerState
from ..training.trainer import Trainer
from .entry_boundary import EntryOptimizer, make_boundary, split_entries
from .forked_call import ForkedCall, can_fork
from .recording import (
    Progress,
    RunOptions,
    RunSpacyTrainer,
    describe_end,
    has_diverged,
    log_data,
    log_end,
    log_evaluation,
    logged_evaluation,
    logged_step,
    raise_if_diverged,
)
from .run_checkpoints import RunCheckpoints
from .sharing import BOUNDARY, Nesting, nest, take_apart


def train_shared(entries: Sequence[tuple[Config, Log]], options: RunOptions) -> None:
    """Train entries with the same `sharing_key` once.

    entries (Sequence[tuple[Config, Log]]): Config of each entry, with its seed, interpolated;
        and its log for records of evaluations, of the progress between them, and of the end or
        the divergence of its averages.
    options (RunOptions): Options of the training.
    RAISES: ResumeError if it cannot be resumed; any error of the training, which no log has
        then.
    """
    config = entries[0][0].copy()
    nestings = [take_apart(optimizer_section(found)["optimizer"]) for found, _ in entries]
    optimizer_section(config)["optimizer"] = nest(nestings)
    logs = [log for _, log in entries]
    recorders = _Recorders(nestings, logs)
    if is_spacy_config(config):
        _train_spacy(config, recorders, options)
    else:
        _train_thinc(config, recorders, options)


class _Recorders:
    """Recorders of all entries.

    nestings (Sequence[Nesting]): Optimizers of the entries.
    logs (Sequence[Log]): Their logs.
    """

    def __init__(self, nestings: Sequence[Nesting], logs: Sequence[Log]) -> None:
        self._nestings = nestings
        self._logs = list(logs)
        self._optimizer: Any = None
        self.entries: list[_EntryRecorder] = []
        # Logs of the entries that are not complete.
        self.open_logs = list(logs)

    def set_optimizer(self, optimizer: Optimizer) -> None:
        """Set the nesting of optimizers.

        RAISES: ValueError if a wrapper of an entry changes the training.
        """
        self._optimizer = optimizer
        found = split_entries(optimizer, [nesting.uses_averages for nesting in self._nestings])
        self.entries = [
            _EntryRecorder(entry, log, len(found))
            for entry, log in zip(found, self._logs, strict=True)
        ]

    def start(self, trainer: Trainer | SpacyTrainer, checkpoints: RunCheckpoints) -> None:
        """Prepare the training, or restore it and the results in the logs.

        RAISES: ResumeError if it cannot be restored; ValueError if a wrapper of an entry
            changes the training.
        """
        self.set_optimizer(trainer.optimizer)
        if checkpoints.is_resumed:
            checkpoints.resume(trainer)
            for entry in self.entries:
                entry.restore(list(read_log(entry.log.path)))
            self.update()
        elif isinstance(trainer, Trainer):
            for entry in self.entries:
                log_data(entry.log, trainer)

    @property
    def unfinished(self) -> "list[_EntryRecorder]":
        """Recorders of the entries that are not complete."""
        return [entry for entry in self.entries if not entry.is_over]

    def averaging(self) -> dict[str, Optimizer]:
        """Optimizers whose averages are to be evaluated, by their places in the nesting."""
        levels = unwrap(self._optimizer)
        found = [entry.optimizer.averaging for entry in self.unfinished]
        return {
            str(i): level
            for i, level in enumerate(levels)
            if any(level is other for other in found)
        }

    def place(self, optimizer: Any) -> str | None:
        """Place of an optimizer in the nesting; None for None."""
        levels = unwrap(self._optimizer)
        return next((str(i) for i, level in enumerate(levels) if level is optimizer), None)

    def update(self) -> None:
        """Close the logs of complete entries, and drop Thinc's own averages if the remaining
        ones have dropped them."""
        self.open_logs[:] = [entry.log for entry in self.unfinished]
        if not any(entry.optimizer.needs_thinc_averages for entry in self.unfinished):
            levels = unwrap(self._optimizer)
            if all(level.is_passive for level in levels[:-1]):
                levels[-1].averages = None


class _EntryRecorder:
    """Recorder of an entry.

    optimizer (EntryOptimizer): Its optimizer.
    log (Log): Its log.
    n_shared (int): Number of entries of the training.
    """

    def __init__(self, optimizer: EntryOptimizer, log: Log, n_shared: int) -> None:
        self.optimizer = optimizer
        self.log = log
        self._n_shared = n_shared
        # Evaluations of this entry.
        self.state = TrainerState()
        self.is_over = False

    def restore(self, records: Sequence[Record]) -> None:
        """Restore the results from the log.

        records (Sequence[Record]): The records up to the checkpoint, or all of an entry that is
            complete.
        """
        self.is_over = records[-1]["type"] in ("end", "error")
        fields = [field.name for field in dataclasses.fields(Evaluation)]
        for record in () if self.is_over else records:
            if record["type"] == "evaluation":
                values = {name: record[name] for name in fields if name in record}
                self._add(Evaluation(epoch=0, **values))

    @property
    def best_step(self) -> int:
        """Step of the highest score, the first of several; 0 without scores."""
        return self.state.best_step or 0

    def _add(self, evaluation: Evaluation) -> None:
        is_best = self.state.is_improvement(evaluation.score)
        self.state.evaluations.append(dataclasses.replace(evaluation, is_best=is_best))

    def add(self, evaluation: Evaluation) -> None:
        """Record an evaluation. Scores that are not finite end the entry."""
        log_evaluation(self.log, evaluation)
        if not has_diverged(evaluation):
            self._add(evaluation)
            return
        self.is_over = True
        try:
            raise_if_diverged(evaluation)
        except ValueError as error:
            text = traceback.format_exc()
            self.log.write("error", error=describe_error(error), traceback=text)
            self.log.flush()

    def end(self, **results: Any) -> None:
        """Record the end of the entry.

        results (Any): Arguments of `log_end`.
        """
        self.is_over = True
        log_end(self.log, **results, n_shared=self._n_shared)
        self.log.flush()


# Thinc


class _SharedTrainer(Trainer):
    """Trainer that evaluates the averages of all entries."""

    recorders: _Recorders

    def _averages_to_evaluate(self) -> dict[str, Optimizer]:
        return self.recorders.averaging()


class _Recorder(Callback):
    """Log of the evaluations of all entries and of the progress.

    recorders (_Recorders): The recorders.
    checkpoints (RunCheckpoints): Checkpoints of the training.
    """

    def __init__(self, recorders: _Recorders, checkpoints: RunCheckpoints) -> None:
        self._recorders = recorders
        self._checkpoints = checkpoints
        self._progress = Progress(recorders.open_logs)
        # Steps without a better score of an entry after which it ends.
        self.patience = 0

    def on_step(self, trainer: TrainerInterface) -> None:
        self._progress.update(trainer)

    def on_evaluate(self, trainer: TrainerInterface, evaluation: Evaluation) -> None:
        state = trainer.state
        for entry in self._recorders.unfinished:
            place = self._recorders.place(entry.optimizer.averaging)
            averages = None if place is None else evaluation.all_averages[place]
            entry.add(
                dataclasses.replace(
                    evaluation, averages=averages, n_averaged=entry.optimizer.n_averaged
                )
            )
            is_at_limit = state.step >= (state.total_steps or 0)
            waited = entry.state.steps_without_improvement
            if self.patience and waited >= self.patience and not (entry.is_over or is_at_limit):
                entry.end(**{**describe_end(trainer), "reason": "patience"})
        self._recorders.update()
        if not self._recorders.unfinished:
            trainer.stop("all entries are complete")
        self._checkpoints.save_if_due(trainer, self._recorders.open_logs)


def _train_thinc(config: Config, recorders: _Recorders, options: RunOptions) -> None:
    # Registered in this process only.
    registry.optimizers(BOUNDARY)(make_boundary)
    recorder = _Recorder(recorders, options.checkpoints)
    trainer = _SharedTrainer.from_config(
        config, [recorder], code=options.code, output=options.output
    )
    # Each entry has its own scores.
    recorder.patience, trainer.patience = trainer.patience, 0
    trainer.recorders = recorders
    recorders.start(trainer, options.checkpoints)
    trainer.run()
    for entry in recorders.unfinished:
        entry.end(**describe_end(trainer))


# spaCy


@dataclass
class _Pending:
    """Evaluation whose averages may still be evaluated by another process.

    call (ForkedCall | None): The process.
    scores (dict[str, float]): Scores of averages by their places in the nesting.
    entries (list[tuple[_EntryRecorder, str | None, int | None]]): Each entry, the place of its
        averages, and the number of snapshots in them.
    evaluation (Evaluation | None): The evaluation of the raw weights, when it is complete.
    """

    call: ForkedCall | None
    scores: dict[str, float]
    entries: list[tuple[_EntryRecorder, str | None, int | None]]
    evaluation: Evaluation | None = None

    def record(self) -> None:
        """Record the evaluation of each entry. Waits for the scores."""
        if self.call is not None:
            call, self.call = self.call, None
            self.scores = call.result()
        for entry, place, n_averaged in self.entries:
            if self.evaluation is not None and not entry.is_over:
                averages = None if place is None else self.scores[place]
                entry.add(
                    dataclasses.replace(
                        self.evaluation, averages=averages, n_averaged=n_averaged
                    )
                )


class _SharedSpacyTrainer(RunSpacyTrainer):
    """Trainer that evaluates the raw weights, and tells its recorder when to evaluate averages.

    recorder (_SpacyRecorder): The recorder.
    """

    recorder: "_SpacyRecorder"

    def _averages_to_evaluate(self) -> dict[str, Optimizer]:
        return {}

    def _evaluate_on(self, corpus: Callable[[Any], Any]) -> None:
        # First, as the evaluation of the raw weights may start an average. Reading the corpus
        # may draw random numbers.
        corpus(self.model)
        self.recorder.start_evaluation(self, corpus)
        super()._evaluate_on(corpus)

    def score_averages(
        self, optimizers: dict[str, Optimizer], corpus: Callable[[Any], Any]
    ) -> dict[str, float]:
        """Scores of the averages of several optimizers of the nesting, by their places."""
        return {
            place: self._score_again(corpus, optimizer)[0]
            for place, optimizer in optimizers.items()
        }


class _SpacyRecorder(Callback):
    """Log of the evaluations of all entries and of the progress. Averages are evaluated by
    forked processes, beside the training, if there are cores for them.

    recorders (_Recorders): Recorders of the entries.
    options (RunOptions): Options of the training.
    """

    def __init__(self, recorders: _Recorders, options: RunOptions) -> None:
        self._recorders = recorders
        self._checkpoints = options.checkpoints
        self._n_cores = options.n_cores
        self._progress = Progress(recorders.open_logs)
        # Steps without a better score of an entry after which it ends.
        self.patience = 0
        # Evaluations that are not recorded yet, in their order.
        self._pending: list[_Pending] = []

    def start_evaluation(
        self, trainer: _SharedSpacyTrainer, corpus: Callable[[Any], Any]
    ) -> None:
        """Evaluate the averages of all entries, or start a process that does.

        corpus (Callable): Reader of the development corpus, which it has read already.
        """
        averaging = self._recorders.averaging()
        entries = [
            (
                entry,
                self._recorders.place(entry.optimizer.averaging),
                entry.optimizer.n_averaged,
            )
            for entry in self._recorders.unfinished
        ]
        if averaging and self._n_cores > 1 and can_fork(trainer.model):
            # One core trains.
            self._record(max_pending=self._n_cores - 2)
            call = ForkedCall(lambda: trainer.score_averages(averaging, corpus))
            self._pending.append(_Pending(call, {}, entries))
        else:
            scores = trainer.score_averages(averaging, corpus)
            self._pending.append(_Pending(None, scores, entries))

    def on_step(self, trainer: _SharedSpacyTrainer) -> None:  # type: ignore[override]
        self._progress.update(trainer)
        if not trainer.needs_evaluation:
            self._end_step(trainer)

    def on_evaluate(self, trainer: _SharedSpacyTrainer, evaluation: Evaluation) -> None:  # type: ignore[override]
        self._pending[-1].evaluation = logged_evaluation(trainer, evaluation)
        self._end_step(trainer)
        self._checkpoints.save_if_due(trainer, self._recorders.open_logs, self._record)

    def _end_step(self, trainer: _SharedSpacyTrainer) -> None:
        self._record(max_pending=len(self._pending))
        step = logged_step(trainer)
        if self.patience and any(self._has_waited(e, step) for e in self._recorders.unfinished):
            # The evaluations that are not recorded yet decide.
            self._record()
            for entry in self._recorders.unfinished:
                if self._has_waited(entry, step):
                    entry.end(**describe_end(trainer))
            self._recorders.update()
        if not self._recorders.unfinished:
            trainer.stop("all entries are complete")

    def _has_waited(self, entry: _EntryRecorder, step: int) -> bool:
        """Whether an entry has no better score within `patience`, as far as is known."""
        return step - entry.best_step >= self.patience

    def _record(self, max_pending: int = 0) -> None:
        """Record evaluations, and wait for those that are pending.

        max_pending (int): Number of those to leave to other processes if they take longer.
        """
        pending = self._pending
        while pending and (
            len(pending) > max_pending or pending[0].call is None or pending[0].call.is_done()
        ):
            pending.pop(0).record()
            self._recorders.update()

    def finish(self, trainer: _SharedSpacyTrainer) -> None:
        """Record the end of all entries."""
        self._record()
        for entry in self._recorders.unfinished:
            entry.end(**describe_end(trainer))

    def close(self) -> None:
        """Kill all processes."""
        for pending in self._pending:
            if pending.call is not None:
                pending.call.cancel()


def _train_spacy(config: Config, recorders: _Recorders, options: RunOptions) -> None:
    check_spacy()
    from spacy.util import registry as spacy_registry

    # Registered in this process only.
    spacy_registry.optimizers(BOUNDARY)(make_boundary)
    recorder = _SpacyRecorder(recorders, options)
    trainer = _SharedSpacyTrainer.from_config(config, [recorder], options)
    trainer.recorder = recorder
    # Each entry has its own scores.
    recorder.patience, trainer.settings["patience"] = trainer.settings["patience"], 0
    recorders.start(trainer, options.checkpoints)
    try:
        trainer.run()
        recorder.finish(trainer)
    finally:
        recorder.close()
