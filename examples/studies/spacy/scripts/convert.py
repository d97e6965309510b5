"""Make spaCy's training data for all tasks.

    python scripts/convert.py assets --output corpus

The folder has one folder per task with the files train, dev and test, in the formats of their
sources: JSON lines with "text" and entities in characters, as "spans" of Prodigy or as lists
[start, end, label], or with "cats"; two columns with BIO tags; the columns of Universal NER;
and CoNLL-U. Where there is no test file, the dev data are divided: every second example is for
testing. Where there is only one file, it is shuffled and divided into 70, 15 and 15 %.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training.converters import conllu_to_docs

Reader = Callable[[Language, str], Iterator[Doc]]
# Sentences per document of treebanks, as in spaCy's own projects: parsers learn where sentences
# end.
SENTENCES_PER_DOC = 10
# Part of the documents whose annotations are corrupted.
CORRUPTED = 0.2


def read_comments(nlp: Language, text: str) -> Iterator[Doc]:
    for line in text.splitlines():
        record = json.loads(line)
        if record.get("answer", "accept") != "accept":
            continue
        doc = nlp.make_doc(record["text"])
        if "cats" in record:
            doc.cats = record["cats"]
        else:
            entities = record.get("entities")
            if entities is None:
                found = record.get("spans", [])
                entities = [(span["start"], span["end"], span["label"]) for span in found]
            spans = [doc.char_span(start, end, label) for start, end, label in entities]
            # Those that do not begin and end with a token are no entities to spaCy.
            doc.ents = [span for span in spans if span is not None]
        yield doc


def read_columns(nlp: Language, text: str, word: int = 0, tag: int = 1) -> Iterator[Doc]:
    """Read a sentence per document.

    word (int): Column of the words.
    tag (int): Column of their tags.
    """
    lines = [line for line in text.splitlines() if not line.startswith("# ")]
    for is_sentence, sentence in groupby(lines, key=lambda line: bool(line.strip())):
        if is_sentence:
            rows = [line.split("\t") for line in sentence]
            yield Doc(nlp.vocab, [row[word] for row in rows], ents=[row[tag] for row in rows])


def read_numbered_columns(nlp: Language, text: str) -> Iterator[Doc]:
    return read_columns(nlp, text, word=1, tag=2)


def read_conllu(nlp: Language, text: str) -> Iterator[Doc]:
    for doc in conllu_to_docs(text, n_sents=SENTENCES_PER_DOC, no_print=True):
        # In the vocabulary of the others.
        yield Doc(nlp.vocab).from_bytes(doc.to_bytes())


# Language, reader and suffix of the files of each task.
TASKS: dict[str, tuple[str, Reader, str]] = {
    "fashion_brands": ("en", read_comments, "jsonl"),
    "food_ingredients": ("en", read_comments, "jsonl"),
    "wnut17": ("en", read_columns, "conll"),
    "danish_ddt": ("da", read_numbered_columns, "iob2"),
    "afribooms": ("af", read_conllu, "conllu"),
    "cooking": ("en", read_comments, "jsonl"),
}


def read_task(data: Path, task: str) -> dict[str, list[Doc]]:
    """Read the documents of a task by their part: train, dev, test, quarter and corrupted."""
    lang, read, suffix = TASKS[task]
    nlp = spacy.blank(lang)
    paths = {name: data / task / f"{name}.{suffix}" for name in ("train", "dev", "test")}
    found = {
        name: list(read(nlp, path.read_text(encoding="utf8")))
        for name, path in paths.items()
        if path.exists()
    }
    if "dev" not in found:
        docs = found["train"]
        random.Random(0).shuffle(docs)
        first, second = int(0.7 * len(docs)), int(0.7 * len(docs)) + int(0.15 * len(docs))
        found = {"train": docs[:first], "dev": docs[first:second], "test": docs[second:]}
    if "test" not in found:
        found["dev"], found["test"] = found["dev"][::2], found["dev"][1::2]
    train = found["train"]
    return {**found, "quarter": train[: len(train) // 4], "corrupted": corrupt(train)}


def corrupt(docs: Sequence[Doc]) -> list[Doc]:
    """Copy documents, one in five with wrong annotations: without entities, with random tags,
    or with the categories of another document."""
    numbers = random.Random(0)
    tags = sorted({token.tag_ for doc in docs for token in doc})
    copies = [Doc(doc.vocab).from_bytes(doc.to_bytes()) for doc in docs]
    for doc in numbers.sample(copies, round(CORRUPTED * len(docs))):
        if doc.has_annotation("ENT_IOB"):
            doc.ents = []
        if doc.has_annotation("TAG"):
            for token in doc:
                token.tag_ = numbers.choice(tags)
        if doc.cats:
            doc.cats = numbers.choice(docs).cats
    return copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the tasks")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    for task in TASKS:
        folder = arguments.output / task
        folder.mkdir(parents=True, exist_ok=True)
        for name, docs in read_task(arguments.data, task).items():
            DocBin(docs=docs, store_user_data=False).to_disk(folder / f"{name}.spacy")
            print(f"{task}, {name}: {len(docs)} documents, {sum(map(len, docs))} words")


if __name__ == "__main__":
    main()
