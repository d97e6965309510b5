"""Averages of spaCy pipelines in Python. `spacy train` is tested in test_spacy.py."""

import numpy
import pytest
from helpers import require

require("spacy")

import spacy  # noqa: E402
from reference import assert_equal, to_numpy  # noqa: E402
from spacy.language import Language  # noqa: E402
from spacy.training import Example  # noqa: E402
from thinc.api import Adam  # noqa: E402

from thinc_swa import SWA, apply_averages, update_batch_norm, use_averages  # noqa: E402
from thinc_swa.models.parameters import named_parameters  # noqa: E402

SENTENCES = [
    ("I like green eggs", ["PRON", "VERB", "ADJ", "NOUN"]),
    ("Eat blue ham", ["VERB", "ADJ", "NOUN"]),
]


@pytest.fixture
def nlp():
    """A pipeline of two taggers that share a tok2vec layer."""
    nlp = spacy.blank("en")
    for name in ("tagger", "other"):
        nlp.add_pipe("tagger", name=name)
    nlp.initialize(lambda: make_examples(nlp))
    other = nlp.get_pipe("other").model
    other.layers[0] = nlp.get_pipe("tagger").model.layers[0]
    return nlp


def make_examples(nlp):
    return [Example.from_dict(nlp.make_doc(text), {"tags": tags}) for text, tags in SENTENCES]


def train(nlp, optimizer, n_steps=5):
    for _ in range(n_steps):
        nlp.update(make_examples(nlp), sgd=optimizer)
        optimizer.step_schedules()


def weights_of(nlp):
    return {key: parameter.get() for _, key, parameter in named_parameters(nlp)}


def test_shared_layers_are_restored(nlp):
    optimizer = SWA(Adam(0.01), start_step=0)
    train(nlp, optimizer)
    before = to_numpy(weights_of(nlp))
    assert set(before) == set(optimizer.averages)
    with use_averages(nlp, optimizer):
        assert_equal(weights_of(nlp), optimizer.averages)
    assert_equal(weights_of(nlp), before)
    with pytest.raises(RuntimeError), use_averages(nlp, optimizer):
        raise RuntimeError
    assert_equal(weights_of(nlp), before)
    apply_averages(nlp, optimizer)
    assert_equal(weights_of(nlp), optimizer.averages)
    train(nlp, optimizer)


def test_averages_are_applied_to_disabled_components(nlp):
    optimizer = SWA(Adam(0.01), start_step=0)
    train(nlp, optimizer)
    with nlp.select_pipes(disable="other"):
        apply_averages(nlp, optimizer)
    assert_equal(weights_of(nlp), optimizer.averages)


def test_another_pipeline_is_refused(nlp):
    optimizer = SWA(Adam(0.01), start_step=0)
    train(nlp, optimizer)
    other = spacy.blank("en")
    other.add_pipe("tagger")
    other.initialize(lambda: make_examples(other))
    before = to_numpy(weights_of(other))
    with pytest.raises(ValueError, match="none of them belongs"):
        apply_averages(other, optimizer)
    assert_equal(weights_of(other), before)


def test_pipeline_without_models_is_unchanged():
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    with use_averages(nlp, SWA(Adam())):
        pass
    update_batch_norm(nlp, None)


def test_update_batch_norm_of_a_pipeline():
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    class Lengths:
        """A component that predicts from the lengths of words."""

        def __init__(self):
            self.model = PyTorchWrapper(torch.nn.BatchNorm1d(1))

        def __call__(self, doc):
            lengths = numpy.array([[len(token)] for token in doc], dtype="f")
            self.model.predict(lengths)
            return doc

    Language.factory("lengths", func=lambda nlp, name: Lengths())
    nlp = spacy.blank("en")
    layer = nlp.add_pipe("lengths").model.shims[0]._model
    update_batch_norm(nlp, [["a bb", "cccc dd"], ["eee fff"]])
    assert float(layer.running_mean) == pytest.approx((1.5 + 3.0 + 3.0) / 3)
    update_batch_norm(nlp, [["a"]], exclude=["lengths"])
    assert float(layer.running_mean) == pytest.approx(2.5)
    with pytest.raises(ValueError, match=r"failed on batch 1 \(list\)"):
        update_batch_norm(nlp, [[3]])
    assert float(layer.running_mean) == pytest.approx(2.5)
