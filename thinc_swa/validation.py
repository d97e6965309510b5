"""Checks of what a constructor was given.

Every function returns the checked value or raises a ValueError that names the
argument, the rule and what it got. They are strict on purpose: a config that
says `freq = 5.7` or `start_step = true` is a mistake, not a 5 or a 1.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

from .types import StepT


def check_int(name: str, value: object, *, minimum: int) -> int:
    """A whole number, at least `minimum`. Neither a float nor a bool is one."""
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
    """A finite number within the bounds that are given. A bool is none."""
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
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, but was {value!r}")
    return value


def check_list(name: str, value: object) -> Sequence[Any]:
    """A list in which the order counts, which may be empty."""
    if isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a list, for the order counts, and sections of a config have "
            f"none, but was {value!r}"
        )
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list, but was {value!r}")
    return value


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of a few known strings."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {known}, but was {value!r}")
    return value


UNRESOLVED = (
    "total_steps is {value!r}, a variable that spaCy has not filled in. It does so for `spacy "
    "train`, but not where a pipeline makes an optimizer for itself, as in nlp.initialize(), "
    "nlp.resume_training() or nlp.update() without sgd: write the number of steps into the "
    "config, or make an optimizer and pass it on, nlp.update(examples, sgd=optimizer)."
)


def is_variable(value: object) -> TypeGuard[str]:
    """Whether it stands in a config for a value that is somewhere else."""
    return isinstance(value, str) and value.startswith("${")


def check_total_steps(value: object) -> int | None:
    """The length of the training in steps, or None if it was not given."""
    if value is None:
        return None
    if is_variable(value):
        raise ValueError(UNRESOLVED.format(value=value))
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"total_steps must be an int >= 1, but was {value!r}. (In spaCy, max_steps = 0 "
            "means that the length is not known: leave total_steps out and give the other "
            "arguments in steps, not as fractions.)"
        )
    return int(value)


def check_step(name: str, value: object, total_steps: int | None, *, minimum: int) -> int:
    """A moment of the training, in steps.

    value (int | float): A number of steps, or a float strictly between 0
        and 1: a fraction of total_steps, rounded to the nearest step, and to
        step 1 at least.
    total_steps (int | None): As returned by `check_total_steps`.
    minimum (int): The smallest number of steps that makes sense.
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
    """When averaging starts."""
    start_step = check_step("start_step", value, total_steps, minimum=0)
    _check_reachable("start_step", start_step, total_steps)
    return start_step


def check_end_step(value: StepT, total_steps: int | None, start_step: int | None = None) -> int:
    """When averaging ends: after it started, if it is known when it does."""
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
            f"total_steps = {total_steps}: the training would never get there"
        )
