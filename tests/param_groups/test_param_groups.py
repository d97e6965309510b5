"""Parameter groups: what a parameter's group says about it, and nothing else, holds for it."""

import gc
import weakref
from pathlib import Path

import numpy
import pytest
from helpers import require
from reference import KEYS, assert_close, assert_equal, make_weights, train
from thinc.api import (
    SGD,
    Adam,
    Config,
    Linear,
    Optimizer,
    RAdam,
    Softmax,
    chain,
    decaying,
    registry,
    warmup_linear,
)
from wrapped_optimizers import OPTIMIZERS, Refusing

from thinc_swa import (
    EMA,
    SWA,
    Lookahead,
    ParamGroups,
    parameter_summary,
    register_parameter_paths,
)
from thinc_swa.models.parameter_paths import parameter_paths
from thinc_swa.schedules.compat import Schedule
from thinc_swa.schedules.learn_rate import current_rate


def group(*params, name="a group", **settings):
    return {"name": name, "params": list(params), **settings}


def sgd(learn_rate=0.1, **settings):
    return SGD(learn_rate, use_averages=False, **settings)


def moves(optimizer, model, weights=0.0):
    """How far plain SGD with a gradient of 1 moves one number of each parameter."""
    result = {}
    for key, path in parameter_paths(model).items():
        array = numpy.full((1,), weights, dtype="f")
        optimizer(key, array, numpy.ones((1,), dtype="f"))
        result[path] = pytest.approx(weights - float(array[0]), abs=1e-6)
    return result


def make_model(n_layers=3):
    """linear-0, linear-1, linear-2, softmax"""
    return chain(*(Linear(2, 2) for _ in range(n_layers)), Softmax(2, 2)).initialize()


def make_named_model(n_layers=3):
    model = make_model(n_layers)
    register_parameter_paths(model)
    return model


# Which group


def test_first_match_wins():
    groups = [
        group("linear-1/*", name="one", lr_scale=0.5),
        group("*/W", name="weights", lr_scale=0.25),
        group("linear-*", name="linear", lr_scale=3.0),
    ]
    assert moves(ParamGroups(sgd(), groups=groups), make_named_model()) == {
        "linear-0/W": 0.025,
        "linear-0/b": 0.3,
        "linear-1/W": 0.05,
        "linear-1/b": 0.05,
        "linear-2/W": 0.025,
        "linear-2/b": 0.3,
        "softmax/W": 0.025,
        "softmax/b": 0.1,
    }


# Each selects these and no others of the model.
GLOBS = {
    "b": ["linear-0/b", "linear-1/b", "linear-2/b", "softmax/b"],
    "*b": ["linear-0/b", "linear-1/b", "linear-2/b", "softmax/b"],
    "*/W": ["linear-0/W", "linear-1/W", "linear-2/W", "softmax/W"],
    "soft*": ["softmax/W", "softmax/b"],
    "linear-[02]/?": ["linear-0/W", "linear-0/b", "linear-2/W", "linear-2/b"],
    "linear-[!02]/W": ["linear-1/W"],
    "linear-[1-2]/W": ["linear-1/W", "linear-2/W"],
    "*ar-1*": ["linear-1/W", "linear-1/b"],
    "*-#/W": ["linear-0/W", "linear-1/W", "linear-2/W"],
    "softmax/b": ["softmax/b"],
    "softmax/[]W]": ["softmax/W"],
    "softmax/[^b]": ["softmax/b"],
    "*/[!]W]": ["linear-0/b", "linear-1/b", "linear-2/b", "softmax/b"],
}


@pytest.mark.parametrize("glob", GLOBS)
def test_globs(glob):
    optimizer = ParamGroups(sgd(), groups=[group(glob, lr_scale=2.0)])
    moved = moves(optimizer, make_named_model())
    assert [path for path, way in moved.items() if way == 0.2] == GLOBS[glob]


NOTHING = ["B", "/b", "linear", "linear/*", "softmax/", "[]W", "[^]", "a*", "softmax/?b", ".*"]


@pytest.mark.parametrize("glob", NOTHING)
def test_globs_that_select_nothing(glob):
    optimizer = ParamGroups(sgd(), groups=[group(glob, lr_scale=2.0)])
    model = make_named_model()
    with pytest.raises(
        ValueError, match="^Nothing in the model is selected by group 'a group'"
    ):
        moves(optimizer, model)


def test_names_of_parameters_need_no_paths():
    groups = [group("W", lr_scale=0.5), group("b*", name="biases", lr_scale=2.0)]
    moved = moves(ParamGroups(sgd(), groups=groups), make_model(1))
    assert list(moved.values()) == [0.05, 0.2, 0.05, 0.2]


