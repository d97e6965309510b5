"""Updates with the settings of groups."""

import numpy
import pytest
from group_cases import Separate, group, make_named_model, sgd, update_sizes
from helpers import require
from reference import KEYS, assert_close, assert_equal, make_weights, train
from thinc.api import SGD, Adam, RAdam
from wrapped_optimizers import OPTIMIZERS, Refusing

from thinc_swa import SWA, ParamGroups
from thinc_swa.schedules.learn_rate import current_rate


def test_groups_replace_weight_decay():
    """An update of SGD is 0.1 * 1 + 0.1 * L2 * (weights - 0.1 * 1)."""
    groups = [group("b", L2=0.0), group("softmax/W", name="strong", L2=1.0)]
    sizes = update_sizes(
        ParamGroups(sgd(L2=0.5), groups=groups), make_named_model(1), weights=1.0
    )
    assert sizes == {
        "linear/W": 0.1 + 0.05 * 0.9,
        "linear/b": 0.1,
        "softmax/W": 0.1 + 0.1 * 0.9,
        "softmax/b": 0.1,
    }


def test_weight_decay_is_scaled_with_the_learning_rate():
    optimizer = ParamGroups(sgd(L2=0.5), groups=[group("W", lr_scale=0.5)])
    (size, *_) = update_sizes(optimizer, make_named_model(1), weights=1.0).values()
    assert size == 0.05 + 0.025 * 0.95


def test_groups_replace_gradient_clipping():
    groups = [group("W", grad_clip=0.5), group("softmax/b", name="unclipped", grad_clip=0.0)]
    optimizer = ParamGroups(sgd(grad_clip=0.25), groups=groups)
    sizes = update_sizes(optimizer, make_named_model(1))
    assert list(sizes.values()) == [
        0.05,
        0.025,
        0.05,
        0.1,
    ]


def test_lr_scale_of_a_call_is_multiplied():
    optimizer = ParamGroups(sgd(), groups=[group("W", lr_scale=0.5)])
    weights = numpy.zeros((1,), dtype="f")
    optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"), lr_scale=3.0)
    assert float(weights[0]) == pytest.approx(-0.15)


# Settings of the groups of the weights and of the biases, in all pairs.
SETTINGS = [
    {"L2": 0.0, "grad_clip": 0.3, "lr_scale": 0.3},
    {"beta1": 0.7, "beta2": 0.9, "eps": 0.01},
    {"beta1": 0.95, "L2": 0.3},
    {"eps": 1e-3, "lr_scale": 1.7},
    {},
]


SGD_SETTINGS = [
    {"L2": 0.0, "grad_clip": 0.3, "lr_scale": 0.3},
    {"L2": 0.3},
    {"grad_clip": 0.0},
    {},
]


CASES = {
    "Adam": (Adam, {"L2": 0.1}, SETTINGS),
    "Adam, L2 in the gradient": (Adam, {"L2": 0.1, "L2_is_weight_decay": False}, SETTINGS),
    "RAdam": (RAdam, {"L2": 0.1}, SETTINGS),
    "SGD": (SGD, {"L2": 0.1}, SGD_SETTINGS),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "is_updated",
    [None, lambda step, key: step % {"W": 3, "b": 2}[key[1]] == 1],
    ids=["dense", "sparse"],
)
def test_groups_equal_separate_optimizers(name, is_updated):
    """Compare bits, also if one group has more updates than the other."""
    make, common, all_settings = CASES[name]
    for first in all_settings:
        for second in all_settings:
            groups = [group("W", **first), group("b", name="other", **second)]
            optimizer = ParamGroups(make(0.1, **common), groups=groups)
            separate = {}
            for parameter, settings in (("W", first), ("b", second)):
                settings = {**common, **settings}
                scale = settings.pop("lr_scale", 1.0)
                learn_rate = 0.1
                if make is RAdam:  # RAdam ignores lr_scale.
                    learn_rate, scale = 0.1 * scale, 1.0
                separate[parameter] = (make(learn_rate, **settings), scale)
            weights, expected = make_weights(), make_weights()
            train(optimizer, weights, 30, is_updated=is_updated)
            train(Separate(separate), expected, 30, is_updated=is_updated)
            assert_equal(weights, expected)
            for key, averages in optimizer.averages.items():
                assert_equal({key: averages}, {key: separate[key[1]][0].averages[key]})
            assert_equal(optimizer.mom1, {**separate["W"][0].mom1, **separate["b"][0].mom1})


