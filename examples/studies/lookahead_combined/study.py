"""Lookahead against Adam and SGD, with and without mixup and the one-cycle schedule.

    python examples/studies/lookahead_combined/study.py --cooking FOLDER
    python examples/studies/lookahead_combined/analyse.py

PLAN.md says what is trained and why. The folder has train.jsonl and dev.jsonl with `text` and
`cats` (1.0 or 0.0 by label): `textcat_multilabel_demo` of https://github.com/explosion/projects
(MIT License). Without it, only the digits are trained. All evaluations are written to runs.csv
beside this file. Complete trainings are in the folder of the logs, and are not repeated.
"""

import argparse
import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy
from thinc.api import Config

from thinc_swa.comparison.entries import Entry
from thinc_swa.comparison.results import describe_failures
from thinc_swa.comparison.runs import Run, make_runs, train_runs
from thinc_swa.serialization.files import replace_text
from thinc_swa.training.datasets import make_digits

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parents[2] / "configs" / "digits" / "adam.cfg"
# The optimizer, and `inner_state` of Lookahead around it.
METHODS: dict[str, tuple[str, str | None]] = {
    "Adam": ("Adam", None),
    "Lookahead/Adam, keep": ("Adam", "keep"),
    "Lookahead/Adam, reset": ("Adam", "reset"),
    "SGD": ("SGD", None),
    "Lookahead/SGD": ("SGD", "keep"),
}
SCHEDULES = ("constant", "one-cycle")
# Learning rates to choose from; the highest one of the cycle.
GRIDS = {
    "digits": {
        "Adam": (0.001, 0.003, 0.01, 0.03),
        "SGD": (0.1, 0.3, 1.0, 3.0),
    },
    "cooking": {
        "Adam": (0.001, 0.003, 0.01),
        "SGD": (0.3, 1.0, 3.0),
    },
}
# Rates beyond the grid of the questions on cooking, which were trained after the results.
BEYOND = {
    "Adam": (0.03,),
    "Lookahead/Adam, keep": (0.03,),
    "Lookahead/Adam, reset": (0.03, 0.1),
    "SGD": (0.1,),
    "Lookahead/SGD": (0.1,),
}
N_STEPS = {"digits": 1000, "cooking": 600}
N_SEEDS = {"digits": 10, "cooking": 5}
# Of the trainings that choose the rates.
FIRST_SEED = 100
N_FOLDS = 3
# Half of the digits are for testing, so that a point is nine images.
TEST_SIZE = 0.5
ALPHA = 0.2
N_EVALUATIONS = 4
# Development documents that choose the rates, and test documents.
N_DEV, N_TEST = 300, 500
# Words per batch: where the quickstart's growing batches end.
N_WORDS = 1000
# Rows of the weights, for hashed words; the quickstart has 262,144. Most of the time of a step
# would be that of Adam.
N_ROWS = 32768
COLUMNS = (
    "task",
    "part",
    "method",
    "mixup",
    "schedule",
    "learn_rate",
    "seed",
    "step",
    "raw_score",
    "score",
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What is compared: a method in a setting.

    task (str): "digits" or "cooking".
    method (str): One of `METHODS`.
    mixup (bool): Whether training examples are mixed.
    schedule (str): One of `SCHEDULES`.
    """

    task: str
    method: str
    mixup: bool
    schedule: str

    @property
    def grid(self) -> tuple[float, ...]:
        return GRIDS[self.task][METHODS[self.method][0]]

    def name(self, rate: float) -> str:
        mixup = "mixup" if self.mixup else "no mixup"
        return f"{self.task} {self.method} {mixup} {self.schedule} {rate:g}"


def make_cells(task: str) -> list[Cell]:
    # Texts cannot be mixed.
    mixups = (False, True) if task == "digits" else (False,)
    return [
        Cell(task, method, mixup, schedule)
        for mixup in mixups
        for schedule in SCHEDULES
        for method in METHODS
    ]


# Configs


def make_optimizer(cell: Cell, rate: float, n_steps: int) -> dict[str, Any]:
    """Section of the optimizer. Without weight decay, which would grow with the rate."""
    base, inner_state = METHODS[cell.method]
    learn_rate: float | dict[str, Any] = rate
    if cell.schedule == "one-cycle":
        learn_rate = {"@schedules": "one_cycle.v1", "max_rate": rate, "total_steps": n_steps}
    optimizer = {
        "@optimizers": f"{base}.v1",
        "learn_rate": learn_rate,
        "L2": 0.0,
        "use_averages": False,
    }
    if inner_state is None:
        return optimizer
    return {"@optimizers": "Lookahead.v1", "inner_state": inner_state, "optimizer": optimizer}


def make_digits_config(
    cell: Cell, rate: float, n_steps: int, fold: Path | None = None
) -> Config:
    """Make the config of `configs/digits` with a method.

    fold (Path | None): File of a fold of the training images; None for the test images.
    """
    config = Config().from_disk(DIGITS)
    config["dataset"] = {"@datasets": "digits.v1", "dev_size": TEST_SIZE}
    if fold is not None:
        config["dataset"] = {"@datasets": "npz.v1", "path": str(fold)}
    config["training"].update(max_steps=n_steps, eval_frequency=n_steps // N_EVALUATIONS)
    config["optimizer"] = make_optimizer(cell, rate, n_steps)
    if cell.mixup:
        config["callbacks"] = {"mixup": {"@callbacks": "mixup.v1", "alpha": ALPHA}}
    return config


def make_cooking_config(
    cell: Cell, rate: float, n_steps: int, train: Path, dev: Path
) -> Config:
    """Make the config of spaCy's quickstart for a CPU with a method."""
    from spacy.cli.init_config import init_config

    config = init_config(lang="en", pipeline=["textcat_multilabel"], optimize="efficiency")
    config["paths"].update(train=str(train), dev=str(dev))
    config["components"]["textcat_multilabel"]["model"]["length"] = N_ROWS
    training = config["training"]
    training.update(patience=0, max_steps=n_steps, eval_frequency=n_steps)
    training["batcher"]["size"] = N_WORDS
    training["optimizer"] = make_optimizer(cell, rate, n_steps)
    return config


# Data


def write_folds(folder: Path) -> list[Path]:
    """Write the folds of the training images for cross-validation."""
    from sklearn.model_selection import StratifiedKFold

    (images, labels), _ = make_digits(dev_size=TEST_SIZE)
    splits = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for i, (train, dev) in enumerate(splits.split(images, labels.argmax(axis=1))):
        paths.append(folder / f"fold-{i}.npz")
        arrays = {
            "train_X": images[train],
            "train_Y": labels[train],
            "dev_X": images[dev],
            "dev_Y": labels[dev],
        }
        numpy.savez(paths[-1], **arrays)
    return paths


def write_questions(data: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Convert the questions on cooking: those of dev.jsonl choose the rates and test,
    alternately.

    RETURNS (tuple[Path, Path, Path]): Files for training, for development and for testing.
    """
    import spacy
    from spacy.tokens import DocBin

    nlp = spacy.blank("en")
    records = {
        name: [
            json.loads(line)
            for line in (data / f"{name}.jsonl").read_text(encoding="utf8").splitlines()
        ]
        for name in ("train", "dev")
    }
    parts = {
        "train": records["train"],
        "dev": records["dev"][::2][:N_DEV],
        "test": records["dev"][1::2][:N_TEST],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in parts.items():
        docs = DocBin()
        for record in found:
            doc = nlp.make_doc(record["text"])
            doc.cats = record["cats"]
            docs.add(doc)
        docs.to_disk(folder / f"{name}.spacy")
    train, dev, test = (folder / f"{name}.spacy" for name in parts)
    return train, dev, test


# Trainings


def final(rows: Iterable[Row]) -> dict[tuple[Cell, float, int], float]:
    """Scores after the last step, by cell, learning rate and seed."""
    last: dict[tuple[Cell, float, int], Row] = {}
    for row in rows:
        cell = Cell(row["task"], row["method"], row["mixup"], row["schedule"])
        key = cell, row["learn_rate"], row["seed"]
        if key not in last or row["step"] > last[key]["step"]:
            last[key] = row
    return {key: row["score"] for key, row in last.items()}


def choose_rate(cell: Cell, rows: Iterable[Row]) -> float:
    """Learning rate with the highest mean score, the lowest of equal ones. A diverged training
    has the score 0.

    rows (Iterable[Row]): Those that choose.
    """
    scores = final(rows)
    seeds = {seed for _, _, seed in scores}
    return max(
        sorted(cell.grid),
        key=lambda rate: mean(scores.get((cell, rate, seed), 0.0) for seed in seeds),
    )


def train(
    part: str, configs: dict[tuple[Cell, float], Sequence[Config]], n_seeds: int, logs: Path
) -> list[Row]:
    """Train configs with each seed.

    part (str): "choice", "result" or "beyond".
    configs (dict[tuple[Cell, float], Sequence[Config]]): Configs by cell and learning rate.
    n_seeds (int): Number of seeds, from each config's own on.
    logs (Path): Folder.
    RETURNS (list[Row]): The evaluations.
    RAISES: RuntimeError if a training that does not choose has failed.
    """
    entries, keys = [], {}
    for (cell, rate), found in configs.items():
        for i, config in enumerate(found):
            entry = Entry(f"{part} {cell.name(rate)} {i}", config)
            entries.append(entry)
            keys[entry.name] = cell, rate
    runs = make_runs(entries, n_seeds=n_seeds, output=logs)
    train_runs(runs, n_jobs=1)
    if part == "result":
        for failure in describe_failures(runs):
            raise RuntimeError(failure)
    return [row for run in runs for row in make_rows(part, *keys[run.name], run)]


def make_rows(part: str, cell: Cell, rate: float, run: Run) -> Iterable[Row]:
    if run.state != "done":
        return
    for record in run.evaluations:
        values = (
            *(cell.task, part, cell.method, cell.mixup, cell.schedule, rate, run.seed),
            *(record["step"], record["raw"], record["score"]),
        )
        yield dict(zip(COLUMNS, values, strict=True))


def with_first_seed(config: Config, seed: int) -> Config:
    config = config.copy()
    # spaCy's [training] refers to the seed of [system].
    section = "system" if "system" in config else "training"
    config[section]["seed"] = seed
    return config


def train_digits(logs: Path, n_seeds: int, n_steps: int) -> list[Row]:
    folds = write_folds(logs / "folds")
    cells = make_cells("digits")
    configs = {
        (cell, rate): [
            with_first_seed(make_digits_config(cell, rate, n_steps, fold), FIRST_SEED + i)
            for i, fold in enumerate(folds)
        ]
        for cell in cells
        for rate in cell.grid
    }
    chosen = train("choice", configs, 1, logs)
    rates = {cell: choose_rate(cell, chosen) for cell in cells}
    configs = {
        (cell, rate): [make_digits_config(cell, rate, n_steps)] for cell, rate in rates.items()
    }
    return chosen + train("result", configs, n_seeds, logs)


def train_cooking(data: Path, logs: Path, n_seeds: int, n_steps: int) -> list[Row]:
    paths = write_questions(data, logs / "cooking")
    cells = make_cells("cooking")

    def make_configs(
        grids: dict[Cell, tuple[float, ...]],
    ) -> dict[tuple[Cell, float], Sequence[Config]]:
        return {
            (cell, rate): [
                with_first_seed(
                    make_cooking_config(cell, rate, n_steps, *paths[:2]), FIRST_SEED
                )
            ]
            for cell, rates in grids.items()
            for rate in rates
        }

    chosen = train("choice", make_configs({cell: cell.grid for cell in cells}), 1, logs)
    rates = {cell: choose_rate(cell, chosen) for cell in cells}
    configs = {
        (cell, rate): [make_cooking_config(cell, rate, n_steps, paths[0], paths[2])]
        for cell, rate in rates.items()
    }
    rows = chosen + train("result", configs, n_seeds, logs)
    beyond = make_configs({cell: BEYOND[cell.method] for cell in cells})
    return rows + train("beyond", beyond, 1, logs)


# Results


def read_rows(path: Path) -> list[Row]:
    """Read the evaluations of a file; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(encoding="utf8", newline="") as file:
        return [
            {
                **row,
                "mixup": row["mixup"] == "True",
                "seed": int(row["seed"]),
                "step": int(row["step"]),
                **{name: float(row[name]) for name in ("learn_rate", "raw_score", "score")},
            }
            for row in csv.DictReader(file)
        ]


def replace_rows(path: Path, task: str, rows: Sequence[Row]) -> None:
    """Replace the evaluations of a task in a file."""
    found = [row for row in read_rows(path) if row["task"] != task]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*found, *rows])
    replace_text(path, text.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cooking", type=Path, help="folder of the questions on cooking")
    parser.add_argument("--logs", type=Path, default=Path("lookahead_combined"))
    parser.add_argument("--output", type=Path, default=HERE / "runs.csv")
    parser.add_argument("--seeds", type=int, help="instead of those of the plan")
    parser.add_argument("--steps", type=int, help="instead of those of the plan")
    arguments = parser.parse_args()

    def lengths(task: str) -> tuple[int, int]:
        return arguments.seeds or N_SEEDS[task], arguments.steps or N_STEPS[task]

    rows = train_digits(arguments.logs, *lengths("digits"))
    replace_rows(arguments.output, "digits", rows)
    if arguments.cooking is not None:
        rows = train_cooking(arguments.cooking, arguments.logs, *lengths("cooking"))
        replace_rows(arguments.output, "cooking", rows)


if __name__ == "__main__":
    main()