def test_pytorch_parameters():
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    layers = torch.nn.Linear(2, 2), torch.nn.LayerNorm(2), torch.nn.Linear(2, 2)
    model = chain(PyTorchWrapper(torch.nn.Sequential(*layers)), Softmax(2, 2)).initialize()
    register_parameter_paths(model)
    groups = [group("*bias", "pytorch/1.*", "*/b", lr_scale=0.0)]
    optimizer = ParamGroups(sgd(), groups=groups, layer_lr_decay=0.5, layer_patterns=["*/#.*"])
    module = model.layers[0].shims[0]._model
    before = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    X = numpy.random.RandomState(0).uniform(-1, 1, (4, 2)).astype("f")
    predicted, backprop = model.begin_update(X)
    backprop(predicted - numpy.eye(2, dtype="f")[[0, 1, 0, 0]])
    gradients = {name: tensor.grad.clone() for name, tensor in module.named_parameters()}
    model.finish_update(optimizer)
    # Three layers: 0, 1 and 2.
    scales = {"0.weight": 0.025, "2.weight": 0.1}
    for name, tensor in module.named_parameters():
        clip = min(1.0, 1.0 / float(gradients[name].norm() + 1e-12))
        expected = before[name] - scales.get(name, 0.0) * clip * gradients[name]
        torch.testing.assert_close(tensor.detach(), expected, rtol=1e-5, atol=1e-6)
        assert tensor.requires_grad


# What a group says


def test_weight_decay():
    """weights - 0.1 * 1 - 0.1 * L2 * (weights - 0.1 * 1)"""
    groups = [group("b", L2=0.0), group("softmax/W", name="strong", L2=1.0)]
    moved = moves(ParamGroups(sgd(L2=0.5), groups=groups), make_named_model(1), weights=1.0)
    assert moved == {
        "linear/W": 0.1 + 0.05 * 0.9,
        "linear/b": 0.1,
        "softmax/W": 0.1 + 0.1 * 0.9,
        "softmax/b": 0.1,
    }


def test_weight_decay_is_scaled_with_the_learning_rate():
    optimizer = ParamGroups(sgd(L2=0.5), groups=[group("W", lr_scale=0.5)])
    (way, *_) = moves(optimizer, make_named_model(1), weights=1.0).values()
    assert way == 0.05 + 0.025 * 0.95


def test_gradient_clipping():
    groups = [group("W", grad_clip=0.5), group("softmax/b", name="not", grad_clip=0.0)]
    optimizer = ParamGroups(sgd(grad_clip=0.25), groups=groups)
    assert list(moves(optimizer, make_named_model(1)).values()) == [0.05, 0.025, 0.05, 0.1]


def test_the_calls_own_scale_counts_too():
    optimizer = ParamGroups(sgd(), groups=[group("W", lr_scale=0.5)])
    weights = numpy.zeros((1,), dtype="f")
    optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"), lr_scale=3.0)
    assert float(weights[0]) == pytest.approx(-0.15)


# By the names of their parameters: biases of the first node, weights of both.
SETTINGS = [
    {"L2": 0.0, "grad_clip": 0.3, "lr_scale": 0.3},
    {"beta1": 0.7, "beta2": 0.9, "eps": 0.01},
    {"beta1": 0.95, "L2": 0.3},
    {"eps": 1e-3, "lr_scale": 1.7},
    {},
]
PLAIN = [{"L2": 0.0, "grad_clip": 0.3, "lr_scale": 0.3}, {"L2": 0.3}, {"grad_clip": 0.0}, {}]
OWN = {
    "Adam": (Adam, {"L2": 0.1}, SETTINGS),
    "Adam, L2 in the gradient": (Adam, {"L2": 0.1, "L2_is_weight_decay": False}, SETTINGS),
    "RAdam": (RAdam, {"L2": 0.1}, SETTINGS),
    "SGD": (SGD, {"L2": 0.1}, PLAIN),
}


class Separate(Optimizer):
    """An optimizer of its own for each group, which is told by the parameter's name."""

    __slots__ = ["optimizers"]

    def __init__(self, optimizers):
        """optimizers (dict[str, tuple[Optimizer, float]]): Each with its lr_scale."""
        super().__init__(0.0)
        self.optimizers = optimizers

    def __call__(self, key, weights, gradient, *, lr_scale=1.0):
        optimizer, scale = self.optimizers[key[1]]
        return optimizer(key, weights, gradient, lr_scale=scale)

    def step_schedules(self):
        for optimizer, _ in self.optimizers.values():
            optimizer.step_schedules()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    "is_updated",
    [None, lambda step, key: step % {"W": 3, "b": 2}[key[1]] == 1],
    ids=["dense", "sparse"],
)
def test_like_optimizers_of_their_own(name, is_updated):
    """Bit for bit, also when the one has more updates than the other."""
    make, common, all_settings = OWN[name]
    for first in all_settings:
        for second in all_settings:
            groups = [group("W", **first), group("b", name="other", **second)]
            optimizer = ParamGroups(make(0.1, **common), groups=groups)
            separate = {}
            for parameter, settings in (("W", first), ("b", second)):
                settings = {**common, **settings}
                scale = settings.pop("lr_scale", 1.0)
                learn_rate = 0.1
                if make is RAdam:  # It knows no lr_scale.
                    learn_rate, scale = 0.1 * scale, 1.0
                separate[parameter] = (make(learn_rate, **settings), scale)
            weights, expected = make_weights(), make_weights()
            train(optimizer, weights, 30, is_updated=is_updated)
            train(Separate(separate), expected, 30, is_updated=is_updated)
            assert_equal(weights, expected)
            for key, averages in optimizer.averages.items():
                assert_equal({key: averages}, {key: separate[key[1]][0].averages[key]})
            assert_equal(optimizer.mom1, {**separate["W"][0].mom1, **separate["b"][0].mom1})


