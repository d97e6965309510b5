"""The command line: `thinc-swa train`, `compare`, `params` and `info`.

Errors are one line on the standard error, and exit code 1; wrong usage is exit code 2.
"""

import functools
import inspect
import io
import json
import math
import os
import platform
import signal
import sys
import warnings
from contextlib import contextmanager
from datetime import date
from importlib.metadata import (
    PackageNotFoundError,
    distribution,
    packages_distributions,
    version,
)
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from thinc.api import get_current_ops
from thinc.compat import has_cupy_gpu, has_torch_cuda_gpu

from .callbacks import ProgressBar, ScoreTable, StopOnInterrupt
from .comparison import Entry, Run, make_runs, mark_output, read_entries, train_runs
from .errors import TrainingWarning, describe_error, naming_config
from .escaping import for_encoding, printable
from .evaluation import format_score
from .files import replace_text
from .groups import ParameterRow, list_parameters
from .locks import lock_folder
from .results import (
    Summary,
    describe_failures,
    describe_outdated,
    final_scores,
    report,
    summarize,
    table,
    to_csv,
    to_json,
)
from .runs import (
    is_spacy_config,
    make_model,
    optimizer_section,
    prepare_process,
    read_config,
    score_of,
)
from .training import train as train_config

DISTRIBUTION = "thinc-swa"
# Shown by `info`.
PACKAGES = ("thinc-swa", "thinc", "spacy", "numpy", "torch", "cupy", "safetensors")
INTERRUPTED = 130
# Files that `compare` writes.
TABLES = ("results.md", "results.csv", "results.json")
PICTURES = ("learning_curves", "final_scores")
RESULTS = (*TABLES, *(f"{name}.{suffix}" for name in PICTURES for suffix in ("png", "svg")))
# Columns in which tables are laid out where the output is no terminal.
WIDTH_OF_FILES = 200

FunctionT = TypeVar("FunctionT", bound=Callable[..., None])

