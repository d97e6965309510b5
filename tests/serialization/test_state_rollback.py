"""Rollback: loading an earlier state into an optimizer that has been trained on."""

import pytest
from optimizer_states import assert_same, state_of
from state_files import assert_unchanged
from thinc.api import SGD, Adam, decaying
from training_cases import make_phases, make_trained, make_warmup, train
from wrapped_optimizers import OPTIMIZERS

from thinc_swa import EMA, SWA, ParamGroups, load_optimizer, one_cycle, save_optimizer
from thinc_swa.schedules.learn_rate import current_rate


@pytest.mark.parametrize("wrap", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_loading_an_earlier_state_rolls_back(wrap, tmp_path):
    """This requires an optimizer without schedules."""
    model, optimizer = make_trained(lambda: wrap(Adam(0.1)), 3)
    content = model.to_bytes()
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    train(model, optimizer, 3, 12)
    expected = state_of(optimizer, model)
    model.from_bytes(content)
    load_optimizer(tmp_path / "optimizer", optimizer, model)
    train(model, optimizer, 3, 12)
    assert_same(state_of(optimizer, model), expected)


def test_rollback_restores_the_learning_rate_before_swa(tmp_path):
    model, optimizer = make_trained(lambda: SWA(Adam(0.1), start_step=5, learn_rate=0.01), 3)
    content = model.to_bytes()
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    train(model, optimizer, 3, 9)
    assert current_rate(optimizer) == 0.01
    expected = state_of(optimizer, model)
    model.from_bytes(content)
    load_optimizer(tmp_path / "optimizer", optimizer, model)
    assert current_rate(optimizer) == 0.1
    train(model, optimizer, 3, 9)
    assert_same(state_of(optimizer, model), expected)


SCHEDULED_OPTIMIZERS = {
    "schedule": lambda: Adam(make_warmup()),
    "list": lambda: SGD([0.1, 0.05, 0.02]),
    "beta1": lambda: Adam(0.1, beta1=decaying(0.9, 0.01)),
    "wrapped": lambda: EMA(Adam(make_warmup())),
    "SWA's own": lambda: SWA(Adam(0.1), start_step=1, learn_rate=decaying(0.05, 0.5)),
    "one_cycle": lambda: Adam(one_cycle(0.1, steps=9)),
    "SWA's own, phases": lambda: SWA(Adam(0.1), start_step=1, learn_rate=make_phases()),
    "a group's": lambda: ParamGroups(
        Adam(0.1), groups=[{"name": "all", "params": ["*"], "lr_scale": decaying(0.5, 0.5)}]
    ),
}


@pytest.mark.parametrize("make", SCHEDULED_OPTIMIZERS.values(), ids=SCHEDULED_OPTIMIZERS)
def test_rollback_of_schedules_is_refused(make, tmp_path):
    model, optimizer = make_trained(make, 3)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    train(model, optimizer, 3, 4)
    with assert_unchanged(optimizer, model):
        with pytest.raises(ValueError, match="has been trained.*use a new one"):
            load_optimizer(tmp_path / "optimizer", optimizer, model)
    twin_model, twin = make_trained(make, 3)
    train(twin_model, twin, 3, 4)
    train(twin_model, twin, 4, 9)
    train(model, optimizer, 4, 9)
    assert_same(state_of(optimizer, model), state_of(twin, twin_model))
