"""Trainings of spaCy configs of all kinds, by name."""

import random

import numpy
import pytest
import spacy
from helpers import require
from pipelines import read_config
from spacy.language import DEFAULT_CONFIG_PRETRAIN_PATH
from spacy.training.initialize import init_nlp
from spacy.util import load_config, registry
from spacy_trainings import (
    DATA,
    OPTIMIZERS,
    make_config,
    train_in_parts,
    write_brands,
    write_categories,
    write_half_tagged,
    write_ner,
    write_tagged,
)

COMPOUNDING = {
    "@batchers": "spacy.batch_by_words.v1",
    "discard_oversize": False,
    "tolerance": 0.2,
    "get_length": None,
    "size": {"@schedules": "compounding.v1", "start": 50, "stop": 400, "compound": 1.05},
}
LOWER = {"@augmenters": "spacy.lower_case.v1", "level": 0.3}


def ner(folder, **settings):
    return make_config(folder, ["ner"], write_ner, **settings)


def brands(folder):
    return make_config(folder, ["ner"], write_brands, training__max_steps=60)


def tagger_and_parser(folder):
    return make_config(folder, ["tagger", "parser"], write_tagged, lang="af")


def lemmatizer(folder):
    """The raw weights may predict lemmas that the vocabulary does not have."""
    pipeline = ["trainable_lemmatizer", "morphologizer", "senter"]
    return make_config(folder, pipeline, write_tagged, lang="af", optimizer="EMA")


def categories(folder):
    pipeline = ["textcat_multilabel"]
    return make_config(folder, pipeline, write_categories, training__dropout=0.3)


def half_tagged(folder, **settings):
    return make_config(folder, ["ner", "tagger"], write_half_tagged, **settings)


def frozen(folder):
    """A tagger from another pipeline, which is not trained but sets annotations for NER."""
    base = folder / "base"
    base.mkdir()
    config = make_config(base, ["tagger"], write_half_tagged, training__max_steps=10)
    train_in_parts(config, base / "output")
    source = {"source": str(base / "output" / "model-last")}
    return make_config(
        folder,
        ["ner"],
        write_half_tagged,
        nlp__pipeline=["tagger", "tok2vec", "ner"],
        components__tagger={**source, "replace_listeners": ["model.tok2vec"]},
        training__frozen_components=["tagger"],
        training__annotating_components=["tagger"],
        components__tok2vec__model__embed__attrs=["NORM", "PREFIX", "TAG", "SHAPE"],
    )


def sourced(folder):
    """A pipeline from another training, which is trained further."""
    base = folder / "base"
    base.mkdir()
    train_in_parts(ner(base, training__max_steps=10), base / "output")
    source = {"source": str(base / "output" / "model-last")}
    return ner(folder, components={"tok2vec": source, "ner": source})


def vectors(folder):
    nlp = spacy.blank("en")
    for i, word in enumerate(("jeans", "boots", "I", "the", "my", "Levis")):
        nlp.vocab.set_vector(word, numpy.eye(8, dtype="f")[i])
    nlp.to_disk(folder / "vectors")
    return ner(
        folder,
        initialize__vectors=str(folder / "vectors"),
        components__tok2vec__model__embed__include_static_vectors=True,
    )


def rules(folder):
    """Components without weights, whose patterns must not be loaded twice."""

    @registry.misc("tests.patterns.v1")
    def patterns():
        return [{"patterns": [[{"LOWER": "the"}]], "attrs": {"TAG": "DT"}}]

    @registry.misc("tests.entities.v1")
    def entities():
        return [{"label": "FASHION_BRAND", "pattern": "Levis"}]

    return ner(
        folder,
        nlp__pipeline=["sentencizer", "tok2vec", "ner", "attribute_ruler", "entity_ruler"],
        components__sentencizer={"factory": "sentencizer"},
        components__attribute_ruler={"factory": "attribute_ruler"},
        components__entity_ruler={"factory": "entity_ruler"},
        initialize__components={
            "attribute_ruler": {"patterns": {"@misc": "tests.patterns.v1"}},
            "entity_ruler": {"patterns": {"@misc": "tests.entities.v1"}},
        },
    )


def callbacks(folder):
    """`before_update` draws random numbers, and `before_to_disk` changes what is saved."""

    @registry.callbacks("tests.before_update.v1")
    def make_before_update():
        def draw(nlp, info):
            assert sorted(info) == ["epoch", "step"]
            random.random()

        return draw

    @registry.callbacks("tests.before_to_disk.v1")
    def make_before_to_disk():
        def change(nlp):
            nlp.meta["description"] = "changed"
            return nlp

        return change

    return ner(
        folder,
        training__before_update={"@callbacks": "tests.before_update.v1"},
        training__before_to_disk={"@callbacks": "tests.before_to_disk.v1"},
    )


