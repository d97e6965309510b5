"""Phases of a training: parts of it, each with a length and with settings of its own.

Schedules of learning rates have phases too, `thinc_swa.phases`. They are independent of these.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from thinc.api import Config, Model, Optimizer

from ..optimizers.base import unwrap
from ..optimizers.swa import PHASE, SWA
from ..param_groups.optimizer import ParamGroups
from ..schedules.compat import GeneratorSchedule, ScheduleClass
from ..types import Array, FloatsXd, KeyT
from ..validation import check_bool, check_int, check_list, check_number, check_step

# Settings that a phase can have in a Thinc config, and in a spaCy config.
_COMMON = ("steps", "epochs", "dropout", "frozen", "start_swa")
THINC_SETTINGS = (*_COMMON, "batch_size", "dataset")
SPACY_SETTINGS = (*_COMMON, "train_corpus", "batcher")
# Sums of fractions such as 0.7 + 0.2 + 0.1 are rounded.
TOLERANCE = 1e-9
# The attribute of layers that Thinc's `set_dropout_rate` sets.
DROPOUT = "dropout_rate"


@dataclass(frozen=True, kw_only=True)
class TrainingPhase:
    """A phase of a training. Settings that are None are those of the training.

    name (str): The name, which is not empty.
    steps (int | float | None): The length in steps, or as a fraction of `max_steps` strictly
        between 0 and 1.
    epochs (int | None): The length in passes over the data, instead of `steps`. The phase
        begins a new pass. The last phase can be without a length, and then has no end.
    batch_size (int | list | ScheduleT | None): Examples per step. Values of a schedule, which
        starts at its step 0, are rounded down. For `Trainer` only.
    dataset (str | None): Name of the dataset whose training data are used. For `Trainer` only.
    train_corpus (str | None): Name of the training corpus: "corpora.easy". For `SpacyTrainer`
        only.
    batcher (Mapping | None): Section of the batcher. For `SpacyTrainer` only.
    dropout (float | None): Dropout rate, from 0 to below 1.
    frozen (Sequence[str]): Names of the groups of `ParamGroups` whose parameters are not
        updated.
    start_swa (bool): Whether `SWA.start_swa()` is called before the first step.
    RAISES: ValueError if a value is not as described.
    """

    name: str
    steps: int | float | None = None
    epochs: int | None = None
    batch_size: Any = None
    dataset: str | None = None
    train_corpus: str | None = None
    batcher: Mapping[str, Any] | None = None
    dropout: float | None = None
    frozen: Sequence[str] = ()
    start_swa: bool = False

    def __post_init__(self) -> None:
        what = f"of phase {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"A phase must have a name, but it was {self.name!r}")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"The length {what} must be steps or epochs, but both were given: remove one"
            )
        if self.epochs is not None:
            check_int(f"epochs {what}", self.epochs, minimum=1)
        if self.dropout is not None:
            check_number(f"dropout {what}", self.dropout, minimum=0.0, below=1.0)
        check_bool(f"start_swa {what}", self.start_swa)
        for name in check_list(f"frozen {what}", self.frozen):
            if not isinstance(name, str):
                raise ValueError(f"frozen {what} must have names of groups, but had {name!r}")
        for setting in ("dataset", "train_corpus"):
            value = getattr(self, setting)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{setting} {what} must be a name, but was {value!r}")
        if self.batch_size is not None:
            size = _make_size(f"batch_size {what}", self.batch_size)
            # The class is frozen for others.
            object.__setattr__(self, "batch_size", size)
            size(0)

    def check_steps(self, max_steps: int) -> int | float | None:
        """Check the length in steps.

        max_steps (int): The length of the training; 0 if it is unknown.
        """
        name = f"steps of phase {self.name!r}"
        if isinstance(self.steps, float) and 0.0 < self.steps < 1.0:
            if not max_steps:
                raise ValueError(
                    f"{name} is the fraction {self.steps!r} of max_steps, which is 0: set "
                    "max_steps, or the number of steps"
                )
        elif self.steps is not None:
            check_step(name, self.steps, None, minimum=1)
        return self.steps


def _make_size(name: str, value: Any) -> Callable[[int], int]:
    """Batch size as a function of the step of the phase."""
    schedule: Callable[..., Any]
    if isinstance(value, Real):
        size = check_int(name, value, minimum=1)
        return lambda step: size
    if isinstance(value, ScheduleClass):
        schedule = value
    elif isinstance(value, (list, tuple)) and value:
        schedule = GeneratorSchedule(iter(value))
    elif isinstance(value, Iterator):
        schedule = GeneratorSchedule(value)
    else:
        raise ValueError(
            f"{name} must be an int >= 1, a list of numbers or a schedule, but was {value!r}"
        )

    def find(step: int) -> int:
        try:
            found = float(schedule(step))
        except TypeError as error:
            raise ValueError(
                f"{name} must be a schedule that depends on the step alone, but was {value!r}"
            ) from error
        if not 1.0 <= found < float("inf"):
            raise ValueError(f"{name} must be at least 1, but was {found!r} at its step {step}")
        return int(found)

    return find


def make_phases(
    phases: Sequence[TrainingPhase] | Mapping[str, Mapping[str, Any]],
    *,
    settings: Sequence[str],
    section: str = "training.phases",
) -> list[TrainingPhase]:
    """Make and check the phases of a training.

    phases (Sequence[TrainingPhase] | Mapping[str, Mapping[str, Any]]): The phases, or their
        settings by name, in their order.
    settings (Sequence[str]): Names of the settings that they can have.
    section (str): Name of the section of the config, for errors.
    RAISES: ValueError for unknown settings, for two phases with one name, and for a phase
        without a length that is not the last.
    """
    if isinstance(phases, Mapping):
        found = [
            _make_phase(name, values, settings, section) for name, values in phases.items()
        ]
    elif isinstance(phases, Sequence) and not isinstance(phases, str):
        found = list(phases)
    else:
        raise ValueError(f"[{section}] must have a section for each phase, but was {phases!r}")
    names: list[str] = []
    for phase in found:
        if not isinstance(phase, TrainingPhase):
            raise ValueError(f"phases must have TrainingPhase objects, but had {phase!r}")
        if phase.name in names:
            raise ValueError(f"The names of phases must be unique, but {phase.name!r} is not")
        names.append(phase.name)
        defaults = TrainingPhase(name=phase.name)
        for field in fields(phase):
            is_set = getattr(phase, field.name) != getattr(defaults, field.name)
            if is_set and field.name != "name" and field.name not in settings:
                raise ValueError(
                    f"Phase {phase.name!r} cannot have {field.name} here, only "
                    f"{', '.join(settings)}"
                )
    for phase in found[:-1]:
        if phase.steps is None and phase.epochs is None:
            raise ValueError(
                f"Phase {phase.name!r} must have steps or epochs: only the last phase can be "
                "without a length"
            )
    return found


# Thinc's config system sorts sections by their names before confection 1.
KEEPS_ORDER = list(Config().from_str("[a]\n\n[a.b]\n\n[a.a]\n")["a"]) == ["b", "a"]


def name_phases(section: Any, resolved: Any, *, name: str) -> dict[str, Any]:
    """Settings of the phases of a config by name, in the order of the file.

    section (Any): The section of the config, with sections NAME or *.NAME.
    resolved (Any): The same, resolved: what is below "*" is a list then.
    name (str): Name of the section.
    RAISES: ValueError if the section has both forms, or one whose order is lost.
    """
    if not isinstance(section, Mapping):
        raise ValueError(f"[{name}] must have a section for each phase, but was {section!r}")
    if "*" in section:
        if len(section) > 1 or not isinstance(section["*"], Mapping):
            raise ValueError(
                f"[{name}] must have only sections [{name}.*.NAME], or only [{name}.NAME], but "
                f"had {list(section)}"
            )
        found = resolved["*"]
        values = found.values() if isinstance(found, Mapping) else found
        return dict(zip(section["*"], values, strict=True))
    if len(section) > 1 and not KEEPS_ORDER:
        raise ValueError(
            f"The order of the sections [{name}.NAME] is lost with the installed version of "
            f"confection, Thinc's config system: write [{name}.*.NAME]"
        )
    return dict(resolved)


def _make_phase(name: str, values: Any, settings: Sequence[str], section: str) -> TrainingPhase:
    if not isinstance(values, Mapping):
        raise ValueError(
            f"[{section}] must have a section for each phase, but had {name} = {values!r}"
        )
    unknown = [setting for setting in values if setting not in settings]
    if unknown:
        raise ValueError(
            f"[{section}.{name}] has the unknown settings {unknown}: there are {list(settings)}"
        )
    given = {setting: value for setting, value in values.items() if value is not None}
    return TrainingPhase(name=name, **given)


@dataclass(frozen=True)
class PhaseSpan:
    """A phase with its length in a training.

    phase (TrainingPhase): The phase. After the last one there is a nameless phase without
        settings.
    n_steps (int | None): The length in steps; None if it is in epochs, or if it has no end.
    """

    phase: TrainingPhase
    n_steps: int | None

    @property
    def name(self) -> str | None:
        """Name of the phase; None after the last one."""
        return self.phase.name if self.phase is not REST else None

    @property
    def n_epochs(self) -> int | None:
        """Length in epochs; None if it is in steps, or if it has no end."""
        return self.phase.epochs

    @property
    def is_open(self) -> bool:
        """Whether it has no end."""
        return self.n_steps is None and self.n_epochs is None

    def describe(self) -> dict[str, Any]:
        """Settings of the phase as JSON values, with its length. Of a batch size the first
        values are given."""
        found: dict[str, Any] = {
            field.name: getattr(self.phase, field.name)
            for field in fields(self.phase)
            if field.name != "name" and getattr(self.phase, field.name) is not None
        }
        if self.phase.batch_size is not None:
            found["batch_size"] = [self.phase.batch_size(step) for step in range(100)]
        return {**found, **self.describe_length()}

    def describe_length(self) -> dict[str, str]:
        """The setting `steps` with the number of steps, if it is a fraction."""
        steps = self.phase.steps
        return {"steps": f"{steps} ({self.n_steps})"} if isinstance(steps, float) else {}


# What follows the last phase.
REST = TrainingPhase(name="rest")


def make_spans(phases: Sequence[TrainingPhase], max_steps: int) -> list[PhaseSpan]:
    """Lengths of phases in steps. Fractions are summed before they are rounded, so that
    fractions whose sum is 1 cover the whole training; a phase has at least one step.

    phases (Sequence[TrainingPhase]): The phases.
    max_steps (int): The maximum number of steps; 0 if there is none.
    RETURNS (list[PhaseSpan]): The phases with their lengths. The last span has no end.
    RAISES: ValueError if a length is not possible, or if the phases have more than `max_steps`
        in total.
    """
    spans = []
    fraction, rounded = 0.0, 0
    for phase in phases:
        steps = phase.check_steps(max_steps)
        if isinstance(steps, float):
            fraction += steps
            if fraction > 1.0 + TOLERANCE:
                raise ValueError(
                    f"The fractions of max_steps of the phases must be at most 1 in total, but "
                    f"are {fraction:g} with phase {phase.name!r}"
                )
            before, rounded = rounded, max(rounded + 1, round(fraction * max_steps))
            steps = rounded - before
        spans.append(PhaseSpan(phase, None if steps is None else int(steps)))
    if not spans or not spans[-1].is_open:
        spans.append(PhaseSpan(REST, None))
    n_steps = sum(span.n_steps or 0 for span in spans)
    if max_steps:
        check_fits(spans, n_steps, max_steps)
    return spans


def check_fits(
    spans: Sequence[PhaseSpan], length: int, total: int, *, unit: str = "steps"
) -> None:
    """Check that the phases are not longer than the training.

    spans (Sequence[PhaseSpan]): As returned by `make_spans`.
    length (int): Length of all spans but the last, which has no end.
    total (int): The maximum length of the training.
    unit (str): The unit of both.
    RAISES: ValueError if they are.
    """
    last = spans[-1]
    if length > total:
        raise ValueError(
            f"The phases must not be longer than the training, but have {length} {unit} in "
            f"total, and the training has {total}"
        )
    if length == total and last.name is not None:
        raise ValueError(
            f"Phase {last.name!r} never begins: the phases before it have {length} {unit} in "
            f"total, and the training has {total}"
        )


# What phases change


class PhaseEffects:
    """Changes that a phase makes to a model and an optimizer.

    phases (Iterable[TrainingPhase]): All phases.
    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    RAISES: ValueError if a phase freezes a group that the optimizer does not have, or starts
        SWA where there is none, or if SWA is to be started by a phase and none does.
    """

    def __init__(self, phases: Iterable[TrainingPhase], optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        levels = unwrap(optimizer)
        self._groups = [level for level in levels if isinstance(level, ParamGroups)]
        self._swa = [level for level in levels if isinstance(level, SWA)]
        # What `finish_update` gets: the optimizer, without the frozen groups of the phase.
        self.optimizer: Any = optimizer
        names = [name for level in self._groups for name in level.group_names]
        starts = False
        for phase in phases:
            for name in phase.frozen:
                if name not in names:
                    known = f"there are {names}" if names else "the optimizer has no groups"
                    raise ValueError(
                        f"frozen of phase {phase.name!r} must have names of groups of "
                        f"ParamGroups, but had {name!r}: {known}"
                    )
            if phase.start_swa and not self._swa:
                raise ValueError(
                    f"start_swa of phase {phase.name!r} needs an optimizer with SWA, but it is "
                    f"{optimizer!r}"
                )
            starts = starts or phase.start_swa
        if not starts and any(level.waits_for_phase for level in self._swa):
            raise ValueError(
                f'start_step = "{PHASE}" of SWA needs a training phase with start_swa = true, '
                "but there is none"
            )

    def check_starts(
        self, spans: Sequence[PhaseSpan], starts: Sequence[int] | None = None
    ) -> None:
        """Check that the phases can start SWA at their first steps, as far as these are known.

        spans (Sequence[PhaseSpan]): As returned by `make_spans`.
        starts (Sequence[int] | None): The number of steps before each; None if it is unknown
            after a phase with a length in epochs.
        RAISES: ValueError if a phase cannot.
        """
        start: int | None = 0
        for i, span in enumerate(spans):
            if starts is not None:
                start = starts[i]
            if start is None:
                return
            for level in self._swa if span.phase.start_swa else ():
                level.check_start(start)
            start = None if span.n_steps is None else start + span.n_steps

    def enter(self, phase: TrainingPhase) -> None:
        """Put the settings of a phase into effect, from its first step or later."""
        self.optimizer = self._optimizer
        if phase.frozen:
            self.optimizer = _WithoutGroups(self._optimizer, self._groups, phase.frozen)

    def begin(self, phase: TrainingPhase) -> None:
        """Do what a phase does once, before its first step."""
        for level in self._swa if phase.start_swa else ():
            level.start_swa()


class _WithoutGroups:
    """What `Model.finish_update` calls instead of an optimizer, so that it gets no gradients of
    some groups.

    optimizer (Optimizer): The optimizer.
    levels (Sequence[ParamGroups]): Those in its nesting.
    names (Sequence[str]): Names of the groups.
    """

    def __init__(
        self, optimizer: Optimizer, levels: Sequence[ParamGroups], names: Sequence[str]
    ) -> None:
        self._optimizer = optimizer
        self._levels = levels
        self._names = frozenset(names)

    def __call__(
        self, key: KeyT, weights: FloatsXd, gradient: FloatsXd, *, lr_scale: float = 1.0
    ) -> tuple[FloatsXd, FloatsXd]:
        if any(level.group_name(key) in self._names for level in self._levels):
            zeroed: Array = gradient
            # Also of an empty one. A product with zero would keep NaN.
            zeroed[...] = 0.0
            return weights, gradient
        weights, gradient = self._optimizer(key, weights, gradient, lr_scale=lr_scale)
        return weights, gradient


class LayerDropout:
    """Dropout rates of the layers of a Thinc model.

    model (Model): The model, with its own rates.
    """

    def __init__(self, model: Model[Any, Any]) -> None:
        self._rates = [
            (node, node.attrs[DROPOUT]) for node in model.walk() if DROPOUT in node.attrs
        ]

    def check(self, phases: Iterable[TrainingPhase]) -> None:
        """RAISES: ValueError if a phase has a dropout rate, and no layer of the model has."""
        for phase in phases:
            if phase.dropout is not None and not self._rates:
                raise ValueError(
                    f"dropout of phase {phase.name!r} has no effect: no layer of the model has "
                    "a dropout rate"
                )

    def set(self, rate: float | None) -> None:
        """Set the rate of all layers; None for the rates of the model."""
        for node, own in self._rates:
            node.attrs[DROPOUT] = own if rate is None else rate

    @contextmanager
    def reset(self) -> Iterator[None]:
        """Context manager in which the layers have the rates of the model."""
        current = [node.attrs[DROPOUT] for node, _ in self._rates]
        self.set(None)
        try:
            yield
        finally:
            for (node, _), rate in zip(self._rates, current, strict=True):
                node.attrs[DROPOUT] = rate
