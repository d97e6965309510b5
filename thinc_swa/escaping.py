"""Escaping of external text, such as file names and error messages, for each kind of output."""

import hashlib
import re

# Replacements for characters that a terminal cannot show.
ASCII = {"±": "+/-", "·": ".", "▸": ">", "■": "#", "✗": "x", "…": "..."}
# Names of devices on Windows.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
MAX_LENGTH = 60


def printable(text: str) -> str:
    """Escape control characters, and the bytes of a file name that are not UTF-8
    ("\\\\xff")."""
    return "".join(
        character if character.isprintable() else _escape(character) for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # A byte that was not decoded: see PEP 383.
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def for_encoding(text: str, encoding: str) -> str:
    """Replace characters that an encoding does not have."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(ASCII.get(character, character) for character in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def for_markdown(text: str) -> str:
    """Escape Markdown's markup. Underscores inside a word are no markup."""
    text = re.sub(r"([\\`*\[\]<>|$~])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def as_code(text: str) -> str:
    """Format text as inline code in Markdown."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def folder_name(name: str) -> str:
    """Make a folder name that is valid on every file system: no separators, no "..", not
    hidden.

    Different names give different folders, also on file systems that ignore case: except for
    simple lower-case names, a digest of the name is appended.
    """
    is_simple = re.fullmatch(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_-])?", name)
    if is_simple and len(name) <= MAX_LENGTH and not RESERVED.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf8", "surrogatepass")).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:MAX_LENGTH].strip("-")
    return f"{readable or 'run'}-{digest}"
