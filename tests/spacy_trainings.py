"""Small trainings of spaCy pipelines: configs, data, and results to compare."""

import io
import json
import random
from pathlib import Path

import numpy
import spacy
from corpus import generate_records, to_doc, write_corpus
from spacy.cli.init_config import init_config
from spacy.tokens import DocBin
from spacy.training.converters import conllu_to_docs
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config, registry

from thinc_swa.training.callbacks import Callback
from thinc_swa.training.spacy_training import train_spacy

DATA = Path(__file__).parents[2] / "shared" / "data"

ADAM = {"@optimizers": "Adam.v1", "learn_rate": 0.01, "use_averages": False}
SWA = {"@optimizers": "SWA.v1", "start_step": 12, "freq": 3, "optimizer": ADAM}
OPTIMIZERS = {
    "Adam": ADAM,
    "Adam with averages": {**ADAM, "use_averages": True},
    "SWA": SWA,
    "SWA, EMA and LAWA": {
        **SWA,
        "optimizer": {
            "@optimizers": "EMA.v1",
            "optimizer": {"@optimizers": "LAWA.v1", "window": 3, "freq": 4, "optimizer": ADAM},
        },
    },
    "EMA": {"@optimizers": "EMA.v1", "optimizer": ADAM},
    "Lookahead in SWA": {
        **SWA,
        "learn_rate": 0.005,
        "optimizer": {"@optimizers": "Lookahead.v1", "freq": 4, "optimizer": ADAM},
    },
}


# Data


def write_brands(folder):
    """Comments on fashion."""
    return write_corpus(folder, 200, 60)


def write_ner(folder):
    """Sentences that are easily learned."""
    return write_corpus(folder, 80, 30, get_records=generate_records)


def write_tagged(folder):
    """Afribooms: tags, dependencies, lemmas and morphology of Afrikaans sentences."""
    paths = []
    for name, n_docs in (("train", 60), ("dev", 25)):
        text = (DATA / "afribooms" / f"{name}.conllu").read_text(encoding="utf8")
        docs = []
        for doc in conllu_to_docs(text, n_sents=1, no_print=True):
            if len(doc) < 25:
                docs.append(doc)
            if len(docs) == n_docs:
                break
        paths.append(save(docs, folder / f"{name}.spacy"))
    return tuple(paths)


def write_categories(folder):
    """Cooking questions with several categories each."""
    nlp, paths = spacy.blank("en"), []
    for name, n_docs in (("train", 60), ("dev", 25)):
        with (DATA / "cooking" / f"{name}.jsonl").open(encoding="utf8") as file:
            records = [json.loads(next(file)) for _ in range(n_docs)]
        docs = []
        for record in records:
            doc = nlp.make_doc(record["text"][:200])
            doc.cats = record["cats"]
            docs.append(doc)
        paths.append(save(docs, folder / f"{name}.spacy"))
    return tuple(paths)


def write_half_tagged(folder):
    """Documents with entities, of which every second one has tags too."""
    nlp, paths = spacy.blank("en"), []
    for name, n_docs in (("train", 80), ("dev", 30)):
        docs = [to_doc(nlp, record) for record in generate_records(name, n_docs)]
        for doc in docs[::2]:
            for token in doc:
                token.tag_ = "CAPITAL" if token.is_title else "OTHER"
        paths.append(save(docs, folder / f"{name}.spacy"))
    return tuple(paths)


def save(docs, path):
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


# Configs


def make_config(folder, pipeline, write, *, lang="en", optimizer="SWA", **settings):
    """A config for a small pipeline with a shared tok2vec, which trains 31 steps.

    write (Callable): Writes the corpus to a folder.
    settings (Any): Settings to change, with "__" for ".".
    """
    paths = [folder / "train.spacy", folder / "dev.spacy"]
    if not all(path.exists() for path in paths):
        write(folder)
    config = init_config(lang=lang, pipeline=pipeline, optimize="efficiency", gpu=False)
    config["training"]["optimizer"] = OPTIMIZERS[optimizer]
    config["training"].update(max_steps=30, eval_frequency=10, patience=0)
    tok2vec = config["components"].get("tok2vec")
    if tok2vec:
        tok2vec["model"]["encode"].update(width=16, depth=2)
        tok2vec["model"]["embed"]["rows"] = [100, 50, 50, 50]
    config["paths"].update(train=str(paths[0]), dev=str(paths[1]))
    path = folder / "config.cfg"
    config.to_disk(path)
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    sections = {n: v for n, v in overrides.items() if isinstance(v, dict)}
    config = load_config(
        path,
        overrides={n: v for n, v in overrides.items() if n not in sections},
        interpolate=False,
    )
    for name, section in sections.items():
        place = config
        *parents, last = name.split(".")
        for parent in parents:
            place = place[parent]
        place[last] = section
    config.to_disk(path)
    return load_config(path, interpolate=False)


