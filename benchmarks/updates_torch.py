"""Averages of PyTorch tensors by PyTorch and other libraries."""

import importlib.util
from pathlib import Path

import torch
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
)
from updates import Peer

DECAY = 0.999
PULLBACK = 0.5


def make_weights(shapes):
    torch.manual_seed(0)
    return torch.nn.ParameterList(
        [torch.nn.Parameter(torch.empty(shape).normal_()) for shape in shapes]
    )


def _averaged_model(multi_avg_fn=None):
    def build(module):
        average = AveragedModel(module, multi_avg_fn=multi_avg_fn)
        average.update_parameters(module)
        return lambda: average.update_parameters(module)

    return build


def _timm_ema(module):
    average = _timm("utils/model_ema.py").ModelEmaV3(module, decay=DECAY)
    return lambda: average.update(module)


def _torch_ema(module):
    from torch_ema import ExponentialMovingAverage

    average = ExponentialMovingAverage(module.parameters(), DECAY, use_num_updates=False)
    return average.update


def _ema_pytorch(module):
    from ema_pytorch import EMA

    average = EMA(module, beta=DECAY, update_after_step=0, update_every=1, use_foreach=True)
    average.update()
    # The number of updates at which the decay has reached its maximum.
    average.step.fill_(100_000)
    return average.update


def _pytorch_optimizer_lookahead(module):
    from pytorch_optimizer import Lookahead

    optimizer = Lookahead(_optimizer(module), alpha=PULLBACK)

    def run():
        for group in optimizer.param_groups:
            optimizer.update(group)

    return run


def _timm_lookahead(module):
    Lookahead = _timm("optim/lookahead.py").Lookahead
    return Lookahead(_optimizer(module), alpha=PULLBACK).sync_lookahead


def _optimizer(module):
    for parameter in module:
        # Only parameters with a gradient are synchronised. An expanded gradient needs no
        # memory.
        parameter.grad = torch.zeros(1).expand(parameter.shape)
    return torch.optim.AdamW(module.parameters())


def _timm(path):
    """Import a module of timm from its file, because the package timm requires torchvision."""
    spec = importlib.util.find_spec("timm")
    if spec is None:
        raise ImportError("No module named 'timm'")
    path = Path(spec.origin).parent / path
    spec = importlib.util.spec_from_file_location(f"timm_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PEERS = [
    Peer("torch AveragedModel", "SWA", _averaged_model()),
    # On the CPU this is not the default.
    Peer("torch AveragedModel, multi_avg_fn", "SWA", _averaged_model(get_swa_multi_avg_fn())),
    Peer("torch AveragedModel", "EMA", _averaged_model(get_ema_multi_avg_fn(DECAY))),
    Peer("timm ModelEmaV3", "EMA", _timm_ema),
    Peer("torch_ema", "EMA", _torch_ema),
    Peer("ema_pytorch EMA", "EMA", _ema_pytorch),
    Peer("pytorch_optimizer Lookahead", "Lookahead", _pytorch_optimizer_lookahead),
    Peer("timm Lookahead", "Lookahead", _timm_lookahead),
]
