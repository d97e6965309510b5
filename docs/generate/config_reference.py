"""The page on config names, from the functions behind the entry points of setup.cfg."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import distribution
from typing import Any

from thinc_docstrings import CODE, Docstring, Item, parse

DISTRIBUTION = "thinc-swa"
PREFIX = "thinc_swa."
REGISTRIES = {
    "thinc_optimizers": ("Optimizers", "@optimizers"),
    "thinc_schedules": ("Schedules", "@schedules"),
    "thinc_losses": ("Losses", "@losses"),
    "thinc_layers": ("Layers", "@layers"),
    "thinc_datasets": ("Datasets", "@datasets"),
    "thinc_swa_callbacks": ("Training callbacks", "@callbacks"),
    "spacy_callbacks": ("Callbacks of spaCy", "@callbacks"),
    "spacy_loggers": ("Loggers of spaCy", "@loggers"),
}
SEE = re.compile(r"[Ss]ee `(\w+)`")
AS_THOSE_OF = re.compile(r"As (?:that|those) of `(\w+)`")
INTRODUCTION = """\
# Config reference

All names that a config can use once the package is installed. This page is generated from the
functions behind the names, and `thinc-swa info` lists the same in the terminal. The Python
classes and functions take the same arguments. "–" as a default means that the argument is not
set.

Each name also works with the prefix `thinc_swa.`, for example `thinc_swa.SWA.v1`.

"""


def config_reference() -> str:
    """RETURNS (str): The page, in Markdown."""
    parts = [INTRODUCTION]
    for group, names in registered().items():
        title, registry = REGISTRIES.get(group, (group, f"@{group.partition('_')[2]}"))
        parts.append(f"## {title}\n\nIn the registry `{registry[1:]}`, so in sections with ")
        parts.append(f"`{registry} = …`.\n\n")
        for name, function in names.items():
            parts += _describe(name, function)
    return "".join(parts)


def registered() -> dict[str, dict[str, Callable[..., Any]]]:
    """RETURNS (dict[str, dict[str, Callable]]): The functions by name, without the names that
    only repeat one with the prefix of the package, by group of entry points.
    """
    found: dict[str, dict[str, Callable[..., Any]]] = {}
    for entry_point in distribution(DISTRIBUTION).entry_points:
        owner, _, registry = entry_point.group.partition("_")
        if owner in ("thinc", "spacy") and registry != "cli":
            found.setdefault(entry_point.group, {})[entry_point.name] = entry_point.load()
    order = [group for group in REGISTRIES if group in found]
    return {
        group: {
            name: function
            for name, function in sorted(found[group].items())
            if name.removeprefix(PREFIX) == name
            or name.removeprefix(PREFIX) not in found[group]
        }
        for group in [*order, *sorted(found.keys() - set(order))]
    }


def documentation(function: Callable[..., Any]) -> Docstring:
    """The docstring that has the arguments of a registered function: its own, or that of the
    class that it refers to with "See `Class`".
    """
    text = inspect.getdoc(function) or ""
    parsed = parse(text)
    match = SEE.search(text)
    if not parsed.arguments and match:
        parsed = parse(inspect.getdoc(_find(match[1], function)) or "")
    return parsed


def arguments(function: Callable[..., Any]) -> Iterator[tuple[inspect.Parameter, Item]]:
    """Each argument of a registered function, with its documentation.

    RAISES: ValueError if an argument is not documented.
    """
    documented: dict[str, Item] = {}
    for item in documentation(function).arguments:
        for name in item.name.split(", "):
            documented[name] = _resolve(Item(name, item.type, item.text), function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in documented:
            raise ValueError(
                f"The docstring of {function.__module__}.{function.__qualname__} does not "
                f"document the argument {parameter.name!r}"
            )
        yield parameter, documented[parameter.name]


def default_of(parameter: inspect.Parameter) -> str:
    """A default as a config has it, or "required"."""
    is_required = parameter.kind is not parameter.VAR_POSITIONAL
    if parameter.default is parameter.empty:
        return "required" if is_required else "–"
    return "–" if parameter.default is None else f"`{json.dumps(parameter.default)}`"


def _describe(name: str, function: Callable[..., Any]) -> Iterator[str]:
    yield f"### {name}\n\n"
    # "`cosine.v1`: …" repeats the heading.
    prose = documentation(function).prose.removeprefix(f"`{name}`: ")
    yield f"{prose[:1].upper()}{prose[1:]}\n\n"
    rows = [
        f"| `{parameter.name}` | {_cell(f'`{item.type}`')} | {default_of(parameter)} "
        f"| {_cell(item.text)} |\n"
        for parameter, item in arguments(function)
    ]
    if rows:
        yield "| argument | type | default | meaning |\n| --- | --- | --- | --- |\n"
        yield from rows
    else:
        yield "It has no arguments.\n"
    yield "\n"


def _resolve(item: Item, function: Callable[..., Any]) -> Item:
    """Follow "As those of `other`"."""
    match = AS_THOSE_OF.match(item.text)
    if not match:
        return item
    other = documentation(_find(match[1], function))
    return next(found for found in other.arguments if found.name == item.name)


def _find(name: str, function: Callable[..., Any]) -> Any:
    """What a docstring refers to: something of the same module, or of the package."""
    for module in (function.__module__, "thinc_swa"):
        found = getattr(import_module(module), name, None)
        if found is not None:
            return found
    raise ValueError(f"{function.__module__}.{function.__qualname__} refers to {name!r}")


def _cell(text: str) -> str:
    """Escape what would end a cell. In code spans nothing does."""
    parts = CODE.findall(text)
    return "".join(p if p.startswith("`") else p.replace("|", "\\|") for p in parts)
