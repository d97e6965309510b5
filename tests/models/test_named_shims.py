"""Names of PyTorch layers, which are keys in saved files."""

import pytest
from helpers import require

require("torch")

import torch  # noqa: E402
from thinc.api import Linear, PyTorchShim, PyTorchWrapper, Shim, chain  # noqa: E402

from thinc_swa.models.parameters import named_parameters, named_shims  # noqa: E402


class OtherShim(Shim):
    """Shim of another library."""


@pytest.fixture
def model():
    """Node 0 is the chain, and node 2 has two PyTorch shims and another one between them."""
    model = chain(Linear(2, 2), PyTorchWrapper(torch.nn.Linear(2, 2)), Linear(2, 2))
    model.initialize()
    model.layers[1].shims.extend([OtherShim(None), PyTorchShim(torch.nn.Linear(2, 2))])
    return model


def test_names_in_a_model(model):
    first, _, second = model.layers[1].shims
    assert list(named_shims(model)) == [("2/0", first), ("2/2", second)]
    assert [name for name, _, _ in named_parameters(model)] == [
        *("1/W", "1/b"),
        *("2/0/weight", "2/0/bias", "2/2/weight", "2/2/bias"),
        *("3/W", "3/b"),
    ]


def test_shims_without_a_module_have_names_too(model):
    first, _, second = model.layers[1].shims
    first._model = None
    assert list(named_shims(model)) == [("2/0", first), ("2/2", second)]
    names = [name for name, _, _ in named_parameters(model)]
    assert names == ["1/W", "1/b", "2/2/weight", "2/2/bias", "3/W", "3/b"]


def test_names_in_a_pipeline(model):
    require("spacy")
    import spacy

    nlp = spacy.blank("en")
    for name in ("first", "second", "third"):
        nlp.add_pipe("tagger", name=name)
        nlp.get_pipe(name).model = model
    shim, _, other = model.layers[1].shims
    assert list(named_shims(nlp, exclude=["second"])) == [
        *(("first/2/0", shim), ("first/2/2", other)),
        *(("third/2/0", shim), ("third/2/2", other)),
    ]
