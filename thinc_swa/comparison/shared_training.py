"""One training for several entries of a comparison that differ only in averages.

Each entry gets the log that a training of its own would have written.
"""

import dataclasses
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from thinc.api import Config, Optimizer, registry

from ..errors import describe_error
from ..optimizers.base import unwrap
from ..optimizers.scores import report_score
from ..training.callbacks import Callback
from ..training.checkpoints import keeping_random_state
from ..training.configs import (
    check_spacy,
    is_spacy_config,
    optimizer_section,
    take_batch_norm_batches,
)
from ..training.evaluation import Evaluation
from ..training.interface import TrainerInterface
from ..training.logs import Log
from ..training.state import TrainerState
from ..training.trainer import Trainer
from .entry_boundary import EntryOptimizer, HiddenAverages, make_boundary, split_entries
from .forked_call import ForkedCall, can_fork
from .recording import (
    Progress,
    SpacyRecorder,
    has_diverged,
    log_data,
    log_end,
    log_evaluation,
    raise_if_diverged,
    run_spacy_loop,
)
from .sharing import BOUNDARY, Nesting, nest, take_apart


def train_shared(
    entries: Sequence[tuple[Config, Log]], *, gpu_id: int = -1, n_cores: int = 1
) -> None:
    """Train entries with the same `sharing_key` once.

    entries (Sequence[tuple[Config, Log]]): Config of each entry, with its seed, interpolated;
        and its log for records of evaluations, of the progress between them, and of the end or
        the divergence of its averages.
    gpu_id (int): GPU id; -1 for the CPU.
    n_cores (int): Number of cores: more than one lets spaCy's averages be evaluated beside the
        training.
    RAISES: Any error of the training, which no log has then.
    """
    config = entries[0][0].copy()
    nestings = [take_apart(optimizer_section(found)["optimizer"]) for found, _ in entries]
    optimizer_section(config)["optimizer"] = nest(nestings)
    logs = [log for _, log in entries]
    if is_spacy_config(config):
        _train_spacy(config, nestings, logs, gpu_id=gpu_id, n_cores=n_cores)
    else:
        _train_thinc(config, nestings, logs)


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
        # Scores and negative steps of the evaluations in spaCy's loop.
        self._results: list[tuple[float, int]] = []
        self.is_over = False

    def add_result(self, score: float, step: int) -> None:
        """Record a score for spaCy's early stopping.

        score (float): Score in spaCy's loop.
        step (int): The step.
        """
        self._results.append((score, -step))

    @property
    def best_step(self) -> int:
        """Step of the highest score in spaCy's loop, the first of several."""
        # As in the loop, also where scores are NaN. It evaluates after the first step.
        return -max(self._results)[1] if self._results else 0

    def add(self, evaluation: Evaluation) -> None:
        """Record an evaluation. Scores that are not finite end the entry."""
        is_best = self.state.is_improvement(evaluation.score)
        self.state.evaluations.append(dataclasses.replace(evaluation, is_best=is_best))
        log_evaluation(self.log, evaluation)
        if not has_diverged(evaluation):
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
    patience (int): Steps without a better score of an entry after which it ends.
    """

    def __init__(self, recorders: _Recorders) -> None:
        self._recorders = recorders
        self._progress = Progress(recorders.open_logs)
        self.patience = 0

    def on_step(self, trainer: TrainerInterface) -> None:
        self._progress.update(trainer.state.step, trainer.state.total_steps or 0)

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
                entry.end(**_results(state, "patience"))
        self._recorders.update()
        if not self._recorders.unfinished:
            trainer.stop("all entries are complete")


def _results(state: TrainerState, reason: str | None) -> dict[str, Any]:
    return {
        "reason": reason,
        "n_steps": state.step,
        "seconds_per_step": state.seconds / state.step,
    }


def _train_thinc(config: Config, nestings: Sequence[Nesting], logs: Sequence[Log]) -> None:
    # Registered in this process only.
    registry.optimizers(BOUNDARY)(make_boundary)
    recorders = _Recorders(nestings, logs)
    recorder = _Recorder(recorders)
    trainer = _SharedTrainer.from_config(config, [recorder])
    # Each entry has its own scores.
    recorder.patience, trainer.patience = trainer.patience, 0
    recorders.set_optimizer(trainer.optimizer)
    trainer.recorders = recorders
    for log in logs:
        log_data(log, trainer)
    trainer.run()
    for entry in recorders.unfinished:
        entry.end(**_results(trainer.state, trainer.state.stop_reason))


# spaCy


class _AllComplete(Exception):
    """Ends spaCy's loop when all entries are complete."""


