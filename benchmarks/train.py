"""Training steps of a spaCy pipeline with the loop of `spacy train`, for every optimizer.

All trainings run in one process on the same batches, interleaved step by step. Disturbances of
the machine then affect all of them, and differences of 2 % can be measured.
"""

import math
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

from measure import shuffled, summary

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "spacy" / "swa.cfg"

# The number of steps between evaluations, and the number of steps in a block. The times of
# blocks are compared; with freq = 10 each block has one snapshot.
EVAL_FREQUENCY = 100
BLOCK = 10

BARE = "Adam"
ADAM = {"@optimizers": "Adam.v1", "learn_rate": 0.001, "use_averages": False}


def _wrapped(name, **arguments):
    return {"@optimizers": name, **arguments, "optimizer": ADAM}


OPTIMIZERS = {
    BARE: ADAM,
    # A second copy of the bare optimizer, to show the noise.
    "Adam, again": ADAM,
    "Adam(use_averages=True)": {**ADAM, "use_averages": True},
    # Averaging from the first step on, which is the maximum cost.
    "SWA.v1, freq 10": _wrapped("SWA.v1", start_step=0, freq=10),
    "EMA.v1, freq 1": _wrapped("EMA.v1", freq=1),
    "EMA.v1, freq 10": _wrapped("EMA.v1", freq=10),
    "Lookahead.v1, freq 6": _wrapped("Lookahead.v1", freq=6),
}


def measure(n_steps):
    """Train with every optimizer.

    n_steps (int): The number of steps, a multiple of BLOCK.
    RETURNS (dict): "corpus", "n_steps", "words_per_step" and "rows": for every optimizer the
        seconds per step without evaluation, the seconds per evaluation, and the ratio of the
        time of a block, evaluations included, to that of the bare optimizer.
    """
    sys.path.append(str(ROOT / "tests"))
    import corpus

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        paths = corpus.write_corpus(Path(folder))
        runs = {name: _Run(optimizer, paths) for name, optimizer in OPTIMIZERS.items()}
        for step in range(n_steps):
            for name in shuffled(runs, step):
                runs[name].step()
            if step % EVAL_FREQUENCY == 0:
                print(f"  step {step} of {n_steps}", flush=True)
    real = corpus.FASHION_BRANDS.exists()
    bare = runs[BARE].blocks()
    rows = []
    for name, run in runs.items():
        blocks = run.blocks()
        ratios = [own / other for own, other in zip(blocks, bare, strict=True)]
        rows.append(
            {
                "name": name,
                "seconds": summary(run.seconds(evaluated=False)),
                "evaluation": summary(run.seconds(evaluated=True)),
                "ratio": summary(ratios),
                "error": _error_of_median(ratios),
                "total_ratio": sum(blocks) / sum(bare),
                "rounds": len(blocks),
            }
        )
    return {
        "corpus": "comments on fashion (real)" if real else "generated sentences",
        "n_steps": n_steps,
        "words_per_step": runs[BARE].n_words / n_steps,
        "rows": rows,
    }


def _error_of_median(values):
    """The standard error of a median, estimated from the quartiles, which outliers do not
    affect."""
    spread = summary(values)
    return 0.93 * (spread["high"] - spread["low"]) / math.sqrt(len(values))


class _Run:
    """One training, step by step, like `spacy.training.loop.train` without writes to the
    disk."""

    def __init__(self, optimizer, paths):
        from spacy import registry, util
        from spacy.schemas import ConfigSchemaTraining
        from spacy.training.initialize import init_nlp
        from spacy.training.loop import create_evaluation_callback, train_while_improving

        config = util.load_config(CONFIG)
        config["paths"].update(zip(("train", "dev"), map(str, paths), strict=True))
        config["training"]["optimizer"] = optimizer
        nlp = init_nlp(config)
        config = nlp.config.interpolate()
        training = registry.resolve(config["training"], schema=ConfigSchemaTraining)
        names = [training["train_corpus"], training["dev_corpus"]]
        train_corpus, dev_corpus = util.resolve_dot_names(config, names)
        self.n_words = 0
        # The seconds of every step, and whether it includes an evaluation.
        self.steps = []
        self._loop = train_while_improving(
            nlp,
            training["optimizer"],
            _batches(list(train_corpus(nlp)), training["batcher"]),
            create_evaluation_callback(nlp, dev_corpus, training["score_weights"]),
            dropout=training["dropout"],
            eval_frequency=EVAL_FREQUENCY,
            accumulate_gradient=1,
            patience=0,
            max_steps=0,
            exclude=[],
            annotating_components=[],
            before_update=None,
        )

    def step(self):
        start = time.perf_counter()
        batch, _, is_best_checkpoint = next(self._loop)
        self.steps.append((time.perf_counter() - start, is_best_checkpoint is not None))
        self.n_words += sum(len(example) for example in batch)

    def seconds(self, *, evaluated):
        return [seconds for seconds, is_evaluated in self.steps if is_evaluated is evaluated]

    def blocks(self):
        seconds = [seconds for seconds, _ in self.steps]
        return [sum(seconds[i : i + BLOCK]) for i in range(0, len(seconds), BLOCK)]


