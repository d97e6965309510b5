"""A small PyTorch module and a training step. Import it only if PyTorch is installed."""

import numpy
import torch

N_STEPS = 7
X = numpy.random.RandomState(0).uniform(-1, 1, (12, 5)).astype("f")
Y = numpy.eye(3, dtype="f")[numpy.arange(12) % 3]


def make_module():
    """A module with fixed initial weights."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3), torch.nn.Softmax(-1)
    )


def step(model, optimizer):
    """Run one training step."""
    predicted, backprop = model.begin_update(X)
    backprop((predicted - Y) / len(Y))
    model.finish_update(optimizer)
    optimizer.step_schedules()


def weights_of(module):
    """Copies of the weights by name."""
    return {name: p.detach().numpy().copy() for name, p in module.named_parameters()}
