"""Every Thinc config of the repository trains, and its averages are what they should be:
the same training is done again with the innermost optimizer alone, and with plain
arithmetic for what is around it."""

import sys
from pathlib import Path

import numpy
import pytest
from helpers import require
from thinc.api import Config, registry

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))

from digits import initialize, load_digits, training_steps  # noqa: E402

# Not a multiple of Lookahead's freq: its slow weights differ from the fast ones then.
MAX_STEPS = 260
# What is calculated by hand is rounded in other places here, and training lets that grow.
FEW_STEPS = {"schedule_free": 100}


def is_thinc_config(path):
    return "optimizer" in Config().from_disk(path, interpolate=False)


# Those in configs/training are tested by tests/training/test_training_configs.py.
PATHS = [path for path in sorted(ROOT.glob("configs/digits/*.cfg")) if is_thinc_config(path)]


@pytest.fixture(scope="module")
def digits():
    require("sklearn")
    return load_digits()


def each_config():
    return pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def load(path, max_steps=MAX_STEPS):
    return Config().from_disk(path, overrides={"training.max_steps": max_steps})


def blocks(config):
    """The [optimizer] blocks, from the outermost to the innermost."""
    block = config["optimizer"]
    while block is not None:
        yield block
        block = block.get("optimizer")


def parameters(model):
    """All (node, name), in an order that is the same for every copy of a model."""
    return [(node, name) for node in model.walk() for name in node.param_names]


def weights_of(model):
    return [node.get_param(name) for node, name in parameters(model)]


def copies(arrays):
    return [array.copy() for array in arrays]


def train(config, digits):
    """Train as the config says.

    RETURNS: The weights at the end, the averages or None, and the optimizer.
    """
    resolved = registry.resolve(config)
    model, optimizer = resolved["model"], resolved["optimizer"]
    train_steps(model, optimizer, config["training"], digits, after_step=lambda step: None)
    averages = None
    if optimizer.averages:
        averages = [optimizer.averages[node.id, name] for node, name in parameters(model)]
    return weights_of(model), averages, optimizer


def train_by_hand(config, digits):
    """Train with the innermost optimizer; do by hand what the others are for.

    RETURNS: The weights at the end, and the averages or None.
    """
    *wrappers, innermost = blocks(config)
    settings = {block["@optimizers"]: block for block in wrappers}
    known = {"SWA.v1", "EMA.v1", "LAWA.v1", "Lookahead.v1", "LocalSGD.v1", "ScheduleFree.v1"}
    assert set(settings) <= known
    if "ScheduleFree.v1" in settings:
        assert innermost["beta1"] == 0.0
        innermost = {**innermost, "beta1": 1e-300}  # Thinc's Adam alone does not take 0.
    resolved = registry.resolve({"model": config["model"], "optimizer": innermost})
    model, optimizer = resolved["model"], resolved["optimizer"]
    if "ScheduleFree.v1" in settings:
        optimizer = PlainScheduleFree(optimizer, settings["ScheduleFree.v1"]["beta"])
    slow, momentum, history = [], [], []

    def after_step(step):
        if step == 0:
            slow.extend(copies(weights_of(model)))
            momentum.extend(numpy.zeros_like(array) for array in slow)
            return
        if "Lookahead.v1" in settings:
            pull_back(step, slow, weights_of(model), settings["Lookahead.v1"])
        if "LocalSGD.v1" in settings and step % settings["LocalSGD.v1"]["freq"] == 0:
            synchronise(slow, momentum, weights_of(model), settings["LocalSGD.v1"])
        history.append(copies(weights_of(model)))

    train_steps(model, optimizer, config["training"], digits, after_step)
    if "SWA.v1" in settings:
        averages = arithmetic_mean(history, settings["SWA.v1"])
    elif "EMA.v1" in settings:
        averages = power_average(history)
    elif "LAWA.v1" in settings:
        averages = last_mean(history, settings["LAWA.v1"])
    elif "ScheduleFree.v1" in settings:
        averages = [optimizer.x[node.id, name] for node, name in parameters(model)]
    else:
        averages = slow if settings.keys() & {"Lookahead.v1", "LocalSGD.v1"} else None
    return weights_of(model), averages


def train_steps(model, optimizer, training, digits, after_step):
    initialize(model, digits, training["seed"])
    after_step(0)
    lengths = {name: training[name] for name in ("max_steps", "batch_size")}
    for step in training_steps(model, optimizer, digits, **lengths):
        after_step(step)


