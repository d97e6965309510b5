"""Texts from outside (names of files, messages of errors), made safe for each output."""

import hashlib
import re

# What stands for characters that a terminal does not have.
ASCII = {"±": "+/-", "·": ".", "▸": ">", "■": "#", "✗": "x", "…": "..."}
# Names that Windows keeps for devices.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
MAX_LENGTH = 60


def printable(text: str) -> str:
    """Write out what cannot be shown or encoded: control characters, and the bytes of a file
    name that are not UTF-8 ("\\\\xff")."""
    return "".join(
        character if character.isprintable() else _escape(character) for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # A byte that Python could not decode.
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def for_encoding(text: str, encoding: str) -> str:
    """Replace what an output with this encoding cannot show."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(ASCII.get(character, character) for character in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def for_markdown(text: str) -> str:
    """Escape what Markdown would take for markup. Underscores inside of a word are none."""
    text = re.sub(r"([\\`*\[\]<>|$~])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def as_code(text: str) -> str:
    """Text as it is, in Markdown."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def folder_name(name: str) -> str:
    """A name for a folder, valid on every file system: no separators, no "..", nothing hidden.

    Different names have different folders, also where upper and lower case are the same: all
    names but simple ones in lower case get a digest of the name.
    """
    is_simple = re.fullmatch(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_-])?", name)
    if is_simple and len(name) <= MAX_LENGTH and not RESERVED.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf8", "surrogatepass")).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:MAX_LENGTH].strip("-")
    return f"{readable or 'run'}-{digest}"
