"""Trainings of spaCy configs as `compare` runs them, in this process."""

from contextlib import closing

import numpy
import pytest
from helpers import require
from thinc.api import Config

require("spacy", "torch")

from corpus import generate_records, write_corpus  # noqa: E402
from pipelines import is_same, read_config, weights_of  # noqa: E402
from spacy.language import Language  # noqa: E402
from spacy.training import Corpus  # noqa: E402
from spacy.util import registry  # noqa: E402
from spacy_encoders import BATCH_NORM  # noqa: E402

from thinc_swa import update_batch_norm, use_averages  # noqa: E402
from thinc_swa.comparison.recording import RunOptions, train_config  # noqa: E402
from thinc_swa.comparison.run_checkpoints import RunCheckpoints  # noqa: E402
from thinc_swa.models.batch_norm import get_batch_norm  # noqa: E402
from thinc_swa.training.configs import make_model  # noqa: E402
from thinc_swa.training.logs import Log, read_log  # noqa: E402


class Watched:
    """State of a training: the pipeline, the optimizer, and the pipeline's statistics and
    weights in every evaluation and number of readings of the training data."""

    def __init__(self):
        self.nlp = self.optimizer = None
        self.evaluated = []
        self.n_readings = 0
        registry.optimizers("tests.watched.v1", func=self._watch_optimizer)
        registry.readers("tests.watched_train.v1", func=self._watch_train)

    def _watch_optimizer(self, optimizer):
        self.optimizer = optimizer
        return optimizer

    def _watch_train(self, path: str):
        def read(nlp):
            self.nlp = nlp
            self.n_readings += 1
            return Corpus(path)(nlp)

        return read

    def watch_evaluations(self, monkeypatch):
        evaluate = Language.evaluate

        def watch(nlp, examples):
            self.evaluated.append((weights_of(nlp), statistics_of(nlp)))
            return evaluate(nlp, examples)

        monkeypatch.setattr(Language, "evaluate", watch)


def statistics_of(nlp):
    return [
        {name: tensor.numpy().copy() for name, tensor in layer.items()}
        for layer in get_batch_norm(nlp)
    ]


def is_same_statistics(first, second):
    return len(first) == len(second) and all(map(is_same, first, second))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return write_corpus(folder, 60, 40, get_records=generate_records)


@pytest.fixture
def run(tmp_path, data, monkeypatch):
    """Train a pipeline with BatchNorm, and return what was watched and the evaluations."""

    def run(encoder=BATCH_NORM, change=None, n_batches=None, **settings):
        watched = Watched()
        config = make_config(data, encoder, settings, n_batches)
        if change is not None:
            change(config)
        path = tmp_path / "log.jsonl"
        path.unlink(missing_ok=True)
        with closing(Log(path)) as log, monkeypatch.context() as patch:
            watched.watch_evaluations(patch)
            train_config(config, log, RunOptions(RunCheckpoints(tmp_path, ["run"])))
        records = [record for record in read_log(path) if record["type"] == "evaluation"]
        return watched, records

    return run


def make_config(data, encoder, settings, n_batches=None):
    config = read_config("swa", {"training.max_steps": 24}).interpolate()
    components = config["components"]
    components["tok2vec"]["model"]["embed"].update(rows=[200] * 4, width=16)
    components["tok2vec"]["model"]["encode"] = {"@architectures": encoder, "width": 16}
    components["ner"]["model"]["tok2vec"]["width"] = 16
    train, dev = map(str, data)
    config["corpora"]["train"] = {"@readers": "tests.watched_train.v1", "path": train}
    config["corpora"]["dev"]["path"] = dev
    if n_batches is not None:
        config["thinc_swa"] = {"batch_norm_batches": n_batches}
    training = config["training"]
    training["optimizer"]["optimizer"]["learn_rate"] = 0.05
    training["optimizer"].update(learn_rate=0.05, start_step=4, freq=2)
    training["optimizer"] = {
        "@optimizers": "tests.watched.v1",
        "optimizer": training["optimizer"],
    }
    training["batcher"] = {"@batchers": "spacy.batch_by_sequence.v1", "size": 20}
    training.update({"eval_frequency": 8, "seed": 3, **settings})
    return Config(config)


# All examples are in one batch, so that their order does not matter.
ONE_BATCH = {"batcher": {"@batchers": "spacy.batch_by_sequence.v1", "size": 1000}}


def test_averages_are_evaluated_with_batch_norm_statistics_of_their_own(run, data):
    # In a long training the scores are the same.
    watched, records = run(**ONE_BATCH, max_steps=8)
    nlp, optimizer = watched.nlp, watched.optimizer
    train, dev = ([*Corpus(path)(nlp)] for path in data)
    raw = nlp.evaluate(dev)["ents_f"]
    assert records[-1]["raw"] == raw
    with use_averages(nlp, optimizer):
        stale = nlp.evaluate([*Corpus(data[1])(nlp)])["ents_f"]
        update_batch_norm(nlp, [[example.text for example in train]])
        fresh = nlp.evaluate([*Corpus(data[1])(nlp)])["ents_f"]
        statistics = statistics_of(nlp)
    assert records[-1]["averages"] == records[-1]["score"] == pytest.approx(fresh)
    assert fresh != stale
    own, plain = watched.evaluated[-2:]
    assert not is_same(own[0], plain[0])
    for name in ("running_mean", "running_var"):
        numpy.testing.assert_allclose(own[1][0][name], statistics[0][name], rtol=1e-4)


