"""Schedules as hyperparameters of optimizers, and within Thinc's own schedules."""

import copy
import pickle

import pytest
from schedule_values import HYPERPARAMETERS, MAKERS, values, values_used_by
from thinc.api import SGD, Adam, constant_then

from thinc_swa import SWA, one_cycle
from thinc_swa.schedules.compat import Schedule, ScheduleIterator


@pytest.mark.parametrize("argument", HYPERPARAMETERS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_schedule_of_any_hyperparameter(make, argument):
    optimizer = Adam(**{argument: make()})
    assert values_used_by(optimizer, HYPERPARAMETERS[argument], 15) == values(make(), 15)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_schedule_within_constant_then(make):
    schedule = constant_then(0.25, 4, make())
    first = [0.25] * 4
    if Schedule is None:
        assert values(schedule, 15) == first + values(make(), 11)
    else:
        # constant_then of Thinc 9.1 passes its own step to the inner schedule.
        assert values(schedule, 15) == first + values(make(), 15)[4:]


@pytest.mark.skipif(Schedule is None, reason="new in Thinc 9")
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_schedule_within_plateau(make):
    """The values are halved after two scores without improvement."""
    from thinc.api import plateau

    schedule, expected = plateau(2, 0.5, make()), values(make(), 15)
    got = [schedule(step, last_score=(step, 0.5)) for step in range(15)]
    assert got == [value * 0.5 ** (step // 2) for step, value in enumerate(expected)]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_schedule_as_swa_learn_rate_begins_at_step_0(make):
    optimizer = SWA(SGD(0.7), start_step=4, learn_rate=make())
    assert values_used_by(optimizer, "learn_rate", 15) == [0.7] * 4 + values(make(), 11)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("n_steps", [0, 5])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_optimizers_with_schedules_can_be_copied(make, n_steps, duplicate):
    optimizer = SWA(Adam(make(), beta1=make()), start_step=8, learn_rate=make())
    values_used_by(optimizer, "learn_rate", n_steps)
    other = duplicate(optimizer)
    for name in ("learn_rate", "b1"):
        twin = SWA(Adam(make(), beta1=make()), start_step=8, learn_rate=make())
        expected = values_used_by(twin, name, 20)[n_steps:]
        assert values_used_by(duplicate(other), name, 20 - n_steps) == expected


@pytest.mark.skipif(Schedule is not None, reason="Thinc 9.1 has its own class")
def test_iterator_has_arguments_and_position():
    schedule = one_cycle(0.5, steps=10, warmup_steps=4)
    assert isinstance(schedule, ScheduleIterator) and iter(schedule) is schedule
    assert [next(schedule), next(schedule)] == [schedule(0), schedule(1)]
    assert schedule.position == 2
    assert repr(schedule) == (
        "one_cycle(max_rate=0.5, steps=10, warmup_steps=4, start_factor=0.04, "
        "end_factor=4e-06, anneal_strategy='cosine')"
    )
    with pytest.raises(ValueError, match="step must be an int >= 0, but was -1"):
        schedule(-1)
