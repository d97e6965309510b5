"""Make spaCy's training data of comments in JSON lines.

    python convert.py train.jsonl dev.jsonl --output corpus

A line is a JSON object: its "text", and "entities" as [start, end, label] in characters. The
comments of the study are those of `ner_fashion_brands` in https://github.com/explosion/projects
(MIT License), annotations that were answered with "accept".
"""

import argparse
import json
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin


def read_doc(nlp: Language, line: str) -> Doc:
    record = json.loads(line)
    doc = nlp.make_doc(record["text"])
    spans = [doc.char_span(start, end, label=label) for start, end, label in record["entities"]]
    # Those that do not begin and end with a token are no entities to spaCy.
    doc.ents = [span for span in spans if span is not None]
    return doc


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    nlp = spacy.blank("en")
    for path in arguments.files:
        lines = path.read_text(encoding="utf8").splitlines()
        docs = DocBin(docs=[read_doc(nlp, line) for line in lines])
        docs.to_disk(arguments.output / f"{path.stem}.spacy")
