"""The learning-rate range test: rates of all optimizers, losses, divergence, suggestions."""

import math

import numpy
import pytest
from helpers import require
from hypothesis import given
from hypothesis import strategies as st
from thinc.api import SGD, Adam, Config, Model, Softmax, chain, registry
from tiny import make_trainer, write_config

from thinc_swa import EMA, SWA, LocalSGD, Lookahead, ParamGroups, ScheduleFree, one_cycle
from thinc_swa.errors import CallbackError
from thinc_swa.training.callbacks import Callback
from thinc_swa.training.rate_range import (
    RangeTest,
    RateCurve,
    RateRange,
    find_rate,
    rate_setting,
)

SHORT = RateRange(1e-5, 1e-1, 20)


class Recorder(Callback):
    """Learning rate and loss of every step."""

    def __init__(self):
        self.rates, self.losses = [], []

    def on_step(self, trainer):
        self.rates.append(trainer.state.learn_rate)
        self.losses.append(trainer.state.loss)


class Fails(Callback):
    def on_step(self, trainer):
        raise ValueError("broken")


def run_test(optimizer, rate_range=SHORT, model=None):
    test, recorder = RangeTest(rate_range), Recorder()
    trainer = make_trainer(optimizer, [test, recorder], model=model, max_steps=10_000)
    trainer.run()
    return test.curve, recorder, trainer


def make_curve(loss):
    """Losses as a function of the power of ten of the rate."""
    rates = list(RateRange(1e-6, 1.0, 200))
    return RateCurve(rates, [loss(math.log10(rate)) for rate in rates])


@given(st.floats(1e-8, 1e-2), st.floats(1.5, 1e6), st.integers(20, 400))
def test_rates_are_a_geometric_sequence(low, factor, n_steps):
    rates = list(RateRange(low, low * factor, n_steps))
    assert len(rates) == n_steps
    assert rates[0] == low and rates[-1] == pytest.approx(low * factor)
    ratios = numpy.divide(rates[1:], rates[:-1])
    assert ratios == pytest.approx(factor ** (1 / (n_steps - 1)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0.0, 1.0, 100), "min must be"),
        ((1e-3, math.inf, 100), "max must be"),
        ((math.nan, 1.0, 100), "min must be"),
        ((1e-3, 1e-3, 100), "max must be higher than min, but was 0.001 with min = 0.001"),
        ((1e-3, 1.0, 19), "steps must be an int >= 20, but was 19"),
        ((1e-3, 1.0, 50.5), "steps must be an int >= 20, but was 50.5"),
    ],
)
def test_invalid_ranges_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        RateRange(*arguments)


def adam(rate=0.01, **settings):
    return Adam(rate, use_averages=False, **settings)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda: SGD(0.1),
        lambda: adam(one_cycle(0.01, steps=30)),
        lambda: adam([0.3, 0.2, 0.1]),
        lambda: Lookahead(EMA(adam()), freq=3),
        lambda: SWA(adam(), start_step=0, learn_rate=one_cycle(0.01, steps=30)),
        lambda: SWA(adam(), start_step=5, learn_rate=0.3, anneal_steps=4),
        lambda: ScheduleFree(adam(beta1=0.0)),
        lambda: LocalSGD(adam(), freq=4),
        lambda: ParamGroups(adam(), groups=[{"name": "b", "params": ["b"], "lr_scale": 0.5}]),
    ],
    ids=[
        "thinc",
        "schedule",
        "list",
        "lookahead_ema",
        "swa_schedule",
        "swa_anneal",
        "schedule_free",
        "local_sgd",
        "param_groups",
    ],
)
def test_every_step_has_its_rate_with_every_optimizer(make_optimizer):
    curve, recorder, trainer = run_test(make_optimizer())
    rates = list(SHORT)
    # The last step gives the loss after the update with the last rate.
    assert recorder.rates[:-1] == pytest.approx(rates, rel=1e-6)
    assert curve.rates == rates and not curve.has_diverged
    assert curve.losses == recorder.losses[1:]
    assert trainer.state.stop_reason == "end of the range"


def test_the_loss_belongs_to_the_rate_of_the_update_before_it():
    # A rate so high that the weights change in the last update only.
    class LastRate(RateRange):
        def __iter__(self):
            return iter([1e-12] * 19 + [1e3])

    curve, _, _ = run_test(SGD(0.1), LastRate(1e-12, 1e3, 20))
    assert curve.losses[-1] > 2 * max(curve.losses[:-1])


def test_a_divergence_ends_the_test_without_warnings():
    curve, _, trainer = run_test(SGD(0.1, grad_clip=0.0), RateRange(1e-3, 1e37, 60))
    assert curve.has_diverged and trainer.state.stop_reason == "divergence"
    assert 0 < len(curve.rates) == len(curve.losses) < 60
    assert numpy.isfinite(curve.losses).all()


