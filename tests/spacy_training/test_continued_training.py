"""A pipeline that is trained further with L2SP, in `spacy train`."""

import numpy
import pytest
from helpers import require

require("spacy")

import spacy  # noqa: E402
from pipelines import CONFIGS, Trainer, as_arguments, read_config, run_spacy, weights_of  # noqa: E402
from spacy_cases import SMALL  # noqa: E402

from thinc_swa import interpolate_models  # noqa: E402

FEW_STEPS = {"training.max_steps": 20, "training.eval_frequency": 20}


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    """A saved pipeline."""
    settings = {**corpus, **SMALL, **FEW_STEPS}
    training = Trainer(read_config("ema", settings), tmp_path_factory.mktemp("base"))
    return training.output / "model-last"


def train_further(base, corpus, folder, alpha):
    settings = {**corpus, **FEW_STEPS, "paths.base": str(base)}
    settings["training.optimizer.alpha"] = alpha
    return Trainer(read_config("l2sp", settings), folder)


@pytest.mark.slow
def test_training_begins_with_the_weights_of_the_base_and_stays_near(base, corpus, tmp_path):
    start = weights_of(spacy.load(base))
    distances = {}
    for alpha in (0.0, 10.0):
        training = train_further(base, corpus, tmp_path / f"{alpha:g}", alpha)
        first, last = training.history[0], training.history[-1]
        assert first.keys() == start.keys()
        for name, array in first.items():
            numpy.testing.assert_array_equal(array, start[name])
        distances[alpha] = sum(((last[n] - start[n]) ** 2).sum() for n in start) ** 0.5
    assert distances[10.0] < 0.5 * distances[0.0]


@pytest.mark.slow
def test_spacy_train_runs_the_config(base, corpus, tmp_path):
    settings = {**corpus, **FEW_STEPS, "paths.base": str(base)}
    arguments = [CONFIGS / "l2sp.cfg", "--output", "output", *as_arguments(settings)]
    result = run_spacy(tmp_path, "train", *arguments)
    assert result.returncode == 0, result.stderr
    tuned = tmp_path / "output" / "model-last"
    # The result can be interpolated with the base.
    interpolate_models(base, tuned, 0.5, tmp_path / "between")
    weights = [weights_of(spacy.load(path)) for path in (base, tuned, tmp_path / "between")]
    for name, array in weights[2].items():
        expected = (weights[0][name] + weights[1][name]) / 2
        numpy.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
