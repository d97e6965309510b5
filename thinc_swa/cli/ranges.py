"""Ranges of numbers on the command line."""

import math

from .errors import UsageError

MAX_VALUES = 1000


def parse_range(text: str, *, option: str, example: str) -> list[float]:
    """Parse START:STOP:STEP, with STOP included.

    option (str): The option, for the error.
    example (str): A valid range, for the error.
    RETURNS (list[float]): The numbers, ascending.
    RAISES: UsageError if it has another form.
    """
    try:
        start, stop, step = map(float, text.split(":"))
        n_steps = (stop - start) / step
    except (ValueError, ZeroDivisionError):
        n_steps = math.nan
    # Rounding errors must not lose the last one.
    if not (0 <= n_steps < MAX_VALUES and step > 0):
        raise UsageError(
            f"{option} must be START:STOP:STEP, such as {example}, with at most {MAX_VALUES} "
            f"values, but was {text!r}"
        )
    return [round(start + i * step, 10) for i in range(math.floor(n_steps + 1e-6) + 1)]
