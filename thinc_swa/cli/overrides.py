"""Config overrides on the command line, with the syntax of spaCy."""

import json
import os
import shlex
from collections.abc import Sequence
from typing import Any

from .errors import UsageError

# Environment variable with overrides that `spacy train` reads.
ENVIRONMENT = "SPACY_CONFIG_OVERRIDES"
# For commands that take overrides: other options than their own are left to `split_overrides`.
CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate config overrides, `--section.setting value` or `--section.setting=value`, from
    positional arguments.

    As with spaCy, a value is JSON or else a string, and an override without a value is `true`.
    With "=", hyphens in the name become underscores.

    arguments (Sequence[str]): Arguments without the options of the command.
    RETURNS (tuple[list[str], dict[str, Any]]): The positional arguments, and the overrides.
    RAISES: UsageError for an option without a "." in its name.
    """
    positional: list[str] = []
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            positional.append(argument)
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or "." not in name:
            raise UsageError(f"No such option: {argument}")
        if equals:
            name = name.replace("-", "_")
        elif rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        else:
            value = "true"
        overrides[name] = _parse(value)
    return positional, overrides


def spacy_overrides() -> dict[str, Any]:
    """Config overrides in the environment variable of spaCy, which override those on the
    command line.

    RAISES: UsageError if an override is not valid.
    """
    positional, overrides = split_overrides(shlex.split(os.environ.get(ENVIRONMENT, "")))
    if positional:
        raise UsageError(f"{ENVIRONMENT} has {positional[0]!r}: names should start with --")
    return overrides


def _parse(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def config_and_overrides(config: str, extra: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Separate the config of a command that takes only one from its overrides.

    config (str): First argument.
    extra (Sequence[str]): Further arguments.
    RETURNS (tuple[str, dict[str, Any]]): The path of the config, and the overrides.
    RAISES: UsageError if there is no config, or another argument.
    """
    positional, overrides = split_overrides([config, *extra])
    if not positional:
        raise UsageError("Missing argument 'CONFIG'.")
    if len(positional) > 1:
        raise UsageError(
            f"Invalid config override {positional[1]!r}: name should start with --"
        )
    return positional[0], overrides


def spread(arguments: Sequence[str], option: str) -> list[str]:
    """Repeat an option for each value up to the next option, so that `--optimizers *.cfg` takes
    all files.

    arguments (Sequence[str]): All arguments.
    option (str): The option.
    RETURNS (list[str]): The arguments with one option per value.
    RAISES: UsageError if the option has no value.
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
            raise UsageError(f"Option {option!r} requires an argument.")
        for value in values:
            spread += [option, value]
    return spread
