"""Globs: patterns that select parameters by their paths."""

import re
from typing import Any, List, Match, NamedTuple, Optional, Pattern

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
        for part in re.findall(r"\[!.[^\]]*\]|\[[^!][^\]]*\]|.", text, flags=re.DOTALL):
            if len(part) > 1:
                negation = "^" if part[1] == "!" else ""
                # Two of some characters side by side mean something to Python, or will one day.
                doubled = r"([\\\[\]^&~|]|-(?=-))"
                characters = re.sub(doubled, r"\\\1", part[1 + len(negation) : -1])
                parts.append(f"[{negation}{characters}]")
            else:
                # As little as possible for a *, so that # is the first number from the left.
                special = {"*": ".*?", "?": ".", "#": r"(\d+)"}
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

    def match(self, key: KeyT, path: str) -> Optional[Match[str]]:
        """RETURNS (Optional[Match]): Of the path, or of the parameter's own name."""
        return self.regex.fullmatch(path) or self.regex.fullmatch(key[1])


def check_globs(argument: str, texts: object) -> List[Glob]:
    """A list with at least one glob."""
    if not isinstance(texts, (list, tuple)) or not texts:
        raise ValueError(f"{argument} must be a list of globs, but was {texts!r}")
    return [Glob.make(argument, text) for text in texts]
