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
def make_half_precision(n_inputs: int, width: int, n_outputs: int, kind: str):
    """A hidden layer with a gradient scaler, which skips some steps: in bfloat16, or with
    float16 weights."""
    from half_precision_training import Bfloat16, Float16, make_scaler

    layers = (
        torch.nn.Linear(n_inputs, width),
        torch.nn.Tanh(),
        torch.nn.Linear(width, n_outputs),
    )
    cls = {"bfloat16": Bfloat16, "float16": Float16}[kind]
    module = cls(torch.nn.Sequential(*layers))
    # Gradients that overflow.
    factor, first_scale = (1e4, 2.0**127) if cls is Bfloat16 else (1e2, 2.0**16)
    module.register_full_backward_pre_hook(lambda _, slopes: [factor * part for part in slopes])
    return PyTorchWrapper_v2(module, grad_scaler=make_scaler(first_scale=first_scale))
