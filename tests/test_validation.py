"""Invalid arguments raise the same error in Python and in a config."""

import json

import numpy
import pytest
from thinc.api import SGD, Adam, registry
from thinc.config import Config, ConfigValidationError

from thinc_swa import EMA, SWA, Lookahead

NOT_INT = [5.7, 5.0, True, "five", None]
NOT_STEP = [0.0, 1.0, 1.5, 750.0, -0.5, -1, True, "half"]
LENGTH = {"total_steps": 100}

# The optimizer, its arguments, and the expected parts of the message.
INVALID = [
    *[
        (name, {"freq": value}, ["freq must be an int >= 1, but was", repr(value)])
        for name in ("SWA", "EMA", "Lookahead")
        for value in [0, -1, *NOT_INT]
    ],
    *[
        (name, {argument: value, **LENGTH}, [f"{argument} must be an int >=", repr(value)])
        for name, argument in [("SWA", "start_step"), ("EMA", "start_step")]
        for value in NOT_STEP
    ],
    *[
        (name, {"end_step": value, **LENGTH}, ["end_step must be an int >= 1", repr(value)])
        for name in ("SWA", "Lookahead")
        for value in [0, *NOT_STEP]
    ],
    *[
        (name, {argument: 0.75}, [f"{argument} = 0.75 is a fraction of total_steps"])
        for name, argument in [
            ("SWA", "start_step"),
            ("SWA", "end_step"),
            ("EMA", "start_step"),
            ("Lookahead", "end_step"),
        ]
    ],
    *[
        (
            name,
            {argument: 0.75, "total_steps": value},
            ["total_steps must be an int >= 1, but was", repr(value), "max_steps = 0"],
        )
        for name, argument in [("SWA", "start_step"), ("Lookahead", "end_step")]
        for value in [0, -5, 10.5, True, "many"]
    ],
    *[
        (name, {argument: 101, **LENGTH}, [f"{argument} must not be greater", "101", "100"])
        for name, argument in [
            ("SWA", "start_step"),
            ("SWA", "end_step"),
            ("EMA", "start_step"),
            ("Lookahead", "end_step"),
        ]
    ],
    ("SWA", {"start_step": 5, "end_step": 5}, ["end_step must be greater than start_step"]),
    (
        "SWA",
        {"start_step": 5, "end_step": 3},
        ["end_step must be greater than start_step", "3"],
    ),
    ("SWA", {"start_step": 0.5, "end_step": 0.5, **LENGTH}, ["end_step must be greater", "50"]),
    *[
        ("SWA", {"learn_rate": value}, ["learn_rate must be a number >= 0", repr(value)])
        for value in [-0.1, True]
    ],
    ("SWA", {"learn_rate": "fast"}, ["learn_rate must be a number or a schedule", "'fast'"]),
    ("SWA", {"learn_rate": []}, ["Invalid schedule for 'learn_rate'"]),
    *[
        (
            "SWA",
            {"learn_rate": 0.1, "anneal_steps": value},
            ["anneal_steps must be an int >= 1, but was", repr(value)],
        )
        for value in [0, 5.7, True]
    ],
    ("SWA", {"anneal_steps": 5}, ["anneal_steps = 5 needs a learn_rate"]),
    ("SWA", {"learn_rate": [0.1], "anneal_steps": 5}, ["anneal_steps needs a constant"]),
    *[
        (
            "SWA",
            {"anneal_strategy": value},
            ["anneal_strategy must be one of 'linear', 'cosine', but was", repr(value)],
        )
        for value in ["cos", None, 3]
    ],
    *[
        (
            "EMA",
            {"decay": value},
            ["decay must be a number >= 0 and < 1, but was", repr(value)],
        )
        for value in [-0.1, 1, 1.0, 1.1, True, "high"]
    ],
    *[
        (
            name,
            {"check_finite": value},
            ["check_finite must be true or false, but was", repr(value)],
        )
        for name in ("SWA", "EMA", "Lookahead")
        for value in [None, 1, "yes"]
    ],
    *[
        ("EMA", {"half_life": value}, ["half_life must be a number > 0, but was", repr(value)])
        for value in [0, -3, True, "long"]
    ],
    ("EMA", {"half_life": 2e17}, ["half_life must be short enough", "2e+17"]),
    (
        "EMA",
        {"decay": 0.9, "half_life": 5},
        ["Only one of sigma_rel, decay and half_life", "0.9", "5"],
    ),
    *[
        ("EMA", {"warmup": value}, ["warmup must be true or false, but was", repr(value)])
        for value in [1, "yes", None]
    ],
    *[
        ("EMA", {"overwrite_freq": value}, ["overwrite_freq must be an int >= 1", repr(value)])
        for value in [0, 5.7, True]
    ],
    *[
        (
            "Lookahead",
            {"pullback": value},
            ["pullback must be a number > 0 and <= 1, but was", repr(value)],
        )
        for value in [0, 0.0, -0.5, 1.5, True, "half"]
    ],
    *[
        (
            "Lookahead",
            {"inner_state": value},
            ["inner_state must be one of 'keep', 'reset', 'pullback', but was", repr(value)],
        )
        for value in ["rest", None, True]
    ],
]
CLASSES = {"SWA": SWA, "EMA": EMA, "Lookahead": Lookahead}


