"""PyTorch layers for configs: a file for --code."""

import torch
from thinc.api import PyTorchWrapper, registry


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