def test_settings_make_a_difference():
    """Each of them: else the test above would tell nothing."""
    ends = set()
    for setting, value in {**SETTINGS[0], **SETTINGS[1], "none": None}.items():
        weights = make_weights()
        settings = {} if value is None else {setting: value}
        groups = [group("W"), group("b", name="other", **settings)]
        train(ParamGroups(Adam(0.1, L2=0.1), groups=groups), weights, 30)
        ends.add(weights[3, "b"].tobytes())
    assert len(ends) == 7


def test_the_optimizer_is_as_before():
    """After a call, and after one that fails."""
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


def test_radam_scales_its_rate_without_disturbing_others():
    """A wrapper further in takes over the learning rate in the middle of a call, in a loop
    that does not call step_schedules(). Thinc's RAdam ignores lr_scale, so the group has to
    change the learning rate itself."""
    results = []
    for is_stepped in (True, False):
        inside = SWA(RAdam(0.1), start_step=3, learn_rate=0.01)
        optimizer = ParamGroups(inside, groups=[group("W", lr_scale=0.5)])
        weights = make_weights()
        train(optimizer, weights, 9, is_stepped=is_stepped)
        assert current_rate(inside) == 0.01
        results.append(weights)
    assert_equal(*results)


# With PyTorch


def test_like_adamw_of_pytorch():
    """Thinc decays the weights after Adam's step, PyTorch before it, and they place eps
    differently: so not bit for bit. 2e-3 is a fifth of what one step at this rate moves a
    weight."""
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
    # The groups matter more than that.
    for key, array in expected.items():
        assert abs(array - start[key]).max() > 0.05
    plain = make_weights()
    train(Adam(0.01, L2=0.1, grad_clip=0.0), plain, 100)
    assert all(abs(plain[key] - weights[key]).max() > 4e-3 for key in ((3, "b"), (4, "W")))


# In and around other optimizers


def biases(optimizer):
    groups = [group("b", L2=0.2, beta1=0.8, lr_scale=0.5), group("W", name="W", eps=0.01)]
    return ParamGroups(optimizer, groups=groups)


@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "ParamGroups"])
def test_inside_or_outside_makes_no_difference(name, is_stepped):
    inside, outside = OPTIMIZERS[name](biases(Adam(0.1))), biases(OPTIMIZERS[name](Adam(0.1)))
    weights, expected, plain = make_weights(), make_weights(), make_weights()
    train(inside, weights, 11, is_stepped=is_stepped)
    train(outside, expected, 11, is_stepped=is_stepped)
    train(OPTIMIZERS[name](Adam(0.1)), plain, 11, is_stepped=is_stepped)
    assert_equal(weights, expected)
    assert_equal(inside.averages, outside.averages)
    assert not any(numpy.allclose(weights[key], plain[key]) for key in KEYS)


def test_groups_in_groups():
    """The inner ones have the last word, and factors are multiplied."""
    inner = ParamGroups(sgd(L2=0.5), groups=[group("b", lr_scale=0.5, L2=1.0)])
    optimizer = ParamGroups(inner, groups=[group("*", lr_scale=0.5, L2=0.0)])
    moved = moves(optimizer, make_named_model(1), weights=1.0)
    assert list(moved.values()) == [0.05, 0.025 + 0.025 * 0.975] * 2


# Frozen


def frozen(optimizer, *params):
    return ParamGroups(
        optimizer, groups=[group(*(params or ["b"]), name="frozen", frozen=True)]
    )


def everything(value):
    """All dicts by parameter that there are within an optimizer."""
    if isinstance(value, dict):
        if value and all(isinstance(key, tuple) for key in value):
            yield value
        for part in value.values():
            yield from everything(part)
    elif isinstance(value, Optimizer) or type(value).__module__.startswith("thinc_swa"):
        for cls in type(value).__mro__:
            for name in cls.__dict__.get("__slots__", ()):
                if hasattr(value, name) and name != "choices":
                    yield from everything(getattr(value, name))


@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("outer", [name for name in OPTIMIZERS if name != "ParamGroups"])
@pytest.mark.parametrize("inner", ["OptimizerWrapper", "SWA", "Lookahead reset"])
def test_frozen(outer, inner, is_stepped, xp):
    """It does not change, nothing is kept for it anywhere, it has no average, and its gradient
    is zeroed. The others are as if it was not there."""
    optimizer = OPTIMIZERS[outer](frozen(OPTIMIZERS[inner](Adam(0.1))))
    weights, start = make_weights(xp), make_weights(xp)
    gradients = {}
    for _ in range(7):
        for key, array in weights.items():
            gradients[key] = xp.ones(array.shape, dtype="f")
            returned, gradient = optimizer(key, array, gradients[key])
            assert returned is array or key != (3, "b")
        if is_stepped:
            optimizer.step_schedules()
    assert_equal({1: weights[3, "b"]}, {1: start[3, "b"]})
    assert not gradients[3, "b"].any()
    assert len(list(everything(optimizer))) > 3
    for by_parameter in everything(optimizer):
        assert set(by_parameter) <= {(3, "W"), (4, "W")}
    assert set(optimizer.averages) <= {(3, "W"), (4, "W")}
    others = OPTIMIZERS[outer](OPTIMIZERS[inner](Adam(0.1)))
    expected = make_weights(xp)
    del expected[3, "b"], weights[3, "b"]
    for _ in range(7):
        for key, array in expected.items():
            others(key, array, xp.ones(array.shape, dtype="f"))
        if is_stepped:
            others.step_schedules()
    assert_equal(weights, expected)
    assert_equal(optimizer.averages, others.averages)


