"""Positions of schedules in a saved optimizer state."""

import copy

import numpy
import pytest
import thinc.schedules
from optimizer_states import assert_same, keys_of, state_of
from state_files import assert_refused
from thinc.api import Adam, constant_then, decaying, warmup_linear
from training_cases import make_trained, repeat_last
from update_events import LOOPS, make_small_model, replay
from wrapped_optimizers import OPTIMIZERS

from thinc_swa import EMA, SWA, cosine, load_optimizer, one_cycle, phases, save_optimizer
from thinc_swa.schedules.compat import Schedule
from thinc_swa.schedules.learn_rate import current_rate

# Schedules that Thinc's users write. Some give the same value at several positions.
THINC_SCHEDULES = {
    "list": lambda: [1.0 / step for step in range(1, 99)],
    "list, short": lambda: [0.3, 0.2, 0.1],
    "constant": lambda: thinc.schedules.constant(0.1),
    "constant_then": lambda: constant_then(0.1, 15, decaying(0.2, 0.5)),
    "constant_then twice": lambda: constant_then(
        0.1, 5, constant_then(0.1, 6, warmup_linear(0.1, 9, 40))
    ),
    "constant_then a list": lambda: constant_then(0.1, 99, [0.2, 0.1]),
    "constant_then a constant": lambda: constant_then(0.1, 7, thinc.schedules.constant(0.2)),
    "constant_then ours": lambda: constant_then(0.1, 5, cosine(0.2, steps=30)),
    "decaying": lambda: decaying(0.1, 0.5, t=3),
    "decaying from a fraction": lambda: decaying(0.1, 0.5, t=0.3),
    "compounding": lambda: thinc.schedules.compounding(0.001, 0.1, 1.3),
    "compounding down": lambda: thinc.schedules.compounding(0.1, 0.01, 0.8),
    "slanted_triangular": lambda: thinc.schedules.slanted_triangular(0.1, 60, cut_frac=0.3),
    "warmup_linear": lambda: warmup_linear(0.1, 9, 20),
    "cyclic_triangular": lambda: thinc.schedules.cyclic_triangular(0.01, 0.1, 4),
}


if Schedule is not None:  # There, a Schedule cannot begin with a list.
    del THINC_SCHEDULES["constant_then a list"]


