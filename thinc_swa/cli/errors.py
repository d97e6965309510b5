"""Errors and warnings of commands in one line each.

Errors print one line on the standard error, with exit code 1; `--debug` prints the traceback.
Wrong usage is exit code 2.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import (
    Any,
    TypeVar,
)

import typer

from ..errors import TrainingWarning, describe_error
from ..escaping import printable

INTERRUPTED = 130
FunctionT = TypeVar("FunctionT", bound=Callable[..., None])


def reports_errors(command: FunctionT) -> FunctionT:
    """A command whose errors are one line, unless it is called with --debug."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as error:
            print_error(str(error) or "Stopped")
            raise typer.Exit(getattr(error, "exit_code", INTERRUPTED)) from None
        except Exception as error:
            # Whoever reads the output may stop reading it; typer knows what to do then.
            known = (typer.Exit, typer.BadParameter, BrokenPipeError)
            if options["debug"] or isinstance(error, known):
                raise
            print_error(describe_error(error))
            raise typer.Exit(1) from None

    return run  # type: ignore[return-value]


@contextmanager
def printing_warnings() -> Iterator[None]:
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


def print_error(text: str) -> None:
    typer.secho(f"Error: {printable(text)}", err=True, fg=typer.colors.RED)
