"""Globs: patterns that select parameters by their paths."""

import re
from typing import Any, List, NamedTuple, Pattern

from .types import KeyT


class Glob(NamedTuple):
    """A pattern for paths: "*" is anything, "?" one character, "[ab]" one of these, "[!ab]"
    none of these, "#" a whole number."""

    text: str
    regex: Pattern[str]

    @classmethod
    def make(cls, argument: str, text: Any) -> "Glob":
        if not isinstance(text, str) or not text:
            raise ValueError(f"{argument} must be a list of globs, but has {text!r} in it")
        parts = []
        for part in re.findall(r"\[!?.[^\]]*\]|.", text, flags=re.DOTALL):
            if len(part) > 1:
                negation = "^" if part[1] == "!" and len(part) > 3 else ""
                characters = re.sub(r"([\\\[\]^&~|])", r"\\\1", part[1 + len(negation) : -1])
                parts.append(f"[{negation}{characters}]")
            else:
                # The first number from the left counts, and all of its digits.
                special = {"*": ".*?", "?": ".", "#": r"(?<!\d)(\d+)(?!\d)"}
                parts.append(special.get(part) or re.escape(part))
        try:
            regex = re.compile("".join(parts), flags=re.DOTALL)
        except re.error as error:
            raise ValueError(f"{argument} has {text!r} in it, no glob: {error}") from None
        if regex.groups > 1:
            raise ValueError(f"A glob can have one #, but in {argument} there is {text!r}")
        return cls(text, regex)

    @property
    def has_number(self) -> bool:
        return self.regex.groups > 0

    def match(self, key: KeyT, path: str) -> Any:
        match = self.regex.fullmatch(path)
        if match is None and "/" not in self.text:
            match = self.regex.fullmatch(key[1])
        return match


def check_globs(argument: str, texts: object) -> List[Glob]:
    """A list with at least one glob."""
    if not isinstance(texts, (list, tuple)) or not texts:
        raise ValueError(f"{argument} must be a list of globs, but was {texts!r}")
    return [Glob.make(argument, text) for text in texts]
