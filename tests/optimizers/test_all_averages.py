import pytest
from reference import assert_close, assert_equal, make_weights, train
from thinc.api import Adam
from wrapped_optimizers import OPTIMIZERS

from thinc_swa import EMA, LAWA, SWA, Lookahead, OptimizerWrapper, all_averages
from thinc_swa.optimizers.all_averages import average_names
from thinc_swa.optimizers.base import unwrap

PASSIVE = {"OptimizerWrapper", "SWA", "EMA", "EMA power function", "LAWA"}
SINGLE = {
    "SWA": lambda optimizer: SWA(optimizer, start_step=4, freq=2),
    "EMA": lambda optimizer: EMA(optimizer, sigma_rel=0.2),
    "LAWA": lambda optimizer: LAWA(optimizer, window=3, freq=2),
}


def nested():
    return SINGLE["SWA"](SINGLE["EMA"](SINGLE["LAWA"](Adam(0.1))))


@pytest.mark.parametrize("is_stepped", [True, False])
def test_each_average_is_that_of_a_training_of_its_own(is_stepped):
    optimizer, weights = nested(), make_weights()
    train(optimizer, weights, 13, is_stepped=is_stepped)
    found = all_averages(optimizer)
    assert list(found) == ["SWA", "EMA", "LAWA"]
    for name, make in SINGLE.items():
        alone, alone_weights = make(Adam(0.1)), make_weights()
        train(alone, alone_weights, 13, is_stepped=is_stepped)
        assert_equal(found[name], alone.averages)
        assert_equal(weights, alone_weights)


def test_the_outermost_averages_are_those_of_the_optimizer():
    optimizer = nested()
    train(optimizer, make_weights(), 13)
    assert all_averages(optimizer)["SWA"] is optimizer.averages


def test_optimizers_without_averages_are_left_out():
    optimizer = SWA(EMA(Adam(0.1)), start_step=9)
    assert all_averages(optimizer) == {}
    train(optimizer, make_weights(), 3)
    assert list(all_averages(optimizer)) == ["EMA"]


def test_thincs_own_averages():
    for optimizer in (Adam(0.1), OptimizerWrapper(Adam(0.1))):
        weights = make_weights()
        train(optimizer, weights, 3)
        assert list(all_averages(optimizer)) == ["use_averages"]
        assert_close(all_averages(optimizer)["use_averages"], optimizer.averages)


def test_names_of_several_optimizers_of_a_class():
    optimizer = EMA(EMA(EMA(Adam(0.1)), sigma_rel=0.05), sigma_rel=0.05)
    assert average_names(optimizer) == [
        "EMA(sigma_rel=0.05)",
        "EMA(sigma_rel=0.05) 2",
        "EMA(sigma_rel=0.1)",
        "use_averages",
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_passive_optimizers_leave_the_trajectory_alone(name):
    weights, alone = make_weights(), make_weights()
    optimizer = OPTIMIZERS[name](Adam(0.1))
    train(optimizer, weights, 9)
    train(Adam(0.1), alone, 9)
    is_same = all((weights[key] == alone[key]).all() for key in weights)
    assert optimizer.is_passive == is_same == (name in PASSIVE)
    assert not Lookahead(optimizer).is_passive


def test_levels_share_no_arrays():
    optimizer = nested()
    train(optimizer, make_weights(), 13)
    arrays = [
        id(array) for level in all_averages(optimizer).values() for array in level.values()
    ]
    assert len(set(arrays)) == len(arrays)
    assert len(unwrap(optimizer)) == 4
