"""Output folders of `thinc-swa compare` for the report."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinc.api import Config

from ..comparison.folders import OUTPUT_MARKER
from ..comparison.results import summarize, table
from ..comparison.run_logs import read_run_log
from ..comparison.run_worker import LOG
from ..comparison.runs import Run
from ..errors import describe_error
from ..escaping import folder_name
from ..training.configs import is_spacy_config, score_of
from .runs import (
    COMPLETE,
    FAILED,
    OPEN,
    WAITING,
    ReportedRun,
    describe_optimizer,
    make_curves,
    per_step,
    seed_of,
)

RESULTS = "results.json"
STATES = {"done": COMPLETE, "failed": FAILED, "running": OPEN, "waiting": WAITING}
# The reason in the logs of spaCy configs, other than "max_steps".
OTHER_REASONS = {"other": "max_epochs or patience"}


@dataclass
class ReportedComparison:
    """A comparison in the report.

    name (str): Name of the comparison.
    runs (list[ReportedRun]): Its runs, ordered by entry, the baseline first.
    table (list[list[str]]): The rows of the table of `thinc-swa compare`, the header first;
        empty if no run is complete.
    score (str): Kind of score: "accuracy" or "loss".
    errors (list[str]): Logs that are damaged, one line each.
    """

    name: str
    runs: list[ReportedRun]
    table: list[list[str]]
    score: str
    errors: list[str]


def is_comparison(folder: Path) -> bool:
    """Whether a folder is the output folder of a comparison."""
    has_marker = (folder / OUTPUT_MARKER).is_file()
    return has_marker or any((folder / "runs").glob(f"*/*/{LOG}"))


def read_comparison(folder: Path, name: str) -> ReportedComparison:
    """Read the runs of a comparison. The results that it has written name them; without these
    all runs in the folder are read.

    folder (Path): Output folder of `thinc-swa compare`.
    name (str): Name of the comparison in the report.
    RAISES: OSError if a file cannot be read; ValueError if the results are damaged.
    """
    runs, errors = [], []
    for run in _find_runs(folder):
        try:
            _read_log(run)
        except (OSError, ValueError) as error:
            errors.append(describe_error(error))
            continue
        runs.append(run)
    configs = [_config_of(run) for run in runs]
    score = next((score_of(config) for config in configs if config is not None), "accuracy")
    has_results = any(run.state == "done" and run.evaluations for run in runs)
    entries = list(dict.fromkeys(run.name for run in runs))
    reported = [
        _make_reported(run, config, score) for run, config in zip(runs, configs, strict=True)
    ]
    return ReportedComparison(
        name,
        sorted(reported, key=lambda run: entries.index(run.name)),
        table(summarize(runs), score) if has_results else [],
        score,
        errors,
    )


def _find_runs(folder: Path) -> list[Run]:
    path = folder / RESULTS
    if path.is_file():
        try:
            found = [
                (str(run["name"]), int(run["seed"]))
                for run in json.loads(path.read_text(encoding="utf8"))["runs"]
            ]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged: run thinc-swa compare again, or move it away"
            ) from error
        folders = [folder / "runs" / folder_name(name) / f"seed-{seed}" for name, seed in found]
    else:
        # Ordered by seed, as `make_runs` does.
        logs = (folder / "runs").glob(f"*/seed-*/{LOG}")
        folders = sorted((log.parent for log in logs), key=lambda path: (_seed(path), path))
        found = [(path.parent.name, _seed(path)) for path in folders]
    seeds: dict[str, list[int]] = {}
    runs = []
    for (name, seed), path in zip(found, folders, strict=True):
        own = seeds.setdefault(name, [])
        runs.append(Run(name, len(own), seed, "", path))
        own.append(seed)
    return runs


def _seed(folder: Path) -> int:
    digits = folder.name.removeprefix("seed-")
    return int(digits) if digits.isdecimal() else 0


def _read_log(run: Run) -> None:
    """Read the log of a run, which it may not have yet.

    RAISES: OSError if it cannot be read; ValueError with its name if it is damaged.
    """
    try:
        run.records = read_run_log(run.folder / LOG)
    except FileNotFoundError:
        return
    if run.records:
        last = run.records[-1]["type"]
        run.state = {"end": "done", "error": "failed"}.get(last, "running")


def _config_of(run: Run) -> Config | None:
    text = run.records[0].get("config") if run.records else None
    if text is None:  # Not started, or the log of an earlier version.
        return None
    try:
        return Config().from_str(text)
    except Exception:  # Those of configparser have no common base class.
        return None


def _make_reported(run: Run, config: Config | None, score: str) -> ReportedRun:
    is_spacy = config is not None and is_spacy_config(config)
    # Logs of spaCy configs count steps from 0, and have sums of losses.
    offset = 1 if is_spacy else 0
    evaluations = run.evaluations
    curves = make_curves(evaluations, offset=offset)
    losses = [record["loss"] for record in evaluations]
    curves.losses = {"loss": per_step(losses, curves.steps) if is_spacy else losses}
    end = run.records[-1] if run.state == "done" else {}
    step, _ = run.progress
    n_steps = end.get("n_steps", step) + offset if run.records else 0
    seconds_per_step = end.get("seconds_per_step")
    reason = str(end.get("reason") or "")
    return ReportedRun(
        run.name,
        STATES[run.state],
        OTHER_REASONS.get(reason, reason) if run.error is None else run.error,
        seed=run.seed if config is None else seed_of(config),
        score=score,
        optimizer="" if config is None else describe_optimizer(config),
        config=config,
        n_steps=n_steps,
        seconds=None if seconds_per_step is None else seconds_per_step * n_steps,
        seconds_per_step=seconds_per_step,
        n_shared=end.get("n_shared", 1),
        n_averaged=evaluations[-1]["n_averaged"] if evaluations else None,
        best=_best(curves.scores),
        curves=curves,
        rates=[
            (step, record["learn_rate"])
            for step, record in zip(curves.steps, evaluations, strict=True)
            if record["learn_rate"] is not None
        ],
    )


def _best(scores: Sequence[Any]) -> int | None:
    """Index of the highest score, the first of several; None if there are only NaN."""
    numbers = [score for score in scores if score is not None]
    return scores.index(max(numbers)) if numbers else None
