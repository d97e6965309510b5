"""Files that are there whole or not at all, whatever comes in between."""

import os
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A context to write a file in, under another name in the same folder. At its end the file
    is on the disk and takes its place; after an error what was there before is still there.

    path (Path): The file, in an existing folder.
    RETURNS (Iterator[Path]): The other name.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
        if os.name != "nt":  # Windows opens no folders.
            _flush(path.parent, os.O_RDONLY)
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def replace_text(path: Path, text: str) -> None:
    """The same with text."""
    replace_bytes(path, text.encode("utf8"))


def _flush(path: Path, flags: int) -> None:
    """Make sure that a file, or the name of one in a folder, is on the disk.

    flags (int): How to open it. Windows flushes only what is open for writing.
    """
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
