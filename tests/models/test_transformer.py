"""`spacy train` with a transformer saves the averages, those of PyTorch layers included."""

import string

import numpy
import pytest
from helpers import require

require("spacy", "torch", "spacy_curated_transformers")

import spacy  # noqa: E402
from corpus import generate_records, write_corpus  # noqa: E402
from pipelines import (  # noqa: E402
    CONFIGS,
    Trainer,
    as_arguments,
    assert_close,
    is_same,
    names_of_keys,
    read_config,
    run_python,
    run_spacy,
    weights_of,
)
from reference import due, mean  # noqa: E402
from spacy.training import Corpus  # noqa: E402
from spacy.util import load_model_from_config  # noqa: E402
from thinc.api import Adam, Optimizer  # noqa: E402

from thinc_swa import average_models, use_averages  # noqa: E402

pytestmark = pytest.mark.slow

NAME = "transformer_swa"
# spaCy counts from 0 and stops after its step `max_steps`: one step more.
MAX_STEPS = 30
N_STEPS = MAX_STEPS + 1
START_STEP = round(0.75 * MAX_STEPS)
FREQ = 2
# High learning rates, so that the weights change much in a few steps.
SETTINGS = {
    "training.max_steps": MAX_STEPS,
    "training.eval_frequency": MAX_STEPS,
    "training.batcher.size": 500,
    "training.optimizer.freq": FREQ,
    "training.optimizer.learn_rate": 0.01,
    "training.optimizer.optimizer.learn_rate": 0.01,
}