@pytest.mark.filterwarnings("ignore:Every parameter was updated")
@pytest.mark.parametrize("wrap", [lambda o: o, OPTIMIZERS["SWA"]], ids=["bare", "wrapped"])
@pytest.mark.parametrize("events", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("schedule", THINC_SCHEDULES.values(), ids=THINC_SCHEDULES)
def test_resume_with_any_ratio_of_steps_to_updates(schedule, events, wrap, tmp_path):
    """The training is resumed twice: the second file is written by a resumed optimizer."""
    model, optimizer = make_small_model(), wrap(Adam(schedule()))
    other_model, other = make_small_model(), wrap(Adam(schedule()))
    for number in range(3):
        replay(model, optimizer, events * 6, 99 * number)
        replay(other_model, other, events * 6, 99 * number)
        save_optimizer(tmp_path / "optimizer", other, other_model)
        other = wrap(Adam(schedule()))
        load_optimizer(tmp_path / "optimizer", other, other_model)
        assert_same(state_of(other, other_model), state_of(optimizer, model))
    for _ in range(30):
        optimizer.step_schedules()
        other.step_schedules()
        assert current_rate(other) == current_rate(optimizer)


REPEATED_VALUES = [0.1] * 9 + [0.2] * 9 + [0.1] * 9 + [0.01 * number for number in range(40)]


@pytest.mark.filterwarnings("ignore:Every parameter was updated")
@pytest.mark.parametrize("events", LOOPS.values(), ids=LOOPS)
def test_position_of_a_custom_generator_is_restored(events, tmp_path):
    """A wrapper counts the values. Many positions of the generator have the same value."""
    model, optimizer = make_small_model(), EMA(Adam(repeat_last(*REPEATED_VALUES)))
    other_model, other = make_small_model(), EMA(Adam(repeat_last(*REPEATED_VALUES)))
    for number in range(3):
        replay(model, optimizer, events * 5, 99 * number)
        replay(other_model, other, events * 5, 99 * number)
        save_optimizer(tmp_path / "optimizer", other, other_model)
        other = EMA(Adam(repeat_last(*REPEATED_VALUES)))
        load_optimizer(tmp_path / "optimizer", other, other_model)
    for _ in range(60):
        assert current_rate(other) == current_rate(optimizer)
        optimizer.step_schedules()
        other.step_schedules()


@pytest.mark.skipif(Schedule is not None, reason="Thinc 9.1 calls schedules with the step")
@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("name", ["learn_rate", "beta1"])
def test_generator_at_an_unknown_position_is_refused(name, is_wrapped, tmp_path):
    """The values were never counted, or only after some updates."""

    def make():
        return Adam(**{"learn_rate": 0.1, name: repeat_last(*REPEATED_VALUES)})

    model, optimizer = make_small_model(), make()
    replay(model, optimizer, ["all"] * 3)
    if is_wrapped:
        optimizer = SWA(optimizer, start_step=5)
        replay(model, optimizer, ["all"] * 3, 3)
    attribute = {"beta1": "b1"}.get(name, name)
    with pytest.raises(ValueError, match=f"schedule of {attribute} is not known.*first update"):
        save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert list(tmp_path.iterdir()) == []
    # A saved position cannot be restored if the position is not known when loading.
    wrapped = SWA(make(), start_step=5)
    save_optimizer(tmp_path / "optimizer", wrapped, model)
    with pytest.raises(ValueError, match=f"{attribute} was .*unknown position: wrap"):
        fresh = SWA(Adam(0.1), start_step=5)
        fresh.optimizer = make()
        load_optimizer(tmp_path / "optimizer", fresh, model)


@pytest.mark.skipif(Schedule is not None, reason="Thinc 9.1 calls schedules with the step")
@pytest.mark.parametrize("other", [(0.2, 0.2, 0.3), (0.1, 0.3, 0.3)])
def test_custom_generator_with_other_values_is_refused(other, tmp_path):
    """All values are compared, not only the last one."""
    model, optimizer = make_trained(lambda: EMA(Adam(repeat_last(0.1, 0.2, 0.3))))
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert_refused(
        tmp_path / "optimizer", lambda: EMA(Adam(repeat_last(*other))), "learn_rate was"
    )


@pytest.mark.parametrize("schedule", THINC_SCHEDULES.values(), ids=THINC_SCHEDULES)
def test_schedule_position_is_known_if_wrapped_during_training(schedule, tmp_path):
    """Values before the wrapping are counted."""
    model, optimizer = make_small_model(), Adam(schedule())
    replay(model, optimizer, ["all"] * 6)
    optimizer = EMA(optimizer, decay=0.9)
    replay(model, optimizer, ["all"] * 7, 6)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other = EMA(Adam(schedule()), decay=0.9)
    load_optimizer(tmp_path / "optimizer", other, model)
    for _ in range(30):
        assert current_rate(other) == current_rate(optimizer)
        optimizer.step_schedules()
        other.step_schedules()


@pytest.mark.parametrize(
    "events", [["all", 0, 1, 2, 3], [0, 1, 2, 3], ["all"], ["all", "step"], [0, 0, 0, "all"]]
)
def test_package_schedules_resume_without_a_wrapper(events, tmp_path):
    """On Thinc 8.3 too, where generators of users need a wrapper."""

    def make():
        return Adam(phases((6, 0.1), one_cycle(0.2, steps=9)), beta1=cosine(0.9, steps=50))

    model, optimizer = make_small_model(), make()
    replay(model, optimizer, events * 4)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other = make()
    load_optimizer(tmp_path / "optimizer", other, model)
    twin = copy.deepcopy(model)
    keys = [keys_of(one) for one in (model, twin)]
    for number in range(20):
        for key, twin_key in zip(*keys, strict=True):
            weights, twin_weights = keys[0][key], keys[1][twin_key]
            gradient = numpy.random.RandomState(number).uniform(-1, 1, weights.shape)
            optimizer(key, weights, gradient.astype("f"))
            other(key, twin_weights, gradient.astype("f"))
            assert weights.tobytes() == twin_weights.tobytes()
        optimizer.step_schedules()
        other.step_schedules()
