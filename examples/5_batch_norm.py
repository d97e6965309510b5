"""Re-estimate the statistics of BatchNorm for averaged weights.

    python examples/5_batch_norm.py

A small convolutional network in PyTorch, with SWA at a raised learning rate. BatchNorm keeps
the running mean and variance of its inputs during training, so they belong to the weights of
the last steps. With the averaged weights its inputs differ, and the accuracy can be far too low
until `update_batch_norm` has re-estimated the statistics.
"""

import sys
import warnings
from statistics import mean

from digits import Digits, accuracy, initialize, load_digits, training_steps
from thinc.api import Adam, PyTorchWrapper, Softmax, chain, fix_random_seed

from thinc_swa import SWA, apply_averages, update_batch_norm

try:
    from torch import nn
except ImportError:
    sys.exit("This example needs PyTorch: pip install torch")

# Thinc 9.1 calls PyTorch by a name that PyTorch 2.4 and later call deprecated.
warnings.filterwarnings("ignore", "`torch.cuda.amp.autocast", FutureWarning)

N_SEEDS = 5
MAX_STEPS = 600
BATCH_SIZE = 32


def make_network() -> nn.Module:
    """From rows of 64 pixels to 128 features."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )


def train(digits: Digits, seed: int) -> tuple[float, float, float]:
    """The accuracy with the raw weights, with their averages, and with the averages and
    statistics that belong to them."""
    fix_random_seed(seed)
    model = chain(PyTorchWrapper(make_network()), Softmax())
    initialize(model, digits, seed)
    optimizer = SWA(
        Adam(0.01, use_averages=False),
        start_step=0.5,
        total_steps=MAX_STEPS,
        freq=38,  # Once in an epoch.
        learn_rate=0.03,
    )
    for _ in training_steps(
        model, optimizer, digits, max_steps=MAX_STEPS, batch_size=BATCH_SIZE
    ):
        pass
    plain = accuracy(model, digits.test_images, digits.test_labels)
    apply_averages(model, optimizer)
    averaged = accuracy(model, digits.test_images, digits.test_labels)
    update_batch_norm(model, model.ops.minibatch(256, digits.train_images))
    updated = accuracy(model, digits.test_images, digits.test_labels)
    return plain, averaged, updated


def print_row(*cells: object) -> None:
    print("{:<6}{:>15}{:>12}{:>32}".format(*cells))


digits = load_digits()
results = []
print("Accuracy on the test images in %")
print_row("seed", "raw weights", "averages", "averages, updated statistics")
for seed in range(N_SEEDS):
    results.append(train(digits, seed))
    print_row(seed, *(f"{result:.2f}" for result in results[-1]))
print_row("mean", *(f"{mean(column):.2f}" for column in zip(*results, strict=True)))
