"""Logs of runs: reading, and checks for damage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..training.logs import (
    HasTypeT,
    Record,
    check_fields,
    is_count,
    is_number,
    is_number_or_none,
    read_log,
)


def read_run_log(path: Path) -> list[Record]:
    """Read and check the log of a run.

    RAISES: OSError if the file cannot be read; ValueError with its name if it is damaged.
    """
    records = list(read_log(path))
    try:
        check_records(records)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return records


def check_records(records: Sequence[Any]) -> None:
    """Check that records are those of one run, from its start on.

    RAISES: ValueError if there are several starts, steps out of order, or records after the end
        (two processes may have written to one file), values of a wrong type, or fewer records
        than were written.
    """
    step = -1
    for i, record in enumerate(records):
        if not isinstance(record, dict) or not isinstance(record.get("type"), str):
            raise ValueError(f"line {i + 1} is not a record")
        kind = record["type"]
        if (kind == "start") != (i == 0):
            raise ValueError("more than one start" if i else "no start")
        if i and records[i - 1]["type"] == "end":
            raise ValueError("records after the end")
        # Earlier versions began with a fingerprint.
        is_known = kind != "start" or "config" in record
        if is_known:
            check_fields(i + 1, record, _FIELDS.get(kind, {}))
        if kind == "evaluation":
            if record["step"] <= step:
                raise ValueError("steps are out of order")
            step = record["step"]
    if records and records[-1]["type"] == "end":
        _check_whole(records)


def _check_whole(records: Sequence[Record]) -> None:
    """RAISES: ValueError if a log with an end lacks a record or a score."""
    n_written = records[-1]["n_records"]
    if n_written != len(records) - 1:
        raise ValueError(f"it has {len(records) - 1} records before its end, not {n_written}")
    for record in records:
        # A run that has diverged has failed, and has no end.
        if record["type"] == "evaluation" and None in (record["raw"], record["score"]):
            raise ValueError(f"no score after step {record['step']}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# Required fields of each type of record. NaN is null in JSON.
_FIELDS: dict[str, dict[str, HasTypeT]] = {
    "start": {
        "config": _is_text,
        "inputs": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    },
    "progress": {"step": is_count, "total_steps": is_count},
    "evaluation": {
        "step": is_count,
        "loss": is_number_or_none,
        "learn_rate": is_number_or_none,
        "n_averaged": lambda value: value is None or is_count(value),
        "raw": is_number_or_none,
        "averages": is_number_or_none,
        "score": is_number_or_none,
    },
    "end": {
        "n_records": is_count,
        "n_steps": is_count,
        "seconds_per_step": is_number,
        "n_shared": is_count,
    },
    "error": {"error": _is_text},
}
