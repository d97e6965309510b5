"""Learning-rate range test: the loss under a learning rate that rises exponentially (Smith
2017, arXiv:1506.01186, section 3.3).

Only the first steps of a training are taken, and the model is not saved.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
from thinc.api import Config

from ..averaging.finite import are_finite
from ..errors import CallbackError
from ..models.parameters import named_parameters
from ..optimizers.swa import PHASE
from ..schedules.learn_rate import replace_rate
from ..schedules.plots import COLOURS
from ..validation import check_int, check_number
from .callbacks import Callback
from .configs import SECTION, is_spacy_config, nested_optimizers
from .interface import TrainerInterface
from .spacy_trainer import SpacyTrainer
from .trainer import Trainer

# The suggested rate is this share of the one with the lowest loss: the optimum is usually
# within a factor of two of the highest rate that converges (Smith 2017, section 3.3).
SHARE = 0.5
# The test ends when the running loss exceeds the initial loss by this many times its amount.
DIVERGENCE = 1.0
# Share of the steps whose mean loss is the initial one.
INITIAL_SHARE = 0.1
# Weight of earlier steps in the running loss.
RUNNING_SMOOTHING = 0.9
# Standard errors by which the loss must fall for a suggestion: the lowest of many smoothed
# losses is two or three below their mean by chance.
MIN_FALL = 4.0
# Standard deviation of the kernel that smooths the results, in powers of ten of the rate.
KERNEL_WIDTH = 0.12


@dataclass(frozen=True)
class RateRange:
    """Learning rates of a range test: a geometric sequence.

    min_rate (float): The first rate.
    max_rate (float): The last rate.
    n_steps (int): Number of rates, one per step; at least 20.
    RAISES: ValueError if an argument is out of its range.
    """

    min_rate: float = 1e-6
    max_rate: float = 1.0
    n_steps: int = 300

    def __post_init__(self) -> None:
        check_number("min", self.min_rate, above=0.0)
        check_number("max", self.max_rate, above=0.0)
        check_int("steps", self.n_steps, minimum=20)
        if self.max_rate <= self.min_rate:
            raise ValueError(
                f"max must be higher than min, but was {self.max_rate!r} with min = "
                f"{self.min_rate!r}"
            )

    def __iter__(self) -> Iterator[float]:
        ratio = self.max_rate / self.min_rate
        for i in range(self.n_steps):
            yield self.min_rate * ratio ** (i / (self.n_steps - 1))


@dataclass(frozen=True)
class RateCurve:
    """Losses under rising learning rates.

    rates (list[float]): The rates, ascending.
    losses (list[float]): The loss of the step after the update with each rate, finite.
    has_diverged (bool): Whether the test ended before the last rate because the loss diverged.
    """

    rates: list[float]
    losses: list[float]
    has_diverged: bool = False

    @cached_property
    def _kernel(self) -> Any:
        """Weights of all losses in each smoothed loss, with a sum of 1."""
        positions = numpy.log10(self.rates)
        distances = (positions[:, None] - positions[None, :]) / KERNEL_WIDTH
        kernel = numpy.exp(-0.5 * distances**2)
        return kernel / kernel.sum(axis=1, keepdims=True)

    @cached_property
    def smoothed(self) -> list[float]:
        """Losses, smoothed by a Gaussian kernel over the logarithm of the rate. It is
        symmetric, so the curve is not shifted towards high rates, as by a running mean."""
        if not self.rates:
            return []
        return [float(value) for value in self._kernel @ numpy.asarray(self.losses)]

    @property
    def lowest(self) -> int:
        """Index of the lowest smoothed loss, the first of several."""
        return min(range(len(self.rates)), key=lambda i: self.smoothed[i])

    @property
    def steepest(self) -> int:
        """Index of the steepest fall of the smoothed loss over the logarithm of the rate, up to
        the lowest loss."""
        slopes = numpy.gradient(self.smoothed, numpy.log10(self.rates))
        return int(slopes[: self.lowest + 1].argmin())

    @property
    def problem(self) -> str | None:
        """Why there is no suggestion, in one sentence; None if there is one."""
        if len(self.rates) < 3:
            return "The loss diverged at once: lower --min"
        if not self._falls:
            return "The loss did not fall by more than its noise: use other --min and --max"
        if self.lowest == len(self.rates) - 1 and not self.has_diverged:
            return "The loss is lowest at the highest rate: raise --max"
        return None

    @property
    def _falls(self) -> bool:
        """Whether the lowest smoothed loss is lower than the initial loss by more than
        `MIN_FALL` standard errors."""
        lowest, n_initial = self.lowest, max(1, round(INITIAL_SHARE * len(self.losses)))
        before = slice(max(lowest + 1, n_initial))
        losses = numpy.asarray(self.losses)
        noise = float((losses - self.smoothed)[before].std())
        error = noise * math.sqrt((self._kernel[lowest] ** 2).sum() + 1.0 / n_initial)
        fall = losses[:n_initial].mean() - self.smoothed[lowest]
        return lowest > 0 and bool(fall > MIN_FALL * error)

    @property
    def suggestion(self) -> float | None:
        """Half of the rate with the lowest smoothed loss, to two digits; None if there is a
        `problem`."""
        if self.problem is not None:
            return None
        return float(f"{SHARE * self.rates[self.lowest]:.1e}")


class RangeTest(Callback):
    """Callback that raises the learning rate after every step, and stops the training after the
    last one or when the loss diverges.

    rate_range (RateRange): The rates.
    """

    def __init__(self, rate_range: RateRange) -> None:
        self._rates = list(rate_range)
        self._n_initial = max(1, round(INITIAL_SHARE * len(self._rates)))
        self._losses: list[float] = []
        self._running = 0.0
        self._has_diverged = False
        # Sums of the trainer after the step before.
        self._sums: dict[str, float] = {}
        self._n_words = 0

    @property
    def curve(self) -> RateCurve:
        """Results so far."""
        rates = self._rates[: len(self._losses)]
        return RateCurve(rates, list(self._losses), self._has_diverged)

    def on_start(self, trainer: TrainerInterface) -> None:
        replace_rate(trainer.optimizer, self._rates[0])

    def on_step(self, trainer: TrainerInterface) -> None:
        loss, step = self._last_loss(trainer), trainer.state.step
        if not math.isfinite(loss):
            self.diverge(trainer)
            return
        # The loss of a step is that before its update, so the first one is without a rate.
        if step > 1:
            self._losses.append(loss)
            self._update_running(loss)
        if self._is_diverging():
            self.diverge(trainer)
        elif len(self._losses) == len(self._rates):
            trainer.stop("end of the range")
        elif step < len(self._rates):
            replace_rate(trainer.optimizer, self._rates[step])

    def diverge(self, trainer: TrainerInterface) -> None:
        """Stop the training because the loss diverges."""
        self._has_diverged = True
        trainer.stop("divergence")

    def _update_running(self, loss: float) -> None:
        share = max(1.0 - RUNNING_SMOOTHING, 1.0 / len(self._losses))
        self._running += share * (loss - self._running)

    def _is_diverging(self) -> bool:
        if len(self._losses) <= self._n_initial:
            return False
        initial = sum(self._losses[: self._n_initial]) / self._n_initial
        return self._running > initial + DIVERGENCE * abs(initial)

    def _last_loss(self, trainer: TrainerInterface) -> float:
        if not isinstance(trainer, SpacyTrainer):
            return trainer.state.loss
        sums, n_words = trainer.state.losses, trainer.state.extra["words"]
        losses = {name: loss - self._sums.get(name, 0.0) for name, loss in sums.items()}
        size = n_words - self._n_words
        self._sums, self._n_words = dict(sums), n_words
        return _loss_per_word(trainer.model, losses, size)


def _loss_per_word(nlp: Any, losses: Mapping[str, float], n_words: int) -> float:
    """Sum of the losses of all components in a step, comparable between batches of different
    sizes.

    nlp (Language): The pipeline.
    losses (Mapping[str, float]): Loss of each component.
    n_words (int): Number of words in the batch.
    """
    from spacy.pipeline import TextCategorizer
    from spacy.ty import ListenedToComponent

    total = 0.0
    for name, loss in losses.items():
        component = nlp.get_pipe(name) if name in nlp.component_names else None
        if isinstance(component, ListenedToComponent):
            continue  # Not a loss, but the squared gradient of those that listen.
        # Other components sum over the words.
        is_mean = isinstance(component, TextCategorizer)
        total += loss if is_mean else loss / max(n_words, 1)
    return total


class _RangeTrainer(Trainer):
    """Trainer without evaluations, and without the incomplete batch at the end of an epoch: a
    loss can depend on the size of the batch."""

    _drop_last = True

    def _needs_evaluation(self) -> bool:
        return False


class _SpacyRangeTrainer(SpacyTrainer):
    """Trainer for spaCy configs without evaluations."""

    @property
    def needs_evaluation(self) -> bool:
        return False


def find_rate(
    config: Config,
    *,
    rate_range: RateRange | None = None,
    code: Path | None = None,
    gpu_id: int = -1,
    callbacks: Sequence[Callback] = (),
) -> RateCurve:
    """Train a config for a few steps, with a learning rate that rises exponentially.

    The rate is that of the innermost optimizer, and replaces a schedule. Everything else is as
    in the config, wrappers too. Limits of the training (`max_steps`, `max_epochs`, `patience`)
    and its phases have no effect, but a streamed corpus (`max_epochs = -1`) can end the test
    early.

    config (Config): For Thinc or for spaCy. It is not changed.
    rate_range (RateRange | None): The rates. By default 300 from 1e-6 to 1.
    code (Path | None): The Python file that registers what the config names, already executed.
    gpu_id (int): GPU id, which is active already; -1 for the CPU.
    callbacks (Sequence[Callback]): Further callbacks.
    RETURNS (RateCurve): Rates and losses.
    RAISES: ValueError if the config has no optimizer; errors of the config, of the data and of
        the model.
    """
    rate_range = RateRange() if rate_range is None else rate_range
    test = RangeTest(rate_range)
    config = config.interpolate()
    _remove_phases(config, rate_range.n_steps)
    trainer: Trainer | SpacyTrainer
    if is_spacy_config(config):
        training = config["training"]
        training["logger"] = {"@loggers": "spacy.ConsoleLogger.v3"}
        # Of a streamed corpus there is only one pass.
        training["max_epochs"] = min(training.get("max_epochs", 0), 0)
        training.update(max_steps=0, patience=0)
        trainer = _SpacyRangeTrainer(config, [test, *callbacks], gpu_id=gpu_id, code=code)
        trainer.state.total_steps = rate_range.n_steps + 1
    else:
        config.get("training", {}).update(
            max_steps=rate_range.n_steps + 1, max_epochs=0, patience=0
        )
        # Those of the config may need evaluations.
        config.pop("callbacks", None)
        trainer = _RangeTrainer.from_config(config, [test, *callbacks], code=code)
    with _ignoring_overflow():
        try:
            trainer.run()
        except CallbackError:
            raise
        except Exception:
            # Layers and components may fail under weights that are not finite.
            if _is_finite(trainer.model):
                raise
            test.diverge(trainer)
    return test.curve


def _remove_phases(config: Config, n_steps: int) -> None:
    """Remove the phases of a training, whose lengths are for the whole training. SWA that a
    phase starts does not start in the test.

    RAISES: ValueError if the config has no optimizer.
    """
    for name in ("training", SECTION):
        config.get(name, {}).pop("phases", None)
    for section in nested_optimizers(config):
        if section.get("start_step") == PHASE:
            section["start_step"] = n_steps + 1


@contextmanager
def _ignoring_overflow() -> Iterator[None]:
    """Context manager without warnings of NumPy and of averages about numbers that are not
    finite, which the test provokes."""
    with warnings.catch_warnings(), numpy.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def _is_finite(model: Any) -> bool:
    return all(are_finite([parameter.get() for _, _, parameter in named_parameters(model)]))


def rate_setting(config: Config) -> tuple[str, bool]:
    """Place of the learning rate in a config.

    config (Config): For Thinc or for spaCy.
    RETURNS (tuple[str, bool]): The section of the innermost optimizer, and whether it has a
        section of its own for a schedule of the learning rate.
    RAISES: ValueError if the config has no optimizer.
    """
    *_, innermost = sections = list(nested_optimizers(config))
    names = [*(["training"] if is_spacy_config(config) else []), *["optimizer"] * len(sections)]
    return ".".join(names), isinstance(innermost.get("learn_rate"), dict)


def plot_rates(curve: RateCurve) -> Any:
    """Plot the loss against the learning rate, and mark the suggestion. Needs matplotlib.

    curve (RateCurve): At least one loss.
    RETURNS (Figure): The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xscale("log")
    panel.plot(
        curve.rates,
        curve.losses,
        ".",
        color="#B0B0B0",
        markersize=3,
        label="loss of each step",
    )
    panel.plot(curve.rates, curve.smoothed, color=COLOURS[0], label="smoothed")
    lowest = curve.lowest
    panel.plot(
        [curve.rates[lowest]],
        [curve.smoothed[lowest]],
        "o",
        color=COLOURS[0],
        label=f"lowest: {curve.rates[lowest]:.2g}",
    )
    if curve.suggestion is not None:
        panel.axvline(
            curve.suggestion,
            color=COLOURS[5],
            linestyle="--",
            label=f"suggested: {curve.suggestion:g}",
        )
    # Single losses of a divergence would hide the curve.
    low, high = min(curve.smoothed), max(curve.smoothed[: lowest + 1])
    margin = 0.25 * (high - low) or 1.0
    panel.set_ylim(low - margin, high + 2 * margin)
    panel.set_xlabel("learning rate")
    panel.set_ylabel("loss")
    panel.legend(frameon=False, fontsize=9)
    return figure
