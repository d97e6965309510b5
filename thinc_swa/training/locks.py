"""Locks on output folders, so that only one process writes to each."""

import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

# The lock file is kept after the release: if it was deleted, two processes could lock different
# files of the same name. The file with the holder is deleted.
LOCK = ".thinc-swa.lock"
SOFT_LOCK = ".thinc-swa.soft-lock"
HOLDER = ".thinc-swa.lock-holder"
# Errors of file systems without locks: some network file systems, FUSE.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
# Seconds to wait for a lock. A soft lock whose holder is dead takes several attempts to break.
TIMEOUT = 0.5


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Context manager that locks a folder for this process.

    The operating system releases the lock when the process ends, also after SIGKILL. On file
    systems without locks the existence of a file is the lock; that of a dead process is broken.

    folder (Path): The folder, which is created if it does not exist.
    RAISES: BlockingIOError with the process id and host of the holder if the folder is locked
        already; OSError if it cannot be created or written to; ImportError if the library
        filelock is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquire(folder)
    try:
        _write_holder(folder / HOLDER)
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _acquire(folder: Path) -> Any:
    try:
        from filelock import FileLock, SoftFileLock, Timeout
    except ImportError as error:
        raise ImportError(
            f'Locking the folder {folder} needs the library filelock: pip install "filelock"'
        ) from error
    try:
        with warnings.catch_warnings():
            # Newer versions of filelock fall back to soft locks by themselves, with a warning.
            warnings.simplefilter("ignore")
            try:
                return _acquired(FileLock(folder / LOCK))
            except (NotImplementedError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                    raise
                return _acquired(SoftFileLock(folder / SOFT_LOCK))
    except Timeout as error:
        raise BlockingIOError(
            f"{folder} is in use by another thinc-swa process{_describe_holder(folder)}: wait "
            "for its end, or choose another folder"
        ) from error
    except OSError as error:
        raise OSError(f"{folder} cannot be locked: {error.strerror or error}") from error


def _acquired(lock: Any) -> Any:
    lock.acquire(timeout=TIMEOUT)
    return lock


def _write_holder(path: Path) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().isoformat(sep=" ", timespec="seconds"),
    }
    path.write_text(json.dumps(holder), encoding="utf8")


def _describe_holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf8"))
        return f" (pid {holder['pid']} on {holder['host']}, since {holder['since']})"
    except (OSError, ValueError, LookupError, TypeError):
        # The holder has not written it yet, or has just released the lock.
        return ""