# spacy-curated-transformers 0.3.1, the last version for spaCy 3, calls float() with an array of
# one element, which is an error in NumPy 2.4 and a warning in older versions. The patch
# replaces float() in that module.
NUMPY_REFUSES = tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4)
PATCH_FLOAT = """
from spacy_curated_transformers.pipeline import transformer
transformer.float = lambda array: array.item()
"""
WITHOUT_FIX = """
import thinc_swa.optimizers.base
thinc_swa.optimizers.base.fix_pytorch_shim = lambda: False
"""
# `python -m spacy`, after other code.
SPACY = """
import runpy
runpy.run_module("spacy", run_name="__main__")
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Paths of a small corpus and of the vocabulary of the transformer."""
    folder = tmp_path_factory.mktemp("corpus")
    train_path, dev_path = write_corpus(folder, 200, 60, get_records=generate_records)
    pieces_path = folder / "pieces.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.printable[:94]]
    pieces_path.write_text("\n".join(pieces), encoding="utf8")
    paths = {"train": train_path, "dev": dev_path, "pieces": pieces_path}
    return {f"paths.{name}": str(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def settings(paths):
    return {**SETTINGS, **paths}


@pytest.fixture(scope="module", autouse=True)
def patched_float():
    """The patch for trainings in this process."""
    with pytest.MonkeyPatch.context() as patch:
        from spacy_curated_transformers.pipeline import transformer

        patch.setattr(transformer, "float", lambda array: array.item(), raising=False)
        yield


@pytest.fixture(scope="module")
def training(settings, tmp_path_factory):
    """A training in this process that records the weights after each step."""
    return Trainer(read_config(NAME, settings), tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def saved_path(settings, tmp_path_factory):
    """The pipeline saved by `spacy train`."""
    return run_training(settings, tmp_path_factory.mktemp("spacy"))


@pytest.fixture(scope="module")
def averages(training):
    """The expected averages: means in float64."""
    return mean([training.history[step] for step in due(START_STEP, FREQ, N_STEPS)])


def run_training(settings, folder, before="", name=NAME):
    """Run `spacy train` in a new process.

    before (str): Code to run first in that process.
    """
    arguments = ["train", CONFIGS / f"{name}.cfg", "--output", "output"]
    arguments += as_arguments(settings)
    code = before + PATCH_FLOAT if NUMPY_REFUSES else before
    if code:
        result = run_python(folder, code + SPACY, *arguments)
    else:
        result = run_spacy(folder, *arguments)
    assert result.returncode == 0, result.stderr
    return folder / "output" / "model-last"


def torch_part(weights):
    """The parameters of PyTorch modules, whose names contain a dot."""
    return {name: array for name, array in weights.items() if "." in name[-1]}


def thinc_part(weights):
    return {name: array for name, array in weights.items() if "." not in name[-1]}


def length(weights):
    return numpy.sqrt(sum((array.astype("float64") ** 2).sum() for array in weights.values()))


def difference(first, second):
    return {name: array - second[name] for name, array in first.items()}


def predict(nlp, dev_path):
    """The entities of the development corpus and the transformer's vectors of all pieces."""
    texts = [example.reference.text for example in Corpus(dev_path)(nlp)]
    docs = list(nlp.pipe(texts))
    entities = [[(ent.start, ent.end, ent.label_) for ent in doc.ents] for doc in docs]
    vectors = [doc._.trf_data.last_hidden_layer_state.dataXd for doc in docs]
    return entities, numpy.concatenate(vectors)


@pytest.mark.parametrize("name", [NAME, "transformer_groups"])
def test_config_is_complete(name, paths):
    """`spacy init fill-config` adds only default arguments of the optimizers."""
    config = read_config(name, paths)
    filled = load_model_from_config(config, auto_fill=True).config.copy()
    block, filled_block = config["training"]["optimizer"], filled["training"]["optimizer"]
    while block:
        for argument in set(filled_block) - set(block):
            del filled_block[argument]
        block, filled_block = block.get("optimizer"), filled_block.get("optimizer")
    assert filled == config


def test_saved_weights_are_the_averages(saved_path, training, averages):
    assert len(training.history) == N_STEPS + 1
    saved = weights_of(spacy.load(saved_path))
    # Two layers with 12 parameters each and embeddings with 5; and 7 parameters of the NER.
    assert (len(torch_part(saved)), len(thinc_part(saved))) == (29, 7)
    assert_close(saved, averages, rtol=1e-6, atol=1e-7)
    assert_close(training.saved, averages, rtol=1e-6, atol=1e-7)
    # The last raw weights differ from the averages in every parameter.
    last = training.history[-1]
    for part in (torch_part, thinc_part):
        trained = difference(part(last), part(training.history[0]))
        assert length(difference(part(saved), part(last))) > 0.01 * length(trained)
    for name, array in saved.items():
        assert not numpy.allclose(array, last[name], 1e-3, 1e-4), name


def test_evaluations_use_the_averages(training, averages):
    before, at_the_end = training.evaluated
    assert is_same(before, training.history[1])
    assert_close(at_the_end, averages, rtol=1e-6, atol=1e-7)


def test_saved_pipeline_predicts_with_the_averages(saved_path, training, settings):
    dev_path = settings["paths.dev"]
    entities, vectors = predict(spacy.load(saved_path), dev_path)
    assert any(entities)
    with use_averages(training.nlp, training.optimizer):
        averaged_entities, averaged_vectors = predict(training.nlp, dev_path)
    assert entities == averaged_entities
    numpy.testing.assert_allclose(vectors, averaged_vectors, rtol=1e-4, atol=1e-5)
    with training.nlp.use_params(training.optimizer.averages):
        numpy.testing.assert_array_equal(predict(training.nlp, dev_path)[1], averaged_vectors)
    _, raw_vectors = predict(training.nlp, dev_path)
    assert abs(vectors - raw_vectors).max() > 0.01
    assert is_same(weights_of(training.nlp), training.history[-1])


def test_without_the_fix_raw_weights_are_saved(settings, training, averages, tmp_path):
    """Without the fix Thinc saves the raw weights of PyTorch layers, so the tests above would
    fail."""
    saved = weights_of(spacy.load(run_training(settings, tmp_path, before=WITHOUT_FIX)))
    last = torch_part(training.history[-1])
    assert_close(thinc_part(saved), thinc_part(averages), rtol=1e-6, atol=1e-7)
    assert_close(torch_part(saved), last, rtol=1e-6, atol=1e-7)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_close(torch_part(saved), torch_part(averages), rtol=1e-3, atol=1e-4)


# Parameter groups


class Separate(Optimizer):
    """A separate Adam for each combination of group settings, chosen by parameter names
    without paths and glob patterns."""

    __slots__ = ["names", "adams"]

    def __init__(self, names):
        super().__init__(0.0, use_averages=False)
        self.names = names
        self.adams = {}

    def __call__(self, key, weights, gradient, *, lr_scale=1.0):
        name = self.names[key][-1]
        is_decayed = name != "b" and not name.endswith("bias") and "norm" not in name
        scale = 1.0
        if "embeddings" in name:
            scale = 0.8**2
        elif "layers.0" in name:
            scale = 0.8
        if (is_decayed, scale) not in self.adams:
            L2 = GROUPS_L2 if is_decayed else 0.0
            self.adams[is_decayed, scale] = Adam(0.01, L2=L2, use_averages=False)
        adam = self.adams[is_decayed, scale]
        return adam(key, weights, gradient, lr_scale=scale)


GROUPS_L2 = 0.5
INNERMOST = "training.optimizer.optimizer.optimizer"
GROUPS_SETTINGS = {
    "training.max_steps": 12,
    "training.eval_frequency": 12,
    "training.batcher.size": 500,
    "training.optimizer.freq": FREQ,
    f"{INNERMOST}.learn_rate": 0.01,
    f"{INNERMOST}.L2": GROUPS_L2,
}


@pytest.fixture(scope="module")
def groups_settings(paths):
    return {**GROUPS_SETTINGS, **paths}


def test_parameter_groups_equal_separate_optimizers(groups_settings, tmp_path):
    saved = weights_of(
        spacy.load(run_training(groups_settings, tmp_path, name="transformer_groups"))
    )
    names = {}
    separate = Separate(names)
    spacy.registry.optimizers("separate.v1", func=lambda: separate)
    spacy.registry.callbacks("names.v1", func=lambda: lambda n: names.update(names_of_keys(n)))
    config = read_config("transformer_groups", groups_settings)
    config["training"]["optimizer"]["optimizer"] = {"@optimizers": "separate.v1"}
    config["initialize"]["after_init"] = {"@callbacks": "names.v1"}
    expected = Trainer(config, tmp_path / "separate")
    assert set(separate.adams) == {(d, s) for d in (True, False) for s in (1.0, 0.8, 0.8**2)}
    assert_close(saved, expected.saved, rtol=1e-6, atol=1e-7)


def test_parameter_groups_without_registered_paths_are_refused(groups_settings, tmp_path):
    """The error message names the missing callback."""
    config = read_config("transformer_groups", groups_settings)
    config["initialize"]["after_init"] = None
    with pytest.raises(
        ValueError, match=r"\[initialize.after_init\] with @callbacks = \"thinc"
    ):
        Trainer(config, tmp_path)


def test_saved_pipelines_are_averaged(saved_path, tmp_path):
    """The weights of PyTorch layers, which are in the bytes of shims."""
    nlp = spacy.load(saved_path)
    before = weights_of(nlp)
    random = numpy.random.default_rng(0)
    for name in nlp.pipe_names:
        for node in nlp.get_pipe(name).model.walk():
            for shim in node.shims:
                for tensor in shim._model.parameters():
                    noise = random.normal(size=tuple(tensor.shape)).astype("f")
                    tensor.data += tensor.data.new_tensor(noise)
    nlp.to_disk(tmp_path / "other")
    after = weights_of(nlp)
    average_models([saved_path, tmp_path / "other"], tmp_path / "mean")
    mean_nlp = spacy.load(tmp_path / "mean")
    assert_close(weights_of(mean_nlp), mean([before, after]))
    assert length(difference(torch_part(after), before)) > 1
    assert mean_nlp("Nike makes shoes")._.trf_data is not None
