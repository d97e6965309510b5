"""Components of spaCy pipelines: partly annotated, frozen, and with accumulated gradients."""

from itertools import pairwise

import pytest
from helpers import require

require("spacy")
import spacy  # noqa: E402
from corpus import write_corpus  # noqa: E402
from pipelines import Trainer, assert_close, is_same, read_config  # noqa: E402
from spacy_cases import SMALL, SMALL_SETTINGS, ema_of, part, swa_of  # noqa: E402


def test_gradient_accumulation_is_one_step(corpus, tmp_path):
    settings = {
        **corpus,
        **SMALL,
        **SMALL_SETTINGS["ema"],
        "training.max_steps": 20,
        "training.accumulate_gradient": 3,
    }
    training = Trainer(read_config("ema", settings), tmp_path)
    assert_close(training.saved, ema_of(training.history, 21))


TAGGER = """
[components.tagger]
factory = "tagger"

[components.tagger.model]
@architectures = "spacy.Tagger.v2"

[components.tagger.model.tok2vec]
"""


SHARED_TAGGER = f"""{TAGGER}
@architectures = "spacy.Tok2VecListener.v1"
width = ${{components.tok2vec.model.encode.width}}
"""


OWN_TAGGER = f"""{TAGGER}
@architectures = "spacy.HashEmbedCNN.v2"
width = 16
depth = 1
embed_size = 100
window_size = 1
maxout_pieces = 2
subword_features = true
pretrained_vectors = null
"""


def add_tags(docs):
    for doc in docs:
        for token in doc:
            token.tag_ = "NAME" if token.is_title else "WORD" if token.is_alpha else "OTHER"
    return docs


N_BARE = 20


def partly_annotated(docs):
    """Tags in all documents; entities in every second document after the first ones."""
    nlp = spacy.blank("en")
    return add_tags(
        [
            doc if position >= N_BARE and position % 2 == 0 else nlp.make_doc(doc.text)
            for position, doc in enumerate(docs)
        ]
    )


@pytest.mark.parametrize(
    "name, settings, averages_of",
    [
        ("swa", {"start_step": 0, "freq": 1}, lambda history: swa_of(history, 61, 1, 1)),
        ("swa", {"start_step": 0.5, "freq": 4}, lambda history: swa_of(history, 61, 30, 4)),
        ("ema", {}, lambda history: ema_of(history, 61)),
    ],
    ids=["swa", "swa from the middle on", "ema"],
)
def test_components_without_annotations_are_averaged(name, settings, averages_of, tmp_path):
    """A shared tok2vec, and an NER without annotations in most batches: its unchanged weights
    count in all snapshots."""
    train_path, dev_path = write_corpus(tmp_path, make_docs=partly_annotated)
    settings = {
        **SMALL,
        **{f"training.optimizer.{argument}": value for argument, value in settings.items()},
        "paths.train": str(train_path),
        "paths.dev": str(dev_path),
        "nlp.pipeline": ["tok2vec", "ner", "tagger"],
        "training.max_steps": 60,
        # In the order of the file.
        "training.max_epochs": -1,
    }
    config = read_config(name, settings, more=SHARED_TAGGER)
    config["training"]["batcher"] = {"@batchers": "spacy.batch_by_sequence.v1", "size": 1}
    training = Trainer(config, tmp_path / "output")
    idle_steps = {
        pipe_name: sum(
            is_same(part(before, pipe_name), part(after, pipe_name))
            for before, after in pairwise(training.history)
        )
        for pipe_name in training.nlp.pipe_names
    }
    # Thinc has no gradient for a parameter until its first one. From then on it is zero in
    # the batches without annotations, and Adam moves on by its momentum.
    assert idle_steps == {"tok2vec": 0, "ner": N_BARE, "tagger": 0}
    assert_close(training.averages(), averages_of(training.history))
    assert_close(training.saved, averages_of(training.history))


@pytest.mark.slow
def test_frozen_components_do_not_change(trained, tmp_path):
    """A new component beside a trained, frozen pipeline."""
    source = trained("swa")
    train_path, dev_path = write_corpus(tmp_path, make_docs=add_tags)
    settings = {
        "training.max_steps": 60,
        "paths.train": str(train_path),
        "paths.dev": str(dev_path),
        "nlp.pipeline": ["tok2vec", "ner", "tagger"],
        "training.frozen_components": ["tok2vec", "ner"],
    }
    config = read_config("swa", settings, more=OWN_TAGGER)
    for name in ("tok2vec", "ner"):
        config["components"][name] = {"source": str(source.output / "model-last")}
    training = Trainer(config, tmp_path / "output")
    for name in ("tok2vec", "ner"):
        assert is_same(part(training.saved, name), part(source.saved, name))
    expected = part(swa_of(training.history, 61, 45, 10), "tagger")
    assert_close(part(training.saved, "tagger"), expected)
    assert_close(training.averages(), expected)
