"""Train one task with one seed, and write the scores of all averages.

    python scripts/train.py quickstart wnut17 averages 0 --corpus corpus --output runs

`averages` trains once for Adam and the averages of its weights, which do not change the
training, `recommended` for two of these averages; `schedule_free` and `lookahead` train with
these optimizers.
"""

import argparse
import csv
import io
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spacy
import thinc
from replay import chosen_indices
from spacy.training import Corpus
from spacy.training.loop import create_evaluation_callback
from spacy.util import registry
from thinc.api import Config, Optimizer

from thinc_swa.comparison.entries import read_entries
from thinc_swa.comparison.entry_boundary import EntryOptimizer, make_boundary, split_entries
from thinc_swa.comparison.sharing import BOUNDARY, nest, take_apart
from thinc_swa.optimizers.base import unwrap
from thinc_swa.serialization.files import replace_text
from thinc_swa.training.callbacks import Callback
from thinc_swa.training.configs import optimizer_section
from thinc_swa.training.evaluation import Evaluation
from thinc_swa.training.spacy_trainer import SpacyTrainer

STUDY = Path(__file__).resolve().parents[1]
# Optimizers that share a training.
GROUPS = {
    "averages": ("adam", "use_averages", "ema", "swa_half", "swa_late", "swa_plateau", "lawa"),
    "schedule_free": ("schedule_free",),
    "recommended": ("adam", "ema", "swa_late"),
    "lookahead": ("lookahead",),
}
# Steps of each task.
STEPS = {
    "fashion_brands": 1600,
    "food_ingredients": 1600,
    "wnut17": 1600,
    "danish_ddt": 1600,
    "afribooms": 1200,
    "cooking": 3200,
}
COLUMNS = (
    "setting",
    "task",
    "optimizer",
    "seed",
    "step",
    "raw_score",
    "score",
    "test_score",
    "n_averaged",
    "seconds",
    "machine",
)
Weights = dict[Any, Any]


@dataclass(frozen=True)
class Setting:
    """Changes to the quickstart.

    rate (float): Factor of the learning rate.
    decays (bool): Whether it decays, linearly to zero over the training.
    train (str): Name of the training data.
    """

    rate: float = 1.0
    decays: bool = False
    train: str = "train"


SETTINGS = {
    "quickstart": Setting(),
    "rate_0.3": Setting(rate=0.3),
    "rate_3": Setting(rate=3.0),
    "decayed": Setting(decays=True),
    "quarter": Setting(train="quarter"),
    "corrupted": Setting(train="corrupted"),
}


