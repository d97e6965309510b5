"""Do several workers reach the score of one worker after the same number of words?

    python examples/studies/workers/study.py --brands fashion_brands --questions cooking

Both folders have train.jsonl and dev.jsonl, with `text` and `entities` (start, end and label)
or `cats` (1.0 or 0.0 by label). They are `ner_fashion_brands` and `textcat_multilabel_demo` of
https://github.com/explosion/projects (MIT License), the former reduced to annotations that were
answered with "accept".

The configs are those of `spacy init config`, but for the optimizer. The workers are simulated
in one process: their weights are those of real ones. Finished trainings are in runs.csv beside
this file and are not repeated. It writes results.md and the pictures of the scores.
"""

import argparse
import csv
import json
import math
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import spacy
from spacy.cli.init_config import init_config
from spacy.tokens import Doc, DocBin

from thinc_swa.comparison.results import interval, to_markdown
from thinc_swa.distributed import run_simulated
from thinc_swa.distributed.communicator import Communicator
from thinc_swa.training.callbacks import Callback
from thinc_swa.training.spacy_trainer import SpacyTrainer

HERE = Path(__file__).parent
RUNS = HERE / "runs.csv"
COLUMNS = ["task", "method", "n_workers", "seed", "step", "words", "raw_score", "score"]
TASKS = {"brands": "ner", "questions": "textcat_multilabel"}
ONE = "one worker"
GRADIENTS = "gradients of every step"
DEFAULT = "0.7, momentum 0.5"
# Arguments of LocalSGD by name of the method.
METHODS: dict[str, dict[str, float]] = {
    GRADIENTS: {"start_step": 10**6},
    "the mean": {"outer_learn_rate": 1.0, "outer_momentum": 0.0},
    DEFAULT: {"outer_learn_rate": 0.7, "outer_momentum": 0.5},
}
# Those that synchronise more often, and at the beginning at every step.
MORE_OFTEN: dict[str, dict[str, float]] = {
    f"{DEFAULT}, freq 10": {**METHODS[DEFAULT], "freq": 10},
    f"{DEFAULT}, start_step 100": {**METHODS[DEFAULT], "start_step": 100},
}
# Tasks and numbers of workers of the further question.
SIZES = (("brands", 4), ("brands", 8), ("questions", 2), ("questions", 4), ("questions", 8))
# Where the other methods are behind one worker.
BEHIND = (("brands", 8), ("questions", 2), ("questions", 8))
FREQ = 50
# Documents of the development data. With all of the questions, evaluation takes most of the
# time.
MAX_DEV = 500
# The evaluations of a training, of which the last quarter of the words counts.
N_EVALUATIONS = 8
LAST = 0.75
Row = dict[str, Any]
Trial = tuple[str, str, int, int]


# Data


def write_corpora(folder: Path, task: str, output: Path) -> None:
    """Convert the JSON lines of a task to .spacy files."""
    nlp = spacy.blank("en")
    for name in ("train", "dev"):
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf8").splitlines()
        lines = lines[: MAX_DEV if name == "dev" else None]
        docs = [make_doc(nlp, json.loads(line)) for line in lines]
        DocBin(docs=docs, store_user_data=True).to_disk(output / f"{task}-{name}.spacy")


def make_doc(nlp: spacy.Language, record: dict[str, Any]) -> Doc:
    doc = nlp.make_doc(record["text"])
    doc.cats = record.get("cats", {})
    found = [doc.char_span(*entity) for entity in record.get("entities", ())]
    doc.ents = [span for span in found if span is not None]
    return doc


# Trainings


