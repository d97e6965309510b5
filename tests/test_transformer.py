"""A pipeline with a transformer in `spacy train`: what is saved are the averages, those of the
PyTorch layers too."""

import string

import numpy
import pytest
from helpers import require

require("spacy", "torch", "spacy_curated_transformers")

import spacy  # noqa: E402
from corpus import write_corpus  # noqa: E402
from pipelines import (  # noqa: E402
    CONFIGS,
    Training,
    as_arguments,
    assert_close,
    is_same,
    read_config,
    run_python,
    run_spacy,
    weights_of,
)
from reference import due, mean  # noqa: E402
from spacy.util import load_model_from_config  # noqa: E402

from thinc_swa import use_averages  # noqa: E402

# What PyTorch says when spaCy imports curated-transformers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)

NAME = "transformer_swa"
# spaCy counts from 0 and stops after its step `max_steps`: one step more.
MAX_STEPS = 24
N_STEPS = MAX_STEPS + 1
START_STEP = 18
FREQ = 2
# A training that moves the weights far in a few steps.
SETTINGS = {
    "training.max_steps": MAX_STEPS,
    "training.eval_frequency": MAX_STEPS,
    "training.optimizer.freq": FREQ,
    "training.optimizer.learn_rate": 0.01,
    "training.optimizer.optimizer.learn_rate": 0.01,
}
TEXTS = ["I bought boots from Red Wing last week.", "My Nike shirts are old now.", "Socks!"]

# NumPy 2.4 makes an error of what spacy-curated-transformers 0.3.1, the last version for
# spaCy 3, does with its loss: float(array) for an array with one element. There it gets
# another float. Older versions of NumPy only warn.
NUMPY_REFUSES = tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4)
OTHER_FLOAT = """
from spacy_curated_transformers.pipeline import transformer
transformer.float = lambda array: array.item()
"""
WITHOUT_FIX = """
import thinc_swa.wrapper
thinc_swa.wrapper.fix_pytorch_shim = lambda: False
"""
# `python -m spacy`, when something else comes first.
SPACY = """
import runpy
runpy.run_module("spacy", run_name="__main__")
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A small corpus, and a file with the characters that the transformer knows."""
    folder = tmp_path_factory.mktemp("corpus")
    train_path, dev_path = write_corpus(folder, n_train=60, n_dev=20)
    pieces_path = folder / "pieces.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.printable[:94]]
    pieces_path.write_text("\n".join(pieces), encoding="utf8")
    paths = {"train": train_path, "dev": dev_path, "pieces": pieces_path}
    return {**SETTINGS, **{f"paths.{name}": str(path) for name, path in paths.items()}}


@pytest.fixture(scope="module")
def training(settings, tmp_path_factory):
    """A training in this process, and the weights after each of its steps."""
    with pytest.MonkeyPatch.context() as patch:
        from spacy_curated_transformers.pipeline import transformer

        patch.setattr(transformer, "float", lambda array: array.item(), raising=False)
        yield Training(read_config(NAME, settings), tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def saved_path(settings, tmp_path_factory):
    """What `spacy train` saves."""
    return run_training(settings, tmp_path_factory.mktemp("spacy"))


@pytest.fixture(scope="module")
def averages(training):
    """What the averages have to be: means in float64."""
    return mean([training.history[step] for step in due(START_STEP, FREQ, N_STEPS)])


def run_training(settings, folder, before=""):
    """The config as a user runs it, in a process of its own.

    before (str): What to do first in that process.
    """
    arguments = ["train", CONFIGS / f"{NAME}.cfg", "--output", "output"]
    arguments += as_arguments(settings)
    code = before + OTHER_FLOAT if NUMPY_REFUSES else before
    if code:
        result = run_python(folder, code + SPACY, *arguments)
    else:
        result = run_spacy(folder, *arguments)
    assert result.returncode == 0, result.stderr
    return folder / "output" / "model-last"


def torch_part(weights):
    """Only the parameters of PyTorch modules, which have a dot in their names."""
    return {name: array for name, array in weights.items() if "." in name[-1]}


def thinc_part(weights):
    return {name: array for name, array in weights.items() if "." not in name[-1]}


def distance(first, second):
    """Between two sets of weights, as a part of the length of the second."""
    squares = sum(((array - second[name]) ** 2).sum() for name, array in first.items())
    return numpy.sqrt(squares / sum((array**2).sum() for array in second.values()))


def predict(nlp):
    """The entities, and the transformer's vectors of all pieces."""
    docs = list(nlp.pipe(TEXTS))
    entities = [[(ent.start, ent.end, ent.label_) for ent in doc.ents] for doc in docs]
    vectors = [doc._.trf_data.last_hidden_layer_state.dataXd for doc in docs]
    return entities, numpy.concatenate(vectors)


def test_config_is_complete(settings):
    """`spacy init fill-config` adds nothing, except arguments of SWA that are left at their
    defaults."""
    config = read_config(NAME, settings)
    filled = load_model_from_config(config, auto_fill=True).config.copy()
    optimizer = config["training"]["optimizer"]
    assert optimizer.items() <= filled["training"]["optimizer"].items()
    filled["training"]["optimizer"] = optimizer
    assert filled == config


def test_saved_weights_are_the_averages(saved_path, training, averages):
    assert len(training.history) == N_STEPS + 1
    saved = weights_of(spacy.load(saved_path))
    # Two layers with 12 parameters each, and the embeddings with 5; and those of the NER.
    assert (len(torch_part(saved)), len(thinc_part(saved))) == (29, 7)
    assert_close(saved, averages, rtol=1e-6, atol=1e-7)
    assert_close(training.saved, averages, rtol=1e-6, atol=1e-7)
    # Each one, not only some, is another at the end of the training.
    for part in (torch_part, thinc_part):
        assert distance(part(saved), part(training.history[-1])) > 0.01
    for name, array in saved.items():
        assert not numpy.allclose(array, training.history[-1][name], 1e-3, 1e-4), name


def test_evaluations_are_of_the_averages(training, averages):
    before, at_the_end = training.evaluated
    assert is_same(before, training.history[1])
    assert_close(at_the_end, averages, rtol=1e-6, atol=1e-7)


def test_saved_pipeline_predicts_with_the_averages(saved_path, training):
    entities, vectors = predict(spacy.load(saved_path))
    with use_averages(training.nlp, training.optimizer):
        averaged_entities, averaged_vectors = predict(training.nlp)
    assert entities == averaged_entities
    numpy.testing.assert_allclose(vectors, averaged_vectors, rtol=1e-4, atol=1e-5)
    with training.nlp.use_params(training.optimizer.averages):
        numpy.testing.assert_array_equal(predict(training.nlp)[1], averaged_vectors)
    _, raw_vectors = predict(training.nlp)
    assert abs(vectors - raw_vectors).max() > 0.01
    assert is_same(weights_of(training.nlp), training.history[-1])


def test_without_the_fix_pytorch_weights_are_not_averaged(
    settings, training, averages, tmp_path
):
    """So Thinc needs the fix, and these tests would notice if it was not there."""
    saved = weights_of(spacy.load(run_training(settings, tmp_path, before=WITHOUT_FIX)))
    assert_close(thinc_part(saved), thinc_part(averages), rtol=1e-6, atol=1e-7)
    assert_close(torch_part(saved), torch_part(training.history[-1]), rtol=1e-6, atol=1e-7)
    assert distance(torch_part(saved), torch_part(averages)) > 0.01
