import inspect
from typing import Any

import pytest
from thinc.api import Adam, Optimizer, registry

from thinc_swa import OptimizerWrapper
from thinc_swa.optimizers.config_factory import config_factory
from thinc_swa.optimizers.unresolved import UnresolvedOptimizer


class Scaled(OptimizerWrapper):
    """A wrapper with one argument.

    factor (float): The factor.
    """

    __slots__ = ["factor"]

    def __init__(
        self, optimizer: Optimizer, *, factor: float = 2.0, total_steps: int | None = None
    ) -> None:
        super().__init__(optimizer)
        self.factor = factor


def test_arguments_defaults_and_docstring_are_those_of_the_class():
    make = config_factory(Scaled)
    parameters = inspect.signature(make).parameters
    assert list(parameters) == ["optimizer", "factor", "total_steps"]
    assert parameters["factor"].default == 2.0
    assert inspect.getdoc(make) == inspect.getdoc(Scaled)
    assert make.__name__ == "make_Scaled"
    assert make(Adam(0.1), factor=3.0).factor == 3.0
    with pytest.raises(TypeError, match="unexpected"):
        make(Adam(0.1), other=3.0)


def test_values_reach_the_class_unconverted():
    """On confection 0.1 too, which converts 5.7 to 5 for an int."""
    make = config_factory(Scaled)
    assert inspect.signature(make).parameters["total_steps"].annotation == Any | int | None
    registry.optimizers("test_scaled.v1", func=make)
    adam = {"@optimizers": "Adam.v1", "learn_rate": 0.1}
    config = {"@optimizers": "test_scaled.v1", "factor": 7, "optimizer": adam}
    factor = registry.resolve({"optimizer": config})["optimizer"].factor
    assert factor == 7 and isinstance(factor, int)


def test_a_required_argument_has_no_default_in_a_config():
    make = config_factory(Scaled, required={"factor": "which has no default for it"})
    assert inspect.signature(make).parameters["factor"].default is inspect.Parameter.empty
    message = "factor is required in a config, which has no default for it"
    for arguments in [{}, {"factor": None}]:
        with pytest.raises(ValueError, match=message):
            make(Adam(0.1), **arguments)


def test_an_unresolved_total_steps_gives_a_placeholder():
    make = config_factory(Scaled)
    optimizer = make(Adam(0.1), total_steps="${training.max_steps}")
    assert isinstance(optimizer, UnresolvedOptimizer)
