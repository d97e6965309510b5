"""Selection of groups by globs, paths and parameter names."""

import numpy
import pytest
from group_cases import GROUP, group, make_model, make_named_model, sgd, update_sizes
from helpers import require
from reference import make_weights, train
from thinc.api import Adam, Linear, Softmax, chain

from thinc_swa import SWA, Lookahead, ParamGroups, parameter_summary, register_parameter_paths
from thinc_swa.models.parameter_paths import find_model_paths


def test_the_first_matching_group_applies():
    groups = [
        group("linear-1/*", name="one", lr_scale=0.5),
        group("*/W", name="weights", lr_scale=0.25),
        group("linear-*", name="linear", lr_scale=3.0),
    ]
    assert update_sizes(ParamGroups(sgd(), groups=groups), make_named_model()) == {
        "linear-0/W": 0.025,
        "linear-0/b": 0.3,
        "linear-1/W": 0.05,
        "linear-1/b": 0.05,
        "linear-2/W": 0.025,
        "linear-2/b": 0.3,
        "softmax/W": 0.025,
        "softmax/b": 0.1,
    }


# The parameters of the model that each glob selects.
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
def test_globs_select_parameters(glob):
    optimizer = ParamGroups(sgd(), groups=[group(glob, lr_scale=2.0)])
    sizes = update_sizes(optimizer, make_named_model())
    assert [path for path, size in sizes.items() if size == 0.2] == GLOBS[glob]


UNMATCHED_GLOBS = [
    "B",
    "/b",
    "linear",
    "linear/*",
    "softmax/",
    "[]W",
    "[^]",
    "a*",
    "softmax/?b",
    ".*",
]


@pytest.mark.parametrize("glob", UNMATCHED_GLOBS)
def test_unmatched_globs_are_errors(glob):
    optimizer = ParamGroups(sgd(), groups=[group(glob, lr_scale=2.0)])
    model = make_named_model()
    with pytest.raises(
        ValueError, match="^No parameter of the model is selected by group 'a group'"
    ):
        update_sizes(optimizer, model)


def test_parameter_names_require_no_paths():
    groups = [group("W", lr_scale=0.5), group("b*", name="biases", lr_scale=2.0)]
    sizes = update_sizes(ParamGroups(sgd(), groups=groups), make_model(1))
    assert list(sizes.values()) == [0.05, 0.2, 0.05, 0.2]


def test_numbers_in_parameter_names_require_no_paths():
    optimizer = ParamGroups(sgd(), groups=[group("layers.#.W", "[#].W", lr_scale=0.5)])
    sizes = []
    for name in ("layers.0.W", "layers.10.W", "#.W", "layers.W", "1.W"):
        weights = numpy.zeros((1,), dtype="f")
        optimizer((1, name), weights, numpy.ones((1,), dtype="f"))
        sizes.append(pytest.approx(-float(weights[0])))
    assert sizes == [0.05, 0.05, 0.05, 0.1, 0.1]


def test_pytorch_parameters_are_selected_by_name():
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
    # There are three layers, 0, 1 and 2, and the biases and layer 1 are frozen by a scale of 0.
    scales = {"0.weight": 0.025, "2.weight": 0.1}
    for name, tensor in module.named_parameters():
        clip = min(1.0, 1.0 / float(gradients[name].norm() + 1e-12))
        expected = before[name] - scales.get(name, 0.0) * clip * gradients[name]
        torch.testing.assert_close(tensor.detach(), expected, rtol=1e-5, atol=1e-6)
        assert tensor.requires_grad


