"""Docstrings in Thinc's style: parsed, and converted to Google's style, which griffe knows.

A line `name (type): text.` is an argument, `RETURNS (type): text.` the result and
`RAISES: text.` the errors. Indented lines continue one.
"""

import re
from dataclasses import dataclass, field

ARGUMENT = re.compile(r"(?P<names>\w+) \((?P<type>.+?)\):(?: (?P<text>.*))?$")
ARGUMENTS_LIKE = re.compile(r"(?P<names>\w+(?:, \w+)+):(?: (?P<text>.*))?$")
RETURNS = re.compile(r"RETURNS \((?P<type>.+?)\):(?: (?P<text>.*))?$")
RAISES = re.compile(r"RAISES:(?: (?P<text>.*))?$")
ERROR = re.compile(r"(\w*(?:Error|Exception|Warning)) +")
INDENT = "    "
# A code span, or what is between two.
CODE = re.compile(r"`[^`]*`|[^`]+")


@dataclass
class Item:
    """An argument, the result or the errors.

    name (str): The argument's name.
    type (str): Its type, as the docstring has it.
    text (str): What it means, in one line.
    """

    name: str
    type: str
    text: str


@dataclass
class Docstring:
    """The parts of a docstring."""

    prose: str = ""
    arguments: list[Item] = field(default_factory=list)
    returns: Item | None = None
    raises: list[Item] = field(default_factory=list)

    def to_google(self) -> str:
        """The same in Google's style."""
        parts = [self.prose] if self.prose else []
        if self.arguments:
            lines = [f"{INDENT}{a.name} ({a.type}): {a.text}" for a in self.arguments]
            parts.append("\n".join(["Args:", *lines]))
        if self.returns is not None:
            parts.append(f"Returns:\n{INDENT}{self.returns.type}: {self.returns.text}")
        if self.raises:
            lines = [f"{INDENT}{error.name}: {error.text}" for error in self.raises]
            parts.append("\n".join(["Raises:", *lines]))
        return "\n\n".join(parts)


def parse(text: str) -> Docstring:
    """Parse a docstring.

    text (str): The docstring without indentation, as `inspect.getdoc` returns it.
    RETURNS (Docstring): Its parts, as Markdown.
    """
    found = Docstring()
    text = _escape_asterisks(text)
    prose: list[str] = []
    item: Item | None = None
    for line in text.splitlines():
        new = _read_item(line, found)
        if new is not None:
            item = new
        elif item is not None and line.startswith(INDENT):
            item.text = f"{item.text} {line.strip()}".strip()
        else:
            item = None
            prose.append(line)
    found.prose = re.sub(r"\n{3,}", "\n\n", "\n".join(prose)).strip()
    found.raises = [error for raised in found.raises for error in _split_errors(raised.text)]
    return found


def _escape_asterisks(text: str) -> str:
    """Escape the asterisks outside of code: they are products and globs, never emphasis."""
    lines = []
    is_code = False
    for line in text.split("\n"):
        # An indented line is code if it stands alone, and otherwise continues an argument.
        starts_block = line.startswith(INDENT) and (is_code or not lines or not lines[-1])
        is_code = starts_block or (is_code and not line.strip())
        lines.append(line if is_code else CODE.sub(_escape_outside_of_code, line))
    return "\n".join(lines)


def _escape_outside_of_code(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith("`") else match[0].replace("*", "\\*")


def _read_item(line: str, found: Docstring) -> Item | None:
    """Add the item that begins on a line, if one does."""
    if match := RETURNS.match(line):
        found.returns = Item("", match["type"], match["text"] or "")
        return found.returns
    if match := RAISES.match(line):
        found.raises.append(Item("", "", match["text"] or ""))
        return found.raises[-1]
    if match := ARGUMENT.match(line):
        found.arguments.append(Item(match["names"], match["type"], match["text"] or ""))
        return found.arguments[-1]
    if match := ARGUMENTS_LIKE.match(line):
        found.arguments.append(Item(match["names"], "", match["text"] or ""))
        return found.arguments[-1]
    return None


def _split_errors(text: str) -> list[Item]:
    """`ValueError if …; OSError if …` as one item for each error."""
    items: list[Item] = []
    for part in text.split("; "):
        match = ERROR.match(part)
        if match:
            items.append(Item(match[1], "", part[match.end() :].strip()))
        elif items:
            items[-1].text += f"; {part}"
        else:
            items.append(Item("Exception", "", part))
    return items
