"""Encoders of spaCy's tok2vec layers with PyTorch layers, registered for configs."""

import torch
from spacy.ml.models.tok2vec import MaxoutWindowEncoder
from spacy.util import registry
from thinc.api import PyTorchWrapper, chain, with_array

BATCH_NORM = "tests.batch_norm_encoder.v1"


@registry.architectures(BATCH_NORM)
def make_encoder(width: int):
    """spaCy's encoder, and BatchNorm after it."""
    torch.manual_seed(0)
    layer = with_array(PyTorchWrapper(torch.nn.BatchNorm1d(width)))
    model = chain(MaxoutWindowEncoder(width, 1, 2, 1), layer)
    model.set_dim("nO", width)
    return model