app = typer.Typer(
    help="Weight averaging for Thinc and spaCy: train a model, or find out which optimizer is "
    "better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigT = Annotated[Path, typer.Argument(help="A config file.", show_default=False)]
ConfigsT = Annotated[List[Path], typer.Argument(help="Config files.", show_default=False)]
OptimizersT = Annotated[
    Optional[List[Path]],
    typer.Option(
        "--optimizers",
        help="Files with an optimizer each, to put into the one config: it is trained as it "
        "is, and with each of these.",
        show_default=False,
    ),
]
OutputT = Annotated[
    Optional[Path], typer.Option("--output", "-o", help="A folder for all that comes out.")
]
FolderT = Annotated[
    Path, typer.Option("--output", "-o", help="A folder for all that comes out.")
]
SeedT = Annotated[Optional[int], typer.Option(help="Instead of the config's.")]
SeedsT = Annotated[int, typer.Option(min=1, help="Trainings of each.")]
JobsT = Annotated[int, typer.Option(min=1, help="Trainings at a time.")]
ResumeT = Annotated[
    bool, typer.Option("--resume", help="Resume the training in the output folder.")
]
OverwriteT = Annotated[
    bool, typer.Option("--overwrite", help="Replace the training in the output folder.")
]
AgainT = Annotated[
    bool, typer.Option("--overwrite", help="Train again what is complete in the folder.")
]
CodeT = Annotated[
    Optional[Path], typer.Option("--code", "-c", help="A Python file with functions of yours.")
]
GpuT = Annotated[int, typer.Option("--gpu-id", "-g", help="Which GPU to use; -1 for the CPU.")]
TrustT = Annotated[
    bool,
    typer.Option(
        "--trust-checkpoint",
        help="Load PyTorch layers of the checkpoint also with a PyTorch that can execute code "
        "from the file.",
    ),
]
DebugT = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main(arguments: Sequence[str]) -> None:
    """Run a command, and exit.

    arguments (Sequence[str]): Those after the name of the program.
    """
    prepare_streams()
    try:
        arguments, overrides = split_overrides(arguments)
        arguments = spread(arguments, "--optimizers")
    except ValueError as error:
        _print_error(str(error))
        sys.exit(2)
    app(args=arguments, obj=overrides, prog_name="thinc-swa")


def prepare_streams() -> None:
    """Make sure that standard output and standard error can be written to.

    Closed ones (`>&-`) become the null device: files would be opened in their places, and
    subprocesses would write into these. Characters that an output cannot encode are escaped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest one that is free.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def split_overrides(arguments: Sequence[str]) -> Tuple[List[str], Dict[str, Any]]:
    """Take out what changes settings of the config: `--section.key value`, or with a "=".

    RETURNS (Tuple[List[str], Dict[str, Any]]): The other arguments, and the settings with their
        values. A value is JSON or else a string. After "--" there are no settings.
    RAISES: ValueError if a value is missing.
    """
    others: List[str] = []
    overrides: Dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*others, argument, *rest], overrides
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or "." not in name:
            others.append(argument)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"{name} needs a value")
            value = rest.pop(0)
        try:
            overrides[name[2:]] = json.loads(value)
        except ValueError:
            overrides[name[2:]] = value
    return others, overrides


def spread(arguments: Sequence[str], option: str) -> List[str]:
    """Let an option take all values up to the next option, as shells make of `*.cfg`.

    RAISES: ValueError if there is none.
    """
    spread: List[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*spread, argument, *rest]
        name, equals, value = argument.partition("=")
        if name != option:
            spread.append(argument)
            continue
        values = [value] if value else []
        if not equals or value:
            while rest and not rest[0].startswith("-"):
                values.append(rest.pop(0))
        if not values:
            raise ValueError(f"{option} needs a value")
        for value in values:
            spread += [option, value]
    return spread


def reports_errors(command: FunctionT) -> FunctionT:
    """A command whose errors are one line, unless it is called with --debug."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as error:
            _print_error(str(error) or "Stopped")
            raise typer.Exit(getattr(error, "exit_code", INTERRUPTED)) from None
        except Exception as error:
            # Whoever reads the output may stop reading it; typer knows what to do then.
            known = (typer.Exit, typer.BadParameter, BrokenPipeError)
            if options["debug"] or isinstance(error, known):
                raise
            _print_error(describe_error(error))
            raise typer.Exit(1) from None

    return run  # type: ignore[return-value]


@contextmanager
def _printing_warnings() -> Iterator[None]:
    """Context manager that prints warnings about a training as one line each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TrainingWarning)
        show = warnings.showwarning

        def show_in_one_line(message: Any, category: Any, *arguments: Any) -> None:
            if issubclass(category, TrainingWarning):
                typer.secho(f"Warning: {message}", err=True, fg=typer.colors.YELLOW)
            else:
                show(message, category, *arguments)

        warnings.showwarning = show_in_one_line  # type: ignore[assignment]
        yield


def _print_error(text: str) -> None:
    typer.secho(f"Error: {printable(text)}", err=True, fg=typer.colors.RED)


class Stopped(KeyboardInterrupt):
    """Raised where the process is when it gets a signal.

    number (int): The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Context manager in which SIGTERM and SIGHUP raise `Stopped`, as Ctrl-C raises
    KeyboardInterrupt, so that processes are ended and results are written. Further ones are
    ignored. A signal that is ignored, as with `nohup`, stays so. For the main thread only."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    terminals = [descriptor for descriptor in range(3) if os.isatty(descriptor)]

    def stop(number: int, frame: Any) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        if number != signal.SIGTERM:
            # The terminal is gone: what is written to it would be an error.
            with open(os.devnull, "r+") as nothing:
                for descriptor in terminals:
                    os.dup2(nothing.fileno(), descriptor)
        raise Stopped(number)

    handlers = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@app.command()
@reports_errors
def train(
    context: typer.Context,
    config: ConfigT,
    output: OutputT = None,
    seed: SeedT = None,
    resume: ResumeT = False,
    overwrite: OverwriteT = False,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    trust: TrustT = False,
    debug: DebugT = False,
) -> None:
    """Train the Thinc model of a config.

    The config has the sections [dataset], [model], [loss], [optimizer] and [training]. Its
    settings can be changed: --training.max_steps 500.

    model-best and model-last are saved, both with the averages as their weights, a log, and
    checkpoints for --resume.
    """
    if output is None and (resume or overwrite):
        raise typer.BadParameter("--resume and --overwrite need an --output")
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    settings = read_config(config, context.obj)
    if is_spacy_config(settings):
        raise ValueError(
            f"{config} is a config for spaCy: `spacy train` trains it with its optimizer, and "
            "`thinc-swa compare` compares it with others"
        )
    if seed is not None:
        settings.setdefault("training", {})["seed"] = seed
    prepare_process(gpu_id, code)
    with naming_config(config):
        settings = settings.interpolate()
    with _printing_warnings():
        training = train_config(
            settings,
            output=output,
            resume=resume,
            overwrite=overwrite,
            callbacks=[StopOnInterrupt(), ProgressBar(), ScoreTable()],
            source=config,
            code=code,
            trust=trust,
        )
    best = training.best
    if best is not None:
        what = "weights" if best.averages is None else "averages"
        score = format_score(best.score, training.score)
        typer.echo(f"Best: {score} with the {what} of step {best.step}.")
    if output is not None:
        typer.echo(f"Saved to {output}.")
    if training.stop_reason == "interrupted":
        hint = "; --resume goes on" if output is not None else ""
        typer.echo(f"Stopped after step {training.step}{hint}.")
        raise typer.Exit(INTERRUPTED)
    if training.stop_reason == "patience":
        typer.echo(f"Stopped after step {training.step}: no improvement within `patience`.")


@app.command()
@reports_errors
def compare(
    context: typer.Context,
    configs: ConfigsT,
    optimizers: OptimizersT = None,
    seeds: SeedsT = 5,
    jobs: JobsT = 1,
    output: FolderT = Path("comparison"),
    overwrite: AgainT = False,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    debug: DebugT = False,
) -> None:
    """Train configs with several seeds, and show which is better.

    They are for Thinc, as `train` takes them, or for spaCy. Their settings can be changed:
    --paths.train corpus/train.spacy. What is complete in the folder, with the same config,
    data, code and versions, is not trained again.
    """
    with stopping_on_signals():
        entries = read_entries(configs, optimizers or [], context.obj)
        with lock_folder(output):
            _compare(
                entries,
                n_seeds=seeds,
                n_jobs=jobs,
                output=output,
                overwrite=overwrite,
                code=code,
                gpu_id=gpu_id,
                overrides=context.obj,
            )


def _compare(
    entries: Sequence[Entry],
    *,
    n_seeds: int,
    n_jobs: int,
    output: Path,
    overwrite: bool,
    code: Optional[Path],
    gpu_id: int,
    overrides: Dict[str, Any],
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
    errors: List[str] = []
    try:
        with _progress(console, score) as watch:
            train_runs(runs, n_jobs=n_jobs, gpu_id=gpu_id, watch=watch)
    finally:
        summaries = summarize(runs)
        if any(summary.n_runs for summary in summaries):
            # First what has taken hours, then what can fail: the pictures, the terminal.
            files: List[str] = []
            for what, write in (("results", _write_results), ("pictures", _draw)):
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
                "over seeds; swing: change between evaluations in the last quarter.",
            )
            if files:
                _print(console, f"Saved to {output}: {', '.join(files)}.")
        errors += describe_failures(runs)
        for line in errors:
            _print_error(line)
    if errors:
        raise typer.Exit(1)


def _console() -> Console:
    """A console for the standard output. In a file or a pipe lines have no end."""
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=WIDTH_OF_FILES)


