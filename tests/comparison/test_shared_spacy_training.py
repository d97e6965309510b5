"""Entries of spaCy configs that differ only in averages are trained once, with the results of
trainings of their own, bit for bit."""

import pytest
from comparison_runs import compare, results_without_times
from helpers import require
from thinc.api import Config

require("spacy")
from corpus import generate_records, write_corpus  # noqa: E402
from pipelines import CONFIGS  # noqa: E402

# Many real processes.
pytestmark = pytest.mark.slow

BATCH_NORM = """
import torch
from spacy.ml.models.tok2vec import MaxoutWindowEncoder
from spacy.util import registry
from thinc.api import PyTorchWrapper, chain, with_array

@registry.architectures("tests.batch_norm_encoder.v1")
def make_encoder(width: int):
    torch.manual_seed(0)
    layer = with_array(PyTorchWrapper(torch.nn.BatchNorm1d(width)))
    model = chain(MaxoutWindowEncoder(width, 1, 2, 1), layer)
    model.set_dim("nO", width)
    return model
"""

# An evaluation beside the training fails, and the second one after a step: that of the averages
# or of the raw weights.
FRAGILE = """
import os
from spacy.language import Language
from spacy.util import registry

EVALUATIONS = []
evaluate = Language.evaluate

def fail(nlp, examples):
    EVALUATIONS.append(os.getpid())
    if len(EVALUATIONS) > 2 or os.getpid() != EVALUATIONS[0]:
        raise RuntimeError("a second evaluation")
    return evaluate(nlp, examples)

Language.evaluate = fail

@registry.callbacks("fragile_update.v1")
def make_before_update():
    def before_update(nlp, info):
        EVALUATIONS[:] = [os.getpid()]

    return before_update
"""


def make_optimizers(learn_rate):
    config = Config().from_disk(CONFIGS / "ema.cfg", interpolate=False)
    adam = {**config["training"]["optimizer"]["optimizer"], "learn_rate": learn_rate}
    return {
        "adam": adam,
        "thinc": {**adam, "use_averages": True},
        "ema": {"@optimizers": "EMA.v1", "optimizer": adam},
        "swa": {"@optimizers": "SWA.v1", "start_step": 20, "freq": 3, "optimizer": adam},
        "lawa": {"@optimizers": "LAWA.v1", "window": 3, "freq": 4, "optimizer": adam},
        "plateau": {
            "@optimizers": "SWA.v1",
            "start_step": "plateau",
            "plateau_evals": 1,
            "optimizer": adam,
        },
    }


@pytest.fixture
def write(tmp_path):
    def write(*names, encoder=None, learn_rate=0.003, is_fragile=False, **settings):
        train, dev = write_corpus(tmp_path, 80, 40, get_records=generate_records)
        paths = []
        optimizers = make_optimizers(learn_rate)
        for name in names or optimizers:
            config = Config().from_disk(CONFIGS / "ema.cfg", interpolate=False)
            config["paths"].update(train=str(train), dev=str(dev))
            components = config["components"]
            components["tok2vec"]["model"]["embed"].update(rows=[200] * 4, width=16)
            encode = {"width": 16, "depth": 1, "window_size": 1, "maxout_pieces": 2}
            components["tok2vec"]["model"]["encode"].update(encode)
            if encoder is not None:
                encode = {"@architectures": encoder, "width": 16}
                components["tok2vec"]["model"]["encode"] = encode
            components["ner"]["model"]["tok2vec"]["width"] = 16
            config["training"].update(max_steps=40, eval_frequency=8, dropout=0.3)
            config["training"].update(settings, optimizer=optimizers[name])
            if is_fragile:
                config["training"]["before_update"] = {"@callbacks": "fragile_update.v1"}
            config.to_disk(tmp_path / f"{name}.cfg")
            paths.append(tmp_path / f"{name}.cfg")
        return paths

    return write