def test_a_linear_model_diverges_at_the_rate_of_theory():
    """Gradient descent on (w - 1)² / 2 diverges from rate 2 on. The gradients have noise, so
    that it does not end in the minimum."""
    noise = numpy.random.default_rng(0)
    rates = list(RateRange(0.01, 100.0, 400))
    weights = numpy.zeros(1, dtype="f8")
    test = RangeTest(RateRange(0.01, 100.0, 400))
    optimizer = SGD(0.1, grad_clip=0.0, use_averages=False, L2=0.0)

    class State:
        step, loss = 0, 0.0

    class FakeTrainer:
        state, reason = State(), None

        def stop(self, reason):
            self.reason = reason

    trainer = FakeTrainer()
    trainer.optimizer = optimizer
    test.on_start(trainer)
    while trainer.reason is None:
        trainer.state.loss = float(((weights - 1) ** 2).sum() / 2)
        gradient = weights - 1 + noise.normal(0, 0.05, 1)
        weights, _ = optimizer((1, "W"), weights, gradient)
        optimizer.step_schedules()
        trainer.state.step += 1
        test.on_step(trainer)
    assert trainer.reason == "divergence"
    assert 2.0 < test.curve.rates[-1] < 6.0
    assert test.curve.rates == rates[: len(test.curve.rates)]
    assert test.curve.suggestion < 1.0


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=60))
def test_smoothing_stays_within_the_losses(losses):
    curve = RateCurve(list(RateRange(1e-4, 1.0, 60))[: len(losses)], losses)
    margin = 1e-9
    assert all(min(losses) - margin <= x <= max(losses) + margin for x in curve.smoothed)


def test_smoothing_does_not_shift_the_curve():
    curve = make_curve(lambda x: (x + 3) ** 2)
    assert curve.rates[curve.lowest] == pytest.approx(1e-3, rel=0.05)


def test_the_suggestion_is_half_of_the_rate_with_the_lowest_loss():
    noise = numpy.random.default_rng(0)
    curve = make_curve(lambda x: 1 + (x + 2) ** 2 + noise.normal(0, 0.1))
    assert curve.suggestion == pytest.approx(0.005, rel=0.25)
    assert curve.suggestion == float(f"{curve.rates[curve.lowest] / 2:.1e}")
    assert curve.problem is None
    # The parabola falls fastest at its left end.
    assert curve.rates[curve.steepest] < 1e-5


@pytest.mark.parametrize(
    "curve, problem",
    [
        (RateCurve([], [], has_diverged=True), "lower --min"),
        (make_curve(lambda x: x), "did not fall"),
        (make_curve(lambda x: -x), "raise --max"),
    ],
)
def test_without_a_minimum_there_is_no_suggestion(curve, problem):
    assert problem in curve.problem
    assert curve.suggestion is None


def test_noise_is_no_fall():
    n_suggestions = 0
    for seed in range(200):
        noise = numpy.random.default_rng(seed)
        curve = make_curve(lambda x, noise=noise: noise.normal(1.0, 0.2))
        n_suggestions += curve.suggestion is not None
    assert n_suggestions <= 2


def test_a_small_fall_is_found_in_noise():
    noise = numpy.random.default_rng(0)
    curve = make_curve(lambda x: noise.normal(1.0 if x < -3 or x > -1 else 0.6, 0.2))
    assert curve.problem is None and 1e-3 < 2 * curve.suggestion < 1e-1


def test_the_config_is_not_changed_and_decides_the_optimizer(tmp_path):
    path = write_config(tmp_path, max_steps=3, patience=1)
    config = Config().from_disk(path)
    before, recorder = config.copy(), Recorder()
    curve = find_rate(config, rate_range=SHORT, callbacks=[recorder])
    assert config == before
    assert len(curve.rates) == 20 and recorder.losses[1:] == curve.losses


def test_all_batches_have_the_same_size(tmp_path):
    """The sum of squares in this loss depends on it. At this rate the weights do not change."""
    config = Config().from_disk(write_config(tmp_path, optimizer=SGD_BLOCK))
    config["model"]["*"]["hidden"]["dropout"] = 0.0
    curve = find_rate(config, rate_range=RateRange(1e-20, 1e-19, 60))
    # The last batch of 50 examples would have 2 instead of 8.
    assert max(curve.losses) < 2 * min(curve.losses)


@pytest.mark.parametrize("section", ["training", "thinc_swa"])
def test_phases_of_a_config_have_no_effect(tmp_path, section):
    plain = Config().from_disk(write_config(tmp_path, optimizer=SGD_BLOCK))
    phased = plain.copy()
    swa = {"@optimizers": "SWA.v1", "start_step": "phase", "optimizer": plain["optimizer"]}
    phased["optimizer"] = swa
    phases = {"first": {"steps": 1000, "dropout": 0.5}, "average": {"start_swa": True}}
    phased.setdefault(section, {})["phases"] = phases
    assert find_rate(phased, rate_range=SHORT) == find_rate(plain, rate_range=SHORT)
    assert phased[section]["phases"] == phases


