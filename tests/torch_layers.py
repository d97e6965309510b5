"""PyTorch layers for configs: a file for --code."""

import torch
from thinc.api import PyTorchWrapper, PyTorchWrapper_v2, registry


@registry.layers("tests.batch_norm.v1")
def make_batch_norm(n_inputs: int, n_outputs: int, width: int, dropout: float):
    """A hidden layer with BatchNorm and dropout. It has no bias: BatchNorm would cancel it, and
    Adam would move it by rounding errors."""
    return PyTorchWrapper(
        torch.nn.Sequential(
            torch.nn.Linear(n_inputs, width, bias=False),
            torch.nn.BatchNorm1d(width),
            torch.nn.ReLU(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(width, n_outputs),
        )
    )


@registry.layers("tests.half_precision.v1")
def make_half_precision(n_inputs: int, width: int, n_outputs: int):
    """A hidden layer in bfloat16 with a gradient scaler, which skips some steps."""
    from half_precision_training import Bfloat16, make_scaler

    layers = torch.nn.Linear(n_inputs, width), torch.nn.Tanh(), torch.nn.Linear(width, n_outputs)
    module = Bfloat16(torch.nn.Sequential(*layers))
    scaler = make_scaler(first_scale=2.0**127)
    # Gradients that overflow.
    module.register_full_backward_pre_hook(lambda _, slopes: [1e4 * slope for slope in slopes])
    return PyTorchWrapper_v2(module, grad_scaler=scaler)
