"""A PyTorch layer that computes in half precision, for half_precision.cfg: in float16 with
Thinc's mixed precision and gradient scaler on a GPU, in bfloat16 on a CPU. Its weights are
float32."""

import torch
from thinc.api import Model, PyTorchGradScaler, PyTorchWrapper_v2, registry
from thinc.types import Floats2d
from thinc.util import get_torch_default_device


class HalfPrecision(torch.nn.Module):
    """A module whose output is float32 again, for the layers of Thinc around it.

    module (torch.nn.Module): The module.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # For operations on a CPU. Those on a GPU are in Thinc's autocast, which is for CUDA.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.module(inputs).float()


@registry.layers("half_precision_mlp.v1")
def make_half_precision_mlp(
    n_inputs: int, width: int, n_outputs: int, dropout: float, init_scale: float
) -> Model[Floats2d, Floats2d]:
    """Two hidden layers in half precision.

    init_scale (float): The first scale of the gradients. Steps are skipped until it is small
        enough.
    """
    is_on_gpu = get_torch_default_device().type == "cuda"
    module = torch.nn.Sequential(
        torch.nn.Linear(n_inputs, width),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(width, n_outputs),
        torch.nn.ReLU(),
    )
    # Thinc scales no gradients on a CPU. bfloat16 has the range of float32: it needs none.
    return PyTorchWrapper_v2(
        HalfPrecision(module),
        mixed_precision=is_on_gpu,
        grad_scaler=PyTorchGradScaler(is_on_gpu, init_scale=init_scale),
    )