def test_a_gradient_that_is_no_number_is_zeroed_too():
    gradient = numpy.array([numpy.nan, numpy.inf, 1.0], dtype="f")
    frozen(Adam(0.1))((1, "b"), numpy.ones((3,), "f"), gradient)
    assert not gradient.any()


def test_frozen_in_groups_in_groups():
    inner = frozen(Adam(0.1))
    optimizer = SWA(ParamGroups(inner, groups=[group("W", lr_scale=0.5)]), start_step=0)
    weights, start = make_weights(), make_weights()
    train(optimizer, weights, 3)
    assert_equal({1: weights[3, "b"]}, {1: start[3, "b"]})
    for by_parameter in everything(optimizer):
        assert set(by_parameter) == {(3, "W"), (4, "W")}


def test_frozen_layers_of_a_model():
    model = make_named_model()
    X = numpy.ones((3, 2), dtype="f")
    optimizer = SWA(frozen(Adam(0.1), "linear-0/*", "linear-2/b"), start_step=0)
    start = [layer.get_param(name).copy() for layer in model.layers for name in "Wb"]
    for _ in range(3):
        predicted, backprop = model.begin_update(X)
        backprop(predicted - numpy.eye(2, dtype="f")[[0, 1, 0]])
        model.finish_update(optimizer)
        optimizer.step_schedules()
    end = [layer.get_param(name) for layer in model.layers for name in "Wb"]
    is_same = [numpy.array_equal(one, other) for one, other in zip(start, end, strict=True)]
    assert is_same == [True, True, False, False, False, True, False, False]
    assert not model.layers[0].get_grad("W").any()
    assert len(optimizer.averages) == 5
    with model.use_params(optimizer.averages):
        assert numpy.array_equal(model.layers[0].get_param("W"), start[0])


def test_a_frozen_parameter_costs_no_memory():
    optimizer = SWA(Lookahead(frozen(Adam(0.1))), start_step=0)
    weights = numpy.ones((3,), "f")
    reference = weakref.ref(weights)
    for _ in range(3):
        optimizer((3, "b"), weights, numpy.ones((3,), "f"))
        optimizer((3, "W"), numpy.ones((3,), "f"), numpy.ones((3,), "f"))
        optimizer.step_schedules()
    del weights
    gc.collect()
    assert reference() is None


# Layers


def test_layers():
    """The last layer has the whole rate, and so has what is in no layer."""
    optimizer = ParamGroups(
        sgd(), layer_lr_decay=0.5, layer_patterns=["linear-0/*", "linear-1/*", "linear-2/*"]
    )
    assert moves(optimizer, make_named_model()) == {
        "linear-0/W": 0.025,
        "linear-0/b": 0.025,
        "linear-1/W": 0.05,
        "linear-1/b": 0.05,
        "linear-2/W": 0.1,
        "linear-2/b": 0.1,
        "softmax/W": 0.1,
        "softmax/b": 0.1,
    }


def test_layers_come_on_top_of_groups():
    optimizer = ParamGroups(
        sgd(),
        groups=[group("*/b", lr_scale=3.0)],
        layer_lr_decay=0.5,
        layer_patterns=["linear/*", "softmax/*"],
    )
    assert list(moves(optimizer, make_named_model(1)).values()) == [0.05, 0.15, 0.1, 0.3]


def test_numbered_layers_are_in_numerical_order():
    """10 comes after 9. "linear-1" is not a part of "linear-10"."""
    optimizer = ParamGroups(
        sgd(), layer_lr_decay=0.9, layer_patterns=["*linear-#*", "softmax/*"]
    )
    moved = moves(optimizer, make_named_model(12))
    assert moved == {
        **{f"linear-{i}/{name}": 0.1 * 0.9 ** (12 - i) for i in range(12) for name in "Wb"},
        "softmax/W": 0.1,
        "softmax/b": 0.1,
    }


def test_numbers_without_some():
    """As many layers as there are numbers: 0 and 2 here, and 1 is somewhere else."""
    optimizer = ParamGroups(
        sgd(), layer_lr_decay=0.5, layer_patterns=["linear-1/*", "linear-#/*"]
    )
    moved = moves(optimizer, make_named_model())
    assert [moved[f"linear-{i}/W"] for i in range(3)] == [0.05, 0.025, 0.1]


def test_layers_by_the_names_of_parameters():
    optimizer = ParamGroups(sgd(), layer_lr_decay=0.5, layer_patterns=["W", "b"])
    assert list(moves(optimizer, make_model(1)).values()) == [0.05, 0.1] * 2


def test_a_decay_of_1():
    optimizer = ParamGroups(sgd(), layer_lr_decay=1, layer_patterns=["linear-#/*"])
    assert list(moves(optimizer, make_named_model()).values()) == [0.1] * 8


# Schedules


def values(schedule, n):
    if Schedule is None:
        return [value for _, value in zip(range(n), schedule, strict=False)]
    return [schedule(step) for step in range(n)]


def warmup():
    return warmup_linear(1.0, 4, 20)