def _print(console: Console, line: str) -> None:
    """Print a line as it is: without markup, and without breaks that would be in the way of
    copying a path."""
    text = for_encoding(printable(line), console.encoding)
    console.print(Text(text), soft_wrap=not console.is_terminal)


@contextmanager
def _progress(console: Console, score: str) -> Iterator[Callable[[Sequence[Run]], None]]:
    """Where the runs are: a table that changes, or in a file a line for each that is over."""
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield lambda runs: live.update(_progress_table(runs, score, console))
    else:
        told: List[Run] = []

        def tell(runs: Sequence[Run]) -> None:
            for run in runs:
                is_over = run.state in ("done", "failed")
                if is_over and not any(run is other for other in told):
                    told.append(run)
                    _print(console, f"{run.name}, seed {run.seed}: {_outcome(run, score)}")

        yield tell


def _outcome(run: Run, score: str) -> str:
    if run.state == "done" and run.evaluations:
        return format_score(run.evaluations[-1]["score"], score)
    return run.state


def _progress_table(runs: Sequence[Run], score: str, console: Console) -> Table:
    rows = [["optimizer", "seeds", "step", "score now", "mean of the done"]]
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


# One letter for each seed.
_MARKS = {"waiting": "·", "running": "▸", "done": "■", "failed": "✗"}


# What a narrow terminal does without, in this order. The files have all of it.
_DISPENSABLE = ("ms/step", "swing", "plain weights", "95 % interval")


def rich_table(rows: Sequence[Sequence[str]], console: Console) -> Table:
    """Its headers may take several lines, its cells may not."""
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
    """With two spaces between columns."""
    widths = list(widths)
    return sum(widths) + 2 * (len(widths) - 1)


