"""Atomic file writes: after a crash a file has its old or its new content, never a part."""

import errno
import hashlib
import os
import re
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

# The age in seconds at which a temporary file of a process on another machine is stale, because
# such a process cannot be checked.
STALE_AGE = 24 * 60 * 60

# The maximum number of bytes of the target's name in the name of a temporary file. Most file
# systems allow names of 255 bytes, encrypted ones 143.
MAX_NAME_BYTES = 100

# ".NAME.HOST-PID-TOKEN.tmp", or ".NAME.TOKEN.tmp" of earlier versions.
TEMPORARY_NAME = re.compile(
    r"\.(?P<name>.+)\.((?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9a-f]{8}|[0-9a-f]{32})\.tmp",
    flags=re.DOTALL,
)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A context for an atomic file write. Inside, write to a temporary file in the same folder.
    At the end, the temporary file is flushed to the disk and renamed to the target. After an
    error the target is unchanged.

    Symbolic links are followed. The new file has the mode of the old one, or the mode given by
    the umask if there was none. Temporary files of killed processes for the same target are
    removed.

    path (Path): The target, in an existing folder.
    RETURNS (Iterator[Path]): The path of the temporary file, which exists and is empty.
    RAISES: OSError with a file name if the target cannot be written or is not a regular file.
    """
    path = follow_link(path)
    mode = _mode_of(path)
    remove_stale_files(path.parent, name=path.name)
    temporary = path.with_name(f".{_shorten(path.name)}.{_writer()}.tmp")
    # The permissions must never be wider than those of the old file.
    permissions = 0o666 if mode is None else mode | stat.S_IRUSR | stat.S_IWUSR
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, permissions))
    try:
        yield temporary
        _flush(temporary, os.O_RDWR, mode=mode)
        os.replace(temporary, path)
        if os.name != "nt":  # Windows cannot open folders.
            _flush(path.parent, os.O_RDONLY)
    except OSError as error:
        if error.filename is not None:
            raise
        # Errors of writes, such as a full disk, have no file name. Closing the file may have
        # failed again.
        error.filename = str(path)
        raise error from None
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a binary file atomically. See `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def replace_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. See `atomic_write`."""
    replace_bytes(path, text.encode("utf8"))


def remove_stale_files(folder: Path, *, name: str | None = None) -> None:
    """Remove temporary files of killed processes.

    A file is removed if its name has the form that `atomic_write` uses, and the process whose
    id is in the name is not running. Processes on other machines cannot be checked: their files
    are removed if they have not been modified for a day. Errors are ignored.

    folder (Path): The folder. Its subfolders are not searched.
    name (str | None): Only remove temporary files for the target of this name.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = TEMPORARY_NAME.fullmatch(entry.name)
            if match is None or (name is not None and match["name"] != _shorten(name)):
                continue
            # Another process may remove it first, or this one may not have the permission.
            with suppress(OSError):
                if entry.is_file(follow_symlinks=False) and _is_stale(entry, match):
                    os.unlink(entry.path)


def _is_stale(entry: "os.DirEntry[str]", match: "re.Match[str]") -> bool:
    if match["host"] == _host() and not _is_running(int(match["pid"])):
        return True
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_AGE


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # On Windows os.kill() would end the process.
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # The process belongs to another user.
    return True


def _writer() -> str:
    """The part of a temporary name that identifies the process and the file."""
    return f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@cache
def _host() -> str:
    """A short identifier of the machine or container, within which process ids are unique."""
    name = socket.gethostname()
    with suppress(OSError):  # This file exists only on Linux.
        name += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(name.encode("utf8", "surrogateescape")).hexdigest()[:8]


def _shorten(name: str) -> str:
    """Replace a long name with its hash, so that the temporary name is not too long."""
    data = os.fsencode(name)
    return name if len(data) <= MAX_NAME_BYTES else hashlib.sha256(data).hexdigest()


def follow_link(path: Path) -> Path:
    """Resolve a symbolic link. The target need not exist.

    RAISES: OSError if the link is part of a cycle.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _mode_of(path: Path) -> int | None:
    """The permissions of a regular file, or None if it does not exist.

    RAISES: OSError if it is a folder or a special file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return stat.S_IMODE(mode)


def _flush(path: Path, flags: int, *, mode: int | None = None) -> None:
    """Flush a file, or the entries of a folder, to the disk.

    flags (int): The flags for `os.open`. Windows flushes only files that are open for writing.
    mode (int | None): The permissions to set before, if they differ.
    """
    descriptor = os.open(path, flags)
    try:
        if mode is not None and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            path.chmod(mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
