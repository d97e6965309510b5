"""Small pipelines that are trained from the same weights and saved."""

import json

import numpy
import spacy
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from thinc.api import Adam, Config, fix_random_seed

TOK2VEC = {
    "@architectures": "spacy.HashEmbedCNN.v2",
    "pretrained_vectors": True,
    "width": 16,
    "depth": 1,
    "embed_size": 50,
    "window_size": 1,
    "maxout_pieces": 2,
    "subword_features": False,
}
BOW = {
    "@architectures": "spacy.TextCatBOW.v3",
    "exclusive_classes": True,
    "length": 64,
    "ngram_size": 1,
    "no_output_layer": False,
}
TEXTS = [("I like London a lot", 7, 13), ("We saw Paris", 7, 12), ("Berlin is big", 0, 6)]


class Counter:
    """A component with data of its own."""

    def __init__(self, word="words"):
        self.word = word

    def __call__(self, doc):
        return doc

    def to_disk(self, path, *, exclude=()):
        path.mkdir(exist_ok=True)
        (path / "word.json").write_text(json.dumps(self.word))

    def from_disk(self, path, *, exclude=()):
        self.word = json.loads((path / "word.json").read_text())
        return self


@Language.factory("thinc_swa_tests_counter")
def make_counter(nlp, name):
    return Counter()


def make_pipeline(label="CITY", width=16, vector=1.0, pipes=("sentencizer",), word="words"):
    """An initialized pipeline with static vectors, lookups, and a custom component."""
    fix_random_seed(0)
    nlp = spacy.blank("xx")
    for i, name in enumerate(("like", "saw", "big")):
        nlp.vocab.set_vector(name, numpy.full((8,), vector + i, dtype="f"))
    nlp.vocab.lookups.add_table("capitals", {"London": "England"})
    nlp.tokenizer.add_special_case("alot", [{"ORTH": "a"}, {"ORTH": "lot"}])
    tok2vec = {**TOK2VEC, "width": width}
    nlp.add_pipe("ner", config={"model": {"tok2vec": tok2vec}})
    nlp.add_pipe("textcat", config={"model": BOW})
    nlp.add_pipe("thinc_swa_tests_counter").word = word
    for name in pipes:
        nlp.add_pipe(name)
    nlp.initialize(lambda: make_examples(nlp, label))
    return nlp


def make_docs(nlp, label="CITY"):
    docs = []
    for text, start, end in TEXTS:
        doc = nlp.make_doc(text)
        doc.ents = [doc.char_span(start, end, label=label)]
        doc.cats = {"LONG": float(len(doc) > 3), "SHORT": float(len(doc) <= 3)}
        docs.append(doc)
    return docs


def make_examples(nlp, label="CITY"):
    return [Example(nlp.make_doc(doc.text), doc) for doc in make_docs(nlp, label)]


def train(nlp, seed, n_steps=3, optimizer=None, after_step=lambda: None):
    fix_random_seed(seed)
    optimizer = optimizer or Adam(0.01)
    nlp.vocab.strings.add(f"seed-{seed}")
    for _ in range(n_steps):
        nlp.update(make_examples(nlp), sgd=optimizer, drop=0.3)
        optimizer.step_schedules()
        after_step()
    return nlp


def save_pipelines(folder, n_pipelines=3):
    """Pipelines that were trained from the same weights with other seeds."""
    paths = []
    for seed in range(n_pipelines):
        paths.append(folder / f"seed-{seed}")
        nlp = train(make_pipeline(), seed)
        nlp.meta["performance"] = {"ents_f": 0.1 * seed}
        nlp.to_disk(paths[-1])
    return paths


def write_dev(path):
    DocBin(docs=make_docs(spacy.blank("xx"))).to_disk(path)
    return path


def change_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def change_config(path, name, value):
    config = Config().from_disk(path / "config.cfg", overrides={name: value})
    config.to_disk(path / "config.cfg")
