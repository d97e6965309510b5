"""Buffers of PyTorch layers on several workers."""

import numpy
import pytest
from helpers import require
from thinc.api import Adam, PyTorchWrapper

from thinc_swa import LocalSGD
from thinc_swa.distributed import connect, run_simulated

require("torch")
import torch  # noqa: E402


class Layer(torch.nn.Module):
    """With buffers of several types, and a parameter that is not trained."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.register_buffer("large", torch.tensor([2**40 + 3, -7]))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.fixed = torch.nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, X):
        return self.norm(self.linear(X))


def train(communicator, start_step, reduce_dtype):
    """Two steps, which end with an exchange.

    RETURNS: The state of the layer before the last exchange and after it.
    """
    torch.manual_seed(0)
    layer = Layer()
    model = PyTorchWrapper(layer).initialize()
    optimizer = LocalSGD(Adam(0.01), freq=2, start_step=start_step, reduce_dtype=reduce_dtype)
    connect(optimizer, model, communicator)
    random = numpy.random.default_rng(communicator.rank)
    for _ in range(2):
        predicted, backprop = model.begin_update(random.uniform(-1, 1, (6, 5)).astype("f"))
        backprop(random.uniform(-1, 1, predicted.shape).astype("f"))
        layer.large += communicator.rank
        layer.norm.num_batches_tracked += communicator.rank
        model.finish_update(optimizer)
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        optimizer.step_schedules()
    return before, layer.state_dict()


@pytest.mark.parametrize("reduce_dtype", ["float32", "float16"])
@pytest.mark.parametrize("start_step", [0, 2])
def test_buffers(start_step, reduce_dtype):
    """Floating-point buffers are averaged, others come from rank 0, at synchronisations and
    with averaged gradients, without rounding to float16."""
    found = run_simulated(3, lambda communicator: train(communicator, start_step, reduce_dtype))
    befores = [before for before, _ in found]
    first = found[0][1]
    for name in ("norm.running_mean", "norm.running_var"):
        mean = torch.stack([before[name] for before in befores]).mean(0)
        assert not torch.allclose(befores[0][name], befores[1][name])
        torch.testing.assert_close(first[name], mean)
    assert first["norm.num_batches_tracked"].item() == 2
    assert first["large"].tolist() == [2**40 + 3, -7]
    assert first["flags"].tolist() == [True, False]
    for _, after in found[1:]:
        for name, value in after.items():
            assert torch.equal(value, first[name]), name
    assert first["linear.weight"].isfinite().all()
