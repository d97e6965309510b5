"""Functions behind config names, made from the wrapper classes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from thinc.api import Optimizer

from ..validation import UNRESOLVED, is_variable
from .base import OptimizerWrapper
from .unresolved import UnresolvedOptimizer


def config_factory(
    cls: type[OptimizerWrapper],
    *,
    required: Mapping[str, str] | None = None,
    find_problem: Callable[[Mapping[str, Any]], str | None] | None = None,
) -> Callable[..., Optimizer]:
    """Make the function behind a config name: it takes the arguments of a wrapper class, with
    their defaults, and its docstring is that of the class.

    If the class has an argument `total_steps` and the config gives it a variable that is not
    resolved, the function returns an `UnresolvedOptimizer`.

    cls (type[OptimizerWrapper]): The class.
    required (Mapping[str, str] | None): Arguments that have a default in Python and none in
        a config, each with the reason, which becomes part of the error.
    find_problem (Callable[[Mapping[str, Any]], str | None] | None): Returns an error message if
        the optimizer cannot be trained with the arguments where the config is resolved. The
        function returns an `UnresolvedOptimizer` then too.
    RETURNS (Callable[..., Optimizer]): The function.
    """
    reasons = {} if required is None else required

    def make(optimizer: Optimizer, **arguments: Any) -> Optimizer:
        for name, reason in reasons.items():
            if arguments.get(name) is None:
                raise ValueError(f"{name} is required in a config, {reason}")
        total_steps = arguments.get("total_steps")
        if is_variable(total_steps):
            return UnresolvedOptimizer(optimizer, UNRESOLVED.format(value=total_steps))
        problem = None if find_problem is None else find_problem(arguments)
        if problem is not None:
            return UnresolvedOptimizer(optimizer, problem)
        return cls(optimizer, **arguments)

    parameters = []
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.name in reasons:
            parameter = parameter.replace(default=inspect.Parameter.empty)
        if parameter.name != "optimizer":
            # confection 0.1 (Thinc 9.1) converts a value to the type of its argument: 5.7 to 5
            # for an int. `Any` keeps it as it is for the checks of the class.
            parameter = parameter.replace(annotation=Any | parameter.annotation)
        parameters.append(parameter)
    signature = inspect.Signature(parameters, return_annotation=Optimizer)
    make.__signature__ = signature  # type: ignore[attr-defined]
    # confection 1.3 (Thinc 8.3) reads the annotations from here.
    make.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": Optimizer}
    make.__doc__ = inspect.getdoc(cls)
    make.__name__ = f"make_{cls.__name__}"
    make.__qualname__ = make.__name__
    make.__module__ = cls.__module__
    return make
