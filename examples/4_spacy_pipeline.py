"""Average the weights of a spaCy pipeline with nothing but a config file: `spacy train` with a
generated corpus of fruits and of brands with the same names.

    python examples/4_spacy_pipeline.py
    python examples/4_spacy_pipeline.py --config ema

One training is not conclusive: the differences between seeds are as large as those between
optimizers.
"""

import io
import random
import sys
from argparse import ArgumentParser
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

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


def make_sentence(chooser: random.Random) -> tuple[str, tuple[int, int] | None]:
    """A sentence, and where in it the brand is, if there is one."""
    is_brand = chooser.random() < 0.5
    sentences = (BRAND_SENTENCES if is_brand else FRUIT_SENTENCES).strip().splitlines()
    name = chooser.choice(NAMES)
    text = chooser.choice(sentences).format(name)
    start = text.index(name)
    return text, (start, start + len(name)) if is_brand else None


def write_corpus(path: Path, n_sentences: int, seed: int, wrong: float = 0.0) -> None:
    """Write sentences with their annotations.

    wrong (float): The fraction of sentences with a wrong annotation, as in real corpora.
        Batches with many of them disturb the weights, and their averages less so.
    """
    chooser = random.Random(seed)
    nlp = spacy.blank("en")
    docs = []
    for _ in range(n_sentences):
        text, span = make_sentence(chooser)
        doc = nlp.make_doc(text)
        if chooser.random() < wrong:
            span = None if span else (0, len(doc[0]))
        entity = doc.char_span(*span, label="BRAND") if span else None
        doc.ents = [entity] if entity else []
        docs.append(doc)
    DocBin(docs=docs).to_disk(path)


def train_pipeline(
    config_path: Path, seed: int, n_steps: int, folder: Path
) -> tuple[float, float]:
    """What `spacy train` does.

    RETURNS (tuple[float, float]): The F-scores without and with the averages, in percent.
    """
    settings = {
        "paths.train": str(folder / "train.spacy"),
        "paths.dev": str(folder / "dev.spacy"),
        "system.seed": seed,
        "training.max_steps": n_steps,
        "training.eval_frequency": n_steps,
    }
    config = load_config(config_path, overrides=settings, interpolate=False)
    nlp, _ = train(init_nlp(config), folder, stdout=io.StringIO())
    # spaCy saves the averages. The pipeline itself is left with the weights of the last step.
    pipelines = (nlp, spacy.load(folder / "model-last"))
    corpus = Corpus(folder / "dev.spacy")
    plain, averaged = (pipeline.evaluate(corpus(pipeline)) for pipeline in pipelines)
    return 100 * plain["ents_f"], 100 * averaged["ents_f"]


def main(config_path: Path, n_steps: int, n_seeds: int) -> None:
    print(f"{n_steps} steps with configs/spacy/{config_path.name}: F-scores")
    print("(A tenth of the training sentences is annotated wrongly: something to average out.)")
    print(f"{'seed':<6}{'without averages':>18}{'with averages':>18}")
    results = []
    with TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "train.spacy", 300, seed=1, wrong=0.1)
        write_corpus(Path(folder) / "dev.spacy", 300, seed=2)
        for seed in range(n_seeds):
            results.append(train_pipeline(config_path, seed, n_steps, Path(folder)))
            print(f"{seed:<6}{results[-1][0]:>18.1f}{results[-1][1]:>18.1f}", flush=True)
    plain, averaged = zip(*results, strict=True)
    print(f"{'mean':<6}{mean(plain):>18.1f}{mean(averaged):>18.1f}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.split("\n\n")[0])
    # The transformer's config needs more than a corpus.
    names = sorted(p.stem for p in CONFIGS.glob("*.cfg") if p.stem != "transformer_swa")
    parser.add_argument("--config", choices=names, default="swa", help="in configs/spacy")
    parser.add_argument("--steps", type=int, default=200, help="how long to train")
    parser.add_argument("--seeds", type=int, default=3, help="how often to train")
    arguments = parser.parse_args()
    main(CONFIGS / f"{arguments.config}.cfg", arguments.steps, arguments.seeds)
