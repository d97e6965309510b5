"""A task that trains in a moment, as a config for the command line and for `Trainer`."""

import numpy
from thinc.api import SGD, CategoricalCrossentropy, Config, Relu, Softmax, chain

from thinc_swa.training.trainer import Trainer

TEXT = """
[training]
seed = 1
max_steps = 60
batch_size = 8
eval_frequency = 10

[dataset]
@datasets = "npz.v1"
path = "{data}"

[loss]
@losses = "CategoricalCrossentropy.v3"

[model]
@layers = "chain.v1"

[model.*.hidden]
@layers = "Relu.v1"
nO = 8
dropout = 0.2

[model.*.output]
@layers = "Softmax.v1"

{optimizer}
"""

ADAM = """
[optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
use_averages = false
"""

SWA = """
[optimizer]
@optimizers = "SWA.v1"
start_step = 20
freq = 3

[optimizer.optimizer]
@optimizers = "Lookahead.v1"
freq = 4

[optimizer.optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
use_averages = false
"""


LOCAL_SGD = """
[optimizer]
@optimizers = "LocalSGD.v1"
freq = 4

[optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
use_averages = false
"""

TWO_WIDTHS = """
[optimizer]
@optimizers = "EMA.v1"
sigma_rel = 0.1

[optimizer.optimizer]
@optimizers = "EMA.v1"
sigma_rel = 0.05

[optimizer.optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = {learn_rate}
use_averages = false
"""

KEEP = """
[callbacks]

[callbacks.keep]
@callbacks = "keep_averages.v1"
freq = {freq}
"""


def make_arrays(n_train=50, n_dev=40, seed=0):
    """Points of three classes that overlap."""
    random = numpy.random.default_rng(seed)
    centers = numpy.array([[1, 0, 0.5], [-1, 1, 0], [0, -1, -0.5]])
    arrays = {}
    for name, n_rows in (("train", n_train), ("dev", n_dev)):
        classes = numpy.arange(n_rows) % 3
        X = centers[classes] + random.normal(0, 0.9, (n_rows, 3))
        arrays[f"{name}_X"] = X.astype("float32")
        arrays[f"{name}_Y"] = numpy.eye(3, dtype="float32")[classes]
    return arrays


def make_dataset(**settings):
    arrays = make_arrays(**settings)
    return (arrays["train_X"], arrays["train_Y"]), (arrays["dev_X"], arrays["dev_Y"])


def write_config(folder, name="tiny", optimizer=SWA, more="", **settings):
    """A config file, and the data that it names beside it.

    settings (Any): What to change in [training].
    """
    data = folder / "data.npz"
    if not data.exists():
        numpy.savez(data, **make_arrays())
    config = Config().from_str(TEXT.format(data=data, optimizer=optimizer) + more)
    config["training"].update(settings)
    path = folder / f"{name}.cfg"
    config.to_disk(path)
    return path


class SequenceLoss:
    """As Thinc's for sequences, which takes one-hot rows for negative examples."""

    def __call__(self, predictions, targets):
        gradients = [(g - t) / len(g) for g, t in zip(predictions, targets, strict=True)]
        return gradients, float(sum((gradient**2).sum() for gradient in gradients))


def make_model():
    return chain(Relu(8, dropout=0.2), Softmax())


def make_trainer(optimizer=None, callbacks=(), dataset=None, model=None, **settings):
    settings = {"max_steps": 20, "batch_size": 8, "eval_frequency": 10, **settings}
    return Trainer(
        model or make_model(),
        optimizer or SGD(0.1, use_averages=False),
        CategoricalCrossentropy(),
        dataset or make_dataset(),
        callbacks=callbacks,
        **settings,
    )


def weights_of(model):
    return [
        node.get_param(name).copy()
        for node in model.walk()
        for name in node.param_names
        if node.has_param(name)
    ]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        numpy.testing.assert_array_equal(one, other)