def test_errors_are_not_taken_for_a_divergence(tmp_path):
    config = Config().from_disk(write_config(tmp_path))
    with pytest.raises(CallbackError, match="broken"):
        find_rate(config, rate_range=SHORT, callbacks=[Fails()])
    del config["optimizer"]
    with pytest.raises(ValueError, match=r"no section \[optimizer\]"):
        find_rate(config, rate_range=SHORT)


@registry.layers("tests.failing.v1")
def make_failing(fails_early: bool) -> Model:
    """Layer that fails when its input is not finite, or after three calls."""
    calls = []

    def forward(model, X, is_train):
        calls.append(X)
        if (fails_early and len(calls) > 3) or not numpy.isfinite(X).all():
            raise RuntimeError("failed in the layer")
        return X, lambda dX: dX

    return Model("failing", forward)


def failing_config(tmp_path, optimizer, *, fails_early):
    config = Config().from_disk(write_config(tmp_path, optimizer=optimizer))
    layers = config["model"]["*"]
    failing = {"@layers": "tests.failing.v1", "fails_early": fails_early}
    config["model"]["*"] = {
        "hidden": layers["hidden"],
        "failing": failing,
        "output": layers["output"],
    }
    return config


SGD_BLOCK = """
[optimizer]
@optimizers = "SGD.v1"
learn_rate = 0.1
grad_clip = 0.0
"""


def test_failures_under_weights_that_are_not_finite_are_a_divergence(tmp_path):
    config = failing_config(tmp_path, SGD_BLOCK, fails_early=False)
    curve = find_rate(config, rate_range=RateRange(1e30, 1e38, 20))
    assert curve.has_diverged and "lower --min" in curve.problem


def test_other_failures_of_layers_are_errors(tmp_path):
    config = failing_config(tmp_path, SGD_BLOCK, fails_early=True)
    with pytest.raises(RuntimeError, match="failed in the layer"):
        find_rate(config, rate_range=SHORT)


def test_pytorch_layers():
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    torch.manual_seed(0)
    layer = PyTorchWrapper(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU()))
    model = chain(layer, Softmax(3, 8))
    optimizer = EMA(SGD(0.1))
    curve, recorder, _ = run_test(optimizer, RateRange(1e-3, 1.0, 40), model)
    assert recorder.rates[:-1] == pytest.approx(list(RateRange(1e-3, 1.0, 40)), rel=1e-6)
    assert curve.smoothed[-1] < curve.smoothed[0]


@pytest.mark.parametrize(
    "text, expected",
    [
        ('[optimizer]\n@optimizers = "Adam.v1"\nlearn_rate = 1', ("optimizer", False)),
        (
            '[optimizer]\n@optimizers = "EMA.v1"\n\n[optimizer.optimizer]\n'
            '@optimizers = "Adam.v1"\n\n[optimizer.optimizer.learn_rate]\n'
            '@schedules = "constant.v1"\nrate = 0.1',
            ("optimizer.optimizer", True),
        ),
        (
            '[nlp]\n\n[training]\n\n[training.optimizer]\n@optimizers = "Adam.v1"',
            ("training.optimizer", False),
        ),
    ],
)
def test_place_of_the_rate_in_a_config(text, expected):
    assert rate_setting(Config().from_str(text)) == expected


def spacy_config(tmp_path, name, **settings):
    from corpus import generate_records, write_corpus
    from pipelines import read_config

    paths = write_corpus(tmp_path, 40, 5, get_records=generate_records)
    settings = {f"training.{key}": value for key, value in settings.items()}
    for key, path in zip(("train", "dev"), paths, strict=True):
        settings[f"paths.{key}"] = str(path)
    return read_config(name, settings)


def test_spacy_configs(tmp_path):
    require("spacy")
    config = spacy_config(tmp_path, "lookahead_swa", max_steps=5, patience=1, max_epochs=1)
    before, seen = config.copy(), []

    class Watcher(Callback):
        def on_step(self, trainer):
            seen.append((dict(trainer.state.losses), trainer.state.extra["words"]))
            assert not trainer.state.evaluations

    rates = RateRange(1e-4, 0.1, 20)
    curve = find_rate(config, rate_range=rates, callbacks=[Watcher()])
    assert config == before
    assert curve.rates == list(rates)
    # The loss of the entity recognizer per word, without the one of the embedding layer.
    expected = [
        (losses["ner"] - losses_before["ner"]) / (n_words - n_before)
        for (losses_before, n_before), (losses, n_words) in zip(seen, seen[1:], strict=False)
    ]
    assert curve.losses == pytest.approx(expected)
    assert curve.smoothed[-1] < curve.smoothed[0]
