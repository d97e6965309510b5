"""How much does a pipeline forget when it is trained further, and what helps?

    python examples/studies/forgetting/study.py --old fashion_brands --new food_ingredients

Both folders have comments in JSON lines, as `examples/studies/named_entities/convert.py` reads
them: train.jsonl and dev.jsonl, and the second one test.jsonl too. They are
`ner_fashion_brands` and `ner_food_ingredients` of https://github.com/explosion/projects (MIT
License), annotations that were answered with "accept". All entities get the same label.

A pipeline is trained on the old comments and then on the new ones: plainly, and with L2SP.
Interpolations of the plain pipelines are evaluated. It writes results.md, results.json and the
pictures of the curve beside this file.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.training.batchers import minibatch_by_words
from thinc.api import Adam, Optimizer, fix_random_seed

from thinc_swa import L2SP, average_models
from thinc_swa.comparison.results import interval, to_markdown
from thinc_swa.models.saved_models import score_interpolations
from thinc_swa.training.interpolation import AlphaScore, find_best

HERE = Path(__file__).parent
LABEL = "ITEM"
ALPHAS = [i / 10 for i in range(11)]
# Strengths of L2SP.
STRENGTHS = (0.1, 1.0, 3.0)
KEEP = 0.95
MAX_LENGTH = 300
BATCH_WORDS = 300
Docs = list[Doc]


def read_docs(nlp: Language, path: Path) -> Docs:
    docs = []
    for line in path.read_text(encoding="utf8").splitlines():
        record = json.loads(line)
        if len(record["text"]) > MAX_LENGTH:
            continue
        doc = nlp.make_doc(record["text"])
        spans = [doc.char_span(start, end, LABEL) for start, end, _ in record["entities"]]
        doc.ents = [span for span in spans if span is not None]
        docs.append(doc)
    return docs


def make_optimizer(strength: float = 0.0) -> Optimizer:
    adam = Adam(0.001, L2=0.01, use_averages=False)
    return L2SP(adam, alpha=strength) if strength else adam


def make_pipeline(seed: int, docs: Docs) -> Language:
    fix_random_seed(seed)
    nlp = spacy.blank("en")
    encoder = {"@architectures": "spacy.HashEmbedCNN.v2", "width": 64, "depth": 3}
    encoder |= {"embed_size": 1000, "window_size": 1, "maxout_pieces": 3}
    encoder |= {"subword_features": True, "pretrained_vectors": None}
    nlp.add_pipe("ner", config={"model": {"tok2vec": encoder}})
    nlp.initialize(lambda: [Example(nlp.make_doc(doc.text), doc) for doc in docs])
    return nlp


def train(nlp: Language, docs: Docs, optimizer: Optimizer, n_steps: int, seed: int) -> None:
    fix_random_seed(seed)
    order, step = random.Random(seed), 0
    while step < n_steps:
        examples = [Example(nlp.make_doc(doc.text), doc) for doc in docs]
        order.shuffle(examples)
        for batch in minibatch_by_words(examples, BATCH_WORDS):
            nlp.update(batch, sgd=optimizer, drop=0.1)
            optimizer.step_schedules()
            step += 1
            if step == n_steps:
                return


class Scorer:
    """F-scores of a saved pipeline on several corpora."""

    def __init__(self, corpora: dict[str, Docs]) -> None:
        self._corpora = corpora

    def __call__(self, path: Path) -> dict[str, float]:
        nlp = spacy.load(path)
        return {
            name: nlp.evaluate([Example(nlp.make_doc(doc.text), doc) for doc in docs])["ents_f"]
            for name, docs in self._corpora.items()
        }


def run_seed(
    seed: int, train_docs: dict[str, Docs], score: Scorer, steps: tuple[int, int], folder: Path
) -> dict[str, Any]:
    """Train and evaluate with one seed. The pipelines stay in the folder."""
    base = folder / f"base-{seed}"
    nlp = make_pipeline(seed, train_docs["old"])
    train(nlp, train_docs["old"], make_optimizer(), steps[0], seed)
    nlp.to_disk(base)
    tuned = folder / f"tuned-{seed}"
    train(nlp, train_docs["new"], make_optimizer(), steps[1], seed)
    nlp.to_disk(tuned)
    found = score_interpolations(base, tuned, ALPHAS, score)
    result: dict[str, Any] = {"alphas": [scores for _, scores in found], "anchored": {}}
    for strength in STRENGTHS:
        nlp = spacy.load(base)
        train(nlp, train_docs["new"], make_optimizer(strength), steps[1], seed)
        nlp.to_disk(folder / "anchored")
        result["anchored"][f"{strength:g}"] = score(folder / "anchored")
    return result


def run_averages(
    n_seeds: int, docs: Docs, score: Scorer, n_steps: int, folder: Path
) -> dict[str, dict[str, float]]:
    """Averages of pipelines with different initial weights, and of pipelines that were trained
    further from the same one."""
    shuffled = [folder / "tuned-0"]
    for seed in range(1, n_seeds):
        nlp = spacy.load(folder / "base-0")
        train(nlp, docs, make_optimizer(), n_steps, seed)
        shuffled.append(folder / f"shuffled-{seed}")
        nlp.to_disk(shuffled[-1])
    bases = [folder / f"base-{seed}" for seed in range(n_seeds)]
    found = {}
    for name, paths in (("bases", bases), ("soup", shuffled)):
        average_models(paths, folder / f"{name}-average")
        found[name] = score(folder / f"{name}-average")
        singles = [score(path) for path in paths]
        found[f"{name}, mean of the scores"] = {
            key: mean(single[key] for single in singles) for key in singles[0]
        }
    return found


def chosen(scores: list[dict[str, float]]) -> dict[str, float]:
    """The scores of the interpolation that is chosen on other data than they are from."""
    candidates = [
        AlphaScore(alpha, found["new dev"], found["old dev"])
        for alpha, found in zip(ALPHAS, scores, strict=True)
    ]
    best = find_best(candidates, KEEP)
    return {**scores[ALPHAS.index(best.alpha)], "alpha": best.alpha}


def describe(scores: list[dict[str, float]], key: str) -> str:
    values = [100 * found[key] for found in scores]
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def write_results(runs: list[dict[str, Any]], averages: dict[str, Any], about: str) -> None:
    methods: dict[str, list[dict[str, float]]] = {
        "before": [run["alphas"][0] for run in runs],
        "trained further": [run["alphas"][-1] for run in runs],
        "interpolated, alpha 0.5": [run["alphas"][5] for run in runs],
        f"interpolated, {100 * KEEP:g} % of the old score kept": [
            chosen(run["alphas"]) for run in runs
        ],
    }
    for strength in runs[0]["anchored"]:
        methods[f"L2SP, alpha {strength}"] = [run["anchored"][strength] for run in runs]
    rows = [["pipeline", "old", "new", "old: difference", "new: difference"]]
    plain = methods["trained further"]
    for name, scores in methods.items():
        cells = [name]
        cells += [describe(scores, key) for key in ("old test", "new test")]
        for key in ("old test", "new test"):
            differences = [
                100 * (found[key] - other[key])
                for found, other in zip(scores, plain, strict=True)
            ]
            if scores is plain:
                cells.append("")
                continue
            low, high = interval(differences)
            cells.append(f"{mean(differences):+.1f} ({low:+.1f} to {high:+.1f})")
        rows.append(cells)
    along = [["alpha", "old", "new"]]
    for i, alpha in enumerate(ALPHAS):
        scores = [run["alphas"][i] for run in runs]
        cells = [describe(scores, key) for key in ("old test", "new test")]
        along.append([f"{alpha:g}", *cells])
    picked = [found["alpha"] for found in methods[list(methods)[3]]]
    others = [["pipelines", "old", "new"]]
    names = {
        "bases": "average of pipelines with different initial weights",
        "bases, mean of the scores": "these pipelines, mean of their scores",
        "soup": "average of pipelines trained further from one",
        "soup, mean of the scores": "these pipelines, mean of their scores",
    }
    for key, name in names.items():
        found = averages[key]
        others.append(
            [name, f"{100 * found['old test']:.1f}", f"{100 * found['new test']:.1f}"]
        )
    blocks = [
        "# Forgetting",
        about,
        to_markdown(rows).rstrip(),
        "Differences are to `trained further`, seed by seed, with their 95 % interval. The "
        f"alpha of the fourth row is chosen on dev data for each seed: {picked}.",
        "## Along alpha",
        to_markdown(along).rstrip(),
        "![Scores along alpha](curve.png)",
        "## Averages of several pipelines",
        f"Each is an average of {len(runs)}; one measurement, without an interval.",
        to_markdown(others).rstrip(),
    ]
    (HERE / "results.md").write_text("\n\n".join(blocks) + "\n", encoding="utf8")


def draw(runs: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    from thinc_swa.schedules.plots import COLOURS
    from thinc_swa.training.plots import save_figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = figure.subplots()

    def points(get: Callable[[dict[str, Any]], dict[str, float]]) -> tuple[float, float]:
        old, new = (
            mean(100 * get(run)[key] for run in runs) for key in ("old test", "new test")
        )
        return old, new

    along = [points(lambda run, i=i: run["alphas"][i]) for i in range(len(ALPHAS))]  # type: ignore[misc]
    panel.plot(*zip(*along, strict=True), "o-", color=COLOURS[0], label="interpolated")
    for i in (0, 5, 10):
        panel.annotate(
            f"alpha {ALPHAS[i]:g}",
            along[i],
            textcoords="offset points",
            xytext=(6, 6),
            fontsize=8,
        )
    anchored = {s: points(lambda run, s=s: run["anchored"][s]) for s in runs[0]["anchored"]}  # type: ignore[misc]
    panel.plot(*zip(*anchored.values(), strict=True), "s--", color=COLOURS[5], label="L2SP")
    for strength, point in anchored.items():
        panel.annotate(
            f"alpha {strength}", point, textcoords="offset points", xytext=(6, -10), fontsize=8
        )
    panel.set_xlabel("F-score on the old data in %")
    panel.set_ylabel("F-score on the new data in %")
    panel.margins(0.12)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    save_figure(figure, HERE / "curve")


def main(old: Path, new: Path, n_seeds: int, steps: tuple[int, int]) -> None:
    nlp = spacy.blank("en")
    train_docs = {
        "old": read_docs(nlp, old / "train.jsonl"),
        "new": read_docs(nlp, new / "train.jsonl"),
    }
    held_out = read_docs(nlp, old / "dev.jsonl")
    half = len(held_out) // 2
    corpora = {
        "old dev": held_out[:half],
        "old test": held_out[half:],
        "new dev": read_docs(nlp, new / "dev.jsonl"),
        "new test": read_docs(nlp, new / "test.jsonl"),
    }
    score = Scorer(corpora)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [run_seed(seed, train_docs, score, steps, folder) for seed in range(n_seeds)]
        averages = run_averages(n_seeds, train_docs["new"], score, steps[1], folder)
    about = (
        f"F-scores in %, mean ± standard deviation of {n_seeds} seeds. Old: fashion brands in "
        f"{len(train_docs['old'])} comments ({steps[0]} steps); new: food ingredients in "
        f"{len(train_docs['new'])} comments ({steps[1]} steps), with the same label. Evaluated "
        f"on {len(corpora['old test'])} and {len(corpora['new test'])} other comments."
    )
    text = json.dumps({"runs": runs, "averages": averages, "about": about}, indent=1)
    (HERE / "results.json").write_text(text + "\n", encoding="utf8")
    write_results(runs, averages, about)
    draw(runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, required=True, help="folder of the old comments")
    parser.add_argument("--new", type=Path, required=True, help="folder of the new comments")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs=2, default=(800, 200), metavar="N")
    arguments = parser.parse_args()
    main(arguments.old, arguments.new, arguments.seeds, tuple(arguments.steps))
