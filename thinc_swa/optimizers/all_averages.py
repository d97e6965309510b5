"""The averages of all optimizers of a nesting."""

from collections import Counter
from typing import Any

from thinc.api import Optimizer

from ..types import FloatsXd, KeyT
from .base import OptimizerWrapper, unwrap

# The name of the averages of Thinc's own optimizer.
THINC_AVERAGES = "use_averages"


def all_averages(optimizer: Optimizer) -> dict[str, dict[KeyT, FloatsXd]]:
    """The averages of all optimizers of a nesting by name, outermost first.

    Wrappers that never change the trajectory of the weights (`SWA` without `learn_rate` and
    `end_step`, `EMA` without `overwrite_freq`, `LAWA`) can be nested in each other, so one
    training gives all of these averages:

        optimizer = SWA(EMA(LAWA(Adam(0.001))), start_step=1000)
        for name, averages in all_averages(optimizer).items(): ...

    optimizer (Optimizer): Any Thinc optimizer, wrapped or not.
    RETURNS (dict[str, dict[KeyT, FloatsXd]]): The averages by the name of the class: "SWA",
        "EMA". Where a class occurs more than once, the name has the arguments that differ,
        "EMA(sigma_rel=0.05)", and if there are none, a number: "EMA 2". Thinc's own averages
        are "use_averages". Optimizers without averages so far are left out.
    """
    levels = unwrap(optimizer)
    result = {}
    for name, level in zip(average_names(optimizer), levels, strict=True):
        averages = own_averages(level)
        if averages:
            result[name] = averages
    return result


def own_averages(optimizer: Any) -> dict[KeyT, FloatsXd]:
    """The averages of an optimizer alone, without those of the optimizer that it wraps.

    optimizer (Optimizer): Typed as Any: what it has depends on the Thinc version.
    """
    if isinstance(optimizer, OptimizerWrapper):
        return optimizer.own_averages
    return optimizer.averages or {}


def average_names(optimizer: Optimizer) -> list[str]:
    """The names of `all_averages` for all optimizers of a nesting, outermost first, also for
    those without averages."""
    levels = unwrap(optimizer)
    wrappers = [level for level in levels if isinstance(level, OptimizerWrapper)]
    by_class: dict[str, list[dict[str, Any]]] = {}
    for level in wrappers:
        by_class.setdefault(type(level).__name__, []).append(level._arguments)
    names = [_describe(level, by_class[type(level).__name__]) for level in wrappers]
    if len(levels) > len(wrappers):
        names.append(THINC_AVERAGES)
    return _number(names)


def _describe(level: OptimizerWrapper, of_class: list[dict[str, Any]]) -> str:
    name = type(level).__name__
    differing = [
        f"{argument}={level._arguments.get(argument)!r}"
        for argument in dict.fromkeys(key for arguments in of_class for key in arguments)
        if any(arguments.get(argument) != of_class[0].get(argument) for arguments in of_class)
    ]
    return f"{name}({', '.join(differing)})" if differing else name


def _number(names: list[str]) -> list[str]:
    counts: Counter[str] = Counter()
    numbered = []
    for name in names:
        counts[name] += 1
        numbered.append(name if counts[name] == 1 else f"{name} {counts[name]}")
    return numbered
