"""The entry point of the command line."""

import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from .compare import compare
from .errors import print_error, reports_errors
from .info import info
from .params import params
from .train import train

app = typer.Typer(
    help="Weight averaging for Thinc and spaCy: train a model, or find out which optimizer is "
    "better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (train, compare, params, info):
    app.command()(reports_errors(_command))


def main(arguments: Sequence[str]) -> None:
    """Run a command, and exit.

    arguments (Sequence[str]): Those after the name of the program.
    """
    prepare_streams()
    try:
        arguments, overrides = split_overrides(arguments)
        arguments = spread(arguments, "--optimizers")
    except ValueError as error:
        print_error(str(error))
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


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take out what changes settings of the config: `--section.key value`, or with a "=".

    RETURNS (tuple[list[str], dict[str, Any]]): The other arguments, and the settings with their
        values. A value is JSON or else a string. After "--" there are no settings.
    RAISES: ValueError if a value is missing.
    """
    others: list[str] = []
    overrides: dict[str, Any] = {}
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


def spread(arguments: Sequence[str], option: str) -> list[str]:
    """Let an option take all values up to the next option, as shells make of `*.cfg`.

    RAISES: ValueError if there is none.
    """
    spread: list[str] = []
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
