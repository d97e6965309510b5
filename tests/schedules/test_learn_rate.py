"""The learning rate of SWA, measured by the changes of the weights."""

import itertools
import math

import numpy
import pytest
from helpers import require
from thinc.api import SGD, Adam, decaying, registry, warmup_linear
from thinc.config import Config

from thinc_swa import EMA, SWA, Lookahead
from thinc_swa.schedules.compat import Schedule


def rates(optimizer, n_steps, *, is_stepped=True, after=None):
    """The learning rates of n_steps: the changes of a weight by SGD with gradient 1."""
    weights = numpy.zeros((1,), dtype="f")
    result = []
    for step in range(1, n_steps + 1):
        before = float(weights[0])
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        result.append(before - float(weights[0]))
        if is_stepped:
            optimizer.step_schedules()
        if after and step in after:
            after[step]()
    return pytest.approx(result, abs=1e-6)


def values(schedule, n):
    """The first n values of a schedule."""
    if Schedule is None:
        return list(itertools.islice(schedule, n))
    return [schedule(step) for step in range(n)]


def warmup():
    return warmup_linear(0.1, 3, 20)


WARMUP_RATES = values(warmup(), 20)


def sgd(learn_rate):
    return SGD(learn_rate, use_averages=False)


def test_without_learn_rate_the_schedule_is_unchanged():
    assert rates(SWA(sgd(warmup()), start_step=4), 10) == WARMUP_RATES[:10]


@pytest.mark.parametrize("is_stepped", [True, False])
def test_constant_rate_from_start_step_on(is_stepped):
    optimizer = SWA(sgd(0.1), start_step=4, learn_rate=0.03)
    assert rates(optimizer, 10, is_stepped=is_stepped) == [0.1] * 4 + [0.03] * 6


def test_constant_rate_replaces_a_schedule():
    optimizer = SWA(sgd(warmup()), start_step=4, freq=3, learn_rate=0.03)
    assert rates(optimizer, 12) == WARMUP_RATES[:4] + [0.03] * 8


def test_schedule_begins_at_its_step_0():
    optimizer = SWA(sgd(warmup()), start_step=4, learn_rate=decaying(0.05, 0.5))
    assert rates(optimizer, 10) == WARMUP_RATES[:4] + values(decaying(0.05, 0.5), 6)


def test_constant_rate_can_be_changed_manually():
    for anneal_steps in (None, 2):
        optimizer = SWA(sgd(0.1), start_step=1, learn_rate=0.05, anneal_steps=anneal_steps)
        rates(optimizer, 5)
        optimizer.learn_rate = SGD(0.01).learn_rate
        assert rates(optimizer, 3) == [0.01] * 3


def test_list_of_rates():
    optimizer = SWA(sgd(0.1), start_step=2, learn_rate=[0.05, 0.04, 0.03])
    assert rates(optimizer, 7) == [0.1, 0.1, 0.05, 0.04, 0.03, 0.03, 0.03]


def test_generator_of_rates():
    optimizer = SWA(sgd(0.1), start_step=2, learn_rate=(0.05 / i for i in itertools.count(1)))
    assert rates(optimizer, 5) == [0.1, 0.1, 0.05, 0.025, 0.05 / 3]


@pytest.mark.parametrize("is_stepped", [True, False])
def test_schedule_follows_the_steps_of_the_model(is_stepped):
    optimizer = SWA(sgd(0.1), start_step=2, learn_rate=[0.05, 0.04, 0.03])
    expected = [0.1, 0.1, 0.05, 0.04, 0.03, 0.03, 0.03]
    assert rates(optimizer, 7, is_stepped=is_stepped) == expected


@pytest.mark.parametrize("is_stepped", [True, False])
def test_linear_annealing(is_stepped):
    optimizer = SWA(sgd(0.1), start_step=2, learn_rate=0.5, anneal_steps=4)
    expected = [0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5]
    assert rates(optimizer, 8, is_stepped=is_stepped) == expected


def test_cosine_annealing():
    optimizer = SWA(
        sgd(0.1), start_step=2, learn_rate=0.5, anneal_steps=4, anneal_strategy="cosine"
    )
    expected = [0.1 + 0.4 * (1 - math.cos(math.pi * k / 4)) / 2 for k in range(1, 5)]
    assert rates(optimizer, 8) == [0.1, 0.1, *expected, 0.5, 0.5]


def test_annealing_begins_at_the_last_used_rate():
    optimizer = SWA(sgd(warmup()), start_step=4, learn_rate=0.5, anneal_steps=2)
    assert rates(optimizer, 7) == [*WARMUP_RATES[:4], (WARMUP_RATES[3] + 0.5) / 2, 0.5, 0.5]


@pytest.mark.parametrize("is_before", [True, False])
def test_start_swa_before_or_after_step_schedules_anneals_equally(is_before):
    """start_swa() is called after the update, before or after step_schedules()."""
    optimizer = SWA(sgd([0.1, 0.1, 0.1, 0.01, 0.01]), learn_rate=0.2, anneal_steps=4)
    weights, result = numpy.zeros((1,), dtype="f"), []
    for step in range(1, 8):
        before = float(weights[0])
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        result.append(before - float(weights[0]))
        if step == 3 and is_before:
            optimizer.start_swa()
        optimizer.step_schedules()
        if step == 3:
            optimizer.start_swa()
    assert result == pytest.approx([0.1, 0.1, 0.1, 0.125, 0.15, 0.175, 0.2])


