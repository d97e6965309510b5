"""Logs as JSON lines: one object per line, its "type" first."""

# By `json` rather than `srsly`, which Thinc depends on: that rounds numbers to ten decimals
# when it writes them and reads 0.7 as 0.7000000000000001. Resumed trainings and comparisons
# need the numbers bit for bit.
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..serialization.files import replace_text

Record = dict[str, Any]


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
