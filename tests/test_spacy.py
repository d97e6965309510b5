"""The package from spaCy's side: `spacy train` with nothing but a config file."""

import json
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise

import numpy
import pytest
from helpers import HAS_GPU, require

require("spacy")

import spacy  # noqa: E402
from corpus import write_corpus  # noqa: E402
from pipelines import (  # noqa: E402
    CONFIGS,
    ROOT,
    Trainer,
    as_arguments,
    assert_close,
    is_same,
    names_of_keys,
    read_config,
    run_python,
    run_spacy,
    weights_of,
)
from spacy.training import Corpus  # noqa: E402
from spacy.training.pretrain import pretrain  # noqa: E402
from spacy.util import load_model_from_config, registry  # noqa: E402
from thinc.api import Adam, Config, Optimizer  # noqa: E402

from thinc_swa import SWA, OptimizerWrapper, one_cycle, one_cycle_momentum  # noqa: E402

NAMES = ["swa", "ema", "lookahead", "lookahead_swa", "schedule_free"]
GPU_IDS = [-1, 0] if HAS_GPU else [-1]

# spaCy counts from 0 and stops after its step `max_steps`: one step more.
MAX_STEPS = 200
N_STEPS = MAX_STEPS + 1
EVAL_FREQUENCY = 50
# A small model that learns fast. Everything else is as in the config files.
SMALL = {
    "training.max_steps": MAX_STEPS,
    "training.eval_frequency": EVAL_FREQUENCY,
    "components.tok2vec.model.encode.width": 32,
    "components.tok2vec.model.embed.rows": [500, 250, 250, 250],
}
SMALL_SETTINGS = {
    "swa": {
        "training.optimizer.freq": 7,
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
    "ema": {
        "training.optimizer.half_life": 5,
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
    "lookahead": {
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
    "lookahead_swa": {
        "training.optimizer.freq": 7,
        "training.optimizer.optimizer.optimizer.learn_rate": 0.005,
    },
    "schedule_free": {
        "training.optimizer.optimizer.learn_rate": 0.005,
    },
}
START_STEP = round(0.75 * MAX_STEPS)


# What the averages have to be. `history[u]` are the weights of the whole model after step
# u, `history[0]` those before training.


def swa_of(history, step, start_step=START_STEP, freq=7):
    """The mean of the weights after steps start_step, start_step + freq, ..."""
    if step < start_step:
        return history[step]
    snapshots = history[start_step : step + 1 : freq]
    return {
        name: numpy.mean([snapshot[name].astype("float64") for snapshot in snapshots], axis=0)
        for name in history[0]
    }


def ema_of(history, step, half_life=5):
    """The weights after step 1, and from then on a little of every later step's."""
    decay = 2 ** (-1 / half_life)
    averages = {name: array.astype("float64") for name, array in history[1].items()}
    for t in range(2, step + 1):
        d = min(decay, (1 + t) / (10 + t))
        for name, array in history[t].items():
            averages[name] = d * averages[name] + (1 - d) * array
    return averages


def lookahead_of(history, step, freq=6):
    """After every `freq` steps the weights are the slow weights, and these stay until the
    next time. (How they come about: test_lookahead_pulls_back.)"""
    return history[step - step % freq]


def lookahead_swa_of(history, step):
    return lookahead_of(history, step) if step < START_STEP else swa_of(history, step)


def schedule_free_of(history, step, beta=0.9):
    """The averages x that the weights y were made with, in every step: with z such that
    y = (1 - beta) * z + beta * x, x is the mean of all z. Solved for x."""
    averages = {name: array.astype("float64") for name, array in history[1].items()}
    for t in range(2, step + 1):
        for name, y in history[t].items():
            others = (1 - beta) * (t - 1) * averages[name]
            averages[name] = (y + others) / ((1 - beta) * t + beta)
    return averages


AVERAGES = {
    "swa": swa_of,
    "ema": ema_of,
    "lookahead": lookahead_of,
    "lookahead_swa": lookahead_swa_of,
    "schedule_free": schedule_free_of,
}


def part(weights, pipe_name):
    """The weights of one component."""
    return {name: array for name, array in weights.items() if name[0] == pipe_name}


def evaluate(nlp, dev_path):
    return nlp.evaluate(Corpus(dev_path)(nlp))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The paths of both files, as settings."""
    train_path, dev_path = write_corpus(tmp_path_factory.mktemp("corpus"))
    return {"paths.train": str(train_path), "paths.dev": str(dev_path)}


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory):
    """A finished training with one of the configs, made once."""
    trainings = {}

    def get(name, gpu_id=-1):
        if (name, gpu_id) not in trainings:
            settings = {**corpus, **SMALL, **SMALL_SETTINGS[name]}
            output = tmp_path_factory.mktemp(name)
            trainings[name, gpu_id] = Trainer(read_config(name, settings), output, gpu_id)
        return trainings[name, gpu_id]

    return get


def test_every_config_is_tested():
    paths = CONFIGS.glob("*.cfg")
    # Transformers need more than spaCy, and a test of their own.
    names = [path.stem for path in paths if "transformers" not in path.read_text()]
    assert sorted(names) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_config_is_complete(name):
    """`spacy init fill-config` adds nothing, except arguments of the optimizers that are
    left at their defaults."""
    config = read_config(name)
    filled = load_model_from_config(config, auto_fill=True).config.copy()
    block, filled_block = config["training"]["optimizer"], filled["training"]["optimizer"]
    while block:
        for argument in set(filled_block) - set(block):
            del filled_block[argument]
        block, filled_block = block.get("optimizer"), filled_block.get("optimizer")
    assert filled == config


@pytest.mark.parametrize("name", NAMES)
def test_spacy_train(name, corpus, tmp_path):
    """The config files as they are, as a user runs them, only shorter."""
    settings = {**corpus, "training.max_steps": 200, "training.eval_frequency": 100}
    arguments = [CONFIGS / f"{name}.cfg", "--output", "output", *as_arguments(settings)]
    result = run_spacy(tmp_path, "train", *arguments)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    steps = [row[1] for row in rows if len(row) == 8 and row[0].isdigit()]
    assert steps == ["0", "100", "200"]
    nlp = spacy.load(tmp_path / "output" / "model-last")
    assert all(numpy.isfinite(array).all() for array in weights_of(nlp).values())
    scores = evaluate(nlp, corpus["paths.dev"])
    assert scores["ents_f"] > 0
    assert nlp.meta["performance"]["ents_f"] == pytest.approx(scores["ents_f"], abs=1e-9)


@pytest.mark.parametrize("gpu_id", GPU_IDS)
@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_are_the_averages(name, gpu_id, trained):
    training = trained(name, gpu_id)
    assert len(training.history) == N_STEPS + 1
    assert_close(training.saved, AVERAGES[name](training.history, N_STEPS))
    assert_close(training.averages(), training.saved)
    # The averages are something else than the weights at the end.
    assert not is_same(training.saved, training.history[-1])
    best = weights_of(spacy.load(training.output / "model-best"))
    assert any(is_same(best, evaluated) for evaluated in training.evaluated)


@pytest.mark.parametrize("gpu_id", GPU_IDS)
@pytest.mark.parametrize("name", NAMES)
def test_evaluations_are_of_the_averages(name, gpu_id, trained, corpus):
    training = trained(name, gpu_id)
    # spaCy evaluates in the first step already, and then after every EVAL_FREQUENCY.
    steps = range(1, N_STEPS + 1, EVAL_FREQUENCY)
    assert len(training.evaluated) == len(steps)
    for step, evaluated in zip(steps, training.evaluated, strict=True):
        assert_close(evaluated, AVERAGES[name](training.history, step))
    assert is_same(training.evaluated[-1], training.saved)
    nlp = spacy.load(training.output / "model-last")
    scores = evaluate(nlp, corpus["paths.dev"])
    assert scores["ents_f"] > 0
    for score in ("ents_f", "ents_p", "ents_r"):
        assert nlp.meta["performance"][score] == pytest.approx(scores[score], abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_subprocess_saves_the_same_weights(name, trained, corpus, tmp_path):
    """What was shown of the weights in this process holds for those of `spacy train`."""
    settings = {**corpus, **SMALL, **SMALL_SETTINGS[name]}
    arguments = [CONFIGS / f"{name}.cfg", "--output", "output", *as_arguments(settings)]
    result = run_spacy(tmp_path, "train", *arguments)
    assert result.returncode == 0, result.stderr
    saved = weights_of(spacy.load(tmp_path / "output" / "model-last"))
    assert_close(saved, trained(name).saved)


def test_learn_rate_takes_over(trained):
    assert trained("swa").optimizer.learn_rate == 0.0005
    assert trained("lookahead_swa").optimizer.learn_rate == 0.0005
    assert trained("ema").optimizer.learn_rate == 0.005


def test_lookahead_pulls_back(corpus, tmp_path, monkeypatch):
    """The slow weights, from the weights as Adam itself returns them."""
    fast = defaultdict(list)
    update = Optimizer.__call__

    def watched_update(optimizer, key, weights, gradient, **kwargs):
        weights, gradient = update(optimizer, key, weights, gradient, **kwargs)
        fast[key].append(weights.copy())
        return weights, gradient

    # The wrappers have a __call__ of their own: this is that of Adam alone.
    monkeypatch.setattr(Optimizer, "__call__", watched_update)
    settings = {**corpus, **SMALL, **SMALL_SETTINGS["lookahead"], "training.max_steps": 30}
    training = Trainer(read_config("lookahead", settings), tmp_path)
    expected = {}
    for key, name in names_of_keys(training.nlp).items():
        slow = training.history[0][name].astype("float64")
        assert len(fast[key]) == 31
        for step, array in enumerate(fast[key], start=1):
            if step % 6 == 0:
                slow += 0.5 * (array - slow)
                array = slow
            numpy.testing.assert_allclose(training.history[step][name], array, 1e-5, 1e-6)
        expected[name] = slow
    assert_close(training.saved, expected)


def test_gradient_accumulation_is_one_step(corpus, tmp_path):
    settings = {
        **corpus,
        **SMALL,
        **SMALL_SETTINGS["ema"],
        "training.max_steps": 20,
        "training.accumulate_gradient": 3,
    }
    training = Trainer(read_config("ema", settings), tmp_path)
    assert_close(training.saved, ema_of(training.history, 21))


TAGGER = """
[components.tagger]
factory = "tagger"

[components.tagger.model]
@architectures = "spacy.Tagger.v2"

[components.tagger.model.tok2vec]
"""
SHARED_TAGGER = f"""{TAGGER}
@architectures = "spacy.Tok2VecListener.v1"
width = ${{components.tok2vec.model.encode.width}}
"""
OWN_TAGGER = f"""{TAGGER}
@architectures = "spacy.HashEmbedCNN.v2"
width = 16
depth = 1
embed_size = 100
window_size = 1
maxout_pieces = 2
subword_features = true
pretrained_vectors = null
"""


def add_tags(docs):
    for doc in docs:
        for token in doc:
            token.tag_ = "NAME" if token.is_title else "WORD" if token.is_alpha else "OTHER"
    return docs


N_BARE = 20


def partly_annotated(docs):
    """Tags in all documents; entities in none of the first ones, and then in every second."""
    nlp = spacy.blank("en")
    return add_tags(
        [
            doc if position >= N_BARE and position % 2 == 0 else nlp.make_doc(doc.text)
            for position, doc in enumerate(docs)
        ]
    )


@pytest.mark.parametrize(
    "name, settings, averages_of",
    [
        ("swa", {"start_step": 0, "freq": 1}, lambda history: swa_of(history, 61, 1, 1)),
        ("swa", {"start_step": 0.5, "freq": 4}, lambda history: swa_of(history, 61, 30, 4)),
        ("ema", {"half_life": 5}, lambda history: ema_of(history, 61)),
    ],
    ids=["swa", "swa from the middle on", "ema"],
)
def test_component_without_annotations(name, settings, averages_of, tmp_path):
    """A shared tok2vec, and an NER that learns nothing from most of the batches: it counts in
    all snapshots, with the weights that it had."""
    train_path, dev_path = write_corpus(tmp_path, make_docs=partly_annotated)
    settings = {
        **SMALL,
        **{f"training.optimizer.{argument}": value for argument, value in settings.items()},
        "paths.train": str(train_path),
        "paths.dev": str(dev_path),
        "nlp.pipeline": ["tok2vec", "ner", "tagger"],
        "training.max_steps": 60,
        # In the order of the file.
        "training.max_epochs": -1,
    }
    config = read_config(name, settings, more=SHARED_TAGGER)
    config["training"]["batcher"] = {"@batchers": "spacy.batch_by_sequence.v1", "size": 1}
    training = Trainer(config, tmp_path / "output")
    idle_steps = {
        pipe_name: sum(
            is_same(part(before, pipe_name), part(after, pipe_name))
            for before, after in pairwise(training.history)
        )
        for pipe_name in training.nlp.pipe_names
    }
    # Thinc has no gradient for a parameter until its first one. From then on it is zero in
    # the batches without annotations, and Adam moves on by its momentum.
    assert idle_steps == {"tok2vec": 0, "ner": N_BARE, "tagger": 0}
    assert_close(training.averages(), averages_of(training.history))
    assert_close(training.saved, averages_of(training.history))


def test_frozen_components(trained, tmp_path):
    """A new component beside a trained pipeline that stays as it is."""
    source = trained("swa")
    train_path, dev_path = write_corpus(tmp_path, make_docs=add_tags)
    settings = {
        "training.max_steps": 60,
        "paths.train": str(train_path),
        "paths.dev": str(dev_path),
        "nlp.pipeline": ["tok2vec", "ner", "tagger"],
        "training.frozen_components": ["tok2vec", "ner"],
    }
    config = read_config("swa", settings, more=OWN_TAGGER)
    for name in ("tok2vec", "ner"):
        config["components"][name] = {"source": str(source.output / "model-last")}
    training = Trainer(config, tmp_path / "output")
    for name in ("tok2vec", "ner"):
        assert is_same(part(training.saved, name), part(source.saved, name))
    expected = part(swa_of(training.history, 61, 45, 10), "tagger")
    assert_close(part(training.saved, "tagger"), expected)
    assert_close(training.averages(), expected)


RESOLVE = """
import sys
from pathlib import Path

import pydantic
from thinc.api import Config, Optimizer
{imports}


class Schema(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    optimizer: Optimizer


assert not any(name.startswith("thinc_swa") for name in sys.modules)
for path in map(Path, {paths!r}):
    training = Config().from_disk(path).interpolate()["training"]
    resolved = {resolve}
    optimizer = resolved["optimizer"]
    assert isinstance(optimizer, Optimizer)
    assert Schema(optimizer=optimizer).optimizer is optimizer
    print(path.stem, type(optimizer).__module__, type(optimizer).__name__)
"""


@pytest.mark.parametrize(
    "imports, resolve",
    [
        (
            "from thinc.api import registry",
            'registry.resolve({"optimizer": training["optimizer"]}, schema=Schema)',
        ),
        (
            "from spacy import registry\nfrom spacy.schemas import ConfigSchemaTraining",
            "registry.resolve(training, schema=ConfigSchemaTraining)",
        ),
    ],
    ids=["thinc", "spacy"],
)
def test_registry_finds_the_names(imports, resolve, tmp_path):
    """By their entry points, in a process that has never heard of the package."""
    paths = [str(CONFIGS / f"{name}.cfg") for name in NAMES]
    code = RESOLVE.format(imports=imports, resolve=resolve, paths=paths)
    result = run_python(tmp_path, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "swa thinc_swa.optimizers.swa SWA",
        "ema thinc_swa.optimizers.ema EMA",
        "lookahead thinc_swa.optimizers.lookahead Lookahead",
        "lookahead_swa thinc_swa.optimizers.swa SWA",
        "schedule_free thinc_swa.optimizers.schedule_free ScheduleFree",
    ]


def test_trained_pipeline_loads_without_the_package(trained, tmp_path):
    code = f"""
import sys
import spacy

sys.modules["thinc_swa"] = None  # To import it is an error now.
nlp = spacy.load({str(trained("swa").output / "model-last")!r})
print(nlp("I bought shoes from Nike.").has_annotation("ENT_IOB"))
"""
    result = run_python(tmp_path, code)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


# Only what somebody has to write.
PARTIAL_CONFIG = """
[paths]
train = null
dev = null

[nlp]
lang = "en"
pipeline = ["ner"]

[components]

[components.ner]
factory = "ner"

[training]
max_steps = 1000

[training.optimizer]
@optimizers = "SWA.v1"
start_step = 0.75
total_steps = ${training.max_steps}

[training.optimizer.optimizer]
@optimizers = "Lookahead.v1"

[training.optimizer.optimizer.optimizer]
@optimizers = "Adam.v1"
"""


def test_fill_and_debug_config(corpus, tmp_path):
    partial_path, filled_path = tmp_path / "partial.cfg", tmp_path / "filled.cfg"
    partial_path.write_text(PARTIAL_CONFIG, encoding="utf8")
    result = run_spacy(tmp_path, "init", "fill-config", partial_path, filled_path)
    assert result.returncode == 0, result.stderr
    optimizer = Config().from_disk(filled_path, interpolate=False)["training"]["optimizer"]
    adam = optimizer["optimizer"].pop("optimizer")
    assert adam["@optimizers"] == "Adam.v1"
    assert adam["learn_rate"] == 0.001
    assert optimizer == {
        "@optimizers": "SWA.v1",
        "start_step": 0.75,
        "total_steps": "${training.max_steps}",
        "freq": 1,
        "learn_rate": None,
        "anneal_steps": None,
        "anneal_strategy": "linear",
        "end_step": None,
        "check_finite": True,
        "optimizer": {
            "@optimizers": "Lookahead.v1",
            "freq": 6,
            "pullback": 0.5,
            "inner_state": "keep",
            "end_step": None,
            "total_steps": None,
            "check_finite": True,
        },
    }
    result = run_spacy(tmp_path, "debug", "config", filled_path, *as_arguments(corpus))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Config is valid" in result.stdout


# In no order of the alphabet.
PHASES = """
[optimizer]
@optimizers = "Adam.v1"

[optimizer.beta1]
@schedules = "one_cycle_momentum.v1"
total_steps = ${training.max_steps}

[optimizer.learn_rate]
@schedules = "phases.v1"
total_steps = ${training.max_steps}

[optimizer.learn_rate.*.up]
steps = 0.5

[optimizer.learn_rate.*.up.schedule]
@schedules = "one_cycle.v1"
max_rate = 0.01
steps = 0.5
total_steps = ${training.max_steps}

[optimizer.learn_rate.*.low]
steps = 4
schedule = 0.002

[optimizer.learn_rate.*.end]
schedule = 0.001
"""


def with_phases(settings):
    config = read_config("ema", settings)
    sections = Config().from_str(PHASES, interpolate=False)
    config["training"]["optimizer"] = sections["optimizer"]
    return config


def test_every_step_has_the_rate_of_its_phase(corpus, tmp_path):
    rates, momenta = [], []

    class Recorder(OptimizerWrapper):
        __slots__ = []

        def step_schedules(self):
            rates.append(self.learn_rate)
            momenta.append(self.b1)
            super().step_schedules()

    def record(optimizer: Optimizer) -> Optimizer:
        return Recorder(optimizer)

    registry.optimizers("recorded.v1", func=record)
    config = with_phases({**corpus, **SMALL, "training.max_steps": 20})
    optimizer = config["training"]["optimizer"]
    config["training"]["optimizer"] = {"@optimizers": "recorded.v1", "optimizer": optimizer}
    Trainer(config, tmp_path)
    first = one_cycle(0.01, steps=10)
    assert rates == [first(step) for step in range(10)] + [0.002] * 4 + [0.001] * 7
    momentum = one_cycle_momentum(steps=20)
    assert momenta == [momentum(step) for step in range(21)]


def test_spacy_keeps_the_order_of_phases(corpus, tmp_path):
    """From the file that is given to the one that is saved, through its own variables and
    settings."""
    with_phases({}).to_disk(tmp_path / "phases.cfg", interpolate=False)
    filled_path = tmp_path / "filled.cfg"
    result = run_spacy(tmp_path, "init", "fill-config", tmp_path / "phases.cfg", filled_path)
    assert result.returncode == 0, result.stderr
    settings = {**corpus, **SMALL, "training.max_steps": 10, "training.eval_frequency": 10}
    arguments = [filled_path, "--output", tmp_path / "output", *as_arguments(settings)]
    result = run_spacy(tmp_path, "train", *arguments)
    assert result.returncode == 0, result.stderr
    for path in (filled_path, tmp_path / "output" / "model-last" / "config.cfg"):
        config = Config().from_disk(path, interpolate=False)
        schedule = config["training"]["optimizer"]["learn_rate"]
        assert list(schedule["*"]) == ["up", "low", "end"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"training.optimizer.freq": 5.7}, "freq must be an int >= 1, but was 5.7"),
        ({"training.max_steps": 0}, "total_steps must be an int >= 1, but was 0"),
    ],
)
def test_bad_settings(settings, message, corpus, tmp_path):
    arguments = [CONFIGS / "swa.cfg", *as_arguments({**corpus, **settings})]
    result = run_spacy(tmp_path, "train", *arguments)
    assert result.returncode != 0
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"ValueError: {message}")
    assert "training.max_steps" not in settings or "max_steps = 0" in error


EXAMPLE = ROOT / "examples" / "4_spacy_pipeline.py"


def test_example(tmp_path):
    command = [sys.executable, EXAMPLE, "--config", "ema", "--steps", "60", "--seeds", "1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    title, note, header, seed, mean = result.stdout.splitlines()
    assert title == "60 steps with configs/spacy/ema.cfg: F-scores"
    assert seed.split()[1:] == mean.split()[1:]
    # Half a training is enough to learn something, and to make a difference.
    plain, averaged = map(float, mean.split()[1:])
    assert plain > 0 and averaged > 0 and plain != averaged


def test_example_without_spacy(tmp_path):
    code = f"""
import runpy, sys

sys.modules["spacy"] = None  # As if it was not installed.
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""
    result = run_python(tmp_path, code)
    assert result.returncode == 1
    assert result.stderr == "This example needs spaCy: pip install 'spacy>=3.8.7,<3.9'\n"


@pytest.mark.parametrize("name", ["swa", "lookahead_swa"])
def test_a_pipeline_that_makes_an_optimizer_for_itself(name, corpus):
    """spaCy does not fill in the variables of the config then."""
    nlp = load_model_from_config(read_config(name, {**corpus, **SMALL}), auto_fill=True)
    example = next(iter(Corpus(corpus["paths.train"])(nlp)))
    assert isinstance(nlp.initialize(lambda: [example]), Optimizer)
    assert "total_steps='${training.max_steps}'" in repr(nlp.resume_training())
    with pytest.raises(ValueError, match="a variable that spaCy has not filled in"):
        nlp.update([example])
    nlp.update([example], sgd=SWA(Adam(0.001), start_step=0))


PRETRAINING = """
[corpora.pretrain]
@readers = "spacy.JsonlCorpus.v1"
path = "{texts}"
min_length = 3

[pretraining]
max_epochs = 2
dropout = 0.2
n_save_every = null
n_save_epoch = null
component = "tok2vec"
layer = ""
corpus = "corpora.pretrain"

[pretraining.batcher]
@batchers = "spacy.batch_by_words.v1"
size = 100
discard_oversize = false
tolerance = 0.2

[pretraining.objective]
@architectures = "spacy.PretrainCharacters.v1"
maxout_pieces = 2
hidden_size = 8
n_characters = 2

[pretraining.optimizer]
@optimizers = "watched_pretraining.v1"

[pretraining.optimizer.optimizer]
@optimizers = "SWA.v1"
start_step = 3
freq = 2

[pretraining.optimizer.optimizer.optimizer]
@optimizers = "ParamGroups.v1"
groups = [{{"name": "embeddings", "params": ["E"], "lr_scale": 0.5}}]

[pretraining.optimizer.optimizer.optimizer.optimizer]
@optimizers = "Adam.v1"
use_averages = false
"""


def test_pretraining_saves_the_averages(corpus, tmp_path):
    """Its loop never says when a step is complete."""
    optimizers = []

    def watch(optimizer: Optimizer) -> Optimizer:
        optimizers.append(optimizer)
        return optimizer

    registry.optimizers("watched_pretraining.v1", func=watch)
    texts = tmp_path / "texts.jsonl"
    lines = [
        json.dumps({"text": f"A sentence with {i} or so words in it ."}) for i in range(90)
    ]
    texts.write_text("\n".join(lines), encoding="utf8")
    text = (CONFIGS / "swa.cfg").read_text(encoding="utf8").replace("[pretraining]\n", "")
    text += PRETRAINING.format(texts=texts)
    config = Config().from_str(text, overrides={**corpus, **SMALL}, interpolate=False)
    pretrain(config.interpolate(), tmp_path)
    # spaCy makes another one when it only looks at the config.
    (optimizer,) = (optimizer for optimizer in optimizers if optimizer.averages)
    assert optimizer.n_averaged > 5
    tok2vec = load_model_from_config(config, auto_fill=True).get_pipe("tok2vec").model
    tok2vec.initialize(X=[spacy.blank("en").make_doc("words")])
    tok2vec.from_bytes((tmp_path / "model-last.bin").read_bytes())
    saved = [
        node.get_param(name)
        for node in tok2vec.walk()
        for name in node.param_names
        if node.has_param(name)
    ]
    assert len(saved) > 10
    for array in saved:
        assert any(numpy.array_equal(array, other) for other in optimizer.averages.values())