def _write_results(
    output: Path,
    runs: Sequence[Run],
    summaries: Sequence[Summary],
    score: str,
    overrides: Dict[str, Any],
) -> List[str]:
    """Write the tables. RETURNS (List[str]): The names of the files."""
    about = {
        "date": date.today().isoformat(),
        "score": score,
        "changed_settings": overrides,
        "versions": {name: found for name, found in _versions() if found},
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
    overrides: Dict[str, Any],
) -> List[str]:
    """Draw the pictures. RETURNS (List[str]): The names of the files."""
    from .plots import plot_final_scores, plot_learning_curves, save_figure

    figures = (plot_learning_curves(runs, score), plot_final_scores(runs, summaries, score))
    return [
        path.name
        for name, figure in zip(PICTURES, figures, strict=True)
        for path in save_figure(figure, output / name)
    ]


@app.command()
@reports_errors
def params(
    context: typer.Context,
    config: ConfigT,
    code: CodeT = None,
    gpu_id: GpuT = -1,
    debug: DebugT = False,
) -> None:
    """Show the parameters of a model, and what the groups of the optimizer make of them.

    The config is for Thinc or for spaCy; the model is made and initialized, so the data must
    be there. The paths are what the globs of ParamGroups.v1 select by.
    """
    settings = read_config(config, context.obj)
    prepare_process(gpu_id, code)
    with naming_config(config):
        optimizer_section(settings)
        model, optimizer = make_model(settings.interpolate(), gpu_id=gpu_id)
        try:
            rows = list_parameters(model, optimizer)
        except ValueError as error:
            # Of a group that selects nothing. Here are the paths that it could select.
            _print_parameters(list_parameters(model))
            raise ValueError(str(error).partition(" The model has")[0]) from error
    _print_parameters(rows)


def _print_parameters(rows: Sequence[ParameterRow]) -> None:
    # Paths can be long, and are there whole, so that they can be copied.
    cells = [("learning rate", "group", "settings", "shape", "path")]
    for row in rows:
        scale = "frozen" if row.frozen else f"{row.lr_scale:.4g} x"
        settings = ", ".join(f"{name} = {value}" for name, value in row.settings.items())
        shape = " x ".join(str(n) for n in row.shape)
        cells.append((scale, row.group or "-", settings or "-", shape, row.path))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        parts = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(parts).rstrip())
    n_weights = sum(math.prod(row.shape) for row in rows)
    n_frozen = sum(math.prod(row.shape) for row in rows if row.frozen)
    typer.echo(f"{len(rows)} parameters, {n_weights:,} weights, {n_frozen:,} of them frozen.")


@app.command()
@reports_errors
def info(debug: DebugT = False) -> None:
    """Show versions, the machine, and the names for configs with their arguments."""
    for name, found in [("python", platform.python_version()), *_versions()]:
        typer.echo(f"{name:<14}{found or 'not installed'}")
    typer.echo(f"{'ops':<14}{type(get_current_ops()).__name__}")
    gpus = [name for name, is_there in _gpus() if is_there]
    typer.echo(f"{'GPU':<14}{'for ' + ' and '.join(gpus) if gpus else 'none'}")
    for group, names in _registered().items():
        typer.echo(f"\n@{group}")
        for name, function in names:
            typer.echo(f"  {name}")
            for parameter in inspect.signature(function).parameters.values():
                typer.echo(f"      {_describe_parameter(parameter)}")


def _gpus() -> List[Tuple[str, bool]]:
    return [("CuPy", has_cupy_gpu), ("PyTorch", has_torch_cuda_gpu)]


def _describe_parameter(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return f"{parameter.name} (required)"
    return f"{parameter.name} = {json.dumps(parameter.default)}"


def _registered() -> Dict[str, List[Tuple[str, Callable[..., Any]]]]:
    """Every name that a config can use, by registry, with its function."""
    found: Dict[str, List[Tuple[str, Callable[..., Any]]]] = {}
    for entry_point in distribution(DISTRIBUTION).entry_points:
        owner, _, group = entry_point.group.partition("_")
        if owner in ("thinc", "spacy"):
            name = group if owner == "thinc" else f"{group} of spaCy"
            found.setdefault(name, []).append((entry_point.name, entry_point.load()))
    return {group: sorted(names, key=lambda pair: pair[0]) for group, names in found.items()}


def _versions() -> Iterator[Tuple[str, Optional[str]]]:
    distributions = packages_distributions()
    for name in PACKAGES:
        try:
            # CuPy's wheels have names of their own: cupy-cuda12x and the like.
            yield name, version(distributions.get(name, [name])[0])
        except PackageNotFoundError:
            yield name, None
