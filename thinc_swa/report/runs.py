"""What the report has of a training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thinc.api import Config

from ..training.configs import is_spacy_config, nested_optimizers
from ..training.logs import Record, is_number

# States of a run.
COMPLETE = "complete"
FAILED = "failed"
INTERRUPTED = "interrupted"
# A log without an end does not tell which.
OPEN = "interrupted or running"
WAITING = "not started"

Values = list[float | None]


@dataclass
class Curves:
    """Curves of a run: columns with a value per evaluation.

    steps (list[int]): Completed steps.
    raw (Values): Scores of the raw weights. None is NaN, in all columns.
    averages (Values): Scores of the averages; None as long as there are none.
    all_averages (dict[str, Values]): Scores of all averages of the nesting by name, if there
        are several.
    other_scores (dict[str, Values]): Further scores of the weights that are saved, by name.
    losses (dict[str, Values]): Training loss, the mean over the steps since the previous
        evaluation, by component.
    """

    steps: list[int] = field(default_factory=list)
    raw: Values = field(default_factory=list)
    averages: Values = field(default_factory=list)
    all_averages: dict[str, Values] = field(default_factory=dict)
    other_scores: dict[str, Values] = field(default_factory=dict)
    losses: dict[str, Values] = field(default_factory=dict)

    @property
    def scores(self) -> Values:
        """Scores of the weights that are saved: averages if there are any, else raw weights."""
        return [
            raw if averages is None else averages
            for raw, averages in zip(self.raw, self.averages, strict=True)
        ]


@dataclass
class ReportedRun:
    """A training in the report.

    name (str): Name of the training, or of the entry of a comparison.
    state (str): "complete", "failed", "interrupted", "interrupted or running" or "not started".
    ended_by (str): Why it ended, in words.
    resumed (list[int]): Steps after which it was resumed.
    seed (int | None): The seed.
    score (str): Kind of score: "accuracy" or "loss".
    optimizer (str): The nesting of the optimizer: "SWA(Adam)".
    config (Config | None): The config, without variables; None if it is unknown.
    n_steps (int): Completed steps.
    seconds (float | None): Time of the steps, without evaluations.
    seconds_per_step (float | None): Mean time of a step.
    n_shared (int): Number of runs that were trained together, and share this time.
    n_averaged (int | None): Snapshots in the averages at the end.
    best (int | None): Index of the best evaluation.
    curves (Curves): The evaluations.
    rates (list[tuple[int, float]]): Learning rates after steps.
    """

    name: str
    state: str
    ended_by: str = ""
    resumed: list[int] = field(default_factory=list)
    seed: int | None = None
    score: str = "accuracy"
    optimizer: str = ""
    config: Config | None = None
    n_steps: int = 0
    seconds: float | None = None
    seconds_per_step: float | None = None
    n_shared: int = 1
    n_averaged: int | None = None
    best: int | None = None
    curves: Curves = field(default_factory=Curves)
    rates: list[tuple[int, float]] = field(default_factory=list)


def make_curves(evaluations: Sequence[Record], *, offset: int = 0) -> Curves:
    """Make the columns of checked records of evaluations. Losses are those of the records, not
    divided by steps.

    evaluations (Sequence[Record]): The records, with ascending steps.
    offset (int): Number to add to their steps: 1 where these are counted from 0.
    """
    curves = Curves(
        steps=[record["step"] + offset for record in evaluations],
        raw=[record["raw"] for record in evaluations],
        averages=[record["averages"] for record in evaluations],
        other_scores=_columns([_numbers(r.get("other_scores")) for r in evaluations]),
        losses=_columns([_numbers(record.get("losses")) for record in evaluations]),
    )
    others = _columns([_numbers(record.get("all_averages")) for record in evaluations])
    # A single one is `averages`.
    curves.all_averages = others if len(others) > 1 else {}
    return curves


def _numbers(value: Any) -> Mapping[str, float | None]:
    """The numbers of a dict: scores per label are dicts themselves."""
    return {str(name): number for name, number in (value or {}).items() if is_number(number)}


def _columns(rows: Sequence[Mapping[str, float | None]]) -> dict[str, Values]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def per_step(sums: Values, steps: Sequence[int]) -> Values:
    """Divide sums over the steps since the previous evaluation by the number of steps.

    sums (Values): The sums.
    steps (Sequence[int]): Completed steps.
    """
    before = [0, *steps]
    return [
        None if value is None else value / max(step - previous, 1)
        for value, step, previous in zip(sums, steps, before, strict=False)
    ]


def describe_optimizer(config: Config) -> str:
    """Names of the optimizers of a config, outermost first: "SWA(Lookahead(Adam))"."""
    try:
        sections = list(nested_optimizers(config))
    except ValueError:
        return ""
    names = []
    for section in sections:
        if "@optimizers" not in section:
            break
        name = str(section["@optimizers"]).removeprefix("thinc_swa.")
        names.append(name.rpartition(".v")[0] or name)
    return "(".join(names) + ")" * (len(names) - 1)


def seed_of(config: Config) -> int | None:
    """Seed of a config; None if there is none."""
    settings = config.get("training", {})
    seed = settings.get("seed") if isinstance(settings, dict) else None
    if seed is None and not is_spacy_config(config):
        # The default of `Trainer`.
        return 0
    return seed if isinstance(seed, int) else None
