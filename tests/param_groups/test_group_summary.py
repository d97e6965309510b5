"""Summary of the parameters of a model and their groups."""

import pytest
from group_cases import group, make_model
from thinc.api import Adam

from thinc_swa import SWA, Lookahead, ParamGroups, parameter_summary


def test_summary_of_groups_and_layers():
    model = make_model(2)
    optimizer = ParamGroups(
        Lookahead(Adam(0.1)),
        groups=[
            group("*/b", name="no_decay", L2=0, lr_scale=[0.5, 0.1]),
            group("softmax/*", name="head", frozen=True),
        ],
        layer_lr_decay=0.5,
        layer_patterns=["linear-#/*"],
    )
    rows = parameter_summary(model, SWA(optimizer))
    assert [tuple(row) for row in rows] == [
        ("linear-0/W", (2, 2), None, 0.5, False, {}),
        ("linear-0/b", (2,), "no_decay", 0.25, False, {"L2": 0}),
        ("linear-1/W", (2, 2), None, 1.0, False, {}),
        ("linear-1/b", (2,), "no_decay", 0.5, False, {"L2": 0}),
        ("softmax/W", (2, 2), "head", 0.0, True, {}),
        ("softmax/b", (2,), "no_decay", 0.5, False, {"L2": 0}),
    ]
    optimizer.step_schedules()
    assert parameter_summary(model, optimizer)[1].lr_scale == 0.05


@pytest.mark.parametrize("optimizer", [None, Adam(0.1), SWA(Adam(0.1))])
def test_summary_without_groups(optimizer):
    model = make_model(1)
    model.layers[0].set_param("b", None)
    assert [tuple(row) for row in parameter_summary(model, optimizer)] == [
        ("linear/W", (2, 2), None, 1.0, False, {}),
        ("softmax/W", (2, 2), None, 1.0, False, {}),
        ("softmax/b", (2,), None, 1.0, False, {}),
    ]


def test_summary_of_nested_groups():
    inner = ParamGroups(Adam(0.1), groups=[group("b", name="b", lr_scale=0.5, L2=0.2)])
    optimizer = ParamGroups(inner, groups=[group("*", name="all", lr_scale=0.5, L2=0.1)])
    rows = parameter_summary(make_model(1), optimizer)
    assert tuple(rows[0])[2:] == ("all", 0.5, False, {"L2": 0.1})
    assert tuple(rows[1])[2:] == ("all + b", 0.25, False, {"L2": 0.2})