def ways(optimizer, n_steps, is_stepped=True):
    """How far each step goes, for a weight and for a bias."""
    result = {"W": [], "b": []}
    weights = {name: numpy.ones((1,), "f") for name in result}
    for _ in range(n_steps):
        for name, way in result.items():
            before = float(weights[name][0])
            optimizer((1, name), weights[name], numpy.ones((1,), "f"))
            way.append(pytest.approx(before - float(weights[name][0]), abs=1e-6))
        if is_stepped:
            optimizer.step_schedules()
    return result


@pytest.mark.parametrize(
    "schedule", [warmup, lambda: [0.5, 0.2, 0.1], lambda: decaying(1.0, 0.5)]
)
@pytest.mark.parametrize("is_named", [True, False])
def test_a_schedule_for_the_rate(schedule, is_named):
    expected = schedule()
    expected = values(expected, 7) if not isinstance(expected, list) else expected + [0.1] * 4
    if is_named:
        groups, schedules = [group("b", lr_scale="mine")], {"mine": schedule()}
    else:
        groups, schedules = [group("b", lr_scale=schedule())], None
    optimizer = ParamGroups(sgd(), groups=groups, schedules=schedules)
    result = ways(optimizer, 7)
    assert result["W"] == [0.1] * 7
    assert result["b"] == [0.1 * scale for scale in expected]


def test_a_schedule_for_another_setting():
    """weights - 0.1 * clip"""
    optimizer = ParamGroups(sgd(), groups=[group("b", grad_clip=[0.5, 0.3, 0.2])])
    assert ways(optimizer, 4) == {"W": [0.1] * 4, "b": [0.05, 0.03, 0.02, 0.02]}


def test_a_schedule_begins_at_its_step_0():
    """Also if the optimizer has made steps before."""
    innermost = sgd([0.1] * 3 + [0.2] * 9)
    ways(innermost, 3)
    optimizer = ParamGroups(innermost, groups=[group("b", lr_scale=[0.5, 0.2, 0.1])])
    assert ways(optimizer, 3) == {"W": [0.2] * 3, "b": [0.1, 0.04, 0.02]}


def test_a_schedule_that_two_groups_have_advances_once():
    for is_named in (True, False):
        schedule, schedules = warmup(), None
        if is_named:
            schedule, schedules = "mine", {"mine": schedule}
        groups = [group("b", lr_scale=schedule), group("W", name="W", lr_scale=schedule)]
        expected = [0.1 * scale for scale in values(warmup(), 7)]
        optimizer = ParamGroups(sgd(), groups=groups, schedules=schedules)
        assert ways(optimizer, 7) == {"W": expected, "b": expected}


def test_schedules_advance_where_the_wrapped_optimizers_do():
    """So not in a loop without step_schedules(), as in Thinc."""
    optimizer = ParamGroups(sgd([0.1, 0.2]), groups=[group("b", lr_scale=[0.5, 0.1])])
    assert ways(optimizer, 3, is_stepped=False) == {"W": [0.1] * 3, "b": [0.05] * 3}


@pytest.mark.parametrize("make", [Adam, RAdam])
def test_schedules_like_those_of_optimizers_of_their_own(make):
    def settings():
        return {"beta1": decaying(0.9, 0.01), "L2": decaying(0.5, 0.1), "eps": [0.1, 0.01]}

    optimizer = ParamGroups(make(warmup()), groups=[group("b", **settings())])
    separate = {"W": (make(warmup()), 1.0), "b": (make(warmup(), **settings()), 1.0)}
    weights, expected = make_weights(), make_weights()
    train(optimizer, weights, 12)
    train(Separate(separate), expected, 12)
    assert_equal(weights, expected)


@pytest.mark.skipif(Schedule is None, reason="new in Thinc 9")
def test_a_schedule_hears_of_the_parameter_and_the_last_score():
    heard = []

    def listen(schedule, step, *, key, last_score):
        heard.append((step, key, last_score))
        return 0.5

    schedule = Schedule("listening", listen)
    optimizer = ParamGroups(sgd(), groups=[group("b", lr_scale=schedule, L2=schedule)])
    optimizer.last_score = 0.75
    assert ways(optimizer, 2)["b"][0].expected == pytest.approx(0.05 + 0.025 * 0.95)
    assert {(step, key) for step, key, _ in heard} == {(0, (1, "b")), (1, (1, "b"))}
    assert {last_score for _, _, last_score in heard} == {(0, 0.75)}


# Errors

