"""Trainer for spaCy configs: the loop of `spacy train`, with checkpoints, and with the scores
of averages and raw weights side by side.

Weights, scores and saved pipelines are bit for bit those of `spacy train`. Wherever spaCy
exports a function for a part of its loop, it is used. Only phases, which spaCy does not have,
change that. spaCy counts steps from 0; the state of
the training counts completed steps, so spaCy's step is one less.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
from thinc.api import Config, Optimizer, fix_random_seed, set_gpu_allocator

from ..distributed.communicator import Communicator
from ..errors import TrainingWarning, describe_error
from ..models.parameter_paths import register_parameter_paths
from ..optimizers.base import unwrap
from ..optimizers.scores import report_score, scores_are_reported
from ..schedules.learn_rate import current_rate
from .callbacks import Callback, CallbackList
from .checkpoints import keeping_random_state
from .configs import SECTION, check_spacy, spacy_batch_norm_batches
from .evaluation import Evaluation, evaluated_averages, find_averages
from .fingerprints import (
    SKIPPED,
    TrainingFingerprint,
    describe_code,
    describe_files,
    describe_packages,
    describe_settings,
    describe_spacy,
)
from .output_folder import CHANGEABLE
from .resizing import WORKERS
from .spacy_batch_norm import AverageStatistics
from .spacy_data import PositionedBatches, TrainingBatches
from .spacy_phases import PhasedBatches, make_spacy_spans, read_phases
from .spacy_pipelines import keeping_strings, load_pipeline, save_pipeline
from .spacy_shares import ShareOfBatches, can_divide, divide
from .state import TrainerState
from .trainer import count_snapshots
from .training_phases import PhaseEffects, TrainingPhase
from .workers import Workers


class SpacyTrainer:
    """Trainer for a spaCy config. The config's logger is called if `ConfigLogger` is among the
    callbacks.

    config (Config): As `spacy.util.load_config` reads it with interpolate=False.
    callbacks (Sequence[Callback]): Training callbacks.
    gpu_id (int): GPU id, which is active already; -1 for the CPU.
    code (Path | None): The Python file that registers what the config names. It is not executed
        here, but belongs to the `fingerprint`.
    output (Path | None): The output folder, which does not belong to it.
    batch_norm_batches (int): Number of training batches for the BatchNorm statistics of the
        averages, if the config has none in [thinc_swa]; 0 to use those of the raw weights, as
        spaCy does. Without BatchNorm layers of PyTorch it has no effect.
    communicator (Communicator | None): The connection to other workers, which have the same
        arguments; by default there are none. A step is then one batch on every worker, and the
        optimizer needs a `LocalSGD`. All workers initialize the pipeline with all data, and
        each trains on its share of the examples: see `ShareOfBatches`. Rank 0 evaluates (beside
        averages rank 1 evaluates the raw weights at the same time), and calls all callbacks,
        other workers those with `runs_on_all_workers`.
    RAISES: ImportError if spaCy is not installed; errors of the config and of the data;
        ValueError if the workers differ.
    """

    # Kind of the scores: fractions.
    score = "accuracy"

    def __init__(
        self,
        config: Config,
        callbacks: Sequence[Callback] = (),
        *,
        gpu_id: int = -1,
        code: Path | None = None,
        output: Path | None = None,
        batch_norm_batches: int = 0,
        communicator: Communicator | None = None,
    ) -> None:
        check_spacy()
        from spacy.schemas import ConfigSchemaTraining
        from spacy.training.loop import create_before_to_disk_callback
        from spacy.util import registry, resolve_dot_names

        self._workers = Workers(communicator)
        self.communicator = self._workers.communicator
        self.callbacks = CallbackList(self._workers.own_callbacks(callbacks))
        self._config = config
        self._code = code
        self.output = output
        self._workers.check_equal("files", self._describe_files)
        n_batches = spacy_batch_norm_batches(config, batch_norm_batches)
        phases = read_phases(config, are_several_workers=self._workers.are_several)
        with scores_are_reported():
            self.model: Any = self._initialize(config, gpu_id)
            # From here on the order is that of spaCy's `train`: the calls may draw random
            # numbers.
            filled = self.model.config.interpolate()
            self.seed: int | None = filled["training"]["seed"]
            if self.seed is not None:
                fix_random_seed(self.seed)
            allocator = filled["training"]["gpu_allocator"]
            if gpu_id >= 0 and allocator:
                set_gpu_allocator(allocator)
            # The section [training], resolved.
            self.settings: dict[str, Any] = registry.resolve(
                filled["training"], schema=ConfigSchemaTraining
            )
        settings = self.settings
        names = [settings["train_corpus"], settings["dev_corpus"]]
        names += [phase.train_corpus or names[0] for phase in phases]
        train_corpus, self._dev_corpus, *corpora = resolve_dot_names(filled, names)
        self.optimizer: Optimizer = settings["optimizer"]
        self.before_to_disk: Callable[[Any], Any] = create_before_to_disk_callback(
            settings["before_to_disk"]
        )
        self._workers.check_equal("labels", self._describe_labels)
        # Readers of the training corpora by name, that of the training under None.
        self._corpora: dict[str | None, Any] = {
            phase.train_corpus: corpus for phase, corpus in zip(phases, corpora, strict=True)
        }
        self._corpora[None] = train_corpus
        # The batcher of the training, until it is used.
        self._batcher: Any = settings["batcher"]
        self._batcher_section: Any = filled["training"]["batcher"]
        if self._workers.are_several and self.seed is None:
            raise ValueError(
                "Training on several workers needs a seed, so that all begin with the same "
                "weights, but it was null: set [training] seed"
            )
        self._uses_shares = self._workers.are_several
        self._spans = make_spacy_spans(
            phases, max_steps=settings["max_steps"], max_epochs=settings["max_epochs"]
        )
        self._effects = PhaseEffects(phases, self.optimizer)
        self._effects.check_starts(self._spans)
        self._batches = self._make_phased_batches()
        # Index of the current phase; None if its settings are not in effect.
        self._phase: int | None = None
        self._statistics = AverageStatistics(self.model, n_batches)
        # Losses by component since the last evaluation, as spaCy sums them.
        self._losses: dict[str, Any] = {}
        # Scores and spaCy's steps of all evaluations.
        self._results: list[tuple[float, int]] = []
        # Weights of scores. spaCy drops those of scores that are missing in an evaluation.
        self._score_weights: dict[str, Any] = dict(settings["score_weights"])
        # spaCy's description of the last evaluation, for loggers.
        self.info: dict[str, Any] = {}
        self._start = time.monotonic()
        self.state = self._prepare(TrainerState())
        self.state.extra = {
            "words": 0,
            "seconds": 0.0,
            "losses": {},
            "score_weights": list(self._score_weights),
            "infos": [],
            "scores_of_averages": {},
            "batches": self._batches.position,
        }
        # ParamGroups selects parameters by their paths.
        register_parameter_paths(self.model)
        self._workers.connect(
            self.state,
            self.optimizer,
            self.model,
            seed=self.seed or 0,
            exclude=set(self.model.component_names) - set(self.trained_components),
        )

    def _make_phased_batches(self) -> PhasedBatches:
        """Batches from the beginning of the training on."""
        return PhasedBatches(self._spans, self._make_batches, self.settings["max_epochs"])

    def _make_batches(self, phase: TrainingPhase, n_epochs: int) -> PositionedBatches:
        """Batches from the beginning of a phase on.

        n_epochs (int): Number of epochs after which they end; 0 for no limit.
        """
        from spacy.util import registry

        batcher, self._batcher = self._batcher, None
        if batcher is None or phase.batcher is not None:
            # A new one: its schedules begin again.
            section: Any = phase.batcher or self._batcher_section
            batcher = registry.resolve({"batcher": section})["batcher"]
        corpus = self._corpora[phase.train_corpus]
        data = (self.model, corpus, batcher, self.settings["max_epochs"])
        if not self._uses_shares:
            return TrainingBatches(*data, n_epochs=n_epochs)
        return ShareOfBatches(*data, seed=self.seed or 0, workers=self._workers)

    @property
    def phase(self) -> str | None:
        """Name of the phase of the last step; None if it was in no phase."""
        return None if self._phase is None else self._spans[self._phase].name

    def _enter_phase(self) -> TrainingPhase:
        """Put the settings of the phase of the last batch into effect, if they are not."""
        batches = self._batches
        phase = batches.spans[batches.index].phase
        if self._phase != batches.index:
            self._phase = batches.index
            self._effects.enter(phase)
        if batches.begins_phase:
            self._effects.begin(phase)
        return phase

    def _describe_files(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._describe_inputs().items())

    def _describe_labels(self) -> str:
        return "\n".join(
            f"{name}: {', '.join(map(str, getattr(component, 'labels', ())))}"
            for name, component in self.model.components
            if getattr(component, "is_trainable", False)
        )

    def _initialize(self, config: Config, gpu_id: int) -> Any:
        from spacy.training.initialize import init_nlp

        try:
            with warnings.catch_warnings():
                if self._workers.rank:
                    warnings.simplefilter("ignore")  # Rank 0 shows the same ones.
                return init_nlp(config, use_gpu=gpu_id)
        except Exception as error:
            # spaCy's codes of errors for which there are no examples.
            if "[E923]" in str(error) or "[E986]" in str(error):
                raise ValueError(
                    "The training corpus is empty, or has no annotations for a component: "
                    f"check [corpora.train] ({describe_error(error)})"
                ) from error
            raise

    def check_data(self) -> None:
        """Check that there are examples for evaluations, and annotations for parsers and entity
        recognizers, which spaCy trains without them.

        RAISES: ValueError if the development corpus is empty; errors of its reader.
        """
        from spacy.pipeline.transition_parser import Parser

        if self._workers.rank:
            return  # Rank 0 evaluates, and has the same components.
        with keeping_random_state():
            examples = iter(self._dev_corpus(self.model))
            if next(examples, None) is None:
                raise ValueError("The development corpus is empty: check [corpora.dev]")
        for name in self.trained_components:
            component = self.model.get_pipe(name)
            if isinstance(component, Parser) and not {*component.labels} - {"dep", "ROOT"}:
                warnings.warn(
                    f"The training corpus has no annotations for {name!r}",
                    TrainingWarning,
                    stacklevel=2,
                )

    def _prepare(self, state: TrainerState) -> TrainerState:
        max_steps = self.settings["max_steps"]
        state.total_steps = max_steps + 1 if max_steps else None
        state.n_averaged = count_snapshots(self.optimizer)
        return state

    @cached_property
    def fingerprint(self) -> TrainingFingerprint:
        """Everything that decides the result: settings, files and code, and package versions.
        The version of spaCy must be the same."""
        config = self._config.interpolate()
        settings = describe_settings(config, skip=(*SKIPPED, *CHANGEABLE))
        for span in self._spans:
            for name, value in span.describe_length().items():
                # It changes with `max_steps`, which may be changed otherwise.
                settings[f"{SECTION}.phases.{span.name}.{name}"] = value
        if self._workers.are_several:
            settings[WORKERS] = str(self._workers.size)
        return TrainingFingerprint(settings, self._describe_inputs(), describe_packages())

    def _describe_inputs(self) -> dict[str, str]:
        config = self._config.interpolate()
        return {
            **describe_spacy(config),
            **describe_code(self._code),
            **describe_files(config, output=self.output),
        }

    @property
    def trained_components(self) -> list[str]:
        """Names of the components that the training updates, in the order of the pipeline."""
        return [
            name
            for name, component in self.model.pipeline
            if name not in self.settings["frozen_components"]
            and getattr(component, "is_trainable", False)
        ]

    def without_frozen(self) -> AbstractContextManager[Any]:
        """Context manager in which frozen components are disabled."""
        found: AbstractContextManager[Any] = self.model.select_pipes(
            disable=self.settings["frozen_components"]
        )
        return found

    @contextmanager
    def use_averages(self, name: str | None = None) -> Iterator[None]:
        """Context manager in which the pipeline has averages as its weights, and BatchNorm
        layers have the statistics of the averages (see `batch_norm_batches`). Without averages
        nothing changes.

        name (str | None): Name of the averages in `all_averages(optimizer)`; by default
            `optimizer.averages`.
        RAISES: ValueError if there is no optimizer with this name.
        """
        with self._use_averages_of(find_averages(self.optimizer, name)):
            yield

    @contextmanager
    def _use_averages_of(self, optimizer: Optimizer) -> Iterator[None]:
        """Context manager like `use_averages`.

        optimizer (Optimizer): An optimizer of the nesting.
        """
        averages = optimizer.averages
        # Not the id: an optimizer may be made at the same place in memory.
        place = [level is optimizer for level in unwrap(self.optimizer)].index(True)
        with self.model.use_params(averages):
            with self._statistics.use(place) if averages else nullcontext():
                yield

    @contextmanager
    def use_scores_of(self, name: str) -> Iterator[None]:
        """Context manager in which the meta of the pipeline has the scores of averages in the
        last evaluation instead of those that decide on the best weights.

        name (str): Name of the averages in `all_averages(optimizer)`.
        """
        meta = self.model.meta
        earlier = dict(meta.get("performance", {}))
        scores = self.state.extra["scores_of_averages"].get(name)
        metrics = self.settings["score_weights"]
        meta["performance"] = {
            key: scores.get(key, 0.0) if key in metrics else value
            for key, value in earlier.items()
            # Averages that started after the evaluation have no scores, only losses.
            if scores is not None or key not in metrics
        }
        try:
            yield
        finally:
            meta["performance"] = earlier

    def save_model(self, path: Path) -> None:
        """Save the pipeline with its current weights as a folder, atomically."""
        save_pipeline(self.model, path)

    def load_model(self, path: Path) -> None:
        """Load the weights and everything else that components have saved."""
        load_pipeline(self.model, path)

    def restore(self, state: TrainerState) -> None:
        """Continue from a state. `load_checkpoint` calls it, after loading the pipeline and the
        optimizer.

        RAISES: ValueError if the training had another kind of corpus.
        """
        extra = state.extra
        if can_divide(extra["batches"]["batches"]) and not self._uses_shares:
            # One worker continues the training of several.
            self._uses_shares = True
            self._batches = self._make_phased_batches()
        self._batches.restore(extra["batches"])
        self._phase = None
        self.state = self._prepare(state)
        self._losses = {
            name: value if kind is None else numpy.dtype(kind).type(value)
            for name, (value, kind) in extra["losses"].items()
        }
        self._results = [(info["score"], info["step"]) for info in extra["infos"]]
        weights = self.settings["score_weights"]
        self._score_weights = {name: weights[name] for name in extra["score_weights"]}
        self._start = time.monotonic() - extra["seconds"]

    def can_resize(self, state: TrainerState) -> bool:
        """Whether a state can be restored with another number of workers, after `resize`: not
        that of a streamed corpus, nor of one worker, which has the order of `spacy train`."""
        return can_divide(state.extra["batches"]["batches"])

    def resize(self, state: TrainerState, extras: Sequence[dict[str, Any]]) -> None:
        """Change a state to be restored to that of another number of workers: the rest of the
        examples of the epoch is divided among them.

        extras (Sequence[dict[str, Any]]): The `extra` of the states of all workers that it was
            saved with, by rank.
        """
        positions = [extra["batches"]["batches"] for extra in extras]
        state.extra["batches"] = {**state.extra["batches"], "batches": divide(positions)}
        if self._workers.rank:
            # Rank 0 has those of all workers.
            infos = state.extra["infos"]
            state.extra["words"] = infos[-1]["words"] if infos else 0
            state.extra["losses"] = {}

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

        RAISES: CallbackError if a callback fails; errors of the pipeline and of the data.
            `on_end` of the callbacks is called in any case.
        """
        try:
            self.callbacks.dispatch("on_start", self)
            while True:
                # First of all: the checkpoint may have been saved before an evaluation.
                if self.needs_evaluation:
                    self._evaluate()
                    self.callbacks.dispatch("on_evaluate", self, self.state.evaluations[-1])
                if self._is_over():
                    break
                if self._train_step():
                    self.callbacks.dispatch("on_step", self)
        except BaseException as error:
            self.state.error = error
            raise
        finally:
            self.callbacks.dispatch("on_end", self)

    @property
    def needs_evaluation(self) -> bool:
        """Whether the current step has yet to be evaluated."""
        step = self.state.step - 1
        is_due = step >= 0 and step % self.settings["eval_frequency"] == 0
        return is_due and not self.state.is_evaluated

    def _is_over(self) -> bool:
        step, settings = self.state.step - 1, self.settings
        if self._results:
            # Of equal scores the first: spaCy's `patience` counts from there.
            _, best_step = max((score, -step) for score, step in self._results)
            if settings["patience"] and step + best_step >= settings["patience"]:
                self._end("patience")
            elif settings["max_steps"] and step >= settings["max_steps"]:
                self._end("max_steps")
        if self._workers.stop_reason is not None:
            self._end(self._workers.stop_reason)
        return self.state.stop_reason is not None

    def _train_step(self) -> bool:
        """Train one batch.

        RETURNS (bool): False if there is none, because `max_epochs` is reached.
        """
        start = time.perf_counter()
        settings, state, nlp = self.settings, self.state, self.model
        try:
            epoch, batch = next(self._batches)
        except StopIteration:
            self._end("max_epochs")
            return False
        phase = self._enter_phase()
        learn_rate = current_rate(self.optimizer)
        if settings["before_update"]:
            settings["before_update"](nlp, {"step": state.step, "epoch": epoch})
        before = {name: float(loss) for name, loss in self._losses.items()}
        if batch:  # A worker may have no examples left, and waits for the others.
            self._update(batch, phase)
        else:
            state.n_losses -= 1
        self.optimizer.step_schedules()  # type: ignore[no-untyped-call]
        losses = {name: float(loss) for name, loss in self._losses.items()}
        state.add_step(
            {name: loss - before.get(name, 0.0) for name, loss in losses.items()},
            epoch=epoch,
            learn_rate=learn_rate,
            n_averaged=count_snapshots(self.optimizer),
            seconds=time.perf_counter() - start,
        )
        # The sums of spaCy, which are rounded differently from sums of differences.
        state.losses = losses
        state.extra["losses"] = {
            name: (losses[name], _kind_of(loss)) for name, loss in self._losses.items()
        }
        state.extra["words"] += sum(map(len, batch))
        state.extra["seconds"] = time.monotonic() - self._start
        self._statistics.reset()
        return True

    def _update(self, batch: list[Any], phase: TrainingPhase) -> None:
        from spacy.training import loop

        subdivide_batch: Any = loop.subdivide_batch

        settings, nlp = self.settings, self.model
        for part in subdivide_batch(batch, settings["accumulate_gradient"]):
            nlp.update(
                part,
                drop=settings["dropout"] if phase.dropout is None else phase.dropout,
                losses=self._losses,
                sgd=False,
                exclude=settings["frozen_components"],
                annotates=settings["annotating_components"],
            )
        for name, component in nlp.pipeline:
            if (
                name not in settings["frozen_components"]
                and getattr(component, "is_trainable", False)
                and component.model not in (True, False, None)
            ):
                component.finish_update(self._effects.optimizer)

    def _evaluate(self) -> None:
        corpus = _CachedCorpus(self._dev_corpus)
        if not self._workers.are_several:
            self._evaluate_on(corpus)
            return
        self._sum_progress()
        if self._workers.rank == 0:
            self._evaluate_on(corpus)
        else:
            self._raw_score_of_rank_1(corpus)
        self._share_evaluation()

    def _sum_progress(self) -> None:
        """Sum losses and words over all workers."""
        state = self.state
        n_before = state.extra["infos"][-1]["words"] if state.extra["infos"] else 0
        counts = {"words": state.extra["words"] - n_before}
        state.extra["words"] = n_before + self._workers.sum_progress(state, counts)["words"]
        self._losses = dict(state.losses)

    def _share_evaluation(self) -> None:
        """Add the evaluation of rank 0 on the other workers, which may stop after it too."""
        state = self.state

        def describe() -> dict[str, Any]:
            evaluation = asdict(state.evaluations[-1])
            return {"evaluation": _as_json(evaluation), "info": state.extra["infos"][-1]}

        found = self._workers.from_rank(0, describe)
        if self._workers.rank:
            info, evaluation = found["info"], Evaluation(**found["evaluation"])
            state.extra["infos"].append(info)
            state.evaluations.append(evaluation)
            state.losses, state.n_losses = {}, 0
            self._results.append((info["score"], info["step"]))
            self._losses, state.extra["losses"] = {}, {}
            report_score(self.optimizer, evaluation.raw)

    def _averages_to_evaluate(self) -> dict[str, Optimizer]:
        """Optimizers of the nesting whose averages are evaluated, by name. The first one's are
        those that decide on the best weights."""
        return evaluated_averages(self.optimizer)

    def _evaluate_on(self, corpus: Callable[[Any], Any]) -> None:
        """Evaluate the current step.

        corpus (Callable): Reader of the development corpus, which always reads the same.
        """
        from spacy.training.loop import update_meta

        state = self.state
        averaging = list(self._averages_to_evaluate().items())
        scores: dict[str, float] = {}
        details: dict[str, dict[str, Any]] = {}
        averages: float | None = None
        if averaging:
            (name, optimizer), *others = averaging
            with self._use_averages_of(optimizer):
                score, other_scores = self._score(corpus)
            averages = scores[name] = float(score)
            details[name] = other_scores
            raw = self._raw_score_of_rank_1(corpus)
            if raw is None:
                raw, _ = self._score_again(corpus)
            for name, optimizer in others:
                scores[name], details[name] = self._score_again(corpus, optimizer)
        else:
            score, other_scores = self._score(corpus)
            self._raw_score_of_rank_1(corpus)
            raw = float(score)
        self._score_weights = {
            name: weight for name, weight in self._score_weights.items() if name in other_scores
        }
        state.extra["score_weights"] = list(self._score_weights)
        self._results.append((score, state.step - 1))
        is_best = bool(score == max(self._results)[0])
        self.info = {
            "epoch": state.epoch,
            "step": state.step - 1,
            "score": score,
            "other_scores": other_scores,
            "losses": self._losses,
            "checkpoints": self._results,
            "seconds": int(time.monotonic() - self._start),
            "words": state.extra["words"],
        }
        with self.without_frozen():
            update_meta(self.settings, self.model, self.info)
        if self.output is not None:
            self.info["output_path"] = str(self.output / "model-last")
        saved = {name: value for name, value in self.info.items() if name != "checkpoints"}
        saved["training_seconds"] = state.seconds
        state.extra["infos"].append(_as_json(saved))
        state.extra["scores_of_averages"] = _as_json(details)
        state.add_evaluation(
            raw,
            averages,
            other_scores=_as_json(other_scores),
            all_averages=scores,
            is_best=is_best,
        )
        self._losses, state.extra["losses"] = {}, {}
        report_score(self.optimizer, raw)

    def earlier_infos(self) -> Iterator[dict[str, Any] | None]:
        """What spaCy has told the logger after each step so far: a description of each
        evaluation, and None for other steps."""
        infos = {info["step"]: info for info in self.state.extra["infos"]}
        for step in range(self.state.step):
            info = infos.get(step)
            if info is not None:
                results = [result for result in self._results if result[1] <= step]
                info = {**info, "checkpoints": results}
                del info["training_seconds"]
            yield info

    def _raw_score_of_rank_1(self, corpus: Callable[[Any], Any]) -> float | None:
        """Score of the raw weights of rank 1, which evaluates them while rank 0 evaluates the
        averages. All workers call this.

        corpus (Callable): Reader of the development corpus.
        RETURNS (float | None): None if there is one worker, or if rank 1 has no averages yet.
        """
        if not self._workers.are_several:
            return None
        return self._workers.from_rank(
            1, lambda: self._score_again(corpus)[0] if self._averages_to_evaluate() else None
        )

    def _score_again(
        self, corpus: Callable[[Any], Any], optimizer: Optimizer | None = None
    ) -> tuple[float, dict[str, Any]]:
        """Score and further scores in an additional evaluation, on which nothing may depend.

        corpus (Callable): Reader of the development corpus.
        optimizer (Optimizer | None): Optimizer of the nesting whose averages are evaluated; by
            default the raw weights are.
        """
        with (
            keeping_random_state(),
            keeping_strings(self.model.vocab),
            nullcontext() if optimizer is None else self._use_averages_of(optimizer),
        ):
            score, other_scores = self._score(corpus)
            return float(score), other_scores

    def _score(self, corpus: Callable[[Any], Any]) -> tuple[float, dict[str, Any]]:
        from spacy.training.loop import create_evaluation_callback

        evaluate = create_evaluation_callback(self.model, corpus, self._score_weights)
        found: tuple[float, dict[str, Any]] = evaluate()
        return found


class _CachedCorpus:
    """Reader that reads its corpus once, because reading may draw random numbers.

    corpus (Callable): The reader.
    """

    def __init__(self, corpus: Callable[[Any], Any]) -> None:
        self._corpus = corpus
        self._examples: list[Any] | None = None

    def __call__(self, nlp: Any) -> list[Any]:
        if self._examples is None:
            self._examples = list(self._corpus(nlp))
        return self._examples


def _kind_of(loss: Any) -> str | None:
    """Type of a loss that is not a Python number: sums are rounded to it."""
    return None if isinstance(loss, (int, float)) else str(loss.dtype)


def _as_json(value: Any) -> Any:
    """Convert scores to JSON values. Objects without such a value become text."""
    if isinstance(value, dict):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "tolist"):  # NumPy and CuPy.
        return _as_json(value.tolist())
    return str(value)
