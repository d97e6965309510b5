"""State of a training, shared by trainers, callbacks and checkpoints."""

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isnan
from pathlib import Path
from typing import Any

from .evaluation import Evaluation


@dataclass
class TrainerState:
    """State of a training. Trainers write it, callbacks read it, checkpoints save it.

    run_id (str): Id of the training, kept when it is resumed.
    step (int): Completed steps.
    epoch (int): Epoch of the last step, from 0.
    evaluations (list[Evaluation]): All evaluations so far.
    loss (float): Loss of the last step.
    losses (dict[str, float]): Losses by name (for spaCy, by component), summed over the steps
        since the last evaluation.
    n_losses (int): Number of these steps.
    learn_rate (float): Learning rate of the last step.
    n_averaged (int | None): Snapshots in the averages; None if the optimizer does not count
        any.
    seconds (float): Time spent in training steps, without evaluations.
    extra (dict[str, Any]): Further state of the trainer as JSON values, for example its
        position in a streamed corpus.
    total_steps (int | None): Maximum number of steps; None if it is unknown. It follows from
        the settings, so checkpoints do not save it.
    stop_reason (str | None): Why the training stopped: "max_steps", "max_epochs", "patience",
        "interrupted" or the argument of `stop`. Not saved.
    error (BaseException | None): Exception that ended the training. Not saved.
    checkpoint (Path | None): Checkpoint that was saved or loaded last. Not saved.
    output (Path | None): Output folder, which has the checkpoints; None if nothing is saved.
        Not saved.
    """

    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    step: int = 0
    epoch: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    loss: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    n_losses: int = 0
    learn_rate: float = 0.0
    n_averaged: int | None = None
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    total_steps: int | None = None
    stop_reason: str | None = None
    error: BaseException | None = None
    checkpoint: Path | None = None
    output: Path | None = None

    @property
    def best(self) -> Evaluation | None:
        """Evaluation with the highest score, the first of several (for spaCy, the last of
        several, which is `model-best`); None before the first."""
        return next((found for found in reversed(self.evaluations) if found.is_best), None)

    @property
    def best_score(self) -> float | None:
        """Highest score so far."""
        return None if self.best is None else self.best.score

    @property
    def best_step(self) -> int | None:
        """Step of the highest score so far."""
        return None if self.best is None else self.best.step

    @property
    def is_evaluated(self) -> bool:
        """Whether the current step has been evaluated."""
        return bool(self.evaluations) and self.evaluations[-1].step == self.step

    @property
    def mean_loss(self) -> float:
        """Mean over the steps since the last evaluation of the sum of all losses."""
        return sum(self.losses.values()) / max(self.n_losses, 1)

    @property
    def steps_without_improvement(self) -> int:
        """Steps from the best evaluation to the last one, for early stopping."""
        return 0 if self.best is None else self.evaluations[-1].step - self.best.step

    def is_improvement(self, score: float) -> bool:
        """Whether a score is higher than all before. Any number is higher than NaN."""
        if self.best is None:
            return True
        return score > self.best.score or (isnan(self.best.score) and not isnan(score))

    def add_step(
        self,
        losses: Mapping[str, float],
        *,
        epoch: int,
        learn_rate: float,
        n_averaged: int | None,
        seconds: float,
    ) -> None:
        """Record a completed step.

        losses (Mapping[str, float]): Losses of this step by name.
        epoch (int): Epoch of this step, from 0.
        learn_rate (float): Learning rate of this step.
        n_averaged (int | None): Snapshots in the averages after this step.
        seconds (float): Duration of this step.
        """
        self.step += 1
        self.epoch = epoch
        self.loss = sum(losses.values())
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + loss
        self.n_losses += 1
        self.learn_rate = learn_rate
        self.n_averaged = n_averaged
        self.seconds += seconds

    def add_evaluation(
        self,
        raw: float,
        averages: float | None,
        *,
        other_scores: Mapping[str, Any] | None = None,
        all_averages: Mapping[str, float] | None = None,
        is_best: bool | None = None,
    ) -> Evaluation:
        """Record an evaluation of the current step, and start new sums of losses.

        raw (float): Score of the raw weights.
        averages (float | None): Score of the averages; None if there are none yet.
        other_scores (Mapping[str, Any] | None): Further scores of the weights that are saved.
        all_averages (Mapping[str, float] | None): Scores of all averages by name, that of
            `averages` first.
        is_best (bool | None): Whether this is the best evaluation so far; None if the score
            decides.
        RETURNS (Evaluation): The evaluation, which is also the last of `evaluations`.
        """
        if is_best is None:
            is_best = self.is_improvement(raw if averages is None else averages)
        evaluation = Evaluation(
            step=self.step,
            epoch=self.epoch,
            loss=self.mean_loss,
            learn_rate=self.learn_rate,
            n_averaged=self.n_averaged,
            raw=raw,
            averages=averages,
            is_best=is_best,
            other_scores=dict(other_scores or {}),
            all_averages=dict(all_averages or {}),
            losses=dict(self.losses),
        )
        self.losses, self.n_losses = {}, 0
        self.evaluations.append(evaluation)
        return evaluation

    def to_dict(self) -> dict[str, Any]:
        """Saved part of the state as JSON values."""
        # `asdict` copies all values, and exceptions cannot always be copied.
        saved = {name: getattr(self, name) for name in _SAVED}
        return {**saved, "evaluations": [asdict(found) for found in self.evaluations]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainerState":
        """Restore a state from the result of `to_dict`.

        RAISES: ValueError if values are missing, or if there are others.
        """
        if set(values) != set(_SAVED):
            raise ValueError(
                f"The state of a training must have {list(_SAVED)}, but had {list(values)}"
            )
        try:
            evaluations = [Evaluation(**found) for found in values["evaluations"]]
        except TypeError as error:
            raise ValueError(f"The evaluations are damaged: {error}") from error
        return cls(**{**values, "evaluations": evaluations})


_SAVED = tuple(
    found.name
    for found in fields(TrainerState)
    if found.name not in ("total_steps", "stop_reason", "error", "checkpoint", "output")
)