UNMATCHED = {
    "group": ([group("*/c", L2=0.0)], {}, "group 'a group'"),
    "one of two": ([GROUP, group("c*", name="c", L2=0.0)], {}, "group 'c'"),
    "earlier group": (
        [group("*", name="all"), group("b", name="biases")],
        {},
        r"group 'biases' \(all parameters that it matches belong to earlier groups\)",
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
def test_unmatched_groups_are_errors_before_any_update(groups, arguments, what, wrap):
    optimizer = wrap(ParamGroups(Adam(0.1), groups=groups, **arguments))
    model = make_named_model(1)
    message = (
        f"^No parameter of the model is selected by {what}. The parameters of the model are:\n"
    )
    message += "- linear/W\n- linear/b\n- softmax/W\n- softmax/b$"
    key, weights = (model.layers[0].id, "W"), numpy.ones((2, 2), "f")
    with pytest.raises(ValueError, match=message):
        optimizer(key, weights, numpy.ones((2, 2), "f"))
    assert (weights == 1).all() and not optimizer.nr_update and not optimizer.averages
    with pytest.raises(ValueError, match=message):
        parameter_summary(model, optimizer)


@pytest.mark.parametrize("is_stepped", [True, False])
def test_unmatched_groups_without_paths_warn_once_after_the_first_step(is_stepped):
    groups = [GROUP, group("gamma", name="norms", L2=0.0)]
    optimizer = ParamGroups(
        Adam(0.1), groups=groups, layer_lr_decay=0.5, layer_patterns=["W", "V"]
    )
    train(optimizer, make_weights(), 1, is_stepped=False)
    message = (
        "^No parameter was selected by group 'norms', layer 'V' in the first step, which "
        r"updated parameters with the names 'W', 'b'.*register_parameter_paths\(model\)"
    )
    with pytest.warns(UserWarning, match=message):
        if is_stepped:
            optimizer.step_schedules()
        else:
            train(optimizer, make_weights(), 1, is_stepped=False)
    train(optimizer, make_weights(), 3, is_stepped=is_stepped)


@pytest.mark.parametrize("params, is_named", [("linear/*", True), ("V", True), ("V", False)])
def test_groups_of_parameters_without_gradients_are_allowed(params, is_named):
    """The first layer gets its first gradient late or never."""
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
        with pytest.warns(
            UserWarning, match="correct if the parameters to select are frozen or get"
        ):
            train(optimizer, {(softmax.id, "W"): weights}, 3)
    name = "V" if params == "V" else "W"
    before = linear.get_param(name).copy()
    optimizer((linear.id, name), linear.get_param(name), numpy.full_like(before, 0.1))
    numpy.testing.assert_allclose(before - linear.get_param(name), 0.005, rtol=1e-5)


def test_no_warning_after_a_step_without_updates():
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
def test_globs_of_paths_require_paths(arguments, what):
    model = make_model()
    optimizer = SWA(ParamGroups(Adam(0.1), **arguments), start_step=0)
    message = (
        rf"^{what} requires parameter paths.*register_parameter_paths\(model\).*"
        r"\[initialize.after_init\]"
    )
    with pytest.raises(ValueError, match=message):
        optimizer((model.layers[0].id, "W"), numpy.ones((2, 2), "f"), numpy.ones((2, 2), "f"))


def test_groups_may_be_unmatched_in_a_second_model():
    first, second = make_named_model(1), make_named_model(2)
    optimizer = ParamGroups(
        sgd(), groups=[group("linear/*", lr_scale=0.5), group("*/b", name="b", lr_scale=2.0)]
    )
    assert list(update_sizes(optimizer, first).values()) == [0.05, 0.05, 0.1, 0.2]
    assert list(update_sizes(optimizer, second).values()) == [0.1, 0.2] * 3


def test_changed_paths_do_not_change_groups():
    model = make_named_model(1)
    optimizer = ParamGroups(sgd(), groups=[group("linear/*", lr_scale=0.5)])
    assert list(update_sizes(optimizer, model).values()) == [0.05, 0.05, 0.1, 0.1]
    larger = chain(Linear(2, 2), model)
    assert register_parameter_paths(larger)[::2] == ["linear-0/W", "linear-1/W", "softmax/W"]
    assert list(update_sizes(optimizer, larger).values()) == [0.1, 0.1, 0.05, 0.05, 0.1, 0.1]


def test_names_of_groups():
    groups = [group("linear-1/*", name="one"), group("*/W", name="weights")]
    model, optimizer = make_named_model(), ParamGroups(sgd(), groups=groups)
    assert optimizer.group_names == ["one", "weights"]
    found = {
        path: optimizer.group_name(key)
        for key, path in find_model_paths((model.layers[0].id, "W")).items()
    }
    assert found["linear-1/b"] == "one" and found["linear-0/W"] == "weights"
    assert found["linear-0/b"] is None
