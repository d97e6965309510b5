"""The HTML page of the report. Needs plotly, which is imported when a page is made."""

import importlib.util
import json
import re
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..about import __version__
from ..schedules.plots import COLOURS
from ..serialization.files import replace_text
from ..training.output_folder import REPORT_MARKER, is_report
from .collection import Report
from .runs import ReportedRun

# For more than six groups, to be told apart on a light and on a dark ground.
MORE_COLOURS = ("#8A6FD1", "#7F9F3F", "#A6761D", "#C2527D", "#3FA7A3", "#8C8C8C")
# Significant digits of curves: more cannot be seen.
N_DIGITS = 6
MISSING = (
    'The report needs the library plotly, which is not installed: pip install "thinc-swa[cli]"'
)


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML page, atomically. It loads nothing from elsewhere.

    path (Path): The file, which may exist if it is a report.
    report (Report): Its content.
    RAISES: FileExistsError if the file exists and is not a report; OSError if it cannot be
        written; ImportError if plotly is not installed.
    """
    check_path(path)
    replace_text(path, make_page(report))


def has_plotly() -> bool:
    """Whether plotly is installed."""
    return importlib.util.find_spec("plotly") is not None


def check_path(path: Path) -> None:
    """RAISES: FileExistsError if a file exists that is not a report; IsADirectoryError if it is
    a folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: choose a file for the report")
    if path.exists() and not is_report(path):
        raise FileExistsError(
            f"{path} exists, and is not a report of thinc-swa: move it away, or choose another "
            "file for the report"
        )


def make_page(report: Report) -> str:
    """Make the HTML page.

    RAISES: ImportError if plotly is not installed.
    """
    if not has_plotly():
        raise ImportError(MISSING)
    from plotly.offline import get_plotlyjs

    folder = files(__package__)
    parts = {
        name: folder.joinpath(f"page.{name}").read_text(encoding="utf8")
        for name in ("html", "css", "js")
    }
    content = {
        "marker": REPORT_MARKER,
        "style": parts["css"],
        "script": _as_script(parts["js"]),
        "plotly": _as_script(get_plotlyjs()),
        "data": _as_script_data(to_data(report)),
    }
    # In one pass: what is inserted may have the form of a placeholder.
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: content[found[1]], parts["html"])


def _as_script(text: str) -> str:
    """Escape what would end a script element, or begin a comment in it, inside strings."""
    return re.sub(r"<(/script|!--)", r"<\\\1", text, flags=re.IGNORECASE)


def _as_script_data(data: Any) -> str:
    """JSON that is safe in a script element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def to_data(report: Report) -> dict[str, Any]:
    """The data of the page as JSON values."""
    return {
        "date": date.today().isoformat(),
        "version": __version__,
        "colours": [*COLOURS, *MORE_COLOURS],
        "groups": [group.name for group in report.groups],
        "runs": [
            _run_data(run, i) for i, group in enumerate(report.groups) for run in group.runs
        ],
        "comparisons": [
            {"name": found.name, "score": found.score, "table": found.table}
            for found in report.comparisons
            if found.table
        ],
        "differences": {
            "names": report.differences.names,
            "rows": [[name, *values] for name, values in report.differences.rows],
        },
    }


def _run_data(run: ReportedRun, group: int) -> dict[str, Any]:
    curves = run.curves
    columns = {
        "raw": curves.raw,
        "averages": curves.averages if any(v is not None for v in curves.averages) else [],
    }
    dicts = {
        "all": curves.all_averages,
        "other": curves.other_scores,
        "losses": curves.losses,
    }
    return {
        "group": group,
        "state": run.state,
        "endedBy": run.ended_by,
        "resumed": run.resumed,
        "seed": run.seed,
        "score": run.score,
        "optimizer": run.optimizer,
        "nSteps": run.n_steps,
        "seconds": _rounded(run.seconds),
        "secondsPerStep": _rounded(run.seconds_per_step),
        "nShared": run.n_shared,
        "nAveraged": run.n_averaged,
        "best": run.best,
        "steps": curves.steps,
        **{name: list(map(_rounded, values)) for name, values in columns.items()},
        **{
            name: {key: list(map(_rounded, values)) for key, values in found.items()}
            for name, found in dicts.items()
        },
        "rates": [[step, _rounded(rate)] for step, rate in run.rates],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{N_DIGITS}g}")
