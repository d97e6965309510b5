"""Invalid arguments of `ParamGroups`."""

import pytest
from group_cases import GROUP, group, sgd
from thinc.api import Adam, Config, registry

from thinc_swa import EMA, ParamGroups

ERRORS = {
    "no name": (
        [{"params": ["b"]}],
        {},
        "A group must have a name, a non-empty string, but was",
    ),
    "empty name": ([group("b", name="")], {}, "A group must have a name, a non-empty string"),
    "same name": ([GROUP, GROUP], {}, "Group names must be unique, but 'a group' occurs twice"),
    "no params": (
        [{"name": "x"}],
        {},
        "params of group 'x' must be a non-empty list of globs, but was None",
    ),
    "empty params": (
        [group()],
        {},
        r"params of group 'a group' must be a non-empty list of globs, but was \[\]",
    ),
    "a string": (
        [{"name": "x", "params": "b"}],
        {},
        "params of group 'x' must be a non-empty list of globs.*'b'",
    ),
    "no string": (
        [group(3)],
        {},
        "params of group 'a group' must be a list of non-empty strings, but contains 3",
    ),
    "no glob": (
        [group("[z-a]")],
        {},
        r"params of group 'a group': '\[z-a\]' is not a valid glob: bad character range",
    ),
    "two numbers": (
        [group("[#].#.#")],
        {},
        r"params of group 'a group': a glob can contain one #, but was '\[#\].#.#'",
    ),
    "unknown": (
        [group("b", lr=0.1)],
        {},
        "Group 'a group' has the unknown setting 'lr': it must be one of name, params",
    ),
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
    "frozen and": (
        [group("b", frozen=True, L2=0.1)],
        {},
        "L2 of group .* has no effect, because the group is frozen",
    ),
    "no group": ([3], {}, "A group must be a mapping with name.*but was 3"),
    "sections": ({"x": GROUP}, {}, "groups must be a list, because its order.*but was {'x'"),
    "no groups": (3, {}, "groups must be a list, but was 3"),
    "no schedule": (
        [group("b", L2="x")],
        {},
        "L2 of group .* the name of a schedule in schedules .empty., but was 'x'",
    ),
    "another schedule": (
        [group("b", L2="x")],
        {"schedules": {"y": [0.1]}},
        r"L2 .* must be a number or the name of a schedule in schedules \('y'\), but was 'x'",
    ),
    "unused schedule": (
        [GROUP],
        {"schedules": {"y": [0.1]}},
        "schedules contains 'y', but no group uses it",
    ),
    "no schedules": (
        [GROUP],
        {"schedules": [0.1]},
        r"schedules must be a mapping from names to schedules, but was \[0.1\]",
    ),
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
        "L2 .* must be a number or a schedule.*give the schedule a section in schedules",
    ),
    "decay without layers": (
        [GROUP],
        {"layer_lr_decay": 0.9},
        "layer_lr_decay = 0.9 requires layer_patterns",
    ),
    "layers without decay": (
        [GROUP],
        {"layer_patterns": ["b"]},
        r"layer_patterns = \['b'\] requires layer_lr_decay",
    ),
    "empty layers": (
        [GROUP],
        {"layer_lr_decay": 0.9, "layer_patterns": []},
        r"layer_patterns must be a non-empty list of globs, but was \[\]",
    ),
    "layers' string": (
        [GROUP],
        {"layer_lr_decay": 0.9, "layer_patterns": "b"},
        "layer_patterns must be a non-empty list of globs.*'b'",
    ),
    "the same layer": (
        [GROUP],
        {"layer_lr_decay": 0.9, "layer_patterns": ["b", "W", "b"]},
        "The globs in layer_patterns must be unique, but 'b' is not",
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
def test_invalid_arguments_are_errors(groups, arguments, message):
    with pytest.raises(ValueError, match=message):
        ParamGroups(Adam(0.1), groups=groups, **arguments)


IN_CONFIGS = [name for name in ERRORS if name not in ("something", "nan")]


@pytest.mark.parametrize("name", IN_CONFIGS)
def test_invalid_arguments_in_a_config_are_errors(name):
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
def test_settings_unused_by_the_optimizer_are_errors(setting):
    with pytest.raises(
        ValueError, match=f"{setting} of group 'a group' has no effect, because the .* is SGD"
    ):
        ParamGroups(EMA(sgd()), groups=[group("b", **{setting: 0.5})])