def set_cores(monkeypatch, n_cores):
    monkeypatch.setattr("thinc_swa.comparison.runs._count_cores", lambda: n_cores)


@pytest.mark.parametrize(
    "settings",
    [{}, {"patience": 11, "max_steps": 400, "learn_rate": 0.01}],
    ids=["max_steps", "patience"],
)
def test_shared_trainings_have_the_results_of_single_ones(
    tmp_path, write, monkeypatch, settings
):
    """With evaluations in the process of the training, and in others beside it."""
    paths = write(**settings)
    single = compare(tmp_path / "single", paths, n_seeds=1, is_shared=False)
    assert [run.error for run in single] == [None] * len(paths)
    for n_cores in (1, 2, 4):
        set_cores(monkeypatch, n_cores)
        shared = compare(tmp_path / f"{n_cores}", paths, n_seeds=1)
        assert results_without_times(shared) == results_without_times(single)
        assert {run.records[-1]["n_shared"] for run in shared} == {len(paths)}
    scores = {run.name: [e["averages"] for e in run.evaluations] for run in shared}
    assert set(scores["adam"]) == {None} and None not in scores["ema"]
    n_steps = {run.records[-1]["n_steps"] for run in shared}
    if settings:
        assert len(n_steps) > 1 and max(n_steps) < 400
    else:
        assert n_steps == {40}
        last = {name: found[-1] for name, found in scores.items()}
        middle = {name: found[-2] for name, found in scores.items()}
        assert len({*last.values(), *middle.values()}) > 4
        assert scores["swa"][:3] == [None] * 3 and scores["swa"][-1] is not None


def test_averages_have_batch_norm_statistics_of_their_own(tmp_path, write, monkeypatch):
    require("torch")
    code = tmp_path / "code.py"
    code.write_text(BATCH_NORM)
    paths = write("adam", "ema", "swa", encoder="tests.batch_norm_encoder.v1")
    set_cores(monkeypatch, 2)
    shared = compare(tmp_path / "shared", paths, n_seeds=1, code=code)
    single = compare(tmp_path / "single", paths, n_seeds=1, code=code, is_shared=False)
    assert [run.error for run in single] == [None] * 3
    assert results_without_times(shared) == results_without_times(single)
    assert {run.records[-1]["n_shared"] for run in shared} == {3}


def test_a_plateau_starts_an_average_in_spacys_loop(tmp_path, write, monkeypatch):
    # Scores do not only rise.
    paths = write("adam", "plateau", learn_rate=0.2, max_steps=80)
    _, run = single = compare(tmp_path / "single", paths, n_seeds=1, is_shared=False)
    raw = [e["raw"] for e in run.evaluations]
    start = next(i for i, score in enumerate(raw) if i > 1 and score < max(raw[: i - 1]))
    assert start < len(raw) - 1
    # It was evaluated before it has started.
    assert [e["n_averaged"] for e in run.evaluations][: start + 1] == [0] * (start + 1)
    assert all(e["n_averaged"] for e in run.evaluations[start + 1 :])
    assert [e["averages"] is None for e in run.evaluations] == [
        i <= start for i in range(len(raw))
    ]
    set_cores(monkeypatch, 2)
    shared = compare(tmp_path / "shared", paths, n_seeds=1)
    assert results_without_times(shared) == results_without_times(single)


def test_an_error_in_an_evaluation_beside_the_training_is_that_of_its_entry(
    tmp_path, write, monkeypatch
):
    """Each entry is trained alone then."""
    code = tmp_path / "code.py"
    code.write_text(FRAGILE)
    paths = write("adam", "ema", is_fragile=True)
    set_cores(monkeypatch, 2)
    adam, ema = compare(tmp_path / "output", paths, n_seeds=1, code=code)
    assert (adam.state, adam.records[-1]["n_shared"]) == ("done", 1)
    assert ema.state == "failed" and ema.error == "RuntimeError: a second evaluation"
