"""Errors in one line, for people."""

from thinc.api import ConfigValidationError

from .callbacks import CallbackError


def describe_error(error: BaseException) -> str:
    """What went wrong, in one line. Of an error that was not meant for people the type too."""
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
    is_plain = isinstance(error, (OSError, ImportError, CallbackError)) or (
        isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    )
    return text if is_plain else f"{type(error).__name__}: {text}"


def _describe_config_error(error: ConfigValidationError) -> str:
    """Without the whole config, which its own text repeats."""
    details = [
        f"{' -> '.join(str(place) for place in detail.get('loc', ()))}: {detail.get('msg', '')}"
        for detail in error.errors or ()
    ]
    parts = [error.title, error.desc, "; ".join(details)]
    return ": ".join(part.strip().rstrip(".:") for part in parts if part)
