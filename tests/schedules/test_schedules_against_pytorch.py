"""Schedules compared with PyTorch's learning-rate schedulers."""

import pytest
from helpers import require
from schedule_values import values

from thinc_swa import cosine, one_cycle, one_cycle_momentum, swa_anneal

# The names of the strategies in PyTorch.
TORCH_STRATEGIES = {"linear": "linear", "cosine": "cos"}


def torch_values(make_scheduler, n_steps, name="lr", n_before=0):
    """The values that a scheduler of PyTorch sets for each step.

    n_before (int): The number of steps before the scheduler is made."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=0.5, betas=(0.9, 0.99))
    got, scheduler = [], None
    for step in range(n_steps):
        if step >= n_before:
            if scheduler is None:
                scheduler = make_scheduler(optimizer)
            else:
                scheduler.step()
        group = optimizer.param_groups[0]
        got.append(group["lr"] if name == "lr" else group["betas"][0])
        optimizer.step()
    return pytest.approx(got, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("strategy", ["linear", "cosine"])
@pytest.mark.parametrize("steps, warmup_steps", [(10, 3), (50, 5), (41, 40), (2, 1)])
def test_one_cycle_equals_pytorch(steps, warmup_steps, strategy):
    """Whose last step is its last value; ours comes after it, like that of Thinc's
    `warmup_linear`."""
    require("torch")
    from torch.optim.lr_scheduler import OneCycleLR

    def scheduler(optimizer):
        return OneCycleLR(
            optimizer,
            max_lr=0.3,
            total_steps=steps + 1,
            pct_start=(warmup_steps + 1) / (steps + 1),
            anneal_strategy=TORCH_STRATEGIES[strategy],
        )

    settings = {"steps": steps, "warmup_steps": warmup_steps, "anneal_strategy": strategy}
    n = steps + 1
    assert values(one_cycle(0.3, **settings), n) == torch_values(scheduler, n)
    momentum = one_cycle_momentum(**settings)
    assert values(momentum, n) == torch_values(scheduler, n, "momentum")


@pytest.mark.parametrize("cycle_mult, steps", [(1, 4 * 10), (2, 15 * 10), (3, 40 * 10)])
def test_warm_restarts_equal_pytorch(cycle_mult, steps):
    require("torch")
    from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

    schedule = cosine(0.5, steps=steps, cycles=4, cycle_mult=cycle_mult, end_factor=0.1)

    def scheduler(optimizer):
        return CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=cycle_mult, eta_min=0.05)

    assert values(schedule, steps) == torch_values(scheduler, steps)


def test_warmup_and_cosine_equal_pytorch():
    require("torch")
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

    def scheduler(optimizer):
        warmup = LinearLR(optimizer, start_factor=0.1, total_iters=20)
        down = CosineAnnealingLR(optimizer, T_max=80, eta_min=0.005)
        return SequentialLR(optimizer, [warmup, down], milestones=[20])

    schedule = cosine(0.5, steps=100, warmup_steps=20, start_factor=0.1, end_factor=0.01)
    assert values(schedule, 101) == torch_values(scheduler, 101)


@pytest.mark.parametrize("strategy", ["linear", "cosine"])
def test_swa_anneal_equals_pytorch(strategy):
    require("torch")
    from torch.optim.swa_utils import SWALR

    def scheduler(optimizer):
        return SWALR(
            optimizer, swa_lr=0.05, anneal_epochs=10, anneal_strategy=TORCH_STRATEGIES[strategy]
        )

    schedule = swa_anneal(0.5, 0.05, start_step=7, anneal_steps=10, anneal_strategy=strategy)
    # SWALR does not change the rate before its first step().
    assert values(schedule, 30) == torch_values(scheduler, 30, n_before=6)
