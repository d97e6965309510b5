"""Steps of PyTorch's fused AdamW, bare and with its `AveragedModel`."""

import torch
from measure import Candidate
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
)


def make_candidates(shapes):
    torch.manual_seed(0)
    module = torch.nn.ParameterList(
        [torch.nn.Parameter(torch.empty(shape).normal_()) for shape in shapes]
    )
    for parameter in module:
        parameter.grad = torch.empty_like(parameter).normal_()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.001, fused=True)

    def with_average(freq, multi_avg_fn=None):
        average = AveragedModel(module, multi_avg_fn=multi_avg_fn)
        n_steps = 0

        def run():
            nonlocal n_steps
            n_steps += 1
            optimizer.step()
            if n_steps % freq == 0:
                average.update_parameters(module)

        return run

    swa, ema = get_swa_multi_avg_fn(), get_ema_multi_avg_fn(0.999)
    runs = {
        "torch AdamW(fused=True)": optimizer.step,
        "+ AveragedModel, SWA, freq 1": with_average(1),
        "+ AveragedModel, SWA with multi_avg_fn, freq 1": with_average(1, swa),
        "+ AveragedModel, SWA with multi_avg_fn, freq 10": with_average(10, swa),
        "+ AveragedModel, EMA, freq 1": with_average(1, ema),
        "+ AveragedModel, EMA, freq 10": with_average(10, ema),
    }
    return [Candidate(name, "step", run) for name, run in runs.items()]