def test_each_setting_changes_the_weights():
    """A condition for `test_groups_equal_separate_optimizers` to detect errors."""
    ends = set()
    for setting, value in {**SETTINGS[0], **SETTINGS[1], "none": None}.items():
        weights = make_weights()
        settings = {} if value is None else {setting: value}
        groups = [group("W"), group("b", name="other", **settings)]
        train(ParamGroups(Adam(0.1, L2=0.1), groups=groups), weights, 30)
        ends.add(weights[3, "b"].tobytes())
    assert len(ends) == 7


def test_wrapped_optimizer_is_restored_after_each_call():
    """This includes calls that raise an error."""
    innermost = Refusing(0.1)
    innermost.calls = 0
    settings = {"L2": 0.2, "beta1": 0.5, "beta2": 0.6, "eps": 0.1, "grad_clip": 0.3}
    optimizer = ParamGroups(innermost, groups=[group("W", lr_scale=0.1, **settings)])
    names = ("learn_rate", "L2", "b1", "b2", "eps", "grad_clip")
    before = [getattr(innermost, name) for name in names]
    for is_refused in (False, True, False):
        if is_refused:
            with pytest.raises(RuntimeError, match="no"):
                optimizer((1, "W"), numpy.ones((1,), "f"), numpy.ones((1,), "f"))
        else:
            optimizer((1, "W"), numpy.ones((1,), "f"), numpy.ones((1,), "f"))
        after = [getattr(innermost, name) for name in names]
        assert all(one is other for one, other in zip(before, after, strict=True))


def test_lr_scale_with_radam_keeps_learning_rates_of_inner_wrappers():
    """Thinc's RAdam ignores lr_scale, so `ParamGroups` changes the learning rate during a call.
    In a loop without `step_schedules()`, an inner SWA sets its own learning rate in a call."""
    results = []
    for is_stepped in (True, False):
        inside = SWA(RAdam(0.1), start_step=3, learn_rate=0.01)
        optimizer = ParamGroups(inside, groups=[group("W", lr_scale=0.5)])
        weights = make_weights()
        train(optimizer, weights, 9, is_stepped=is_stepped)
        assert current_rate(inside) == 0.01
        results.append(weights)
    assert_equal(*results)


def test_agrees_with_adamw_of_pytorch():
    """The results differ slightly, because Thinc decays the weights after Adam's update and
    PyTorch before it, and eps is used differently. The tolerance 2e-3 is a fifth of one update
    at this learning rate."""
    require("torch")
    import torch

    start = make_weights()
    parameters = {key: torch.nn.Parameter(torch.tensor(array)) for key, array in start.items()}
    adamw = torch.optim.AdamW(
        [
            {"params": [parameters[3, "W"]]},
            {"params": [parameters[3, "b"]], "weight_decay": 0.0},
            {"params": [parameters[4, "W"]], "lr": 0.005, "betas": (0.8, 0.9)},
        ],
        lr=0.01,
        weight_decay=0.1,
    )
    optimizer = ParamGroups(
        ParamGroups(
            Adam(0.01, L2=0.1, grad_clip=0.0),
            groups=[group("b", L2=0.0)],
        ),
        groups=[
            group("second", beta1=0.8, beta2=0.9, lr_scale=0.5),
            group("[Wb]", name="rest"),
        ],
    )
    weights = make_weights()
    names = {key: "second" if key == (4, "W") else key[1] for key in KEYS}
    random = numpy.random.RandomState(1)
    for _ in range(100):
        for key, array in weights.items():
            gradient = random.uniform(-1, 1, array.shape).astype("f")
            optimizer((key[0], names[key]), array, gradient.copy())
            parameters[key].grad = torch.tensor(gradient)
        optimizer.step_schedules()
        adamw.step()
    expected = {key: parameter.detach().numpy() for key, parameter in parameters.items()}
    assert_close(weights, expected, rtol=0, atol=2e-3)
    # The effect of the groups is larger than the tolerance.
    for key, array in expected.items():
        assert abs(array - start[key]).max() > 0.05
    plain = make_weights()
    train(Adam(0.01, L2=0.1, grad_clip=0.0), plain, 100)
    assert all(abs(plain[key] - weights[key]).max() > 4e-3 for key in ((3, "b"), (4, "W")))


