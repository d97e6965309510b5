"""Entry point of the command line."""

import io
import os
import sys
from collections.abc import Sequence

import typer

from .average import average
from .compare import compare
from .errors import UsageError, print_error, reports_errors
from .find_rate import find_rate
from .info import info
from .interpolate import interpolate
from .overrides import CONTEXT_SETTINGS, spread
from .params import params
from .reconstruct import reconstruct
from .report import report
from .train import train

app = typer.Typer(
    help="Weight averaging for Thinc and spaCy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (train, compare, find_rate, params):
    app.command(context_settings=CONTEXT_SETTINGS)(reports_errors(_command))
app.command()(reports_errors(average))
app.command()(reports_errors(interpolate))
app.command()(reports_errors(reconstruct))
app.command()(reports_errors(report))
app.command()(reports_errors(info))


def main(arguments: Sequence[str], prog_name: str = "thinc-swa") -> None:
    """Run a command, and exit.

    arguments (Sequence[str]): Command-line arguments without the name of the program.
    prog_name (str): The name of the program, for help and errors.
    """
    prepare_streams()
    try:
        arguments = spread(arguments, "--optimizers")
    except UsageError as error:
        print_error(str(error))
        sys.exit(2)
    app(args=arguments, prog_name=prog_name)


def prepare_streams() -> None:
    """Make standard output and standard error usable.

    Closed ones (`>&-`) become the null device: otherwise files would get their descriptors, and
    subprocesses would write into these files. Characters that an output cannot encode are
    escaped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Opens the lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
