"""The numbers of docs/conventions.md, computed by the libraries."""

import json
from pathlib import Path

import numpy
import pytest
from helpers import require
from new_process import run_in_new_process
from thinc.api import SGD

from thinc_swa import EMA, SWA

PAGE = Path(__file__).parent.parent / "docs" / "conventions.md"
WEIGHTS = [0.9, 0.8, 0.7, 0.6]
N_STEPS = len(WEIGHTS)


def by_thinc(optimizer, n_steps=N_STEPS):
    """The averages after each step of a weight that starts at 1 and decreases by 0.1."""
    weights, averages = numpy.ones((1,), dtype="f"), []
    for _ in range(n_steps):
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        optimizer.step_schedules()
        averages.append(float(optimizer.averages[1, "W"][0]))
    return averages


def by_torch():
    require("torch")
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    module = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(1))])
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    averages = []
    for value in WEIGHTS:
        module[0].data.fill_(value)
        average.update_parameters(module)
        averages.append(average.module[0].item())
    return averages


def by_timm():
    require("timm")
    import torch
    from timm.utils import ModelEmaV3

    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    average = ModelEmaV3(module, decay=0.5)
    averages = []
    for value in WEIGHTS:
        module.weight.data.fill_(value)
        average.update(module)
        averages.append(average.module.weight.item())
    return averages


def by_torch_ema():
    require("torch_ema")
    import torch
    from torch_ema import ExponentialMovingAverage

    parameter = torch.nn.Parameter(torch.ones(1))
    average = ExponentialMovingAverage([parameter], decay=0.5, use_num_updates=False)
    averages = []
    for value in WEIGHTS:
        parameter.data.fill_(value)
        average.update()
        averages.append(average.shadow_params[0].item())
    return averages


def by_optax():
    require("optax")
    return json.loads(run_in_new_process(print_averages_of_optax))


def print_averages_of_optax():
    import optax

    average = optax.ema(0.5)
    state = average.init(numpy.ones(1))
    averages = []
    for value in WEIGHTS:
        updates, state = average.update(numpy.array([value]), state)
        averages.append(float(updates[0]))
    print(json.dumps(averages))


def rates_of_thinc():
    optimizer = SWA(
        SGD([0.1, 0.1, 0.1, 0.01, 0.01], use_averages=False),
        start_step=3,
        learn_rate=0.5,
        anneal_steps=4,
    )
    weights, rates = numpy.zeros((1,), dtype="f"), []
    for _ in range(8):
        before = float(weights[0])
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        rates.append(before - float(weights[0]))
        optimizer.step_schedules()
    return rates[3:]


def rates_of_torch():
    require("torch")
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.swa_utils.SWALR(
        optimizer, swa_lr=0.5, anneal_epochs=4, anneal_strategy="linear"
    )
    rates = []
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def by_formula(first):
    """first (float | None): The initial average. None means the first weight."""
    averages, average = [], first
    for value in WEIGHTS:
        average = value if average is None else 0.5 * average + 0.5 * value
        averages.append(average)
    return averages


ROWS = {
    "thinc-swa `EMA`, `SWA`": lambda: by_thinc(EMA(SGD(0.1), decay=0.5)),
    "torch `AveragedModel`": by_torch,
    "Keras `use_ema`": lambda: by_formula(None),
    "TensorFlow Addons `MovingAverage`": lambda: by_formula(1.0),
    "timm `ModelEmaV3`": by_timm,
    "torch_ema, `use_num_updates=False`": by_torch_ema,
    "optax `ema`": by_optax,
    "Thinc `use_averages=True`, decay at most 0.9999": lambda: by_thinc(
        SGD(0.1, use_averages=True)
    ),
    "thinc-swa `EMA`, `decay=0.9999`, `warmup=True`": lambda: by_thinc(
        EMA(SGD(0.1), decay=0.9999, warmup=True)
    ),
    "thinc-swa `SWA`": rates_of_thinc,
    "torch `SWALR`": rates_of_torch,
}


def table_rows():
    """The numeric cells of the table rows that have any, by the first cell."""
    rows = {}
    for line in PAGE.read_text(encoding="utf8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        numbers = [float(cell) for cell in cells[1:] if cell.replace(".", "").isdigit()]
        if numbers:
            rows[cells[0]] = numbers
    return rows


def test_every_table_row_is_computed():
    assert set(table_rows()) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_numbers_of_the_documentation_are_correct(name):
    assert ROWS[name]() == pytest.approx(table_rows()[name], abs=6e-5)


def test_snapshots_are_counted_from_start_step():
    optimizer = SWA(SGD(0.1), start_step=5, freq=2)
    weights, counts = numpy.ones((1,), dtype="f"), []
    for _ in range(10):
        weights, _ = optimizer((1, "W"), weights, numpy.ones((1,), dtype="f"))
        optimizer.step_schedules()
        counts.append(optimizer.n_averaged)
    assert counts == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