def _batches(examples, batcher):
    """spaCy's batches with a separate shuffling generator, so that all runs have the same
    batches."""
    shuffler = random.Random(0)
    epoch = 0
    while True:
        shuffler.shuffle(examples)
        for batch in batcher(examples):
            yield epoch, batch
        epoch += 1


def measure_trainer(n_steps):
    """Train the same steps with the loop of `spacy train` and with `thinc-swa train`, which
    also writes its log, interleaved step by step.

    n_steps (int): The number of steps.
    RETURNS (dict): "n_steps", the seconds per step of both without evaluations and checkpoints,
        and the ratio of their times with its standard error.
    """
    sys.path.append(str(ROOT / "tests"))
    import corpus
    import numpy
    from spacy.util import load_config

    from thinc_swa.training.callbacks import TrainingLog
    from thinc_swa.training.spacy_trainer import SpacyTrainer

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        paths = corpus.write_corpus(Path(folder))
        config = load_config(CONFIG)
        config["paths"].update(zip(("train", "dev"), map(str, paths), strict=True))
        config["training"].update(max_steps=0, eval_frequency=n_steps + 1)
        config["training"]["optimizer"] = OPTIMIZERS["SWA.v1, freq 10"]
        spacy_steps = _spacy_steps(config)
        trainer = SpacyTrainer(config, [TrainingLog(Path(folder) / "log.jsonl")])
        trainer.callbacks.dispatch("on_start", trainer)

        def train_step():
            trainer._train_step()
            trainer.callbacks.dispatch("on_step", trainer)

        steps = {"spacy train": lambda: next(spacy_steps), "thinc-swa train": train_step}
        seconds = {name: [] for name in steps}
        for step in range(n_steps):
            for name in shuffled(steps, step):
                # The same order of examples and the same dropout.
                random.seed(step)
                numpy.random.seed(step)
                start = time.perf_counter()
                steps[name]()
                seconds[name].append(time.perf_counter() - start)
        trainer.callbacks.dispatch("on_end", trainer)
    # The first step of spaCy's loop has an evaluation.
    theirs, ours = (seconds[name][1:] for name in steps)
    ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
    return {
        "n_steps": n_steps,
        "spacy": summary(theirs),
        "thinc_swa": summary(ours),
        "ratio": summary(ratios),
        "error": _error_of_median(ratios),
        "total_ratio": sum(ours) / sum(theirs),
    }


def _spacy_steps(config):
    """The steps of `spacy train` without evaluations after the first."""
    from spacy import registry, util
    from spacy.schemas import ConfigSchemaTraining
    from spacy.training import loop
    from spacy.training.initialize import init_nlp

    nlp = init_nlp(config)
    config = nlp.config.interpolate()
    training = registry.resolve(config["training"], schema=ConfigSchemaTraining)
    (corpus,) = util.resolve_dot_names(config, [training["train_corpus"]])
    names = ("dropout", "eval_frequency", "accumulate_gradient", "patience", "max_steps")
    return loop.train_while_improving(
        nlp,
        training["optimizer"],
        loop.create_train_batches(nlp, corpus, training["batcher"], training["max_epochs"]),
        lambda: (0.0, {}),
        **{name: training[name] for name in names} | {"patience": 0},
        exclude=[],
        annotating_components=[],
        before_update=None,
    )


if __name__ == "__main__":
    result = measure_trainer(int(sys.argv[1]))
    for name, value in result.items():
        print(name, value)