@pytest.mark.parametrize("strategy", ["linear", "cos"])
@pytest.mark.parametrize("target", [0.1, 0.5, 0.001])
def test_annealing_equals_pytorch(target, strategy):
    """The loop of PyTorch's documentation, where SWALR replaces the old scheduler."""
    require("torch")
    import torch

    old, start_step, anneal_steps, n_steps = [0.1, 0.1, 0.1, 0.01, 0.01], 3, 4, 10
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd_of_torch = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        sgd_of_torch, lambda step: old[min(step, len(old) - 1)]
    )
    swa_scheduler = torch.optim.swa_utils.SWALR(
        sgd_of_torch, swa_lr=target, anneal_epochs=anneal_steps, anneal_strategy=strategy
    )
    # The constructor of SWALR sets the rate, so the rate of the old scheduler is restored.
    sgd_of_torch.param_groups[0]["lr"] = old[0]
    expected = []
    for step in range(1, n_steps + 1):
        expected.append(sgd_of_torch.param_groups[0]["lr"])
        sgd_of_torch.step()
        if step < start_step:
            scheduler.step()
        else:
            swa_scheduler.step()
    optimizer = SWA(
        sgd(old),
        start_step=start_step,
        learn_rate=target,
        anneal_steps=anneal_steps,
        anneal_strategy={"linear": "linear", "cos": "cosine"}[strategy],
    )
    assert rates(optimizer, n_steps) == expected


@pytest.mark.parametrize("learn_rate", [0.03, [0.05, 0.04, 0.03, 0.02]])
@pytest.mark.parametrize("step", [3, 0])
def test_start_swa_activates_the_rate(learn_rate, step):
    optimizer = SWA(sgd(0.1), learn_rate=learn_rate)
    if step == 0:
        optimizer.start_swa()
    own = ([learn_rate] * 4) if isinstance(learn_rate, float) else learn_rate
    result = rates(optimizer, step + 4, after={step: optimizer.start_swa})
    assert result == [0.1] * step + own


def test_rate_with_start_step_0():
    assert rates(SWA(sgd(warmup()), start_step=0, learn_rate=0.03), 3) == [0.03] * 3


@pytest.mark.parametrize("wrap", [Lookahead, EMA])
def test_rate_of_the_innermost_optimizer_is_set(wrap):
    innermost = sgd(warmup())
    inside = wrap(innermost)
    if wrap is Lookahead:
        inside.pullback = 1.0
    optimizer = SWA(inside, start_step=2, learn_rate=[0.05, 0.04])
    assert rates(optimizer, 4) == WARMUP_RATES[:2] + [0.05, 0.04]


@pytest.mark.skipif(Schedule is not None, reason="Thinc 8.3 keeps them apart")
def test_replaced_schedule_is_removed():
    innermost = sgd(warmup())
    rates(SWA(innermost, start_step=2, learn_rate=0.03), 3)
    assert not innermost.schedules


def test_other_schedules_continue():
    optimizer = SWA(Adam(0.1, beta1=[0.5, 0.6, 0.7, 0.8]), start_step=1, learn_rate=0.03)
    weights = numpy.zeros((1,), dtype="f")
    betas = []
    for _ in range(4):
        beta = optimizer.b1
        betas.append(beta if Schedule is None else beta(optimizer.step))
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        optimizer.step_schedules()
    assert betas == [0.5, 0.6, 0.7, 0.8]


def test_rate_is_kept_after_end_step():
    optimizer = SWA(sgd(0.1), start_step=1, end_step=3, learn_rate=[0.05, 0.04, 0.03, 0.02])
    weights = numpy.zeros((1,), dtype="f")
    moved = []
    for _ in range(5):
        before = float(weights[0])
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        moved.append(before - float(weights[0]))
        optimizer.step_schedules()
    assert moved == pytest.approx([0.1, 0.05, 0.04, 0.03, 0.02], abs=1e-6)


def test_swa_learn_rate_from_a_config():
    config = Config().from_str("""
        [optimizer]
        @optimizers = "SWA.v1"
        start_step = 2

        [optimizer.learn_rate]
        @schedules = "decaying.v1"
        base_rate = 0.05
        decay = 0.5

        [optimizer.optimizer]
        @optimizers = "SGD.v1"
        learn_rate = 0.1
        use_averages = false
        """)
    optimizer = registry.resolve(config)["optimizer"]
    assert rates(optimizer, 6) == [0.1, 0.1, *values(decaying(0.05, 0.5), 4)]


@pytest.mark.skipif(Schedule is None, reason="new in Thinc 9")
def test_schedule_gets_the_last_score():
    from thinc.api import plateau

    optimizer = SWA(
        sgd(0.1),
        start_step=1,
        learn_rate=plateau(2, 0.5, Schedule("one", lambda s, step, **_: 0.05)),
    )
    after = {step: lambda: setattr(optimizer, "last_score", 0.5) for step in range(1, 9)}
    result = rates(optimizer, 8, after=after)
    assert result != [0.1] + [0.05] * 7  # The score does not improve, so the rate decreases.
    assert result.expected[-1] < 0.05 / 2 + 1e-6
