"""Atomic replacement of folders, such as saved pipelines."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import follow_link


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Context manager for an atomic replacement of a folder. Inside, write to a new temporary
    folder. At the end it is flushed to the disk and gets the name of the target, whose old
    content is deleted. After an error the target is unchanged.

    A crash between the two renames at the end leaves no target, but both contents in temporary
    folders, ".NAME.TOKEN.tmp".

    path (Path): The target, in an existing folder. Symbolic links are followed.
    RETURNS (Iterator[Path]): The temporary folder.
    RAISES: OSError if a file cannot be written.
    """
    path = follow_link(path)
    temporary, replaced = temporary_folder(path), temporary_folder(path)
    try:
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                sync(Path(folder) / name)
            sync(Path(folder))
        if os.path.lexists(path):
            os.rename(path, replaced)
        try:
            os.rename(temporary, path)
        except OSError:
            if os.path.lexists(replaced):
                os.rename(replaced, path)
            raise
        sync(path.parent)
    finally:
        delete(temporary)
        delete(replaced)


def copy_folder(source: Path, target: Path) -> None:
    """Copy all files of a folder. `shutil.copytree` would collect errors, one for each file of
    a full disk.

    target (Path): An existing folder.
    RAISES: OSError if a file cannot be written.
    """
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir()
        else:
            shutil.copyfile(path, target / path.relative_to(source))


def temporary_folder(path: Path) -> Path:
    """Path of a temporary folder beside another one, of a form that `checkpoints.sweep`
    deletes."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def delete(path: Path) -> None:
    """Delete a file or a folder if it exists. Errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink()


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    if os.name == "nt":  # Windows opens no folders, and flushes only files open for writing.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
