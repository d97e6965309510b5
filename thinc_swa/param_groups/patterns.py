"""Globs: patterns that select parameters by their paths."""

import re
from re import Match, Pattern
from typing import Any, NamedTuple

from ..types import KeyT

# The regular expression for "#".
NUMBER = r"(?P<number>\d+)"


class Glob(NamedTuple):
    """A pattern for paths: "*" is anything, "?" one character, "[ab]" one of these, "[!ab]"
    none of these, "#" a whole number."""

    text: str
    regex: Pattern[str]

    @classmethod
    def make(cls, argument: str, text: Any) -> "Glob":
        if not isinstance(text, str) or not text:
            raise ValueError(f"{argument} must be a list of globs, but has {text!r} in it")
        # What stands between the stars. Several stars in a row are one.
        segments = [""]
        for part in re.findall(r"\[!.[^\]]*\]|\[[^!][^\]]*\]|\*+|.", text, flags=re.DOTALL):
            if part[0] == "*":
                segments.append("")
            else:
                segments[-1] += _translate(part)
        if text.count("#") > 1 and sum(segment.count(NUMBER) for segment in segments) > 1:
            raise ValueError(f"A glob can have one #, but in {argument} there is {text!r}")
        try:
            regex = re.compile(_join(segments), flags=re.DOTALL)
        except re.error as error:
            raise ValueError(f"{argument} has {text!r} in it, no glob: {error}") from None
        return cls(text, regex)

    @property
    def has_number(self) -> bool:
        return "number" in self.regex.groupindex

    def match(self, key: KeyT, path: str) -> Match[str] | None:
        """RETURNS (Match | None): Of the path, or of the parameter's own name. Its group
        "number" is what "#" stands for: the first number from the left."""
        return self.regex.fullmatch(path) or self.regex.fullmatch(key[1])


def _translate(part: str) -> str:
    """A part of a glob as a regular expression: one character, or some in brackets."""
    if len(part) == 1:
        return {"?": ".", "#": NUMBER}.get(part) or re.escape(part)
    negation = "^" if part[1] == "!" else ""
    # Two of some characters side by side mean something to Python, or will one day.
    doubled = r"([\\\[\]^&~|]|-(?=-))"
    characters = re.sub(doubled, r"\\\1", part[1 + len(negation) : -1])
    return f"[{negation}{characters}]"


def _join(segments: list[str]) -> str:
    """A regular expression for segments with a star between each two. It takes time that grows
    with the product of the lengths of glob and path, not with a power of the number of stars:
    all of a segment that is found first is kept, as in Python's fnmatch. Only a segment with a
    number may be tried in several places."""
    first, *others = segments
    parts = [first]
    for index, segment in enumerate(others, 1):
        if index == len(others) or NUMBER in segment:
            parts.append(".*?" + segment)
        else:
            # An atomic group, which Python has from 3.11 on.
            parts.append(f"(?=(?P<s{index}>.*?{segment}))(?P=s{index})")
    return "".join(parts)


def check_globs(argument: str, texts: object) -> list[Glob]:
    """A list with at least one glob."""
    if not isinstance(texts, (list, tuple)) or not texts:
        raise ValueError(f"{argument} must be a list of globs, but was {texts!r}")
    return [Glob.make(argument, text) for text in texts]