# Trainings


class Recorder:
    """Logger of a spaCy config that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def register(self, config):
        registry.loggers("tests.recorder.v1", func=lambda: self.set_up)
        config = config.copy()
        config["training"]["logger"] = {"@loggers": "tests.recorder.v1"}
        return config

    def set_up(self, nlp, stdout, stderr):
        self.calls = [("set up", nlp.pipe_names)]
        return self.log_step, lambda: self.calls.append("finalize")

    def log_step(self, info):
        if info is not None:
            assert info["seconds"] >= 0
            scores = {n: s for n, s in info["other_scores"].items() if n != "speed"}
            info = {**info, "other_scores": scores, "checkpoints": list(info["checkpoints"])}
            info["losses"] = {name: float(loss) for name, loss in info["losses"].items()}
            info["output_path"] = Path(info["output_path"]).name
            del info["seconds"]
        self.calls.append(info)


def train_with_spacy(config, output):
    """Train as `spacy train` does.

    RETURNS (list): The calls of the logger.
    """
    recorder = Recorder()
    config = recorder.register(config)
    output.mkdir()
    train(init_nlp(config), output, stdout=io.StringIO(), stderr=io.StringIO())
    return recorder.calls


class StopAt(Callback):
    """Stop as Ctrl-C does, after a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.state.step == self.step:
            trainer.stop("interrupted")


def train_in_parts(config, output, *steps, **settings):
    """Train with interruptions after steps.

    settings (Any): Further arguments of `train_spacy`.
    RETURNS (tuple[list, SpacyTrainer]): The calls of the logger in the last part, and the
        trainer.
    """
    recorder = Recorder()
    config = recorder.register(config)
    for i, step in enumerate((*steps, None)):
        # A new process has other random states.
        random.seed(i)
        numpy.random.seed(i)
        callbacks = [] if step is None else [StopAt(step)]
        trainer = train_spacy(
            config, output=output, resume=i > 0, callbacks=callbacks, **settings
        )
    return recorder.calls, trainer


def files_of(folder, prefix=""):
    """Contents of all files in a folder by name."""
    files = {
        prefix + path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    for name, content in files.items():
        if name.endswith("sentencizer.json"):
            # spaCy saves a set, whose order differs from process to process.
            files[name] = sorted(json.loads(content)["punct_chars"])
    return files


def differing(one, other):
    """Names of the files that differ between two folders or two results of `files_of`."""
    one = one if isinstance(one, dict) else files_of(one)
    other = other if isinstance(other, dict) else files_of(other)
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def results_of(output):
    """Results in an output folder that must not depend on interruptions: pipelines, model and
    optimizer state of the last checkpoint, also of other workers, and the log without times."""
    records = []
    for line in (output / "log.jsonl").read_text(encoding="utf8").splitlines():
        record = json.loads(line)
        if record["type"] in ("step", "evaluation"):
            record.pop("seconds", None)
            record.get("other_scores", {}).pop("speed", None)
            records.append(record)
    last = max(output.glob("step-*"))
    files = {
        name: content
        for folder in (*sorted(path.name for path in output.glob("model-*")), last.name)
        for name, content in files_of(output / folder, f"{folder}/").items()
        # These contain times and the id of the training.
        if name not in (f"{last.name}/training.json", f"{last.name}/checkpoint.json")
    }
    for name in files:
        if "/rank-" in name and name.endswith("-training.json"):
            files[name] = progress_of_worker(files[name])
    return files, records


def progress_of_worker(content):
    """Random states and progress of a worker from its file, without times."""
    content = json.loads(content)
    progress = content["progress"]
    progress["seconds"] = progress["extra"]["seconds"] = None
    for info in progress["extra"]["infos"]:
        info["seconds"] = info["training_seconds"] = None
        info["output_path"] = info["other_scores"]["speed"] = None
    return content
