"""Hyperparameters that are numbers are part of the saved state."""

import numpy
import pytest
from optimizer_states import assert_same, keys_of, state_of
from thinc.api import Adam, constant, decaying, warmup_linear
from training_cases import make_phases, make_trained, repeat_last
from update_events import make_small_model, replay
from wrapped_optimizers import OPTIMIZERS

from thinc_swa import EMA, SWA, cosine, load_optimizer, phases, save_optimizer
from thinc_swa.schedules.compat import Schedule
from thinc_swa.schedules.learn_rate import current_rate

HYPERPARAMETERS = {
    "learn_rate": 0.05,
    "L2": 0.5,
    "beta1": 0.8,
    "beta2": 0.9,
    "eps": 0.1,
    "grad_clip": 0.5,
}


@pytest.mark.parametrize("wrap", [lambda o: o, OPTIMIZERS["EMA"]], ids=["bare", "wrapped"])
@pytest.mark.parametrize("when", ["constructor", "set during training"])
@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_saved_hyperparameters_replace_those_of_the_optimizer(name, when, wrap, tmp_path):
    """The rule is the same for all hyperparameters and for changes during training."""
    attribute = {"beta1": "b1", "beta2": "b2"}.get(name, name)
    changed = {"learn_rate": 0.1, name: HYPERPARAMETERS[name]}
    model = make_small_model()
    if when == "constructor":
        optimizer = wrap(Adam(**changed))
        replay(model, optimizer, ["all"] * 5)
    else:
        optimizer = wrap(Adam(0.1))
        replay(model, optimizer, ["all"] * 3)
        number = HYPERPARAMETERS[name]
        setattr(optimizer, attribute, number if Schedule is None else constant(number))
        replay(model, optimizer, ["all"] * 2, 3)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other_model, other = make_small_model(), wrap(Adam(0.1))
    other_model.from_bytes(model.to_bytes())
    with pytest.warns(
        UserWarning, match=f"those of the file: {attribute} = {HYPERPARAMETERS[name]}, not"
    ):
        load_optimizer(tmp_path / "optimizer", other, other_model)
    replay(model, optimizer, ["all"] * 5, 5)
    replay(other_model, other, ["all"] * 5, 5)
    assert_same(state_of(other, other_model), state_of(optimizer, model))


def test_learn_rate_is_restored_before_swa_starts(tmp_path):
    model, optimizer = make_trained(lambda: SWA(Adam(0.1), start_step=10, learn_rate=0.3), 2)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other = SWA(Adam(0.2), start_step=10, learn_rate=0.3)
    with pytest.warns(UserWarning, match="those of the file: learn_rate = 0.1, not 0.2"):
        load_optimizer(tmp_path / "optimizer", other, model)
    assert current_rate(other) == 0.1


@pytest.mark.parametrize("name", ["decaying", "warmup_linear", "ours", "phases", "generator"])
def test_learn_rate_set_manually_over_a_schedule(name, tmp_path):
    """On Thinc 8.3 the rate holds for one step; on Thinc 9.1 it replaces the schedule."""

    def make():
        if name == "generator":
            return EMA(Adam(repeat_last(0.1, 0.2, 0.25, 0.35, 0.1, 0.2)))
        schedules = {
            "decaying": lambda: decaying(0.1, 0.5),
            "warmup_linear": lambda: warmup_linear(0.1, 5, 20),
            "ours": lambda: cosine(0.1, steps=9),
            "phases": lambda: phases((2, repeat_last(0.2, 0.3)), make_phases()),
        }
        return Adam(schedules[name]())

    model, optimizer = make_small_model(), make()
    replay(model, optimizer, ["all"] * 3)
    optimizer.learn_rate = 0.3 if Schedule is None else constant(0.3)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other_model, other = make_small_model(), make()
    other_model.from_bytes(model.to_bytes())
    if Schedule is not None:
        with pytest.raises(ValueError, match="learn_rate was 0.3, and is .*schedule"):
            load_optimizer(tmp_path / "optimizer", other, other_model)
        return
    load_optimizer(tmp_path / "optimizer", other, other_model)
    replay(model, optimizer, ["all"] * 5, 5)
    replay(other_model, other, ["all"] * 5, 5)
    for key, other_key in zip(keys_of(model), keys_of(other_model), strict=True):
        numpy.testing.assert_array_equal(keys_of(model)[key], keys_of(other_model)[other_key])
    assert current_rate(other) == current_rate(optimizer)
