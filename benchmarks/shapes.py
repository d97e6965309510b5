"""The shapes of the averaged parameters."""

import math


def count(shapes):
    """The number of parameters."""
    return sum(math.prod(shape) for shape in shapes)


# A spaCy pipeline of tok2vec and ner, as in configs/spacy/swa.cfg, after initialization.
_ENCODER_LAYER = [(96, 3, 288), (96, 3), (96,), (96,)]
SPACY_PIPELINE = (
    [(2000, 96), (1000, 96), (1000, 96), (1000, 96)]
    + [(96, 3, 384), (96, 3), (96,), (96,)]
    + 4 * _ENCODER_LAYER
    + [(3, 64, 2, 64), (64, 2), (1, 3, 64, 2), (6, 64), (6,), (64, 96), (64,)]
)

# RoBERTa-base: 125 million parameters.
_WIDTH, _HIDDEN = 768, 3072
_LINEAR = [(_WIDTH, _WIDTH), (_WIDTH,)]
_LAYER_NORM = [(_WIDTH,), (_WIDTH,)]
_LAYER = (
    4 * _LINEAR
    + _LAYER_NORM
    + [(_HIDDEN, _WIDTH), (_HIDDEN,), (_WIDTH, _HIDDEN), (_WIDTH,)]
    + _LAYER_NORM
)
_EMBEDDINGS = [(50265, _WIDTH), (514, _WIDTH), (1, _WIDTH)] + _LAYER_NORM
TRANSFORMER = _EMBEDDINGS + 12 * _LAYER + _LINEAR

LAYOUTS = {
    "10 thousand": [(10_000,)],
    "1 million": [(1_000_000,)],
    "30 million": [(30_000_000,)],
    "spaCy pipeline": SPACY_PIPELINE,
    "transformer": TRANSFORMER,
}

# Numbers of arrays for a million parameters, and numbers of parameters in one array.
N_ARRAYS = [1, 10, 100, 1000, 10_000]
N_PARAMETERS = [1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]


def split(n_parameters, n_arrays):
    """The shapes of arrays of equal size."""
    return [(n_parameters // n_arrays,)] * n_arrays