GROUP = group("b", L2=0.0)
ERRORS = {
    "no name": ([{"params": ["b"]}], {}, "A group must have a name, a string, but was"),
    "empty name": ([group("b", name="")], {}, "A group must have a name, a string"),
    "same name": ([GROUP, GROUP], {}, "Two groups have the same name: 'a group'"),
    "no params": (
        [{"name": "x"}],
        {},
        "params of group 'x' must be a list of globs, but was None",
    ),
    "empty params": (
        [group()],
        {},
        r"params of group 'a group' must be a list of globs, but was \[\]",
    ),
    "a string": ([{"name": "x", "params": "b"}], {}, "params of group 'x' must be a list.*'b'"),
    "no string": (
        [group(3)],
        {},
        "params of group 'a group' must be a list of globs.* 3 in it",
    ),
    "no glob": (
        [group("[z-a]")],
        {},
        r"params of group 'a group' has '\[z-a\]' in it, no glob",
    ),
    "two numbers": ([group("[#].#.#")], {}, r"A glob can have one #.*'\[#\].#.#'"),
    "unknown": ([group("b", lr=0.1)], {}, "A group can have name, params, .*has 'lr'"),
    "negative": ([group("b", L2=-1)], {}, "L2 of group 'a group' must be a number >= 0.*-1"),
    "nan": ([group("b", eps=float("nan"))], {}, "eps of group 'a group' must be a number"),
    "bool": ([group("b", lr_scale=True)], {}, "lr_scale of group 'a group' must be.*True"),
    "beta of 1": ([group("b", beta1=1.0)], {}, "beta1 .* must be a number > 0 and < 1.* 1.0"),
    "beta of 0": ([group("b", beta2=0)], {}, "beta2 .* must be a number > 0 and < 1.* 0"),
    "frozen what": (
        [group("b", frozen="no")],
        {},
        "frozen of group .* must be true or false.*'no'",
    ),
    "frozen and": ([group("b", frozen=True, L2=0.1)], {}, "L2 of group .* the group is frozen"),
    "no group": ([3], {}, "A group must be a mapping with name.*but was 3"),
    "sections": ({"x": GROUP}, {}, "groups must be a list, because its order.*but was {'x'"),
    "no groups": (3, {}, "groups must be a list, but was 3"),
    "no schedule": ([group("b", L2="x")], {}, "L2 of group .*schedules, which has none.*'x'"),
    "another schedule": (
        [group("b", L2="x")],
        {"schedules": {"y": [0.1]}},
        "L2 of group 'a group' must be a number or one of schedules, which has 'y', but was 'x",
    ),
    "unused schedule": ([GROUP], {"schedules": {"y": [0.1]}}, "No group uses 'y' in schedules"),
    "no schedules": ([GROUP], {"schedules": [0.1]}, r"schedules must be .*but was \[0.1\]"),
    "a number": (
        [group("b", L2="x")],
        {"schedules": {"x": 0.1}},
        "'x' in schedules must be.*0.1",
    ),
    "empty schedule": ([group("b", L2=[])], {}, r"L2 of group 'a group' must be.*but was \[\]"),
    "something": ([group("b", L2=object())], {}, "L2 of group .* number or a schedule.*object"),
    "JSON": (
        [group("b", L2={"@schedules": "constant.v1"})],
        {},
        "L2 of group 'a group' must be a number or a schedule.*has a section of its own",
    ),
    "decay without layers": (
        [GROUP],
        {"layer_lr_decay": 0.9},
        "layer_lr_decay = 0.9 needs layer_patterns",
    ),
    "layers without decay": (
        [GROUP],
        {"layer_patterns": ["b"]},
        r"layer_patterns = \['b'\] needs a layer_lr_decay",
    ),
    "empty layers": (
        [GROUP],
        {"layer_lr_decay": 0.9, "layer_patterns": []},
        r"layer_patterns must be a list of globs, but was \[\]",
    ),
    "layers' string": (
        [GROUP],
        {"layer_lr_decay": 0.9, "layer_patterns": "b"},
        "layer_patterns must be a list.*'b'",
    ),
    "the same layer": (
        [GROUP],
        {"layer_lr_decay": 0.9, "layer_patterns": ["b", "W", "b"]},
        "layer_patterns has 'b' in it more than once",
    ),
    "decay of 0": (
        [GROUP],
        {"layer_lr_decay": 0, "layer_patterns": ["b"]},
        "layer_lr_decay must be.*> 0 and <= 1.* 0",
    ),
    "growth": (
        [GROUP],
        {"layer_lr_decay": 1.1, "layer_patterns": ["b"]},
        "layer_lr_decay must be.*1.1",
    ),
}


@pytest.mark.parametrize("groups, arguments, message", ERRORS.values(), ids=ERRORS)
def test_errors(groups, arguments, message):
    with pytest.raises(ValueError, match=message):
        ParamGroups(Adam(0.1), groups=groups, **arguments)


IN_CONFIGS = [name for name in ERRORS if name not in ("something", "nan")]


@pytest.mark.parametrize("name", IN_CONFIGS)
def test_errors_from_a_config(name):
    groups, arguments, message = ERRORS[name]
    config = {
        "@optimizers": "ParamGroups.v1",
        "groups": groups,
        "optimizer": {"@optimizers": "Adam.v1"},
        **arguments,
    }
    config = Config().from_str(Config({"optimizer": config}).to_str())
    with pytest.raises(ValueError, match=message):
        registry.resolve(config)


@pytest.mark.parametrize("setting", ["beta1", "beta2", "eps"])
def test_settings_that_the_optimizer_does_not_use(setting):
    with pytest.raises(
        ValueError, match=f"{setting} of group 'a group' has no effect.* is SGD"
    ):
        ParamGroups(EMA(sgd()), groups=[group("b", **{setting: 0.5})])


