"""Differences between a saved optimizer and the one that it is loaded into."""

import json
from collections.abc import Iterator
from typing import Any

from thinc.about import __version__ as thinc_version
from thinc.api import Optimizer

from ..optimizers.base import OptimizerWrapper
from ..types import Array, KeyT
from .schedule_state import schedule_differences
from .state_checks import has_form_of_schedules
from .state_fields import any_has_schedules, arguments_of, state_fields
from .state_file import FORMAT_VERSION


def find_differences(
    header: dict[str, Any],
    version: int,
    levels: list[Optimizer],
    parameters: dict[KeyT, tuple[str, Array]],
) -> Iterator[str]:
    """List in words why a saved state does not fit an optimizer and a model.

    header (dict[str, Any]): The header of the file.
    version (int): The version of the file's format.
    levels (list[Optimizer]): The nested optimizers, outermost first.
    parameters (dict[KeyT, tuple[str, Array]]): The names and weights of the model's parameters.
    RETURNS (Iterator[str]): One sentence per difference; nothing if the state fits.
    """
    saved_classes = [saved["class"] for saved in header["optimizers"]]
    classes = [type(level).__name__ for level in levels]
    if saved_classes != classes:
        yield f"it has the optimizers {saved_classes}, outermost first, not {classes}"
        return
    for saved, level in zip(header["optimizers"], levels, strict=True):
        other_version = _find_other_version(header, version, saved, level, levels[-1])
        if other_version:
            yield other_version
            return
        yield from _argument_differences(saved, level)
        if not isinstance(level, OptimizerWrapper):
            if not has_form_of_schedules(saved["schedules"]):
                yield "its header is damaged: it does not describe the schedules"
                return
            yield from schedule_differences(saved["schedules"], level, _has_own_rate(header))
    # A wrapper may have dropped the averages during training. Without wrappers they are a
    # setting.
    before, now = header["optimizers"][-1]["state"]["averages"], levels[-1].averages
    if len(levels) == 1 and (before is None) != (now is None):
        yield f"use_averages was {before is not None}, and is {now is not None}"
    if any_has_schedules(levels) and levels[-1].nr_update:
        yield (
            "the optimizer has been trained, and its schedules cannot be rewound: use a new one"
        )
    yield from _parameter_differences(header["parameters"], parameters)


def is_rate_replaced(header: dict[str, Any], levels: list[Optimizer]) -> bool:
    """Whether a wrapper has replaced the learning rate of the innermost optimizer, in the file
    or in memory."""
    saved = [outer["state"].get("_learn_rate") for outer in header["optimizers"][:-1]]
    now = [getattr(level, "_learn_rate", None) for level in levels]
    return any(isinstance(rate, dict) and rate.get("_position") for rate in saved) or any(
        rate is not None and rate.is_active for rate in now
    )


def _has_own_rate(header: dict[str, Any]) -> bool:
    """Whether a wrapper in the file has a `learn_rate` argument."""
    return any("learn_rate" in outer["arguments"] for outer in header["optimizers"][:-1])


def _find_other_version(
    header: dict[str, Any],
    version: int,
    saved: dict[str, Any],
    level: Optimizer,
    innermost: Optimizer,
) -> str | None:
    """The difference in words if another version of Thinc or of this package, with other state
    fields, saved an optimizer; None otherwise."""
    fields, saved_fields = set(state_fields(level)), set(saved["state"])
    if fields == saved_fields:
        return None
    if not isinstance(level, OptimizerWrapper):
        return f"it is from Thinc {header['thinc']}, not {thinc_version}"
    # Fields added since an earlier version keep the values of a new optimizer.
    if saved_fields < fields and version < FORMAT_VERSION and not innermost.nr_update:
        return None
    return (
        f"its state of {saved['class']} has {sorted(saved_fields)}, not {sorted(fields)}: it "
        "is from another version of thinc_swa"
    )


def _argument_differences(saved: dict[str, Any], level: Optimizer) -> Iterator[str]:
    arguments = json.loads(json.dumps(arguments_of(level), default=float))
    names = set(arguments)
    if isinstance(level, OptimizerWrapper):  # Of Thinc's optimizer, older files have more.
        names |= set(saved["arguments"])
    for name in sorted(names):
        before, now = saved["arguments"].get(name), arguments.get(name)
        if before != now:
            yield f"{name} of {saved['class']} was {before}, and is {now}"


def _parameter_differences(
    before: dict[str, list[int]], parameters: dict[KeyT, tuple[str, Array]]
) -> Iterator[str]:
    now = {name: list(array.shape) for name, array in parameters.values()}
    for name in sorted(set(before) | set(now)):
        if name not in now:
            yield f"the model has no parameter {name}"
        elif name not in before:
            yield f"it has no state of the parameter {name}"
        elif before[name] != now[name]:
            yield f"the shape of {name} was {before[name]}, and is {now[name]}"
