"""Atomic file writes: after a crash there is the old file or the new one, never a part."""

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

# Seconds after which a temporary file is stale whose writer cannot be looked for, because it
# runs or ran on another machine.
STALE_AGE = 24 * 60 * 60

# Bytes of the target's name in the name of a temporary file. Most file systems allow 255 in
# all, encrypted ones 143.
MAX_NAME_BYTES = 100

# ".NAME.HOST-PID-TOKEN.tmp", or the form of earlier versions, ".NAME.TOKEN.tmp".
TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.((?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9a-f]{8}|[0-9a-f]{32})\.tmp",
    flags=re.DOTALL,
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A context in which to write a file under a temporary name in the same folder. At its end
    the file is flushed to the disk and takes its place; after an error the old one is still
    there.

    It follows symbolic links. The new file has the mode of the old one, or that of any new
    file under the umask. Temporary files that killed processes left for the same file are
    removed.

    path (Path): The file, in an existing folder.
    RETURNS (Iterator[Path]): The temporary name. The file exists, and is empty.
    RAISES: OSError with a name if it cannot be written, or is something else than a file.
    """
    path = follow_link(path)
    mode = _mode_of(path)
    remove_stale_files(path.parent, name=path.name)
    temporary = path.with_name(f".{_shorten(path.name)}.{_writer()}.tmp")
    # Never more readable than the file that it is going to replace.
    permissions = 0o666 if mode is None else mode | stat.S_IRUSR | stat.S_IWUSR
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, permissions))
    try:
        yield temporary
        _flush(temporary, os.O_RDWR, mode=mode)
        os.replace(temporary, path)
        if os.name != "nt":  # Windows opens no folders.
            _flush(path.parent, os.O_RDONLY)
    except OSError as error:
        if error.filename is not None:
            raise
        # Of a write, when the disk is full. Closing the file may have failed once more.
        error.filename = str(path)
        raise error from None
    finally:
        temporary.unlink(missing_ok=True)


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def replace_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    replace_bytes(path, text.encode("utf8"))


def remove_stale_files(folder: Path, *, name: str | None = None) -> None:
    """Remove temporary files that were left behind by processes that were killed.

    A file is only removed if its name has the form of those that `replacing` makes, and its
    writer, which the name tells, does not run any more. If that cannot be seen, because it is
    a process of another machine, the file must not have been changed for a day.

    folder (Path): Where to look. Folders within are left alone.
    name (str | None): Only those that were to become the file of this name.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = TEMPORARY.fullmatch(entry.name)
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
    if os.name == "nt":  # There, os.kill() would end it.
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # It belongs to another user.
    return True


def _writer() -> str:
    """This process, and a token for this file."""
    return f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@cache
def _host() -> str:
    """A short name for the machine or the container, in which process ids are unique."""
    name = socket.gethostname()
    with suppress(OSError):  # Only Linux has it.
        name += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(name.encode("utf8", "surrogateescape")).hexdigest()[:8]


def _shorten(name: str) -> str:
    """A name for temporary files that leaves space for the rest."""
    data = os.fsencode(name)
    return name if len(data) <= MAX_NAME_BYTES else hashlib.sha256(data).hexdigest()


def follow_link(path: Path) -> Path:
    """The file that a symbolic link stands for, which need not exist."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _mode_of(path: Path) -> int | None:
    """The permissions of a file, or None if there is none."""
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
    """Make sure that a file, or the name of one in a folder, is on the disk.

    flags (int): How to open it. Windows flushes only what is open for writing.
    mode (int | None): The permissions that it gets, if they are others now.
    """
    descriptor = os.open(path, flags)
    try:
        if mode is not None and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            path.chmod(mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
