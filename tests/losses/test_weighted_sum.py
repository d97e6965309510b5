"""Weighted sums of losses."""

import numpy
import pytest
from helpers import require
from output_folders import config_of, results_of
from thinc.api import (
    CategoricalCrossentropy,
    Config,
    L2Distance,
    SequenceCategoricalCrossentropy,
    compounding,
    registry,
)
from tiny import make_trainer

from thinc_swa.losses.weighted_sum import WeightedSum
from thinc_swa.schedules.compat import make_schedule
from thinc_swa.training import Callback, train

LOSSES = [CategoricalCrossentropy(), L2Distance()]
random = numpy.random.default_rng(0)
GUESSES = random.dirichlet(numpy.ones(4), size=5).astype("f")
TRUTHS = numpy.eye(4, dtype="f")[[0, 3, 1, 1, 2]]


def test_value_and_gradient():
    loss = WeightedSum(LOSSES, [0.25, 2.0])
    gradient, value = loss(GUESSES, TRUTHS)
    (g1, l1), (g2, l2) = (part(GUESSES, TRUTHS) for part in LOSSES)
    numpy.testing.assert_allclose(gradient, 0.25 * g1 + 2.0 * g2, rtol=1e-6)
    assert gradient.dtype == "float32"
    assert value == loss.get_loss(GUESSES, TRUTHS) == pytest.approx(0.25 * l1 + 2.0 * l2)
    numpy.testing.assert_array_equal(gradient, loss.get_grad(GUESSES, TRUTHS))


def test_one_loss_with_weight_1_is_the_loss():
    loss = WeightedSum([LOSSES[0]], [1])
    gradient, value = loss(GUESSES, TRUTHS)
    expected, expected_value = LOSSES[0](GUESSES, TRUTHS)
    numpy.testing.assert_array_equal(gradient, expected)
    assert value == float(expected_value)


def test_a_loss_with_weight_0_has_no_influence():
    class Broken(L2Distance):
        def get_grad(self, guesses, truths):
            return numpy.full_like(guesses, numpy.nan)

        def get_loss(self, guesses, truths):
            return numpy.nan

    gradient, value = WeightedSum([LOSSES[0], Broken()], [1, 0])(GUESSES, TRUTHS)
    numpy.testing.assert_array_equal(gradient, LOSSES[0].get_grad(GUESSES, TRUTHS))
    assert numpy.isfinite(value)


def test_sequences():
    parts = [
        SequenceCategoricalCrossentropy(),
        SequenceCategoricalCrossentropy(normalize=False),
    ]
    loss = WeightedSum(parts, [0.5, 0.5])
    guesses, truths = [GUESSES[:2], GUESSES[2:]], [TRUTHS[:2], TRUTHS[2:]]
    gradients, _ = loss(guesses, truths)
    expected = [part.get_grad(guesses, truths) for part in parts]
    for found, one, other in zip(gradients, *expected, strict=True):
        numpy.testing.assert_allclose(found, 0.5 * one + 0.5 * other, rtol=1e-6)


def test_weights_are_schedules_of_the_step():
    linear = make_schedule("linear", lambda schedule, step: step / 10)
    loss = WeightedSum(LOSSES * 2, [compounding(1.0, 8.0, 2.0), [3.0, 2.0], linear, 5])
    for step, expected in [(0, [1, 3, 0, 5]), (3, [8, 2, 0.3, 5]), (1, [2, 2, 0.1, 5])]:
        loss.begin_step(step)
        assert loss.weights == pytest.approx(expected)


def test_sums_in_sums_get_the_step():
    inner = WeightedSum([LOSSES[1]], [[1.0, 7.0]])
    WeightedSum([LOSSES[0], inner], [1.0, 1.0]).begin_step(1)
    assert inner.weights == [7.0]


@pytest.mark.parametrize(
    "losses, weights, settings, message",
    [
        ([], [], {}, "at least one loss"),
        (LOSSES, [1.0], {}, "2 losses and 1 weights"),
        (LOSSES, [1.0, -0.1], {}, "weight 2 must be a number >= 0, but was -0.1"),
        (LOSSES, [1.0, True], {}, "weight 2 must be a number >= 0, but was True"),
        (LOSSES, [1.0, "0.5"], {}, "weight 2 must be .* or a schedule, but was '0.5'"),
        (LOSSES, [1.0, []], {}, r"weight 2 must be .* or a schedule, but was \[\]"),
        (LOSSES, [[-1.0], 1.0], {}, "weight 1 at step 0 must be a number >= 0, but was -1.0"),
        (LOSSES, [0.5, 0.6], {"total": 1.0}, r"must sum to 1, but were \[0.5, 0.6\] at step 0"),
        (LOSSES, [0.5, 0.5], {"total": 0}, "total must be a number > 0, but was 0"),
    ],
)
def test_invalid_arguments_are_errors(losses, weights, settings, message):
    with pytest.raises(ValueError, match=message):
        WeightedSum(losses, weights, **settings)


def test_other_invalid_losses_are_errors():
    with pytest.raises(TypeError, match="Loss 1 must be a Thinc Loss, but was 3"):
        WeightedSum([3], [1.0])
    loss = WeightedSum(LOSSES, [[0.5, 0.9], 0.5], total=1.0)
    with pytest.raises(ValueError, match=r"but were \[0.9, 0.5\] at step 1"):
        loss.begin_step(1)
    loss = WeightedSum([LOSSES[1], Transposed()], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"one shape, but had \(5, 4\) and \(4, 5\)"):
        loss(GUESSES, TRUTHS)


class Transposed(L2Distance):
    def get_grad(self, guesses, truths):
        return (guesses - truths).T


TEXT = """
[loss]
@losses = "weighted_sum.v1"

[loss.*.zeta]
weight = 1.0

[loss.*.zeta.loss]
@losses = "CategoricalCrossentropy.v3"

[loss.*.alpha]

[loss.*.alpha.loss]
@losses = "L2Distance.v1"

[loss.*.alpha.weight]
@schedules = "compounding.v1"
start = 0.5
stop = 3.0
compound = 1.05
"""


def test_config():
    loss = registry.resolve(Config().from_str(TEXT))["loss"]
    assert isinstance(loss.losses[1], L2Distance)
    assert loss.weights == [1.0, 0.5]
    for name in ("weight = 1.0", "weight = 1.0\nscale = 2"):
        text = TEXT.replace("weight = 1.0", name if "scale" in name else "")
        with pytest.raises(Exception, match="Loss 1 must have weight and loss, but had"):
            registry.resolve(Config().from_str(text))


class Stop(Callback):
    def on_step(self, trainer):
        if trainer.state.step == 33:
            trainer.stop("interrupted")


def test_resuming_with_schedules_is_bit_identical(tmp_path):
    require("filelock")
    config = config_of(tmp_path)
    config["loss"] = Config().from_str(TEXT)["loss"]
    train(config, output=tmp_path / "whole")
    train(config, output=tmp_path / "output", callbacks=[Stop()])
    trainer = train(config, output=tmp_path / "output", resume=True)
    assert trainer.loss.weights[1] == pytest.approx(3.0)
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_the_trainer_begins_steps():
    weights = []

    class Watch(Callback):
        def on_step(self, trainer):
            weights.append(trainer.loss.weights[0])

    trainer = make_trainer(callbacks=[Watch()], max_steps=4)
    trainer.loss = WeightedSum(LOSSES, [[4.0, 3.0, 2.0, 1.0], 1.0])
    trainer.run()
    assert weights == [4.0, 3.0, 2.0, 1.0]