def make_config(trial: Trial, n_words: int, corpora: Path) -> Any:
    """The config of spaCy's quickstart for a CPU, with the optimizer of the method."""
    task, method, n_workers, seed = trial
    config = init_config(lang="en", pipeline=[TASKS[task]], optimize="efficiency")
    config["paths"]["train"] = str(corpora / f"{task}-train.spacy")
    config["paths"]["dev"] = str(corpora / f"{task}-dev.spacy")
    config["system"]["seed"] = seed
    training = config["training"]
    # Batches grow by a factor with every step of a worker.
    size = training["batcher"]["size"]
    growth = size["compound"] - 1
    n_steps = math.log1p(n_words / n_workers * growth / size["start"]) / growth
    training.update(patience=0, max_steps=0, eval_frequency=round(n_steps / N_EVALUATIONS))
    adam = {**training["optimizer"], "use_averages": False}
    if method == ONE:
        training["optimizer"] = adam
    else:
        local = {"@optimizers": "LocalSGD.v1", "freq": FREQ, **(METHODS | MORE_OFTEN)[method]}
        training["optimizer"] = {**local, "optimizer": adam}
    return config


class WordLimit(Callback):
    """Ends the training after a number of words."""

    def __init__(self, n_words: int) -> None:
        self.n_words = n_words
        self.rows: list[Row] = []

    def on_evaluate(self, trainer: Any, evaluation: Any) -> None:
        words = trainer.state.extra["words"]
        found = {"words": words, "raw_score": evaluation.raw, "score": evaluation.score}
        self.rows.append({"step": evaluation.step, **found})
        if words >= self.n_words:
            trainer.stop()


def run_trial(trial: Trial, n_words: int, corpora: Path) -> list[Row]:
    task, method, n_workers, seed = trial
    limit = WordLimit(n_words)

    def work(communicator: Communicator) -> None:
        config = make_config(trial, n_words, corpora)
        SpacyTrainer(config, [limit], communicator=communicator).run()

    run_simulated(n_workers, work)
    about = {"task": task, "method": method, "n_workers": n_workers, "seed": seed}
    return [{**about, **row} for row in limit.rows]


def list_trials(n_seeds: int, n_further_seeds: int) -> list[Trial]:
    """All trainings, the first question's first and seed by seed, so that complete seeds can
    be evaluated at any time."""
    trials: list[Trial] = []
    for seed in range(n_seeds):
        trials.append(("brands", ONE, 1, seed))
        trials += [("brands", method, 2, seed) for method in (GRADIENTS, DEFAULT, "the mean")]
    for seed in range(n_further_seeds):
        trials.append(("questions", ONE, 1, seed))
        for task, n_workers in SIZES:
            trials += [(task, method, n_workers, seed) for method in METHODS]
    for seed in range(n_further_seeds):
        for task, n_workers in BEHIND:
            trials += [(task, method, n_workers, seed) for method in MORE_OFTEN]
    return trials


