"""Half precision on a CPU: modules in bfloat16 or with float16 weights, and a gradient scaler
with overflows. Import it only if PyTorch is installed."""

import numpy
import torch
from thinc.api import PyTorchGradScaler, PyTorchShim, PyTorchWrapper_v2

N_STEPS = 16
GROWTH, BACKOFF, INTERVAL = 4.0, 0.5, 3

_random = numpy.random.RandomState(0)
INPUTS = _random.uniform(-1, 1, (N_STEPS, 12, 5)).astype("f")
TARGETS = 100 * _random.uniform(-1, 1, (N_STEPS, 12, 3)).astype("f")


class Scaler(PyTorchGradScaler):
    """Thinc's gradient scaler, which also scales tensors on a CPU. Everything else is Thinc's:
    the unscaling, the search for overflows, and the changes of the scale."""

    def _scale_tensor(self, tensor, scale_per_device, inplace):
        return tensor.mul_(self._scale) if inplace else tensor * self._scale


class Bfloat16(torch.nn.Module):
    """A module in a bfloat16 autocast. Thinc's own is for CUDA."""

    first_scale = 2.0**125

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = self.module(inputs)
        assert output.dtype == torch.bfloat16
        return output.float()


class Float16(torch.nn.Module):
    """A module with float16 weights."""

    first_scale = 2.0**13

    def __init__(self, module):
        super().__init__()
        self.module = module.half()

    def forward(self, inputs):
        return self.module(inputs.half()).float()


def make_module(kind=Bfloat16):
    """A module with fixed initial weights."""
    torch.manual_seed(0)
    return kind(
        torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    )


def make_scaler(kind=Bfloat16, *, cls=Scaler, first_scale=None):
    """A scaler whose first steps overflow, and later about every fifth."""
    return cls(
        enabled=True,
        init_scale=first_scale or kind.first_scale,
        backoff_factor=BACKOFF,
        growth_factor=GROWTH,
        growth_interval=INTERVAL,
    )


def make_model(kind=Bfloat16, scaler=None):
    """The module as a layer of Thinc."""
    return PyTorchWrapper_v2(make_module(kind), grad_scaler=scaler or make_scaler(kind))


def run_step(model, optimizer, index, *, is_stepped=True):
    """A training step with Thinc."""
    predicted, backprop = model.begin_update(INPUTS[index])
    backprop((predicted - TARGETS[index]) / len(predicted))
    model.finish_update(optimizer)
    if is_stepped:
        optimizer.step_schedules()


def shims_of(model):
    return [s for node in model.walk() for s in node.shims if isinstance(s, PyTorchShim)]


def arrays_of(module):
    """The weights by name, in the memory of the module."""
    return {name: p.data.numpy() for name, p in module.named_parameters()}


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def plain_steps(kind=Bfloat16, order=range(N_STEPS)):
    """The training without Thinc, written out: scaled gradients by automatic differentiation,
    and the changes of the scale.

    order (Iterable[int]): The batches.
    RETURNS (Iterator): The number of the step, the weights in the memory of the module, and the
        gradients by name, or None if some are infinite and the step must be skipped.
    """
    module = make_module(kind)
    scale, n_finite = kind.first_scale, 0
    for number, index in enumerate(order, start=1):
        output = module(torch.from_numpy(INPUTS[index]))
        slope = (output.detach().numpy() - TARGETS[index]) / len(output)
        output.backward(torch.from_numpy(slope) * scale)
        gradients = {
            name: (p.grad.float() / scale).to(p.dtype).numpy()
            for name, p in module.named_parameters()
        }
        module.zero_grad()
        if all(numpy.isfinite(gradient).all() for gradient in gradients.values()):
            n_finite += 1
            if n_finite == INTERVAL:
                scale, n_finite = scale * GROWTH, 0
            yield number, arrays_of(module), gradients
        else:
            scale, n_finite = scale * BACKOFF, 0
            yield number, arrays_of(module), None
