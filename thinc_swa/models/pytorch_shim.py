"""Fix of Thinc's PyTorchShim, which ignores the averages of PyTorch layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy
from thinc.api import PyTorchShim
from thinc.compat import torch

from ..types import Array
from .parameters import Parameter, TorchParameter, check_average_shape, swapped


@cache
def fix_pytorch_shim() -> bool:
    """Replace `PyTorchShim.use_params` by a method that uses the averages of PyTorch layers.

    Thinc's PyTorchShim calls the optimizer with keys (shim id, name), but its `use_params`
    looks for strings "pytorch_{id}_{name}", so it silently ignores the optimizer's averages
    (Thinc 8.3.14, 9.1.1). The replacement accepts both kinds of keys, swaps single parameters
    instead of copying the whole state, and restores them after an exception.

    RETURNS (bool): Whether the method was replaced. It is not if PyTorch is not installed, or
        if Thinc's method uses the averages.
    """
    if torch is None or _shim_uses_averages():
        return False
    PyTorchShim.use_params = _use_params  # type: ignore[method-assign]
    return True


def _shim_uses_averages() -> bool:
    """Whether `PyTorchShim.use_params` uses averages with the optimizer's keys."""
    module = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(1))])
    # The constructor is not called, because it may change CuPy's memory allocator.
    shim = PyTorchShim.__new__(PyTorchShim)
    shim.id, shim._model = 0, module
    with shim.use_params({(shim.id, "0"): numpy.ones((1,), dtype="f")}):
        return bool(module[0].item() == 1.0)


@contextmanager
def _use_params(self: Any, params: dict[Any, Any]) -> Iterator[None]:
    """Replaces `PyTorchShim.use_params`. See `fix_pytorch_shim`."""
    if self._model is None:  # Thinc allows a shim without a model.
        yield
        return
    tensors = dict(self._model.named_parameters(remove_duplicate=False))
    tensors.update(self._model.named_buffers())
    swaps: list[tuple[Parameter, Array]] = []
    for name, tensor in tensors.items():
        for key in ((self.id, name), f"pytorch_{self.id}_{name}"):
            if key in params:
                parameter = TorchParameter(tensor)
                check_average_shape(key, parameter, params[key])
                swaps.append((parameter, params[key]))
    with swapped(swaps):
        yield
