"""Errors and warnings of trainings, and error messages of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thinc.api import ConfigValidationError


class TrainingWarning(UserWarning):
    """Warning about a training, for example about a damaged checkpoint."""


class ResumeError(ValueError):
    """A training cannot be resumed from its checkpoint."""


class CallbackError(RuntimeError):
    """A callback has raised an exception, which is the `__cause__`.

    callback (object): The callback.
    event (str): The method that failed.
    step (int): Completed steps.
    error (Exception): The exception.
    """

    def __init__(self, callback: object, event: str, step: int, error: Exception) -> None:
        super().__init__(
            f"{type(callback).__name__}.{event} failed after step {step}: "
            f"{type(error).__name__}: {error}"
        )
        self.__cause__ = error


class WorkerError(RuntimeError):
    """Another worker has failed, or has not taken part in time."""


@contextmanager
def naming_config(path: Path | None) -> Iterator[None]:
    """Context manager that adds the name of the config file to errors in the config.

    path (Path | None): The config file; None if it is unknown.
    RAISES: ValueError instead of any other error, except for an OSError that names another
    file.
    """
    try:
        yield
    except Exception as error:
        names_file = isinstance(error, OSError) and error.filename is not None
        if path is None or names_file or isinstance(error, WorkerError):
            raise
        raise ValueError(f"{path}: {describe_error(error)}") from error


def describe_error(error: BaseException) -> str:
    """Describe an error in one line, with its type unless the message is meant for users."""
    if isinstance(error, ConfigValidationError):
        text = _describe_config_error(error)
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
        if error.filename is not None:
            text += f": {error.filename}"
    else:
        text = str(error)
    text = " ".join(text.split())
    if not text:
        return type(error).__name__
    is_for_users = isinstance(error, (OSError, ImportError, CallbackError, WorkerError)) or (
        isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    )
    return text if is_for_users else f"{type(error).__name__}: {text}"


def _describe_config_error(error: ConfigValidationError) -> str:
    """Message without the config, which the text of the error repeats."""
    details = [
        f"{' -> '.join(str(place) for place in detail.get('loc', ()))}: {detail.get('msg', '')}"
        for detail in error.errors or ()
    ]
    parts = [error.title, error.desc, "; ".join(details)]
    return ": ".join(part.strip().rstrip(".:") for part in parts if part)
