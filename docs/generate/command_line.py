"""The page on the command line, from the commands themselves."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from thinc_swa.cli.main import app

INTRODUCTION = """\
# Command line

`pip install "thinc-swa[cli]"` installs `thinc-swa`, which is also `python -m thinc_swa`. This
page is generated from the commands; `--help` shows the same.

Settings of a config are overridden as in spaCy, after the other arguments:
`--training.max_steps 500`. An error is one line, with exit code 1 (wrong usage 2, Ctrl-C 130);
`--debug` shows the traceback.

[Training and comparing](../training.md) describes what the commands write and how runs are
resumed.

"""


def command_line() -> str:
    """RETURNS (str): The page, in Markdown."""
    group: Any = typer.main.get_command(app)
    parts = [INTRODUCTION]
    for name, command in group.commands.items():
        parts += _describe(name, command)
    return "".join(parts)


def _describe(name: str, command: Any) -> Iterator[str]:
    positional = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name != "argument"]
    yield f"## thinc-swa {name}\n\n{command.help}\n\n"
    words = [p.name.upper() + (" …" if p.nargs == -1 else "") for p in positional]
    has_overrides = command.context_settings.get("ignore_unknown_options", False)
    words += ["[OPTIONS]", *(["[--section.key VALUE …]"] if has_overrides else [])]
    yield f"```bash\nthinc-swa {' '.join([name, *words])}\n```\n\n"
    yield "| option | default | meaning |\n| --- | --- | --- |\n"
    for parameter in positional:
        yield f"| `{parameter.name.upper()}` | required | {_cell(parameter.help)} |\n"
    for parameter in options:
        names = ", ".join(f"`{option}`" for option in parameter.opts)
        yield f"| {names} | {_default(parameter)} | {_cell(parameter.help)} |\n"
    yield "| `--help` | – | Show the help of the command. |\n\n"


def _default(parameter: Any) -> str:
    is_set = parameter.default is not None and not parameter.is_flag
    if parameter.required:
        return "required"
    return f"`{parameter.default}`" if is_set and parameter.default != () else "–"


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|")
