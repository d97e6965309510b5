"""Output folders of `thinc-swa train` for the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..training.configs import score_of
from ..training.logs import (
    HasTypeT,
    Record,
    check_fields,
    find_disorder,
    is_count,
    is_number_or_none,
    read_log,
)
from ..training.output_folder import CONFIG, LOG, load_config
from .runs import (
    COMPLETE,
    FAILED,
    INTERRUPTED,
    OPEN,
    ReportedRun,
    describe_optimizer,
    make_curves,
    per_step,
)

# Number of learning rates in the report. Of more steps than that, the lowest and the highest
# rate of each of half as many intervals are kept.
MAX_RATES = 500


def is_training(folder: Path) -> bool:
    """Whether a folder has the log of a training."""
    return (folder / LOG).is_file()


def read_training(folder: Path, name: str) -> ReportedRun:
    """Read the training in an output folder.

    folder (Path): Output folder of `thinc-swa train`.
    name (str): Name in the report.
    RAISES: OSError if a file cannot be read; ValueError with its name if it is damaged.
    """
    path = folder / LOG
    records = list(read_log(path))
    try:
        _check_records(records)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    starts = [record for record in records if record["type"] == "start"]
    evaluations = [record for record in records if record["type"] == "evaluation"]
    config = load_config(folder) if (folder / CONFIG).is_file() else None
    last = evaluations[-1] if evaluations else {}
    seconds = last.get("seconds")
    state, ended_by = _describe_end(records)
    curves = make_curves(evaluations)
    curves.losses = {
        component: per_step(sums, curves.steps) for component, sums in curves.losses.items()
    }
    best = [i for i, record in enumerate(evaluations) if record["is_best"]]
    return ReportedRun(
        name,
        state,
        ended_by,
        resumed=list(dict.fromkeys(record["step"] for record in starts if record["step"])),
        seed=starts[0]["seed"] if starts else None,
        score="accuracy" if config is None else score_of(config),
        optimizer=_optimizer_of(starts) if config is None else describe_optimizer(config),
        config=config,
        n_steps=max((record.get("step", 0) for record in records), default=0),
        seconds=seconds,
        seconds_per_step=None if seconds is None else seconds / max(last["step"], 1),
        n_averaged=last.get("n_averaged"),
        best=best[-1] if best else None,
        curves=curves,
        rates=thin_rates(
            [
                (record["step"], record["learn_rate"])
                for record in records
                if record["type"] == "step" and record["learn_rate"] is not None
            ]
        ),
    )


def _optimizer_of(starts: Sequence[Record]) -> str:
    """The optimizer as the log has it, with its settings."""
    return str(starts[-1].get("optimizer", "")) if starts else ""


def _describe_end(records: Sequence[Record]) -> tuple[str, str]:
    """RETURNS (tuple[str, str]): State of a training, and why it ended."""
    last = records[-1] if records else {}
    if last.get("type") != "end":
        return OPEN, ""
    error, reason = last.get("error"), last.get("reason")
    if error:
        # Ctrl-C a second time.
        is_interrupt = str(error).startswith("KeyboardInterrupt")
        return (INTERRUPTED, "") if is_interrupt else (FAILED, str(error))
    if reason == INTERRUPTED:
        return INTERRUPTED, ""
    return COMPLETE, str(reason or "")


def thin_rates(
    rates: Sequence[tuple[int, float]], limit: int = MAX_RATES
) -> list[tuple[int, float]]:
    """Leave out learning rates that do not change the picture.

    rates (Sequence[tuple[int, float]]): Steps and learning rates.
    limit (int): About the maximum number of those to keep.
    RETURNS (list[tuple[int, float]]): Those to keep: the first and the last, and the extremes
        of equal intervals, without those in the middle of constant stretches.
    """
    kept = list(rates)
    if len(kept) > limit:
        size = -(-2 * len(kept) // limit)
        parts = [kept[start : start + size] for start in range(0, len(kept), size)]
        extremes = {
            choose(part, key=lambda pair: pair[1]) for part in parts for choose in (min, max)
        }
        kept = sorted({kept[0], *extremes, kept[-1]})
    return [
        pair
        for i, pair in enumerate(kept)
        if i in (0, len(kept) - 1) or pair[1] != kept[i - 1][1] or pair[1] != kept[i + 1][1]
    ]


def _check_records(records: Sequence[Record]) -> None:
    """RAISES: ValueError if records are out of order, or values are missing or of a wrong
    type."""
    wrong = find_disorder(records)
    if wrong is not None:
        raise ValueError(wrong)
    for number, record in enumerate(records, start=1):
        check_fields(number, record, _FIELDS.get(record["type"], {}), optional=_ADDED)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


# Fields that the logs of earlier versions lack.
_ADDED = ("other_scores", "all_averages", "losses")
# Fields of each type of record. NaN is null in JSON.
_FIELDS: dict[str, dict[str, HasTypeT]] = {
    "start": {"step": is_count, "seed": lambda value: value is None or is_count(value)},
    "step": {"step": is_count, "learn_rate": is_number_or_none},
    "evaluation": {
        "step": is_count,
        "raw": is_number_or_none,
        "averages": is_number_or_none,
        "n_averaged": lambda value: value is None or is_count(value),
        "is_best": lambda value: isinstance(value, bool),
        "other_scores": _is_dict,
        "all_averages": _is_dict,
        "losses": _is_dict,
        "seconds": is_number_or_none,
    },
    "end": {"step": is_count},
}
