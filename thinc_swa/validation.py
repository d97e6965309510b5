"""Checks of constructor arguments.

Each function returns the checked value, or raises a ValueError with the name of the argument,
the rule and the value. Values are never converted: `freq = 5.7` is an error and not 5, and
`start_step = true` is an error and not 1.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

from .types import StepT


def check_int(name: str, value: object, *, minimum: int) -> int:
    """Check that an argument is an int of at least `minimum`. Floats and bools are errors."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name} must be an int >= {minimum}, but was {value!r}")
    return int(value)


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> float:
    """Check that an argument is a finite number within the given bounds. Bools are errors."""
    bounds = [("> ", above), (">= ", minimum), ("<= ", maximum), ("< ", below)]
    rule = " and ".join(f"{sign}{bound:g}" for sign, bound in bounds if bound is not None)
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    number = float(value) if is_number else math.nan  # type: ignore[arg-type]
    if (
        not math.isfinite(number)
        or (above is not None and number <= above)
        or (minimum is not None and number < minimum)
        or (maximum is not None and number > maximum)
        or (below is not None and number >= below)
    ):
        raise ValueError(f"{name} must be a number {rule}, but was {value!r}")
    return number


def check_bool(name: str, value: object) -> bool:
    """Check that an argument is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, but was {value!r}")
    return value


def check_list(name: str, value: object) -> Sequence[Any]:
    """Check that an argument is a list or tuple, which may be empty. Mappings are errors."""
    if isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a list, because its order matters and config sections have no "
            f"order, but was {value!r}"
        )
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list, but was {value!r}")
    return value


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Check that an argument is one of the allowed strings."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {known}, but was {value!r}")
    return value


UNRESOLVED = (
    "total_steps is unresolved ({value!r}). spaCy resolves config variables in `spacy train`, "
    "but not in nlp.initialize(), nlp.resume_training() and nlp.update() without sgd. Write "
    "the number of steps into the config, or pass an optimizer explicitly: "
    "nlp.update(examples, sgd=optimizer)."
)


def is_variable(value: object) -> TypeGuard[str]:
    """Whether a value is an unresolved config variable, such as `${training.max_steps}`."""
    return isinstance(value, str) and value.startswith("${")


def check_total_steps(value: object) -> int | None:
    """Check the length of the training in steps, which may be None. An unresolved config
    variable is an error."""
    if value is None:
        return None
    if is_variable(value):
        raise ValueError(UNRESOLVED.format(value=value))
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"total_steps must be an int >= 1, but was {value!r}. (In spaCy, max_steps = 0 "
            "means that the length is unknown: leave out total_steps, and give the other "
            "arguments in steps, not as fractions.)"
        )
    return int(value)


def check_step(name: str, value: object, total_steps: int | None, *, minimum: int) -> int:
    """Convert a time in the training to steps.

    name (str): The name of the argument.
    value (int | float): A number of steps, or a float strictly between 0 and 1: a fraction of
        `total_steps`, which is rounded to the nearest step, at least 1.
    total_steps (int | None): As returned by `check_total_steps`.
    minimum (int): The smallest allowed number of steps.
    RETURNS (int): The number of steps.
    RAISES: ValueError for another value, or for a fraction without `total_steps`.
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        return check_int(name, value, minimum=minimum)
    if isinstance(value, float) and 0.0 < value < 1.0:
        if total_steps is None:
            raise ValueError(
                f"{name} = {value!r} is a fraction of total_steps, so total_steps must be given"
            )
        return max(1, round(value * total_steps))
    raise ValueError(
        f"{name} must be an int >= {minimum} (steps) or a float strictly between 0 and 1 "
        f"(a fraction of total_steps), but was {value!r}"
    )


def check_start_step(value: StepT, total_steps: int | None) -> int:
    """Convert the start of averaging to steps. A start after `total_steps` is an error."""
    start_step = check_step("start_step", value, total_steps, minimum=0)
    _check_reachable("start_step", start_step, total_steps)
    return start_step


def check_end_step(value: StepT, total_steps: int | None, start_step: int | None = None) -> int:
    """Convert the end of averaging to steps. An end that is not after `start_step`, or is after
    `total_steps`, is an error."""
    end_step = check_step("end_step", value, total_steps, minimum=1)
    _check_reachable("end_step", end_step, total_steps)
    if start_step is not None and end_step <= start_step:
        raise ValueError(
            f"end_step must be greater than start_step, but was {end_step} with "
            f"start_step = {start_step}"
        )
    return end_step


def _check_reachable(name: str, step: int, total_steps: int | None) -> None:
    if total_steps is not None and step > total_steps:
        raise ValueError(
            f"{name} must not be greater than total_steps, but was {step} with "
            f"total_steps = {total_steps}: training ends before that step"
        )
