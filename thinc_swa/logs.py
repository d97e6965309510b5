"""Logs as JSON lines: one object a line, its "type" first."""

import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

from .files import replace_text

Record = Dict[str, Any]


class Log:
    """A log that is being written.

    path (Path): The file. It is appended to.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf8")

    def write(self, type: str, **values: Any) -> None:
        values = {name: _as_json(value) for name, value in values.items()}
        self._file.write(json.dumps({"type": type, **values}) + "\n")

    def flush(self) -> None:
        """Hand over to the system what was written: it survives a crash of the process."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _as_json(value: Any) -> Any:
    # JSON knows no NaN and no infinity.
    is_odd = isinstance(value, float) and not math.isfinite(value)
    return None if is_odd else value


def read_log(path: Path) -> Iterator[Record]:
    """The records of a log. A last line that a crash has cut off is left out."""
    with path.open(encoding="utf8") as file:
        for line in file:
            if line.endswith("\n"):
                record: Record = json.loads(line)
                yield record


def keep_records(path: Path, is_kept: Callable[[Record], bool]) -> None:
    """Take the other records out of a log."""
    records = [record for record in read_log(path) if is_kept(record)]
    replace_text(path, "".join(json.dumps(record) + "\n" for record in records))