@dataclass
class _Pending:
    """Evaluation whose averages may still be evaluated by another process.

    call (ForkedCall | None): The process.
    scores (dict[str, tuple[float, float]]): Scores of averages by their places in the nesting,
        as in spaCy's loop and with the BatchNorm statistics of the averages.
    entries (list[tuple[_EntryRecorder, str | None, Evaluation]]): Each entry, the place of its
        averages, and its evaluation without the score of these.
    """

    call: ForkedCall | None
    scores: dict[str, tuple[float, float]]
    entries: list[tuple[_EntryRecorder, str | None, Evaluation]]

    def record(self) -> None:
        """Record the evaluation of each entry. Waits for the scores."""
        if self.call is not None:
            call, self.call = self.call, None
            self.scores = call.result()
        for entry, place, evaluation in self.entries:
            if entry.is_over:
                continue
            score = evaluation.raw
            if place is not None:
                score, averages = self.scores[place]
                evaluation = dataclasses.replace(evaluation, averages=averages)
            entry.add_result(score, evaluation.step)
            entry.add(evaluation)


class _SharedSpacyRecorder(SpacyRecorder):
    """Recorder of spaCy's training loop for several entries. The loop evaluates the raw
    weights. Averages are evaluated by forked processes, beside the training, if there are cores
    for them.

    config (Config): The config that spaCy trains, without early stopping.
    n_batches (int): As for `SpacyRecorder`.
    recorders (_Recorders): Recorders of the entries.
    patience (int): Steps without a better score of an entry after which it ends.
    n_cores (int): Number of cores for this training.
    """

    def __init__(
        self,
        config: Config,
        n_batches: int,
        recorders: _Recorders,
        *,
        patience: int,
        n_cores: int,
    ) -> None:
        super().__init__(config, recorders.open_logs, n_batches)
        self._recorders = recorders
        self._patience = patience
        self._n_cores = n_cores
        # Evaluations that are not recorded yet, in their order.
        self._pending: list[_Pending] = []

    def make_optimizer(self, optimizer: Optimizer) -> Optimizer:
        self._recorders.set_optimizer(optimizer)
        self.optimizer = optimizer
        return HiddenAverages(optimizer)

    def log_evaluations(self, info: dict[str, Any]) -> None:
        raw = float(info["score"])
        averaging = self._recorders.averaging()

        def evaluate_all() -> dict[str, tuple[float, float]]:
            return {
                place: self._evaluate_averages(level.averages)
                for place, level in averaging.items()
            }

        entries = [
            (
                entry,
                self._recorders.place(entry.optimizer.averaging),
                self.make_evaluation(
                    info, raw=raw, averages=None, n_averaged=entry.optimizer.n_averaged
                ),
            )
            for entry in self._recorders.unfinished
        ]
        if averaging and self._n_cores > 1 and can_fork(self.nlp):
            # One core trains.
            self._record(max_pending=self._n_cores - 2)
            self._pending.append(_Pending(ForkedCall(evaluate_all), {}, entries))
        else:
            self._pending.append(_Pending(None, evaluate_all(), entries))
        report_score(self.optimizer, raw)

    def _evaluate_averages(self, averages: Any) -> tuple[float, float]:
        """RETURNS (tuple[float, float]): Score as in spaCy's loop, and with the BatchNorm
        statistics of the averages."""
        with keeping_random_state():
            with self.nlp.use_params(averages):
                score = self.evaluate()
            return score, self.renew_score(averages, score)

    def end_step(self) -> None:
        self._record(max_pending=len(self._pending))
        entries = self._recorders.unfinished
        if self._patience and any(self._has_waited(entry) for entry in entries):
            # The evaluations that are not recorded yet decide.
            self._record()
            for entry in self._recorders.unfinished:
                if self._has_waited(entry):
                    entry.end(**self.results)
            self._recorders.update()
        if not self._recorders.unfinished:
            raise _AllComplete

    def _has_waited(self, entry: _EntryRecorder) -> bool:
        """Whether an entry has no better score within `patience`, as far as is known."""
        return self.step - entry.best_step >= self._patience

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

    def finish(self) -> None:
        """Record the end of all entries."""
        self._record()
        for entry in self._recorders.unfinished:
            entry.end(**self.results)

    def close(self) -> None:
        """Kill all processes."""
        for pending in self._pending:
            if pending.call is not None:
                pending.call.cancel()


def _train_spacy(
    config: Config,
    nestings: Sequence[Nesting],
    logs: Sequence[Log],
    *,
    gpu_id: int,
    n_cores: int,
) -> None:
    check_spacy()
    from spacy.util import registry as spacy_registry

    spacy_registry.optimizers(BOUNDARY)(make_boundary)
    n_batches = take_batch_norm_batches(config)
    # Each entry has its own scores.
    patience = config["training"]["patience"]
    config["training"]["patience"] = 0
    recorder = _SharedSpacyRecorder(
        config, n_batches, _Recorders(nestings, logs), patience=patience, n_cores=n_cores
    )
    try:
        with suppress(_AllComplete):
            run_spacy_loop(config, recorder, gpu_id)
        recorder.finish()
    finally:
        recorder.close()
