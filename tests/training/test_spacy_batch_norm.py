"""BatchNorm statistics of averages in trainings of spaCy configs."""

import numpy
import pytest
from helpers import require

require("spacy", "torch", "filelock", "matplotlib")

import spacy  # noqa: E402
from pipelines import is_same, weights_of  # noqa: E402
from spacy_encoders import BATCH_NORM  # noqa: E402
from spacy_trainings import (  # noqa: E402
    differing,
    make_config,
    results_of,
    train_in_parts,
    train_with_spacy,
    write_ner,
)

from thinc_swa.models.batch_norm import get_batch_norm  # noqa: E402


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "config"
    folder.mkdir()
    encode = {"@architectures": BATCH_NORM, "width": 16}
    return make_config(folder, ["ner"], write_ner, components__tok2vec__model__encode=encode)


def statistics_of(nlp):
    (layer,) = get_batch_norm(nlp)
    return [layer[name].numpy().copy() for name in ("running_mean", "running_var")]


def is_same_statistics(one, other):
    return all(map(numpy.array_equal, statistics_of(one), statistics_of(other)))


@pytest.mark.slow
def test_averages_are_saved_and_evaluated_with_statistics_of_their_own(config, tmp_path):
    # By default the results are those of spaCy.
    train_with_spacy(config, tmp_path / "spacy")
    _, plain = train_in_parts(config, tmp_path / "plain")
    for name in ("model-best", "model-last"):
        assert differing(tmp_path / "spacy" / name, tmp_path / "plain" / name) == []

    config["thinc_swa"] = {"batch_norm_batches": 4}
    _, trainer = train_in_parts(config, tmp_path / "own")
    # The training itself is the same.
    assert is_same(weights_of(trainer.model), weights_of(plain.model))
    assert is_same_statistics(trainer.model, plain.model)
    for evaluation, other in zip(
        trainer.state.evaluations, plain.state.evaluations, strict=True
    ):
        assert evaluation.raw == other.raw and evaluation.losses == other.losses
    saved, stale = (spacy.load(tmp_path / name / "model-last") for name in ("own", "plain"))
    assert is_same(weights_of(saved), weights_of(stale))
    assert is_same_statistics(stale, plain.model)
    assert not is_same_statistics(saved, stale)
    with trainer.use_averages():
        assert is_same_statistics(saved, trainer.model)
    examples = list(trainer._dev_corpus(saved))
    score = trainer.state.evaluations[-1].averages
    assert saved.evaluate(examples)["ents_f"] == pytest.approx(score)
    assert saved.config["thinc_swa"] == {"batch_norm_batches": 4}

    train_in_parts(config, tmp_path / "resumed", 7, 23)
    whole, resumed = results_of(tmp_path / "own"), results_of(tmp_path / "resumed")
    assert differing(whole[0], resumed[0]) == [] and whole[1] == resumed[1]