def make(name, arguments):
    return CLASSES[name](Adam(), **arguments)


def make_from_config(name, arguments):
    arguments = dict(arguments)
    if name == "SWA":
        arguments.setdefault("start_step", 0)
    config = Config().from_str(
        f'[optimizer]\n@optimizers = "{name}.v1"\n'
        + "\n".join(f"{key} = {json.dumps(value)}" for key, value in arguments.items())
        + '\n[optimizer.optimizer]\n@optimizers = "Adam.v1"\n'
    )
    return registry.resolve(config)["optimizer"]


@pytest.mark.parametrize("make", [make, make_from_config])
@pytest.mark.parametrize("name, arguments, words", INVALID, ids=lambda value: str(value)[:60])
def test_invalid_arguments_are_refused(make, name, arguments, words):
    with pytest.raises(ValueError) as error:
        make(name, arguments)
    assert not isinstance(error.value, ConfigValidationError)
    for word in words:
        assert word in str(error.value)


def test_numbers_in_strings_are_refused():
    """Only in Python: the config system of Thinc 9.1 converts strings to numbers."""
    with pytest.raises(ValueError, match="freq must be an int >= 1, but was '5'"):
        make("SWA", {"freq": "5"})
    with pytest.raises(ValueError, match="decay must be a number .*, but was '0.9'"):
        make("EMA", {"decay": "0.9"})


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf])
def test_non_finite_numbers_are_refused(value):
    for name, argument in [("EMA", "decay"), ("EMA", "half_life"), ("SWA", "learn_rate")]:
        with pytest.raises(ValueError, match=f"{argument} must be a number"):
            make(name, {argument: value})


def test_wrapped_optimizer_is_unchanged_after_an_error():
    for name, arguments, _ in INVALID:
        optimizer = Adam()
        with pytest.raises(ValueError):
            CLASSES[name](optimizer, **arguments)
        assert optimizer.averages == {}


VALID = [
    ("SWA", {"start_step": 0}),
    ("SWA", {"start_step": 0.75, "end_step": 0.9, "total_steps": 100}),
    ("SWA", {"start_step": 3, "learn_rate": 0}),
    ("SWA", {"start_step": 3, "learn_rate": 1}),
    ("SWA", {"start_step": 100, **LENGTH}),
    ("EMA", {"decay": 0}),
    ("EMA", {"half_life": 0.5}),
    ("Lookahead", {"pullback": 1}),
    ("Lookahead", {"end_step": 0.5, **LENGTH}),
]


@pytest.mark.parametrize("name, arguments", VALID, ids=str)
def test_boundary_values_are_accepted(name, arguments):
    assert repr(make(name, arguments)) == repr(make_from_config(name, arguments))


def test_numpy_integers_are_accepted():
    optimizer = SWA(SGD(0.1), start_step=numpy.int64(3), freq=numpy.int32(2))
    assert repr(optimizer) == "SWA(Optimizer(learn_rate=0.1), start_step=3, freq=2)"


def test_swa_config_requires_start_step():
    with pytest.raises(ConfigValidationError, match="start_step"):
        registry.resolve(
            {"optimizer": {"@optimizers": "SWA.v1", "optimizer": {"@optimizers": "Adam.v1"}}}
        )
    with pytest.raises(ValueError, match=r"start_step is required in a config.*start_swa\(\)"):
        make_from_config("SWA", {"start_step": None})


def test_config_with_an_unknown_argument_is_refused():
    with pytest.raises(ConfigValidationError, match="frequency"):
        make_from_config("EMA", {"frequency": 3})


def test_config_that_wraps_no_optimizer_is_refused():
    with pytest.raises(ConfigValidationError, match="[oO]ptimizer"):
        registry.resolve({"optimizer": {"@optimizers": "EMA.v1", "optimizer": 3}})
