"""Docstrings of registered schedules, which are the source of the config reference."""

import inspect
import re

import pytest
from thinc.api import registry

from thinc_swa import cosine, one_cycle, one_cycle_momentum, phases, swa_anneal

SCHEDULES = {
    "cosine.v1": cosine,
    "one_cycle.v1": one_cycle,
    "one_cycle_momentum.v1": one_cycle_momentum,
    "phases.v1": phases,
    "swa_anneal.v1": swa_anneal,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_docstring_explains_every_argument_in_order(name):
    function = SCHEDULES[name]
    assert registry.schedules.get(name) is function
    docstring = inspect.getdoc(function)
    assert docstring.startswith(f"`{name}`: ")
    explained = re.findall(r"^([a-z_]+) \([^:]+\): \S", docstring, flags=re.MULTILINE)
    assert explained == list(inspect.signature(function).parameters)
    assert "RETURNS (ScheduleT): " in docstring and "RAISES: ValueError" in docstring
