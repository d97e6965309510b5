"""Glob patterns that select parameters by their paths."""

import re
from re import Match, Pattern
from typing import Any, NamedTuple

from ..types import KeyT

# The regular expression for "#".
NUMBER = r"(?P<number>\d+)"


class Glob(NamedTuple):
    """A pattern for paths: "*" matches any characters, "?" one character, "[ab]" one of the
    characters in brackets, "[!ab]" any other character, and "#" a whole number.

    text (str): The glob.
    regex (Pattern[str]): The equivalent regular expression.
    """

    text: str
    regex: Pattern[str]

    @classmethod
    def make(cls, argument: str, text: Any) -> "Glob":
        """Make a glob from its text.

        argument (str): The name of the argument that contains it, for errors.
        text (str): The text.
        RAISES: ValueError if it is not a valid glob.
        """
        if not isinstance(text, str) or not text:
            raise ValueError(
                f"{argument} must be a list of non-empty strings, but contains {text!r}"
            )
        # The segments between stars. Consecutive stars are the same as one.
        segments = [""]
        for part in re.findall(r"\[!.[^\]]*\]|\[[^!][^\]]*\]|\*+|.", text, flags=re.DOTALL):
            if part[0] == "*":
                segments.append("")
            else:
                segments[-1] += _translate(part)
        if text.count("#") > 1 and sum(segment.count(NUMBER) for segment in segments) > 1:
            raise ValueError(f"{argument}: a glob can contain one #, but was {text!r}")
        try:
            regex = re.compile(_join(segments), flags=re.DOTALL)
        except re.error as error:
            raise ValueError(f"{argument}: {text!r} is not a valid glob: {error}") from None
        return cls(text, regex)

    @property
    def has_number(self) -> bool:
        """Whether the glob contains "#"."""
        return "number" in self.regex.groupindex

    def match(self, key: KeyT, path: str) -> Match[str] | None:
        """Match a parameter by its path or its name.

        key (KeyT): The key of the parameter, which contains the name.
        path (str): The path.
        RETURNS (Match | None): The match, or None. Its group "number" is the number that "#"
            matches: the leftmost one.
        """
        return self.regex.fullmatch(path) or self.regex.fullmatch(key[1])


def _translate(part: str) -> str:
    """Translate a part of a glob, a character or a bracket expression, to a regular
    expression."""
    if len(part) == 1:
        return {"?": ".", "#": NUMBER}.get(part) or re.escape(part)
    negation = "^" if part[1] == "!" else ""
    # In a character set, Python reserves some doubled characters for set operations.
    doubled = r"([\\\[\]^&~|]|-(?=-))"
    characters = re.sub(doubled, r"\\\1", part[1 + len(negation) : -1])
    return f"[{negation}{characters}]"


def _join(segments: list[str]) -> str:
    """Join the regular expressions of segments with stars between them.

    The time of a match is proportional to the product of the lengths of glob and path, not
    exponential in the number of stars: as in Python's fnmatch, the first place where a segment
    matches is final. Only a segment with a number is tried in several places.
    """
    first, *others = segments
    parts = [first]
    for index, segment in enumerate(others, 1):
        if index == len(others) or NUMBER in segment:
            parts.append(".*?" + segment)
        else:
            # The same as an atomic group, which Python supports only from 3.11 on.
            parts.append(f"(?=(?P<s{index}>.*?{segment}))(?P=s{index})")
    return "".join(parts)


def check_globs(argument: str, texts: object) -> list[Glob]:
    """Check that an argument is a non-empty list of globs.

    argument (str): The name of the argument, for errors.
    texts (Sequence[str]): The texts of the globs.
    RETURNS (list[Glob]): The globs.
    RAISES: ValueError if it is not a list, is empty, or contains an invalid glob.
    """
    if not isinstance(texts, (list, tuple)) or not texts:
        raise ValueError(f"{argument} must be a non-empty list of globs, but was {texts!r}")
    return [Glob.make(argument, text) for text in texts]