UNMATCHED = {
    "group": ([group("*/c", L2=0.0)], {}, "group 'a group'"),
    "one of two": ([GROUP, group("c*", name="c", L2=0.0)], {}, "group 'c'"),
    "hidden": (
        [group("*", name="all"), group("b", name="biases")],
        {},
        r"group 'biases' \(all that it matches is in groups before it\)",
    ),
    "layer": (
        [],
        {"layer_lr_decay": 0.5, "layer_patterns": ["linear*", "conv*"]},
        r"layer 'conv\*'",
    ),
    "number": (
        [],
        {"layer_lr_decay": 0.5, "layer_patterns": ["softmax-#*"]},
        r"layer 'softmax-#\*'",
    ),
    "both": (
        [group("*/c", L2=0.0)],
        {"layer_lr_decay": 0.5, "layer_patterns": ["*/d"]},
        r"group 'a group', layer '\*/d'",
    ),
}


@pytest.mark.parametrize("groups, arguments, what", UNMATCHED.values(), ids=UNMATCHED)
@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: SWA(Lookahead(o), start_step=0)])
def test_what_selects_nothing_is_an_error(groups, arguments, what, wrap):
    """Before anything has changed."""
    optimizer = wrap(ParamGroups(Adam(0.1), groups=groups, **arguments))
    model = make_named_model(1)
    message = f"^Nothing in the model is selected by {what}. The model has the parameters:\n"
    message += "- linear/W\n- linear/b\n- softmax/W\n- softmax/b$"
    key, weights = (model.layers[0].id, "W"), numpy.ones((2, 2), "f")
    with pytest.raises(ValueError, match=message):
        optimizer(key, weights, numpy.ones((2, 2), "f"))
    assert (weights == 1).all() and not optimizer.nr_update and not optimizer.averages
    with pytest.raises(ValueError, match=message):
        parameter_summary(model, optimizer)


@pytest.mark.parametrize("is_stepped", [True, False])
def test_what_selects_nothing_without_paths(is_stepped):
    """It may be frozen: there is a warning when the first step is over, and only one."""
    groups = [GROUP, group("gamma", name="norms", L2=0.0)]
    optimizer = ParamGroups(
        Adam(0.1), groups=groups, layer_lr_decay=0.5, layer_patterns=["W", "V"]
    )
    train(optimizer, make_weights(), 1, is_stepped=False)
    message = (
        "^Nothing was selected by group 'norms', layer 'V' in the first step, which updated "
        r"parameters with the names 'W', 'b'.*register_parameter_paths\(model\)"
    )
    with pytest.warns(UserWarning, match=message):
        if is_stepped:
            optimizer.step_schedules()
        else:
            train(optimizer, make_weights(), 1, is_stepped=False)
    train(optimizer, make_weights(), 3, is_stepped=is_stepped)


@pytest.mark.parametrize("params, is_named", [("linear/*", True), ("V", True), ("V", False)])
def test_what_selects_only_frozen_parameters_is_no_error(params, is_named):
    """The first layer never gets a gradient, or only later."""
    model = chain(Linear(2, 2), Softmax(2, 2)).initialize()
    linear, softmax = model.layers
    if params == "V":
        linear.set_param("V", numpy.zeros((1,), dtype="f"))
    if is_named:
        register_parameter_paths(model)
    optimizer = ParamGroups(sgd(), groups=[group(params, lr_scale=0.5)])
    weights = softmax.get_param("W")
    if is_named:
        train(optimizer, {(softmax.id, "W"): weights}, 3)
    else:
        with pytest.warns(UserWarning, match="right if what they select is frozen or gets"):
            train(optimizer, {(softmax.id, "W"): weights}, 3)
    name = "V" if params == "V" else "W"
    before = linear.get_param(name).copy()
    optimizer((linear.id, name), linear.get_param(name), numpy.full_like(before, 0.1))
    numpy.testing.assert_allclose(before - linear.get_param(name), 0.005, rtol=1e-5)


def test_a_step_without_updates_is_none():
    optimizer = ParamGroups(Adam(0.1), groups=[GROUP])
    optimizer.step_schedules()
    train(optimizer, make_weights(), 3)


@pytest.mark.parametrize(
    "arguments, what",
    [
        ({"groups": [group("W", "*/b", L2=0.0)]}, r"'\*/b' in the params of group 'a group'"),
        (
            {"groups": [], "layer_lr_decay": 0.5, "layer_patterns": ["W", "layer.#"]},
            "'layer.#' in layer_patterns",
        ),
        ({"layer_lr_decay": 0.5, "layer_patterns": ["W", "a/b"]}, "'a/b' in layer_patterns"),
    ],
)
def test_places_in_the_model_need_paths(arguments, what):
    model = make_model()
    optimizer = SWA(ParamGroups(Adam(0.1), **arguments), start_step=0)
    message = (
        rf"^{what} selects by the place .*register_parameter_paths\(model\).*"
        r"\[initialize.after_init\]"
    )
    with pytest.raises(ValueError, match=message):
        optimizer((model.layers[0].id, "W"), numpy.ones((2, 2), "f"), numpy.ones((2, 2), "f"))


def test_numbers_in_the_names_of_parameters_need_no_paths():
    optimizer = ParamGroups(sgd(), groups=[group("layers.#.W", "[#].W", lr_scale=0.5)])
    ways = []
    for name in ("layers.0.W", "layers.10.W", "#.W", "layers.W", "1.W"):
        weights = numpy.zeros((1,), dtype="f")
        optimizer((1, name), weights, numpy.ones((1,), dtype="f"))
        ways.append(pytest.approx(-float(weights[0])))
    assert ways == [0.05, 0.05, 0.05, 0.1, 0.1]


