"""Griffe extension for docstrings in Thinc's style, for mkdocstrings."""

import sys
from pathlib import Path

from griffe import Extension, Object

# Griffe imports this file by its path.
sys.path.insert(0, str(Path(__file__).parent))

from thinc_docstrings import Docstring, Item, parse


class ThincDocstrings(Extension):
    """Griffe extension that gives griffe every docstring in Google's style."""

    def on_object(self, *, obj: Object, **arguments: object) -> None:
        if obj.docstring is None:
            return
        parsed = parse(obj.docstring.value)
        _spread_like(parsed, obj)
        obj.docstring.value = parsed.to_google()


def _spread_like(parsed: Docstring, obj: Object) -> None:
    """`first, second: As those of …` as an argument each, with the annotated type."""
    spread: list[Item] = []
    for item in parsed.arguments:
        if item.type:
            spread.append(item)
            continue
        for name in item.name.split(", "):
            parameter = next((p for p in obj.parameters if p.name == name), None)
            annotation = "" if parameter is None else str(parameter.annotation or "")
            spread.append(Item(name, annotation.removeprefix("Any | "), item.text))
    parsed.arguments = spread
