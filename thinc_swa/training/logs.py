"""Logs as JSON lines: one object per line, its "type" first."""

# By `json` rather than `srsly`, which Thinc depends on: that rounds numbers to ten decimals
# when it writes them and reads 0.7 as 0.7000000000000001. Resumed trainings and comparisons
# need the numbers bit for bit.
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..serialization.files import replace_text

Record = dict[str, Any]
# Whether a JSON value is of the type of a field.
HasTypeT = Callable[[Any], bool]


class Log:
    """Writer of a log.

    path (Path): The file, which is appended to.
    """

    # Number of records written.
    n_records: int

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf8")
        self.n_records = 0

    def write(self, type: str, **values: Any) -> None:
        """Write a record.

        type (str): Type of the record.
        values (Any): JSON values by name. NaN and infinity are written as null.
        """
        values = {name: _as_json(value) for name, value in values.items()}
        self._file.write(json.dumps({"type": type, **values}) + "\n")
        self.n_records += 1

    def flush(self) -> None:
        """Pass all records to the operating system: they survive a crash of the process."""
        self._file.flush()

    def sync(self) -> None:
        """Write all records to the disk: they survive a crash of the machine."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    # JSON has no NaN and no infinity.
    is_odd = isinstance(value, float) and not math.isfinite(value)
    return None if is_odd else value


def read_log(path: Path) -> Iterator[Record]:
    """Read the records of a log. An incomplete last line, as a crash leaves it, is ignored.

    RAISES: OSError if the file cannot be read; ValueError with its name and the number of the
        line if a line is damaged.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
            except ValueError:  # Invalid JSON or UTF-8.
                record = None
            if not isinstance(record, dict) or not isinstance(record.get("type"), str):
                raise ValueError(f"{path} is damaged: line {number} is not a record")
            yield record


def keep_records(path: Path, is_kept: Callable[[Record], bool]) -> None:
    """Remove records from a log, atomically.

    is_kept (Callable): Whether to keep a record.
    RAISES: As `read_log`.
    """
    records = [record for record in read_log(path) if is_kept(record)]
    replace_text(path, "".join(json.dumps(record) + "\n" for record in records))


def find_disorder(records: Iterable[Record]) -> str | None:
    """Check the order of the records of a training: lost records, or those of several processes
    that wrote at the same time, break it.

    A log begins with a "start". Further ones have a step > 0, that of the checkpoint from which
    the training was resumed. Steps increase, and only a "start" follows an "end".

    records (Iterable[Record]): All records of a log.
    RETURNS (str | None): What is wrong, with the number of the line; None if the order is
    right.
    """
    step = 0
    last: dict[str, int] = {}
    is_open = False
    for number, record in enumerate(records, start=1):
        kind, at = record["type"], record.get("step")
        if at is not None and not isinstance(at, int):
            return f"line {number} has the step {at!r}"
        if kind == "start":
            if number > 1 and (not at or at != step):
                return f"line {number} is another start, after step {step}"
            is_open, step = True, at or 0
            continue
        if not is_open:
            return f"line {number} ({kind}) has no start before it"
        is_open = kind != "end"
        if at is not None:
            if at < step or at <= last.get(kind, -1) or (kind == "step" and at != step + 1):
                return f"line {number} ({kind}) has step {at}, after step {step}"
            step = last[kind] = at
    return None


def check_fields(
    number: int,
    record: Record,
    fields: Mapping[str, HasTypeT],
    *,
    optional: Iterable[str] = (),
) -> None:
    """Check the fields of a record.

    number (int): Number of its line, from 1.
    fields (Mapping[str, Callable]): Whether a value has the type of the field, by name.
    optional (Iterable[str]): Names of fields that may be missing.
    RAISES: ValueError if a field is missing, or a value of a wrong type.
    """
    for name, has_type in fields.items():
        if name not in record:
            if name in optional:
                continue
            raise ValueError(f"no {name} in line {number}")
        if not has_type(record[name]):
            raise ValueError(f"{name} is {record[name]!r} in line {number}")


def is_count(value: Any) -> bool:
    """Whether a JSON value is an int >= 0."""
    return type(value) is int and value >= 0


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    # Larger ints cannot be converted to floats.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def is_number_or_none(value: Any) -> bool:
    """Whether a JSON value is a finite number, or null, as which NaN is written."""
    return value is None or is_number(value)
