"""Choose the width of an average after the training.

    python examples/10_ema_width.py

Two power-function averages are kept during the training, and saved after every 100 steps. From
these snapshots the average of any width is reconstructed, without training again. `thinc-swa
train` does the same with the callback `keep_averages.v1`, and `thinc-swa reconstruct` has the
rest.
"""

import tempfile

import numpy
from digits import accuracy, initialize, load_digits, training_steps
from thinc.api import Adam, Relu, Softmax, chain

from thinc_swa import EMA, reconstruct_average, save_averages, use_averages


def make_model(digits):
    model = chain(Relu(64, dropout=0.2), Relu(64, dropout=0.2), Softmax())
    initialize(model, digits, seed=0)
    return model


def adam():
    return Adam(0.02, use_averages=False)


def join(model, weights):
    """All weights as one vector."""
    nodes = [(node, name) for node in model.walk() for name in node.param_names]
    return numpy.concatenate([weights(node, name).ravel() for node, name in nodes])


digits = load_digits()
length = {"max_steps": 2000, "batch_size": 32}

# A training with averages of two widths, and snapshots of them.
snapshots = tempfile.TemporaryDirectory()
model = make_model(digits)
optimizer = EMA(EMA(adam(), sigma_rel=0.05), sigma_rel=0.1)
for step in training_steps(model, optimizer, digits, **length):
    if step % 100 == 0:
        save_averages(snapshots.name, optimizer, model)

raw = accuracy(model, digits.test_images, digits.test_labels)
print(f"raw weights           {raw:5.2f}")
for sigma_rel in (0.03, 0.05, 0.08, 0.1, 0.15, 0.2):
    averages = reconstruct_average(snapshots.name, model, sigma_rel=sigma_rel)
    with use_averages(model, averages):
        score = accuracy(model, digits.test_images, digits.test_labels)
    print(f"sigma_rel {sigma_rel:<8}    {score:5.2f}")

# The same training again, now with an average of the width 0.15.
averages = reconstruct_average(snapshots.name, model, sigma_rel=0.15)
other = make_model(digits)
kept = EMA(adam(), sigma_rel=0.15)
for _ in training_steps(other, kept, digits, **length):
    pass
reconstructed = join(model, lambda node, name: averages[node.id, name])
true = join(other, lambda node, name: kept.averages[node.id, name])
last = join(other, lambda node, name: node.get_param(name))
error = numpy.linalg.norm(reconstructed - true) / numpy.linalg.norm(true - last)
print(f"error at 0.15: {100 * error:.2f} % of the distance from the raw weights")
snapshots.cleanup()
