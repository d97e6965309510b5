"""Averages in trainings of spaCy: what is evaluated and saved."""

import json
from collections import defaultdict

import numpy
import pytest
from helpers import require

require("spacy")
import spacy  # noqa: E402
from pipelines import (  # noqa: E402
    CONFIGS,
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
from spacy.training.pretrain import pretrain  # noqa: E402
from spacy.util import load_model_from_config, registry  # noqa: E402
from spacy_cases import (  # noqa: E402
    AVERAGES,
    EACH_NAME,
    EVAL_FREQUENCY,
    GPU_IDS,
    N_STEPS,
    NAMES,
    SMALL,
    SMALL_SETTINGS,
    evaluate,
)
from thinc.api import Config, Optimizer  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_NAME)
def test_spacy_train_runs_every_config(name, corpus, tmp_path):
    """The config files with fewer steps, in a process of its own."""
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
@pytest.mark.parametrize("name", EACH_NAME)
def test_saved_weights_are_the_averages(name, gpu_id, trained):
    training = trained(name, gpu_id)
    assert len(training.history) == N_STEPS + 1
    assert_close(training.saved, AVERAGES[name](training.history, N_STEPS))
    assert_close(training.averages(), training.saved)
    # The averages differ from the final weights.
    assert not is_same(training.saved, training.history[-1])
    best = weights_of(spacy.load(training.output / "model-best"))
    assert any(is_same(best, evaluated) for evaluated in training.evaluated)


@pytest.mark.parametrize("gpu_id", GPU_IDS)
@pytest.mark.parametrize("name", EACH_NAME)
def test_evaluations_are_of_the_averages(name, gpu_id, trained, corpus):
    training = trained(name, gpu_id)
    # spaCy evaluates after the first step, and then every EVAL_FREQUENCY steps.
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


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_spacy_train_saves_the_same_weights(name, trained, corpus, tmp_path):
    """Trainings in this process give the weights of `spacy train`."""
    settings = {**corpus, **SMALL, **SMALL_SETTINGS[name]}
    arguments = [CONFIGS / f"{name}.cfg", "--output", "output", *as_arguments(settings)]
    result = run_spacy(tmp_path, "train", *arguments)
    assert result.returncode == 0, result.stderr
    saved = weights_of(spacy.load(tmp_path / "output" / "model-last"))
    assert_close(saved, trained(name).saved)


@pytest.mark.slow
def test_the_learn_rate_of_swa_replaces_that_of_the_optimizer(trained):
    assert trained("swa").optimizer.learn_rate == 0.0005
    assert trained("lookahead_swa").optimizer.learn_rate == 0.0005
    assert trained("ema").optimizer.learn_rate == 0.005


def test_lookahead_interpolates_slow_and_fast_weights(corpus, tmp_path, monkeypatch):
    """The expected slow weights are computed from the weights that Adam returns."""
    fast = defaultdict(list)
    update = Optimizer.__call__

    def watched_update(optimizer, key, weights, gradient, **kwargs):
        weights, gradient = update(optimizer, key, weights, gradient, **kwargs)
        fast[key].append(weights.copy())
        return weights, gradient

    # Wrappers have a `__call__` of their own, so only that of Adam is replaced.
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
    """The loop of `spacy pretrain` does not call `step_schedules`."""
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
    # spaCy makes another optimizer when it validates the config.
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