def test_batch_norm_statistics_do_not_change_the_training_of_spacy(run):
    """Weights, statistics and random states, bit for bit: there is dropout, and the order of
    the examples is random."""
    results = []
    for n_batches in (0, 1, 50):
        watched, records = run(n_batches=n_batches, dropout=0.3)
        results.append((weights_of(watched.nlp), statistics_of(watched.nlp), records))
    weights, statistics, records = results[0]
    for other_weights, other_statistics, other_records in results[1:]:
        assert is_same(weights, other_weights)
        assert is_same_statistics(statistics, other_statistics)
        for name in ("loss", "raw", "step"):
            assert [r[name] for r in records] == [r[name] for r in other_records]
    assert records[-1]["averages"] != results[-1][2][-1]["averages"]


def test_the_sample_for_batch_norm_is_the_same_in_every_evaluation(run, monkeypatch):
    samples = []

    def update(nlp, batches, **settings):
        samples.append([[doc.text for doc in batch] for batch in batches])
        update_batch_norm(nlp, iter([[nlp.make_doc("I like socks .")]]), **settings)

    monkeypatch.setattr("thinc_swa.training.spacy_batch_norm.update_batch_norm", update)
    before, _ = run(n_batches=0, accumulate_gradient=2)
    assert samples == []
    watched, records = run(n_batches=2, accumulate_gradient=2)
    assert len(samples) == len([r for r in records if r["averages"] is not None]) > 1
    assert samples[1:] == samples[:-1]
    # Two batches of 20, in the parts that the layers see in a step.
    assert [len(batch) for batch in samples[0]] == [10] * 4
    assert watched.n_readings == before.n_readings + 1


def test_predictions_for_batch_norm_do_not_see_annotations_of_earlier_ones(run, monkeypatch):
    seen = []

    def update(nlp, batches, **settings):
        batches = list(batches)
        seen.extend(doc for batch in batches for doc in batch)
        assert not any(doc.ents or doc.has_annotation("ENT_IOB") for doc in seen[-20:])
        update_batch_norm(nlp, batches, **settings)
        assert any(doc.has_annotation("ENT_IOB") for doc in seen[-20:])

    monkeypatch.setattr("thinc_swa.training.spacy_batch_norm.update_batch_norm", update)
    run()
    assert len(seen) >= 80


def test_pipelines_without_batch_norm_are_not_evaluated_again(run, monkeypatch):
    monkeypatch.setattr(
        "thinc_swa.training.spacy_batch_norm.AverageStatistics._read_sample", None
    )
    watched, records = run("spacy.MaxoutWindowEncoder.v2", change=_as_spacys)
    n_with_averages = len([r for r in records if r["averages"] is not None])
    assert len(watched.evaluated) == len(records) + n_with_averages
    assert n_with_averages == 3


def _as_spacys(config):
    encode = config["components"]["tok2vec"]["model"]["encode"]
    encode.update(depth=1, window_size=1, maxout_pieces=2)


def test_frozen_components_keep_their_batch_norm_statistics(run, data, tmp_path):
    Watched()
    nlp, _ = make_model(make_config(data, BATCH_NORM, {}))
    nlp.to_disk(tmp_path / "source")

    def freeze(config):
        config["components"]["tok2vec"] = {"source": str(tmp_path / "source")}
        config["training"].update(
            frozen_components=["tok2vec"], annotating_components=["tok2vec"]
        )

    watched, records = run(change=freeze)
    assert records[-1]["averages"] is not None
    # No statistics are estimated.
    n_with_averages = len([r for r in records if r["averages"] is not None])
    assert len(watched.evaluated) == len(records) + n_with_averages
    first = watched.evaluated[0][1]
    assert all(is_same_statistics(first, found) for _, found in watched.evaluated)


def test_invalid_numbers_of_batches_are_errors(run, data):
    for wrong in (-1, 2.5, "many"):
        with pytest.raises(ValueError, match=r"batch_norm_batches in \[thinc_swa\] must be"):
            run(n_batches=wrong)


def test_other_settings_and_the_setting_in_training_are_errors(run):
    def add(config):
        config["thinc_swa"] = {"batch_norm": 3}

    with pytest.raises(ValueError, match=r"unknown settings \['batch_norm'\]"):
        run(change=add)
    with pytest.raises(ValueError, match=r"belongs in the section \[thinc_swa\]"):
        run(batch_norm_batches=3)


def test_the_parameters_of_a_config_with_the_setting_can_be_listed(data):
    Watched()
    nlp, _ = make_model(make_config(data, BATCH_NORM, {}, 5))
    assert statistics_of(nlp)
