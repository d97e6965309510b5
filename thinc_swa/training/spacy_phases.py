"""Phases of the training of a spaCy config, and its batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from thinc.api import Config

from .configs import SECTION, spacy_settings
from .spacy_data import PositionedBatches
from .training_phases import (
    SPACY_SETTINGS,
    PhaseSpan,
    TrainingPhase,
    check_fits,
    make_phases,
    make_spans,
    name_phases,
)

MakeBatchesT = Callable[[TrainingPhase, int], PositionedBatches]


def read_phases(config: Config, *, are_several_workers: bool = False) -> list[TrainingPhase]:
    """Phases of a spaCy config. They are in a section of their own, because spaCy rejects
    unknown settings in [training] and ignores other sections.

    config (Config): For spaCy.
    are_several_workers (bool): Whether there are several workers.
    RAISES: ValueError if the phases are not as `TrainingPhase` describes, if a training corpus
        is not defined, or if a phase changes the data of a training on several workers.
    """
    section = f"{SECTION}.phases"
    values = spacy_settings(config).get("phases")
    named = {} if values is None else name_phases(values, values, name=section)
    found = make_phases(named, settings=SPACY_SETTINGS, section=section)
    for phase in found:
        if phase.train_corpus is not None:
            _check_corpus(config, phase)
        if are_several_workers and (data_of(phase) != (None, None) or phase.epochs is not None):
            raise ValueError(
                f"Phase {phase.name!r} has epochs, train_corpus or batcher, which phases of a "
                "spaCy config cannot have on several workers: use steps, and one corpus"
            )
    return found


def _check_corpus(config: Config, phase: TrainingPhase) -> None:
    place: Any = config
    for name in str(phase.train_corpus).split("."):
        place = place.get(name) if isinstance(place, Mapping) else None
    if not isinstance(place, Mapping):
        known = [f"corpora.{name}" for name in config.get("corpora", {})]
        raise ValueError(
            f"train_corpus of phase {phase.name!r} is {phase.train_corpus!r}, but there is no "
            f"section [{phase.train_corpus}]: there are {known}"
        )


def make_spacy_spans(
    phases: Sequence[TrainingPhase], *, max_steps: int, max_epochs: int
) -> list[PhaseSpan]:
    """Lengths of phases. See `make_spans`.

    max_steps (int): As in the config.
    max_epochs (int): As in the config.
    RAISES: ValueError also if the phases have more epochs than the training.
    """
    spans = make_spans(phases, max_steps)
    n_epochs = sum(span.n_epochs or 0 for span in spans)
    if max_epochs > 0 and n_epochs:
        check_fits(spans, n_epochs, max_epochs, unit="epochs")
    return spans


def data_of(phase: TrainingPhase) -> tuple[Any, Any]:
    """The corpus and the batcher of a phase, None for those of the training."""
    return phase.train_corpus, phase.batcher


class PhasedBatches(Iterator[tuple[int, list[Any]]]):
    """Iterator over the epochs and batches of a training with phases, with a position that can
    be saved and restored.

    Batches continue from one phase to the next. A phase with another corpus or batcher than the
    phase before it, or with a length in epochs, begins a new pass over the data, with a new
    batcher. So does what follows a phase with a length in epochs.

    spans (Sequence[PhaseSpan]): As returned by `make_spacy_spans`.
    make_batches (Callable): Makes the batches from a phase on: called with the phase, and the
        number of epochs after which they end, 0 for no end.
    max_epochs (int): As in the config.
    """

    def __init__(
        self, spans: Sequence[PhaseSpan], make_batches: MakeBatchesT, max_epochs: int
    ) -> None:
        self.spans = list(spans)
        self._make_batches = make_batches
        self._max_epochs = max(max_epochs, 0)
        # "step" is the number of batches of the span so far, "first_epoch" the number of epochs
        # before those of which "batches" is the position.
        self._position: dict[str, Any] = {"span": 0, "step": 0, "first_epoch": 0}
        self._batches = self._make()

    @property
    def position(self) -> dict[str, Any]:
        """Position in the data as JSON values, which changes with every batch."""
        return self._position

    @property
    def index(self) -> int:
        """Number of the span of the last batch."""
        return int(self._position["span"])

    @property
    def begins_phase(self) -> bool:
        """Whether the last batch is the first one of its span."""
        return bool(self._position["step"] == 1)

    def restore(self, position: dict[str, Any]) -> None:
        """Continue from a position, of an iterator with the same arguments.

        RAISES: ValueError as `PositionedBatches.restore`.
        """
        batches = position["batches"]
        self._position = position
        if position["first_epoch"]:
            self._batches = self._make()
        self._batches.restore(batches)
        position["batches"] = self._batches.position

    def __next__(self) -> tuple[int, list[Any]]:
        while True:
            position, span = self._position, self.spans[self.index]
            if position["step"] == span.n_steps:
                self._next_span()
                continue
            try:
                epoch, batch = next(self._batches)
            except StopIteration:
                if span.n_epochs is None:
                    raise
                self._next_span()
                continue
            position["step"] += 1
            return position["first_epoch"] + epoch, batch

    def _next_span(self) -> None:
        """Go to the next span.

        RAISES: StopIteration if it begins a new pass over the data, and there is none left.
        """
        position = self._position
        before, now = self.spans[self.index : self.index + 2]
        is_new = data_of(before.phase) != data_of(now.phase)
        first_epoch = position["first_epoch"]
        if is_new or before.n_epochs is not None or now.n_epochs is not None:
            # A pass that has begun is over.
            first_epoch += self._batches.position["epoch"] + 1
            if first_epoch == self._max_epochs:
                raise StopIteration
        begins_pass = first_epoch != position["first_epoch"]
        position.update(span=self.index + 1, step=0, first_epoch=first_epoch)
        if begins_pass:
            self._batches = self._make()

    def _make(self) -> PositionedBatches:
        span, first_epoch = self.spans[self.index], self._position["first_epoch"]
        limits = [span.n_epochs or 0, max(self._max_epochs - first_epoch, 0)]
        limit = min((limit for limit in limits if limit), default=0)
        batches = self._make_batches(span.phase, limit)
        self._position["batches"] = batches.position
        return batches
