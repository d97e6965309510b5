"""Files that a training saves: models and log."""

from pathlib import Path

import numpy
import pytest
from helpers import require
from output_folders import config_of, load_model, results_of
from tiny import assert_same, weights_of

from thinc_swa import apply_averages, update_batch_norm, use_averages
from thinc_swa.errors import CallbackError
from thinc_swa.training.callbacks import Callback
from thinc_swa.training.checkpoints import find_checkpoint, load_checkpoint
from thinc_swa.training.logs import read_log
from thinc_swa.training.trainer import Trainer, train

require("filelock")


def test_models_are_saved_with_the_averages(tmp_path):
    config = config_of(tmp_path)
    trainer = train(config, output=tmp_path / "output")
    for name, evaluation in (
        ("model-best", trainer.state.best),
        ("model-last", trainer.state.evaluations[-1]),
    ):
        other, model = load_model(config, tmp_path / "output" / name)
        assert evaluation.averages is not None
        assert other._score() == evaluation.averages
    with use_averages(trainer.model, trainer.optimizer):
        assert_same(weights_of(model), weights_of(trainer.model))


def test_after_an_error_the_last_saved_files_are_kept(tmp_path):
    """After an error the weights may be partly updated."""

    class Break(Callback):
        def on_step(self, trainer):
            if trainer.state.step == 17:
                raise KeyError("my key")

    config = config_of(tmp_path)
    with pytest.raises(CallbackError):
        train(config, output=tmp_path / "output", callbacks=[Break()])
    assert find_checkpoint(tmp_path / "output").name == "step-00000010"
    train(config_of(tmp_path, max_steps=10), output=tmp_path / "ten")
    saved = [(tmp_path / name / "model-last").read_bytes() for name in ("output", "ten")]
    assert saved[0] == saved[1]
    train(config, output=tmp_path / "output", resume=True)
    train(config, output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_the_log_has_steps_evaluations_and_the_end(tmp_path):
    trainer = train(config_of(tmp_path), output=tmp_path / "output")
    records = list(read_log(tmp_path / "output" / "log.jsonl"))
    kinds = [record["type"] for record in records]
    assert kinds[0] == "start" and kinds[-1] == "end"
    assert kinds.count("step") == 60 and kinds.count("evaluation") == 6
    assert records[-1]["reason"] == "max_steps"
    steps = [record for record in records if record["type"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 61))
    assert [steps[i]["n_averaged"] for i in (18, 19, 21, 22, 59)] == [0, 1, 1, 2, 14]
    evaluations = [record for record in records if record["type"] == "evaluation"]
    assert [record["raw"] for record in evaluations] == [
        evaluation.raw for evaluation in trainer.state.evaluations
    ]


def test_an_earlier_training_is_overwritten_only_on_request(tmp_path):
    config = config_of(tmp_path, max_steps=10)
    train(config, output=tmp_path / "output")
    before = (tmp_path / "output" / "log.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="output already contains a training"):
        train(config, output=tmp_path / "output")
    assert (tmp_path / "output" / "log.jsonl").read_bytes() == before
    trainer = train(config, output=tmp_path / "output", overwrite=True)
    assert trainer.state.step == 10
    assert len(list(read_log(tmp_path / "output" / "log.jsonl"))) == 14


def test_averages_with_batch_norm_equal_manual_ones(tmp_path):
    """In the log and in the saved models."""
    require("torch")
    import torch_layers
    from chains import LAYER

    config = config_of(tmp_path, score="loss")
    config["model"]["*"]["hidden"] = LAYER
    config["model"]["*"]["output"]["nI"] = 8
    output, code = tmp_path / "output", Path(torch_layers.__file__)
    train(config, output=output, code=code)
    (evaluation,) = [
        record
        for record in read_log(output / "log.jsonl")
        if record["type"] == "evaluation" and record["step"] == 60
    ]

    trainer = Trainer.from_config(config, code=code)
    load_checkpoint(find_checkpoint(output), trainer)
    assert trainer._score() == evaluation["raw"]
    apply_averages(trainer.model, trainer.optimizer)
    stale = trainer._score()
    (X, _), _ = trainer.dataset
    rows = numpy.random.default_rng((1, 0, 1)).choice(50, 48, replace=False)
    update_batch_norm(trainer.model, [X[rows[i : i + 8]] for i in range(0, 48, 8)])
    assert trainer._score() == evaluation["averages"] != stale

    # The saved models have the scores of the log.
    for name, step in (("model-last", 60), ("model-best", best_step(output))):
        saved, model = load_model(config, output / name)
        assert saved._score() == score_at(output, step)
    assert (output / "model-last").read_bytes() == trainer.model.to_bytes()


def score_at(output, step):
    records = list(read_log(output / "log.jsonl"))
    (found,) = [r for r in records if r["type"] == "evaluation" and r["step"] == step]
    return found["raw"] if found["averages"] is None else found["averages"]


def best_step(output):
    records = list(read_log(output / "log.jsonl"))
    return max(r["step"] for r in records if r["type"] == "evaluation" and r["is_best"])
