"""Schedules of group settings."""

import numpy
import pytest
from group_cases import Separate, group, sgd
from reference import assert_equal, make_weights, train
from thinc.api import Adam, RAdam, decaying, warmup_linear

from thinc_swa import ParamGroups
from thinc_swa.schedules.compat import Schedule


def schedule_values(schedule, n):
    """The first n values of a Thinc schedule."""
    if Schedule is None:
        return [value for _, value in zip(range(n), schedule, strict=False)]
    return [schedule(step) for step in range(n)]


def warmup():
    return warmup_linear(1.0, 4, 20)


def step_sizes(optimizer, n_steps, is_stepped=True):
    """The sizes of SGD's updates with a gradient of 1, for a weight and a bias."""
    result = {"W": [], "b": []}
    weights = {name: numpy.ones((1,), "f") for name in result}
    for _ in range(n_steps):
        for name, sizes in result.items():
            before = float(weights[name][0])
            optimizer((1, name), weights[name], numpy.ones((1,), "f"))
            sizes.append(pytest.approx(before - float(weights[name][0]), abs=1e-6))
        if is_stepped:
            optimizer.step_schedules()
    return result


@pytest.mark.parametrize(
    "schedule", [warmup, lambda: [0.5, 0.2, 0.1], lambda: decaying(1.0, 0.5)]
)
@pytest.mark.parametrize("is_named", [True, False])
def test_schedule_of_lr_scale(schedule, is_named):
    expected = schedule()
    is_list = isinstance(expected, list)
    expected = expected + [0.1] * 4 if is_list else schedule_values(expected, 7)
    if is_named:
        groups, schedules = [group("b", lr_scale="mine")], {"mine": schedule()}
    else:
        groups, schedules = [group("b", lr_scale=schedule())], None
    optimizer = ParamGroups(sgd(), groups=groups, schedules=schedules)
    result = step_sizes(optimizer, 7)
    assert result["W"] == [0.1] * 7
    assert result["b"] == [0.1 * scale for scale in expected]


def test_schedule_of_another_setting():
    """An update of SGD is 0.1 * grad_clip."""
    optimizer = ParamGroups(sgd(), groups=[group("b", grad_clip=[0.5, 0.3, 0.2])])
    assert step_sizes(optimizer, 4) == {"W": [0.1] * 4, "b": [0.05, 0.03, 0.02, 0.02]}


def test_schedules_start_at_step_0():
    """The wrapped optimizer may already be at a later step."""
    innermost = sgd([0.1] * 3 + [0.2] * 9)
    step_sizes(innermost, 3)
    optimizer = ParamGroups(innermost, groups=[group("b", lr_scale=[0.5, 0.2, 0.1])])
    assert step_sizes(optimizer, 3) == {"W": [0.2] * 3, "b": [0.1, 0.04, 0.02]}


def test_shared_schedules_advance_once_per_step():
    for is_named in (True, False):
        schedule, schedules = warmup(), None
        if is_named:
            schedule, schedules = "mine", {"mine": schedule}
        groups = [group("b", lr_scale=schedule), group("W", name="W", lr_scale=schedule)]
        expected = [0.1 * scale for scale in schedule_values(warmup(), 7)]
        optimizer = ParamGroups(sgd(), groups=groups, schedules=schedules)
        assert step_sizes(optimizer, 7) == {"W": expected, "b": expected}


def test_schedules_advance_only_with_step_schedules():
    """The same applies to the schedules of Thinc's optimizers."""
    optimizer = ParamGroups(sgd([0.1, 0.2]), groups=[group("b", lr_scale=[0.5, 0.1])])
    assert step_sizes(optimizer, 3, is_stepped=False) == {"W": [0.1] * 3, "b": [0.05] * 3}


@pytest.mark.parametrize("make", [Adam, RAdam])
def test_schedules_equal_those_of_separate_optimizers(make):
    def settings():
        return {"beta1": decaying(0.9, 0.01), "L2": decaying(0.5, 0.1), "eps": [0.1, 0.01]}

    optimizer = ParamGroups(make(warmup()), groups=[group("b", **settings())])
    separate = {"W": (make(warmup()), 1.0), "b": (make(warmup(), **settings()), 1.0)}
    weights, expected = make_weights(), make_weights()
    train(optimizer, weights, 12)
    train(Separate(separate), expected, 12)
    assert_equal(weights, expected)


@pytest.mark.skipif(Schedule is None, reason="new in Thinc 9")
def test_schedules_receive_the_key_and_the_last_score():
    received = []

    def record(schedule, step, *, key, last_score):
        received.append((step, key, last_score))
        return 0.5

    schedule = Schedule("recording", record)
    optimizer = ParamGroups(sgd(), groups=[group("b", lr_scale=schedule, L2=schedule)])
    optimizer.last_score = 0.75
    assert step_sizes(optimizer, 2)["b"][0].expected == pytest.approx(0.05 + 0.025 * 0.95)
    assert {(step, key) for step, key, _ in received} == {(0, (1, "b")), (1, (1, "b"))}
    assert {last_score for _, _, last_score in received} == {(0, 0.75)}