def test_a_second_model():
    """What was selected in one need not be there in another."""
    first, second = make_named_model(1), make_named_model(2)
    optimizer = ParamGroups(
        sgd(), groups=[group("linear/*", lr_scale=0.5), group("*/b", name="b", lr_scale=2.0)]
    )
    assert list(moves(optimizer, first).values()) == [0.05, 0.05, 0.1, 0.2]
    assert list(moves(optimizer, second).values()) == [0.1, 0.2] * 3


def test_paths_that_change_are_of_no_consequence():
    """The group of a parameter stays as it was."""
    model = make_named_model(1)
    optimizer = ParamGroups(sgd(), groups=[group("linear/*", lr_scale=0.5)])
    assert list(moves(optimizer, model).values()) == [0.05, 0.05, 0.1, 0.1]
    larger = chain(Linear(2, 2), model)
    assert register_parameter_paths(larger)[::2] == ["linear-0/W", "linear-1/W", "softmax/W"]
    assert list(moves(optimizer, larger).values()) == [0.1, 0.1, 0.05, 0.05, 0.1, 0.1]


# What people see


def test_repr():
    optimizer = ParamGroups(
        Adam(0.001),
        groups=[group("*/b", "*/G", name="no_decay", L2=0), group("E", name="E", frozen=True)],
        layer_lr_decay=0.8,
        layer_patterns=["*embed*", "*layers.#.*"],
    )
    assert repr(SWA(optimizer)) == (
        "SWA(ParamGroups(Optimizer(learn_rate=0.001), groups=[{'name': 'no_decay', 'params': "
        "['*/b', '*/G'], 'L2': 0.0}, {'name': 'E', 'params': ['E'], 'frozen': True}], "
        "layer_lr_decay=0.8, layer_patterns=['*embed*', '*layers.#.*']), "
        "freq=1)"
    )
    optimizer = ParamGroups(
        Adam(0.1), groups=[group("b", L2="slow", eps=[0.1])], schedules={"slow": [0.2, 0.1]}
    )
    assert "'L2': 'slow', 'eps': [0.1]}], schedules={'slow': [0.2, 0.1]})" in repr(optimizer)


def test_rows():
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
def test_rows_without_groups(optimizer):
    model = make_model(1)
    model.layers[0].set_param("b", None)
    assert [tuple(row) for row in parameter_summary(model, optimizer)] == [
        ("linear/W", (2, 2), None, 1.0, False, {}),
        ("softmax/W", (2, 2), None, 1.0, False, {}),
        ("softmax/b", (2,), None, 1.0, False, {}),
    ]


def test_rows_of_groups_in_groups():
    inner = ParamGroups(Adam(0.1), groups=[group("b", name="b", lr_scale=0.5, L2=0.2)])
    optimizer = ParamGroups(inner, groups=[group("*", name="all", lr_scale=0.5, L2=0.1)])
    rows = parameter_summary(make_model(1), optimizer)
    assert tuple(rows[0])[2:] == ("all", 0.5, False, {"L2": 0.1})
    assert tuple(rows[1])[2:] == ("all + b", 0.25, False, {"L2": 0.2})


# From a config

CONFIG = """
[optimizer]
@optimizers = "ParamGroups.v1"
groups = [
    {"name": "no_decay", "params": ["*/b"], "L2": 0.0, "lr_scale": "warmup"},
    {"name": "frozen", "params": ["softmax/*"], "frozen": true}
  ]
layer_lr_decay = 0.5
layer_patterns = ["linear-#/*"]

[optimizer.schedules]

[optimizer.schedules.warmup]
@schedules = "warmup_linear.v1"
initial_rate = 1.0
warmup_steps = 4
total_steps = 20

[optimizer.optimizer]
@optimizers = "SGD.v1"
learn_rate = 0.1
L2 = 0.5
use_averages = false
"""


def test_from_a_config():
    config = Config().from_str(CONFIG)
    for same in (config, Config().from_str(config.to_str()), config.interpolate()):
        optimizer = registry.resolve(same)["optimizer"]
        optimizer.step_schedules()
        moved = moves(optimizer, make_named_model(2), weights=1.0)
        assert moved == {
            "linear-0/W": 0.05 + 0.025 * 0.95,
            "linear-0/b": 0.0125,
            "linear-1/W": 0.1 + 0.05 * 0.9,
            "linear-1/b": 0.025,
            "softmax/W": 0.0,
            "softmax/b": 0.025,
        }


def test_the_config_of_the_readme():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf8")
    section = readme.split("## Parameter groups")[1].split("\n## ")[0]
    config = Config().from_str(
        "[training]\n\n[initialize]\n\n" + section.split("```ini")[1].split("```")[0]
    )
    optimizer = registry.resolve({"optimizer": config["training"]["optimizer"]})["optimizer"]
    names = [values["name"] for values in optimizer._arguments["groups"]]
    assert names == ["no_decay", "embeddings", "tagger"]
    assert set(config["initialize"]) == {"after_init"}


def test_an_optimizer_without_groups_is_the_wrapped_one():
    weights, expected = make_weights(), make_weights()
    train(ParamGroups(Adam(0.1)), weights, 5)
    train(Adam(0.1), expected, 5)
    assert_equal(weights, expected)


def test_settings_for_a_parameter():
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
