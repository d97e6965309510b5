"""Errors and warnings of commands.

Errors print one line on the standard error, with exit code 1; `--debug` prints the traceback.
Errors of usage have exit code 2.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from ..distributed.launcher import report_error
from ..errors import TrainingWarning, describe_error
from ..escaping import printable

INTERRUPTED = 130
FunctionT = TypeVar("FunctionT", bound=Callable[..., None])


class UsageError(ValueError):
    """Wrong arguments or options."""


def reports_errors(command: FunctionT) -> FunctionT:
    """Decorator for commands that prints errors in one line, or with `--debug` the traceback.

    command (Callable): A command with the option `debug`, and the argument `context` if it
        raises `UsageError`.
    RETURNS (Callable): The command.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except UsageError as error:
            options["context"].fail(str(error))
        except KeyboardInterrupt as error:
            print_error(str(error) or "Stopped")
            raise typer.Exit(getattr(error, "exit_code", INTERRUPTED)) from None
        except Exception as error:
            # Typer handles these. BrokenPipeError: the reader of the output has ended.
            if isinstance(error, (typer.Exit, BrokenPipeError)):
                raise
            is_reported = report_error(error, describe_error(error))
            if options["debug"]:
                raise
            if not is_reported:
                print_error(describe_error(error))
            raise typer.Exit(1) from None

    return run  # type: ignore[return-value]


@contextmanager
def printing_warnings() -> Iterator[None]:
    """Context manager that prints each `TrainingWarning` in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TrainingWarning)
        show = warnings.showwarning

        def show_in_one_line(message: Any, category: Any, *arguments: Any) -> None:
            if issubclass(category, TrainingWarning):
                print_warning(str(message))
            else:
                show(message, category, *arguments)

        warnings.showwarning = show_in_one_line  # type: ignore[assignment]
        yield


def print_error(text: str) -> None:
    """Print an error in one line on the standard error."""
    typer.secho(f"Error: {printable(text)}", err=True, fg=typer.colors.RED)


def print_warning(text: str) -> None:
    """Print a warning in one line on the standard error."""
    typer.secho(f"Warning: {text}", err=True, fg=typer.colors.YELLOW)