def describe_machine() -> str:
    """CPU, number of cores and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf8").splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    return (
        f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"spaCy {spacy.__version__}, Thinc {thinc.__version__}"
    )


@dataclass(frozen=True)
class Run:
    """A training.

    setting (str): Name of the changes to the quickstart.
    group (str): Name of the optimizers.
    """

    setting: str
    task: str
    group: str
    seed: int

    @property
    def file_name(self) -> str:
        return f"{self.setting}-{self.task}-{self.group}-{self.seed}.csv"


def make_config(run: Run, corpus: Path, n_steps: int) -> tuple[Config, list[bool]]:
    """Make the config of a training.

    RETURNS (tuple[Config, list[bool]]): The config, and whether averages of Thinc's own belong
        to each optimizer of the group.
    """
    setting = SETTINGS[run.setting]
    overrides = {
        "paths.train": str(corpus / run.task / f"{setting.train}.spacy"),
        "paths.dev": str(corpus / run.task / "dev.spacy"),
        "system.seed": run.seed,
        "training.max_steps": n_steps,
        # Replayed afterwards, for each optimizer.
        "training.patience": 0,
    }
    files = sorted((STUDY / "optimizers").glob("*.cfg"))
    entries = read_entries([STUDY / "configs" / f"{run.task}.cfg"], files, overrides)
    found = {entry.name: entry.config.interpolate() for entry in entries}
    found["adam"] = found.pop(run.task)
    configs = [found[name] for name in GROUPS[run.group]]
    for config in configs:
        set_rate(optimizer_section(config)["optimizer"], setting, n_steps)
    nestings = [take_apart(optimizer_section(config)["optimizer"]) for config in configs]
    config = configs[0]
    optimizer_section(config)["optimizer"] = nest(nestings)
    return config, [nesting.uses_averages for nesting in nestings]


def set_rate(optimizer: dict[str, Any], setting: Setting, n_steps: int) -> None:
    """Change the learning rate of the innermost optimizer of a section."""
    while "optimizer" in optimizer:
        optimizer = optimizer["optimizer"]
    rate = setting.rate * optimizer["learn_rate"]
    optimizer["learn_rate"] = rate
    if setting.decays:
        optimizer["learn_rate"] = {
            "@schedules": "warmup_linear.v1",
            "initial_rate": rate,
            "warmup_steps": 0,
            "total_steps": n_steps,
        }


class Trainer(SpacyTrainer):
    """Trainer that evaluates the averages of all optimizers of a group."""

    entries: list[EntryOptimizer]

    def _averages_to_evaluate(self) -> dict[str, Optimizer]:
        averaging = [entry.averaging for entry in self.entries]
        return {
            str(i): level
            for i, level in enumerate(unwrap(self.optimizer))
            if any(level is other for other in averaging)
        }

    def place(self, entry: EntryOptimizer) -> str | None:
        """Name of the averages of an optimizer of the group; None without averages."""
        found = self._averages_to_evaluate().items()
        return next((place for place, level in found if level is entry.averaging), None)


class Recorder(Callback):
    """Scores of all optimizers of a group, and the weights that are to be tested.

    names (tuple[str, ...]): The optimizers.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        # Weights by step.
        self.weights: dict[str, dict[int, Weights]] = {name: {} for name in names}

    def on_evaluate(self, trainer: Trainer, evaluation: Evaluation) -> None:  # type: ignore[override]
        step = evaluation.step - 1
        raw: Weights | None = None
        for (name, rows), entry in zip(self.rows.items(), trainer.entries, strict=True):
            place = trainer.place(entry)
            # An average that starts at this evaluation has the raw weights so far.
            score = evaluation.all_averages.get(place or "", evaluation.raw)
            rows.append(
                {
                    "step": step,
                    "raw_score": evaluation.raw,
                    "score": score,
                    "n_averaged": entry.n_averaged,
                    "seconds": trainer.state.seconds,
                }
            )
            chosen = chosen_indices([r["step"] for r in rows], [r["score"] for r in rows])
            steps = {rows[i]["step"] for i in chosen.values()}
            kept = self.weights[name]
            for other in set(kept) - steps:
                del kept[other]
            if place is not None:
                kept[step] = {key: w.copy() for key, w in entry.averaging.averages.items()}
            else:
                raw = raw or copy_weights(trainer.model)
                kept[step] = raw


def copy_weights(nlp: spacy.Language) -> Weights:
    """Copy all weights of a pipeline, by the keys of its optimizer."""
    return {
        (node.id, name): node.get_param(name).copy()
        for _, component in nlp.pipeline
        if hasattr(component, "model")
        for node in component.model.walk()
        for name in node.param_names
        if node.has_param(name)
    }


def add_test_scores(trainer: Trainer, recorder: Recorder, path: Path) -> None:
    """Test the chosen weights.

    path (Path): The test data.
    """
    nlp = trainer.model
    evaluate = create_evaluation_callback(nlp, Corpus(path), trainer.settings["score_weights"])
    scores: dict[int, float] = {}
    for name, rows in recorder.rows.items():
        for row in rows:
            weights = recorder.weights[name].get(row["step"])
            if weights is not None:
                if id(weights) not in scores:
                    with nlp.use_params(weights):
                        scores[id(weights)] = float(evaluate()[0])
                row["test_score"] = scores[id(weights)]


def train(run: Run, corpus: Path, n_steps: int | None = None) -> Iterator[dict[str, Any]]:
    """Train, and make the rows of the table of scores. They have test scores where
    `chosen_indices` has an index."""
    registry.optimizers(BOUNDARY)(make_boundary)
    config, uses_averages = make_config(run, corpus, n_steps or STEPS[run.task])
    recorder = Recorder(GROUPS[run.group])
    trainer = Trainer(config, [recorder])
    trainer.entries = split_entries(trainer.optimizer, uses_averages)
    trainer.run()
    add_test_scores(trainer, recorder, corpus / run.task / "test.spacy")
    common = {
        "setting": run.setting,
        "task": run.task,
        "seed": run.seed,
        "machine": describe_machine(),
    }
    for name, rows in recorder.rows.items():
        for row in rows:
            yield {**common, "optimizer": name, **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("task", choices=STEPS)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("seed", type=int)
    parser.add_argument("--corpus", type=Path, default=STUDY / "corpus")
    parser.add_argument("--output", type=Path, default=STUDY / "runs")
    parser.add_argument("--steps", type=int, help="instead of those of the plan")
    arguments = parser.parse_args()
    run = Run(arguments.setting, arguments.task, arguments.group, arguments.seed)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(train(run, arguments.corpus, arguments.steps))
    arguments.output.mkdir(parents=True, exist_ok=True)
    replace_text(arguments.output / run.file_name, text.getvalue())


if __name__ == "__main__":
    main()