def pull_back(step, slow, fast, settings):
    end_step = round(settings.get("end_step", 1.0) * MAX_STEPS)
    if step <= end_step and step % settings["freq"] == 0:
        for slow_array, fast_array in zip(slow, fast, strict=True):
            slow_array += settings["pullback"] * (fast_array - slow_array)
            fast_array[...] = slow_array


def synchronise(slow, momentum, weights, settings):
    """On one worker, with Nesterov momentum."""
    for array, moment, fast in zip(slow, momentum, weights, strict=True):
        change = array - fast
        moment[...] = settings["outer_momentum"] * moment + change
        array -= settings["outer_learn_rate"] * (change + settings["outer_momentum"] * moment)
        fast[...] = array


class PlainScheduleFree:
    """Algorithm 1 with a constant learning rate, around an optimizer without momentum."""

    def __init__(self, optimizer, beta):
        self.optimizer = optimizer
        self.beta = beta
        self.z, self.x = {}, {}

    def __call__(self, key, weights, gradient):
        if key not in self.z:
            self.z[key] = weights.copy()
            self.x[key] = weights.astype("float64")
        self.optimizer(key, self.z[key], gradient)
        self.x[key] += (self.z[key] - self.x[key]) / self.optimizer.nr_update[key]
        weights[...] = (1 - self.beta) * self.z[key] + self.beta * self.x[key]
        return weights, gradient

    def step_schedules(self):
        self.optimizer.step_schedules()


def arithmetic_mean(history, settings):
    start_step = round(settings["start_step"] * MAX_STEPS)
    steps = range(start_step, MAX_STEPS + 1, settings["freq"])
    snapshots = [history[step - 1] for step in steps]
    return [
        numpy.mean([array.astype("float64") for array in arrays], axis=0)
        for arrays in zip(*snapshots, strict=True)
    ]


def power_average(history, gamma=6.937203937601809):
    """The average with a relative width of 0.1, the default of EMA."""
    shares = numpy.diff((numpy.arange(len(history) + 1) / len(history)) ** (gamma + 1))
    return [numpy.tensordot(shares, arrays, 1) for arrays in zip(*history, strict=True)]


def last_mean(history, settings):
    snapshots = history[settings["freq"] - 1 :: settings["freq"]][-settings["window"] :]
    return [numpy.mean(arrays, axis=0, dtype="f8") for arrays in zip(*snapshots, strict=True)]


def assert_close(got, expected):
    for array, expected_array in zip(got, expected, strict=True):
        numpy.testing.assert_allclose(array, expected_array, rtol=1e-5, atol=1e-6)


def test_there_are_configs():
    assert len(PATHS) >= 5


@each_config()
def test_averages_are_those_calculated_by_hand(path, digits):
    config = load(path, FEW_STEPS.get(path.stem, MAX_STEPS))
    weights, averages, _ = train(config, digits)
    expected_weights, expected_averages = train_by_hand(config, digits)
    assert_close(weights, expected_weights)
    if expected_averages is None:
        assert averages is None
    else:
        assert_close(averages, expected_averages)
        # A comparison of two things that are the same would not tell much.
        assert not numpy.allclose(averages[0], weights[0], rtol=1e-3, atol=1e-3)


@each_config()
def test_fractions_are_of_the_length_of_the_training(path):
    config = load(path, max_steps=1000)
    optimizer = registry.resolve({"optimizer": config["optimizer"]})["optimizer"]
    for block in blocks(config):
        for name in ("start_step", "end_step"):
            if name in block:
                assert getattr(optimizer, name) == round(block[name] * 1000)
        optimizer = getattr(optimizer, "optimizer", None)


@each_config()
def test_adam_inside_has_no_averages_of_its_own(path):
    *_, innermost = blocks(load(path))
    assert innermost["@optimizers"] == "Adam.v1"
    assert innermost["use_averages"] is False


def test_only_the_optimizer_differs_between_the_digits_configs():
    configs = [load(path) for path in PATHS if path.parent.name == "digits"]
    for config in configs:
        del config["optimizer"]
    assert all(config == configs[0] for config in configs)


def test_learn_rate_is_the_same_in_all_digits_configs():
    paths = [path for path in PATHS if path.parent.name == "digits"]
    assert len({list(blocks(load(path)))[-1]["learn_rate"] for path in paths}) == 1