def with_groups(optimizer, **settings):
    groups = [group("b", L2=0.2, lr_scale=0.5, **settings), group("W", name="W", eps=0.01)]
    return ParamGroups(optimizer, groups=groups)


@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "ParamGroups"])
def test_groups_inside_and_outside_another_wrapper_agree(name, is_stepped):
    settings = {} if name == "ScheduleFree" else {"beta1": 0.8}  # It takes no momentum.
    inside = OPTIMIZERS[name](with_groups(Adam(0.1), **settings))
    outside = with_groups(OPTIMIZERS[name](Adam(0.1)), **settings)
    weights, expected, plain = make_weights(), make_weights(), make_weights()
    train(inside, weights, 11, is_stepped=is_stepped)
    train(outside, expected, 11, is_stepped=is_stepped)
    train(OPTIMIZERS[name](Adam(0.1)), plain, 11, is_stepped=is_stepped)
    assert_equal(weights, expected)
    assert_equal(inside.averages, outside.averages)
    assert not any(numpy.allclose(weights[key], plain[key]) for key in KEYS)


def test_nested_groups_multiply_scales_and_inner_settings_win():
    inner = ParamGroups(sgd(L2=0.5), groups=[group("b", lr_scale=0.5, L2=1.0)])
    optimizer = ParamGroups(inner, groups=[group("*", lr_scale=0.5, L2=0.0)])
    sizes = update_sizes(optimizer, make_named_model(1), weights=1.0)
    assert list(sizes.values()) == [0.05, 0.025 + 0.025 * 0.975] * 2


def test_without_groups_equals_the_wrapped_optimizer():
    weights, expected = make_weights(), make_weights()
    train(ParamGroups(Adam(0.1)), weights, 5)
    train(Adam(0.1), expected, 5)
    assert_equal(weights, expected)


def test_settings_for():
    optimizer = ParamGroups(
        Adam(0.1),
        groups=[group("W", name="weights", lr_scale=0.5, beta1=0.8), group("E", frozen=True)],
        layer_lr_decay=0.1,
        layer_patterns=["W", "b"],
    )
    scale, settings = optimizer.settings_for((1, "W"))
    assert scale == pytest.approx(0.05) and set(settings) == {"b1"}
    assert optimizer.settings_for((1, "b")) == (1.0, {})
    assert optimizer.settings_for((1, "E")) is None


def test_settings_for_follows_schedules():
    """Each step uses the factor that `settings_for` gives before it."""
    optimizer = ParamGroups(sgd(), groups=[group("W", lr_scale=[0.5, 0.25, 2.0])])
    for expected in (0.5, 0.25, 2.0, 2.0):
        scale, settings = optimizer.settings_for((1, "W"))
        assert (scale, dict(settings)) == (expected, {})
        weights = numpy.zeros((1,), dtype="f")
        optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        assert float(weights[0]) == pytest.approx(-0.1 * expected)
        optimizer.step_schedules()


def test_settings_for_considers_one_wrapper():
    inner = ParamGroups(
        sgd(), groups=[group("W", lr_scale=0.5), group("E", name="frozen", frozen=True)]
    )
    outer = ParamGroups(inner, groups=[group("W", lr_scale=0.1)])
    assert inner.settings_for((1, "W")) == (0.5, {})
    assert outer.settings_for((1, "W")) == (0.1, {})
    assert inner.settings_for((1, "E")) is None
    assert outer.settings_for((1, "E")) == (1.0, {})


def test_settings_for_a_parameter_without_a_path():
    optimizer = ParamGroups(sgd(), groups=[group("*/W", lr_scale=0.5)])
    with pytest.raises(ValueError, match=r"requires parameter paths, but .* \(1, 'W'\)"):
        optimizer.settings_for((1, "W"))