def stream(folder, **settings):
    """A streamed corpus with an augmenter, whose random numbers are drawn between the steps."""
    return ner(
        folder,
        training__max_epochs=-1,
        training__batcher=COMPOUNDING,
        corpora__train__augmenter=LOWER,
        **settings,
    )


def random_batches(folder):
    """A batcher that draws from NumPy's generator."""

    @registry.batchers("tests.random_batches.v1")
    def make_batcher():
        def batch(examples):
            examples = list(examples)
            while examples:
                size = numpy.random.randint(1, 9)
                yield examples[:size]
                examples = examples[size:]

        return batch

    return ner(folder, training__batcher={"@batchers": "tests.random_batches.v1"})


def transformer(folder):
    import string

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.printable[:94]]
    (folder / "pieces.txt").write_text("\n".join(pieces), encoding="utf8")
    train_path, dev_path = write_ner(folder)
    settings = {
        "paths.train": str(train_path),
        "paths.dev": str(dev_path),
        "paths.pieces": str(folder / "pieces.txt"),
        "training.max_steps": 12,
        "training.eval_frequency": 4,
        "training.batcher.size": 300,
        "training.optimizer.freq": 2,
        "training.optimizer.total_steps": 12,
    }
    return read_config("transformer_swa", settings)


def rate_schedule(folder):
    rate = {
        "@schedules": "warmup_linear.v1",
        "warmup_steps": 5,
        "total_steps": 40,
        "initial_rate": 0.01,
    }
    return ner(folder, optimizer="EMA", training__optimizer__optimizer__learn_rate=rate)


def init_tok2vec(folder):
    """Weights of a tok2vec, as `spacy pretrain` saves them."""
    layer = init_nlp(ner(folder, training__seed=7)).get_pipe("tok2vec").model
    (folder / "tok2vec.bin").write_bytes(layer.to_bytes())
    return ner(
        folder,
        paths__init_tok2vec=str(folder / "tok2vec.bin"),
        pretraining=load_config(DEFAULT_CONFIG_PRETRAIN_PATH)["pretraining"],
    )


CASES = {
    "ner": brands,
    "tagger and parser": tagger_and_parser,
    "lemmatizer": lemmatizer,
    "textcat_multilabel": categories,
    "half of the documents tagged": half_tagged,
    "frozen and annotating": frozen,
    "sourced": sourced,
    "vectors": vectors,
    "rules": rules,
    "callbacks": callbacks,
    "stream": stream,
    "random batches": random_batches,
    "transformer": transformer,
    "learning-rate schedule": rate_schedule,
    "two epochs": lambda folder: ner(folder, training__max_epochs=2, training__max_steps=0),
    "patience": lambda folder: ner(folder, training__patience=5, training__max_steps=0),
    "augmenter": lambda folder: ner(folder, corpora__train__augmenter=LOWER),
    "accumulate_gradient": lambda folder: half_tagged(folder, training__accumulate_gradient=2),
    "compounding": lambda folder: ner(folder, training__batcher=COMPOUNDING),
    "init_tok2vec": init_tok2vec,
    "batches by sequence": lambda folder: ner(
        folder,
        training__batcher={
            "@batchers": "spacy.batch_by_sequence.v1",
            "size": {"@schedules": "compounding.v1", "start": 4, "stop": 32, "compound": 1.1},
            "get_length": None,
        },
    ),
    "padded batches": lambda folder: ner(
        folder,
        training__batcher={
            "@batchers": "spacy.batch_by_padded.v1",
            "size": {"@schedules": "compounding.v1", "start": 50, "stop": 400, "compound": 1.1},
            "buffer": 16,
            "discard_oversize": False,
            "get_length": None,
        },
    ),
}
CASES |= {
    f"{name}, two components": lambda folder, name=name: half_tagged(folder, optimizer=name)
    for name in OPTIMIZERS
}
CORPORA = {
    "tagger and parser": "afribooms",
    "lemmatizer": "afribooms",
    "textcat_multilabel": "cooking",
}


def make_case(name, folder, monkeypatch):
    """Make a config and its data. Skips if its corpus is missing."""
    if name in CORPORA and not (DATA / CORPORA[name]).exists():
        pytest.skip(f"needs the corpus {CORPORA[name]}")
    if name == "transformer":
        require("torch", "spacy_curated_transformers")
        from spacy_curated_transformers.pipeline import transformer as module

        monkeypatch.setattr(module, "float", lambda array: array.item(), raising=False)
    folder.mkdir()
    return CASES[name](folder)
