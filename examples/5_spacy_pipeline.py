"""Average the weights of a spaCy pipeline, which takes nothing but a config file: this is
`spacy train` with a corpus made here, of apples to eat and Apples to call with.

    python examples/5_spacy_pipeline.py
    python examples/5_spacy_pipeline.py --config lookahead_swa
"""

import argparse
import io
import random
import sys
import tempfile
from pathlib import Path

try:
    import spacy
except ImportError:
    sys.exit("This example needs spaCy: pip install 'spacy>=3.8.7,<3.9'")

from spacy.tokens import DocBin
from spacy.training import Corpus
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config

CONFIGS = Path(__file__).parents[1] / "configs" / "spacy"

NAMES = "Apple Orange Blackberry Kiwi Mango Peach Lime Fig Plum Cherry Quince Melon".split()
BRAND_SENTENCES = """
My {} has no signal since the update .
Where is the shop of {} in this town ?
I sold my shares of {} last week .
The new {} is too expensive for a phone .
Did {} ever answer your letter ?
She works for {} now , in the garden of the head office .
I would not trust {} with my data .
We waited for {} , but nobody called back .
"""
FRUIT_SENTENCES = """
My {} has no taste since the winter .
Where is the tree with the {} in this town ?
I ate my {} last week .
The new {} is too expensive for a cake .
Did the {} ever get ripe ?
She peels a {} now , in the garden of the hotel .
I would not mix {} with my tea .
We waited for {} , but only cheese came .
"""


def make_sentence(chooser):
    """A sentence, and where in it the brand is, if there is one."""
    is_brand = chooser.random() < 0.5
    sentences = (BRAND_SENTENCES if is_brand else FRUIT_SENTENCES).strip().splitlines()
    name = chooser.choice(NAMES)
    text = chooser.choice(sentences).format(name)
    start = text.index(name)
    return text, (start, start + len(name)) if is_brand else None


def write_corpus(path, n_sentences, seed, wrong=0.0):
    """Write sentences with their annotations.

    wrong (float): The fraction of sentences with a wrong annotation. The averages of the
        weights follow such mistakes less than the weights do.
    """
    chooser = random.Random(seed)
    nlp = spacy.blank("en")
    docs = []
    for _ in range(n_sentences):
        text, span = make_sentence(chooser)
        doc = nlp.make_doc(text)
        if chooser.random() < wrong:
            span = None if span else (0, len(doc[0]))
        doc.ents = [doc.char_span(*span, label="BRAND")] if span else []
        docs.append(doc)
    DocBin(docs=docs).to_disk(path)


def print_scores(name, nlp, dev_path):
    scores = nlp.evaluate(Corpus(dev_path)(nlp))
    numbers = [100 * scores[score] for score in ("ents_p", "ents_r", "ents_f")]
    print(f"{name:<18}{numbers[0]:>10.1f}{numbers[1]:>10.1f}{numbers[2]:>10.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = sorted(path.stem for path in CONFIGS.glob("*.cfg"))
    parser.add_argument("--config", choices=names, default="swa", help="in configs/spacy")
    parser.add_argument("--steps", type=int, default=400, help="how long to train")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train_path, dev_path = Path(folder) / "train.spacy", Path(folder) / "dev.spacy"
        write_corpus(train_path, 600, seed=1, wrong=0.2)
        write_corpus(dev_path, 300, seed=2)
        config_path = CONFIGS / f"{arguments.config}.cfg"
        settings = {
            "paths.train": str(train_path),
            "paths.dev": str(dev_path),
            "system.seed": arguments.seed,
            "training.max_steps": arguments.steps,
            "training.eval_frequency": arguments.steps,
        }
        config = load_config(config_path, overrides=settings, interpolate=False)
        print(f"{arguments.steps} steps with configs/spacy/{config_path.name}")
        nlp, saved_path = train(init_nlp(config), Path(folder), stdout=io.StringIO())
        print(f"{'':<18}{'precision':>10}{'recall':>10}{'F-score':>10}")
        # spaCy saves the averages. The pipeline itself is left with the last weights.
        print_scores("without averages", nlp, dev_path)
        print_scores("with averages", spacy.load(saved_path), dev_path)


if __name__ == "__main__":
    main()
