"""Texts whose next byte depends on what was long before, and models that read them."""

import numpy
from thinc.api import (
    Config,
    Embed,
    SequenceCategoricalCrossentropy,
    Softmax_v2,
    chain,
    with_array,
    with_padded,
)
from tiny import ADAM

from thinc_swa.layers.stateful_lstm import stateful_lstm
from thinc_swa.training import Trainer
from thinc_swa.training.streams import stream_rows

KEYS = b"abcd"


CONFIG = """
[dataset]
@datasets = "text.v1"
path = "{path}"
length = 8
dev_size = 0.2

[loss]
@losses = "SequenceCategoricalCrossentropy.v3"

[training]
seed = 1
max_steps = 70
batch_size = 6
order = "streams"
eval_frequency = 30

[model]
@layers = "chain.v1"

[model.*.embed]
@layers = "with_array.v1"

[model.*.embed.layer]
@layers = "Embed.v1"
nO = 8
nV = 256

[model.*.lstm]
@layers = "with_padded.v1"

[model.*.lstm.layer]
@layers = "StatefulLSTM.v1"
nO = 8
nI = 8

[model.*.output]
@layers = "with_array.v1"

[model.*.output.layer]
@layers = "Softmax.v2"
nO = 256
nI = 8

{optimizer}
"""


def make_text(n_bytes, seed=0):
    """Chapters, each of which repeats a key with up to two dashes between: "b-bb--b--cc-c"."""
    random = numpy.random.default_rng(seed)
    text = b""
    while len(text) < n_bytes:
        key = bytes([KEYS[random.integers(len(KEYS))]])
        for _ in range(random.integers(8, 25)):
            text += b"-" * random.integers(3) + key
    return text[:n_bytes]


def config_of(folder, optimizer=ADAM, **settings):
    """A config that trains on a text beside it.

    settings (Any): What to change in [training].
    """
    path = folder / "text.txt"
    path.write_bytes(make_text(2600))
    config = Config().from_str(CONFIG.format(path=path, optimizer=optimizer))
    config["training"].update(settings)
    return config


def make_dataset(n_train=50, n_dev=30, length=8, seed=0):
    """As `text.v1` makes it."""
    n_rows = n_train + n_dev
    numbers = numpy.frombuffer(make_text(n_rows * length + 1, seed=seed), "uint8").astype("i")
    X = list(numbers[:-1].reshape(n_rows, length))
    Y = list(numbers[1:].reshape(n_rows, length))
    return (X[:n_train], Y[:n_train]), (X[n_train:], Y[n_train:])


def make_model(lstm=None, width=8):
    return chain(
        with_array(Embed(width, 256)),
        with_padded(lstm or stateful_lstm(width, width)),
        with_array(Softmax_v2(256, width)),
    )


def make_trainer(optimizer, callbacks=(), *, model=None, dataset=None, **settings):
    settings = {"max_steps": 20, "batch_size": 6, "order": "streams", **settings}
    return Trainer(
        model or make_model(),
        optimizer,
        SequenceCategoricalCrossentropy(),
        dataset or make_dataset(),
        callbacks=callbacks,
        **{"eval_frequency": 5, **settings},
    )


def predict_streams(model, X, n_streams, *, keeps_state=True):
    """Predictions of all pieces of a text but those that are left over, in their order, from
    the initial state on.

    keeps_state (bool): Whether the state goes on from one batch to the next.
    """
    length = len(X) // n_streams
    found = {}
    for step in range(length):
        if step == 0 or not keeps_state:
            model.layers[1].layers[0].attrs["state"] = None
        rows = [stream * length + step for stream in range(n_streams)]
        found.update(zip(rows, model.predict([X[row] for row in rows]), strict=True))
    assert sorted(found) == sorted(stream_rows(len(X), n_streams))
    return [found[row] for row in sorted(found)]


def key_entropy(model, split, n_streams, *, keeps_state):
    """Mean cross-entropy of the keys that only dashes come before in the same piece, which are
    a guess for a model without state between batches. The first piece of each stream is left
    out."""
    X, Y = split
    predictions = predict_streams(model, X, n_streams, keeps_state=keeps_state)
    losses = []
    for row, predicted in enumerate(predictions):
        first = next((i for i, byte in enumerate(Y[row]) if byte in KEYS), None)
        is_guess = first is not None and not any(byte in KEYS for byte in X[row][: first + 1])
        if is_guess and row % (len(X) // n_streams):
            shares = predicted[first][list(KEYS)]
            losses.append(-numpy.log(predicted[first, Y[row][first]] / shares.sum()))
    assert len(losses) > 100
    return float(numpy.mean(losses))