def read_rows() -> list[Row]:
    if not RUNS.exists():
        return []
    kinds = {"n_workers": int, "seed": int, "step": int, "words": int}
    kinds |= {"raw_score": float, "score": float}  # type: ignore[dict-item]
    with RUNS.open(newline="", encoding="utf8") as file:
        return [
            {name: kinds.get(name, str)(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


def append_rows(rows: list[Row]) -> None:
    is_new = not RUNS.exists()
    with RUNS.open("a", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def trial_of(row: Row) -> Trial:
    return row["task"], row["method"], row["n_workers"], row["seed"]


def run_all(trials: list[Trial], n_words: int, folders: dict[str, Path], n_jobs: int) -> None:
    done = {trial_of(row) for row in read_rows()}
    missing = [trial for trial in trials if trial not in done]
    with tempfile.TemporaryDirectory() as name:
        for task, folder in folders.items():
            write_corpora(folder, task, Path(name))
        with ProcessPoolExecutor(n_jobs, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(run_trial, trial, n_words, Path(name)) for trial in missing]
            for trial, job in zip(missing, jobs, strict=True):
                append_rows(job.result())
                print(*trial, sep=", ", flush=True)


# Results


def last_scores(rows: list[Row]) -> dict[tuple[str, str, int], dict[int, float]]:
    """The mean score in % over the last quarter of the words, by method and seed."""
    runs = defaultdict(list)
    for row in rows:
        runs[trial_of(row)].append(row)
    found: dict[tuple[str, str, int], dict[int, float]] = defaultdict(dict)
    for (task, method, n_workers, seed), evaluations in runs.items():
        n_words = evaluations[-1]["words"]
        last = [row["score"] for row in evaluations if row["words"] >= LAST * n_words]
        found[task, method, n_workers][seed] = 100 * mean(last)
    return found


def paired(own: dict[int, float], other: dict[int, float]) -> str:
    seeds = sorted(own.keys() & other.keys())
    if len(seeds) < 2:
        return ""
    differences = [own[seed] - other[seed] for seed in seeds]
    low, high = interval(differences)
    return f"{mean(differences):+.2f} ({low:+.2f} to {high:+.2f})"


def write_results(rows: list[Row]) -> None:
    scores = last_scores(rows)
    blocks = [
        "# Several workers",
        "Scores in % (brands: entity F-score; questions: macro AUC of the categories) of the "
        "averages, for one worker of the raw weights. Mean over the evaluations in the last "
        "quarter of the words; mean ± standard deviation over the seeds. All workers together "
        f"train on as many words as the one. `freq = {FREQ}`. Differences are paired by seed, "
        "with 95 % intervals, not corrected for their number.",
    ]
    for task in TASKS:
        base = scores.get((task, ONE, 1), {})
        table = [
            [
                "workers",
                "method",
                "score",
                "seeds",
                "to one worker",
                "to gradients of every step",
            ]
        ]
        found = {key[1:]: runs for key, runs in scores.items() if key[0] == task}
        order = [ONE, *METHODS, *MORE_OFTEN]
        for method, n in sorted(found, key=lambda key: (key[1], order.index(key[0]))):
            own = found[method, n]
            spread = f" ± {stdev(own.values()):.2f}" if len(own) > 1 else ""
            gradients = found.get((GRADIENTS, n), {})
            table.append(
                [
                    str(n),
                    method,
                    f"{mean(own.values()):.2f}{spread}",
                    str(len(own)),
                    "" if method == ONE else paired(own, base),
                    "" if method in (ONE, GRADIENTS) else paired(own, gradients),
                ]
            )
        if found:
            blocks += [f"## {task.capitalize()}", to_markdown(table).rstrip()]
            blocks.append(f"![Scores by words: {task}]({task}.png)")
    (HERE / "results.md").write_text("\n\n".join(blocks) + "\n", encoding="utf8")


def draw(rows: list[Row], task: str) -> None:
    """The score by the number of words, one panel for each number of workers."""
    from matplotlib.figure import Figure

    from thinc_swa.schedules.plots import COLOURS
    from thinc_swa.training.plots import save_figure

    rows = [row for row in rows if row["task"] == task]
    sizes = sorted({row["n_workers"] for row in rows} - {1})
    if not sizes:
        return
    figure = Figure(figsize=(3.4 * len(sizes), 3.6), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for panel, n_workers in zip(panels, sizes, strict=True):
        for index, method in enumerate([ONE, *METHODS, *MORE_OFTEN]):
            runs = defaultdict(list)
            for row in rows:
                if row["method"] == method and row["n_workers"] in (1, n_workers):
                    runs[row["seed"]].append(row)
            if not runs:
                continue
            # The evaluations of the seeds are after nearly the same numbers of words.
            points = list(zip(*runs.values(), strict=False))
            words = [mean(row["words"] for row in point) / 1000 for point in points]
            means = [mean(100 * row["score"] for row in point) for point in points]
            colour = "black" if method == ONE else COLOURS[index]
            panel.plot(words, means, color=colour, linewidth=1.4, label=method)
        panel.set_title(f"{n_workers} workers", fontsize=10)
        panel.set_xlabel("thousand words of all workers")
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("score in %")
    legend = panels[-1].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, HERE / task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for task in TASKS:
        parser.add_argument(f"--{task}", type=Path, help=f"folder of the {task}")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--further-seeds", type=int, default=4)
    parser.add_argument("--words", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    folders = {task: getattr(arguments, task) for task in TASKS}
    folders = {task: folder for task, folder in folders.items() if folder is not None}
    trials = list_trials(arguments.seeds, arguments.further_seeds)
    trials = [trial for trial in trials if trial[0] in folders]
    run_all(trials, arguments.words, folders, arguments.jobs)
    rows = read_rows()
    write_results(rows)
    for task in TASKS:
        draw(rows, task)


if __name__ == "__main__":
    main()
