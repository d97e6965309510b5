"""Small corpora for named entity recognition, as .spacy files: real comments where they
are at hand, else sentences made here, the same in every run."""

import json
import random
from pathlib import Path

import spacy
from spacy.tokens import DocBin

FASHION_BRANDS = Path(__file__).parents[2] / "shared" / "data" / "fashion_brands"
# Long comments cost the most time and add the least.
MAX_LENGTH = 300

BRANDS = ["Levis", "Red Wing", "Target", "Supreme", "Vans", "Guess", "Coach", "Gap", "Nike"]
# Some of them are brands elsewhere: the name alone does not decide.
WORDS = ["old", "red", "Target", "Vans", "coach", "gap", "Supreme", "wing", "cheap", "blue"]
THINGS = ["jeans", "boots", "shirts", "jackets", "shoes", "belts", "socks", "vans", "caps"]
SENTENCES = [
    "I bought {thing} from {brand} last week .",
    "My {brand} {thing} are {word} now .",
    "{brand} makes better {thing} than {brand} .",
    "Is {brand} still worth it ? The {word} {thing} fell apart .",
    "Never wear {word} {thing} with {word} {thing} .",
    "There is a {word} in my {thing} , on the left .",
    "{word} is what I call those {thing} .",
]


def write_corpus(folder, n_train=400, n_dev=160, *, get_records=None, make_docs=None):
    """Write train.spacy and dev.spacy.

    folder (Path): Where to.
    n_train (int): How many documents to train on, at most.
    n_dev (int): How many documents to evaluate on, at most.
    get_records (Callable | None): Where they come from: `generate_records` for sentences
        that are easily learned. By default the real ones, if they are at hand.
    make_docs (Callable | None): What becomes of a list of annotated documents.
    RETURNS (tuple[Path, Path]): The two files.
    """
    nlp = spacy.blank("en")
    paths = []
    for name, n_docs in (("train", n_train), ("dev", n_dev)):
        records = (get_records or read_records)(name, n_docs)
        docs = [to_doc(nlp, record) for record in records]
        paths.append(folder / f"{name}.spacy")
        DocBin(docs=make_docs(docs) if make_docs else docs).to_disk(paths[-1])
    return tuple(paths)


def to_doc(nlp, record):
    doc = nlp.make_doc(record["text"])
    spans = [doc.char_span(*entity[:2], label=entity[2]) for entity in record["entities"]]
    doc.ents = [span for span in spans if span is not None]
    return doc


def read_records(name, n_records):
    """Half of them with entities, half of them without, as far as there are enough."""
    path = FASHION_BRANDS / f"{name}.jsonl"
    if not path.exists():
        return generate_records(name, n_records)
    lines = path.read_text(encoding="utf8").splitlines()
    records = [record for record in map(json.loads, lines) if len(record["text"]) < MAX_LENGTH]
    with_entities = [record for record in records if record["entities"]][: n_records // 2]
    without = [record for record in records if not record["entities"]]
    pairs = zip(with_entities, without, strict=False)
    return [record for pair in pairs for record in pair]


def generate_records(name, n_records):
    chooser = random.Random(name)
    return [generate_record(chooser) for _ in range(n_records)]


def generate_record(chooser):
    text, entities = "", []
    for token in chooser.choice(SENTENCES).split():
        text += " " if text else ""
        if token == "{brand}":
            brand = chooser.choice(BRANDS)
            # People miss some. So there is no perfect score, which would tell nothing.
            if chooser.random() > 0.1:
                entities.append([len(text), len(text) + len(brand), "FASHION_BRAND"])
            text += brand
        else:
            text += token.format(word=chooser.choice(WORDS), thing=chooser.choice(THINGS))
    return {"text": text, "entities": entities}
