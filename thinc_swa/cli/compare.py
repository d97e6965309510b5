"""`thinc-swa compare`."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..comparison.entries import Entry, read_entries
from ..comparison.folders import mark_output
from ..comparison.results import (
    Summary,
    describe_failures,
    describe_outdated,
    describe_restarted,
    describe_resumed,
    final_scores,
    report,
    summarize,
    table,
    to_csv,
    to_json,
)
from ..comparison.runs import Run, Training, make_runs, make_trainings, train_runs
from ..comparison.sharing import describe_sharing
from ..distributed.ray_cluster import RayCluster
from ..errors import describe_error
from ..escaping import for_encoding, printable
from ..serialization.files import replace_text
from ..training.configs import score_of, with_seed
from ..training.evaluation import format_score
from ..training.locks import lock_folder
from ..training.output_folder import REPORT
from .clusters import cluster_files, connected
from .errors import UsageError, print_error
from .info import installed_versions
from .interruptions import stopping_on_signals
from .options import (
    CodeT,
    ComparisonOutputT,
    ConfigsT,
    DebugT,
    GpuT,
    JobsT,
    NoSharingT,
    OptimizersT,
    RayT,
    RepeatT,
    SeedsT,
)
from .overrides import split_overrides
from .report import save_report

# Files that `compare` writes.
TABLES = ("results.md", "results.csv", "results.json")
PLOTS = ("learning_curves", "final_scores")
RESULTS = (
    *TABLES,
    *(f"{name}.{suffix}" for name in PLOTS for suffix in ("png", "svg")),
    REPORT,
)

# Width of tables in columns if the output is not a terminal.
WIDTH_OF_FILES = 200


def compare(
    context: typer.Context,
    configs: ConfigsT,
    optimizers: OptimizersT = None,
    seeds: SeedsT = 5,
    jobs: JobsT = None,
    ray: RayT = None,
    output: ComparisonOutputT = Path("comparison"),
    overwrite: RepeatT = False,
    no_sharing: NoSharingT = False,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    debug: DebugT = False,
) -> None:
    """Train configs with several seeds, and compare their scores.

    The configs are all for Thinc or all for spaCy. The first one is the baseline. To override
    settings in all of them, use options such as --paths.train corpus/train.spacy.

    Configs that differ only in averages which never change the weights, such as EMA.v1, are
    trained once per seed.

    Complete runs in the output directory are reused if config, data, code and versions are the
    same, and interrupted ones are resumed.

    With --ray, the runs are trained on the nodes of a Ray cluster, which must all see the
    output directory. Those of a node that dies are trained on another one.
    """
    names, overrides = split_overrides([*configs, *context.args])
    if not names:
        raise UsageError("Missing argument 'CONFIGS'.")
    with stopping_on_signals():
        entries = read_entries([Path(name) for name in names], optimizers or [], overrides)
        with connected(ray, uses_gpu=gpu_id >= 0) as cluster, lock_folder(output):
            if cluster is not None:
                cluster.check_files(output.absolute(), cluster_files(code))
            _compare(
                entries,
                cluster=cluster,
                n_seeds=seeds,
                n_jobs=jobs,
                output=output,
                overwrite=overwrite,
                is_shared=not no_sharing,
                code=code,
                gpu_id=gpu_id,
                overrides=overrides,
            )


def _compare(
    entries: Sequence[Entry],
    *,
    cluster: RayCluster | None,
    n_seeds: int,
    n_jobs: int | None,
    output: Path,
    overwrite: bool,
    is_shared: bool,
    code: Path | None,
    gpu_id: int,
    overrides: dict[str, Any],
) -> None:
    runs = make_runs(
        entries,
        n_seeds=n_seeds,
        output=output,
        code=code,
        overwrite=overwrite,
        gpu_id=gpu_id,
    )
    mark_output(output, RESULTS)
    score = score_of(entries[0].config)
    console = _console()
    for line in describe_outdated(runs):
        _print(console, line)
    trainings = make_trainings(runs, is_shared=is_shared)
    for line in (*_describe_sharing(entries, trainings), *describe_resumed(trainings)):
        _print(console, line)
    errors: list[str] = []
    try:
        with _progress(console, score) as watch:
            train_runs(
                runs,
                n_jobs=n_jobs,
                gpu_id=gpu_id,
                is_shared=is_shared,
                cluster=cluster,
                watch=watch,
            )
    finally:
        for line in describe_restarted(runs):
            _print(console, line)
        summaries = summarize(runs)
        if any(summary.n_runs for summary in summaries):
            # Results first: they may have taken hours, and plots and the terminal can fail.
            files: list[str] = []
            for what, write in (
                ("results", _write_results),
                ("plots", _draw),
                ("report", lambda output, *_: save_report(output)),
            ):
                try:
                    files += write(output, runs, summaries, score, overrides)
                except Exception as error:
                    errors.append(
                        f"The {what} could not be written to {output}: {describe_error(error)}"
                    )
            console.print(rich_table(table(summaries, score), console))
            _print(
                console,
                f"Scores{' in %' if score == 'accuracy' else ''}, mean ± standard deviation "
                f"over seeds. Baseline: {summaries[0].name}. Swing: mean change between "
                "evaluations in the last quarter.",
            )
            if files:
                _print(console, f"Saved to {output}: {', '.join(files)}.")
        errors += describe_failures(runs)
        for line in errors:
            print_error(line)
    if errors:
        raise typer.Exit(1)


def _describe_sharing(entries: Sequence[Entry], trainings: Sequence[Training]) -> Iterator[str]:
    """Describe the trainings for several entries, a line for each set of entries."""
    groups = [tuple(run.name for run in training.runs) for training in trainings]
    for names in dict.fromkeys(group for group in groups if len(group) > 1):
        configs = {entry.name: with_seed(entry.config, 0) for entry in entries}
        yield describe_sharing((name, configs[name]) for name in names)


def _console() -> Console:
    """Console for the standard output, without line breaks in files and pipes."""
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=WIDTH_OF_FILES)


def _print(console: Console, line: str) -> None:
    """Print a line without markup, and without breaks in paths that may be copied."""
    text = for_encoding(printable(line), console.encoding)
    console.print(Text(text), soft_wrap=not console.is_terminal)


@contextmanager
def _progress(console: Console, score: str) -> Iterator[Callable[[Sequence[Run]], None]]:
    """Context manager that shows the progress of the runs: a live table on terminals, otherwise
    a line per completed run.

    RETURNS (Iterator[Callable]): A function to be called with the runs.
    """
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield lambda runs: live.update(_progress_table(runs, score, console))
    else:
        printed: list[Run] = []

        def print_completed(runs: Sequence[Run]) -> None:
            for run in runs:
                is_over = run.state in ("done", "failed")
                if is_over and not any(run is other for other in printed):
                    printed.append(run)
                    _print(console, f"{run.name}, seed {run.seed}: {_outcome(run, score)}")

        yield print_completed


def _outcome(run: Run, score: str) -> str:
    if run.state == "done" and run.evaluations:
        return format_score(run.evaluations[-1]["score"], score)
    return run.state


def _progress_table(runs: Sequence[Run], score: str, console: Console) -> Table:
    rows = [["optimizer", "seeds", "step", "current score", "mean of completed"]]
    for name in dict.fromkeys(run.name for run in runs):
        own = [run for run in runs if run.name == name]
        marks = "".join(_MARKS[run.state] for run in own)
        now = [run for run in own if run.state == "running"]
        step, current = "", ""
        if now:
            n_steps, total_steps = now[-1].progress
            step = f"{n_steps}/{total_steps or '?'}"
            scores = [record["score"] for record in now[-1].evaluations]
            if scores and scores[-1] is not None:
                current = format_score(scores[-1], score)
        done = final_scores(runs, name)
        mean = format_score(sum(done) / len(done), score) if done else ""
        rows.append([name, marks, step, current, mean])
    header, *cells = ([Text(for_encoding(t, console.encoding)) for t in row] for row in rows)
    shown = Table(box=None)
    for text in header:
        shown.add_column(text)
    for row in cells:
        shown.add_row(*row)
    return shown


# Symbols for the states of runs.
_MARKS = {"waiting": "·", "running": "▸", "done": "■", "failed": "✗"}

# Columns that are omitted in a narrow terminal, in this order. The files have all columns.
_DISPENSABLE = ("ms/step", "swing", "raw weights", "95 % interval")


def rich_table(rows: Sequence[Sequence[str]], console: Console) -> Table:
    """Table for a console, without columns for which it is too narrow. Headers may be broken
    into several lines, cells may not."""
    rows = [[for_encoding(text, console.encoding) for text in row] for row in rows]
    columns = {column[0]: list(column[1:]) for column in zip(*rows, strict=True)}
    widths = {
        name: max(cell_len(text) for text in (*cells, *name.split()))
        for name, cells in columns.items()
    }
    for name in _DISPENSABLE:
        if _total(widths.values()) > console.width:
            del columns[name], widths[name]
    whole = {name: max(widths[name], cell_len(name)) for name in columns}
    if _total(whole.values()) <= console.width:
        widths = whole
    shown = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        shown.add_column(Text(name), justify="right" if i else "left", width=widths[name])
    for row in zip(*columns.values(), strict=True):
        shown.add_row(*(Text(text) for text in row))
    return shown


def _total(widths: Iterable[int]) -> int:
    """Total width, with two spaces between columns."""
    widths = list(widths)
    return sum(widths) + 2 * (len(widths) - 1)


def _write_results(
    output: Path,
    runs: Sequence[Run],
    summaries: Sequence[Summary],
    score: str,
    overrides: dict[str, Any],
) -> list[str]:
    """Write the tables. RETURNS (list[str]): Names of the files."""
    about = {
        "date": date.today().isoformat(),
        "score": score,
        "changed_settings": overrides,
        "versions": {name: found for name, found in installed_versions() if found},
        "machine": (
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}"
        ),
    }
    texts = (
        report(runs, summaries, score, about),
        to_csv(summaries),
        to_json(summaries, runs, **about),
    )
    for name, text in zip(TABLES, texts, strict=True):
        replace_text(output / name, text)
    return list(TABLES)


def _draw(
    output: Path,
    runs: Sequence[Run],
    summaries: Sequence[Summary],
    score: str,
    overrides: dict[str, Any],
) -> list[str]:
    """Draw the plots. RETURNS (list[str]): Names of the files."""
    from ..comparison.plots import plot_final_scores, plot_learning_curves
    from ..training.plots import save_figure

    figures = (plot_learning_curves(runs, score), plot_final_scores(runs, summaries, score))
    return [
        path.name
        for name, figure in zip(PLOTS, figures, strict=True)
        for path in save_figure(figure, output / name)
    ]
