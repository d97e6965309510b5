"""Callbacks and checkpoints with another trainer, whose model is saved as a folder, as spaCy's
pipelines are, and which knows neither a dataset nor the number of steps."""

import io
from contextlib import contextmanager

import numpy
import pytest
from helpers import require
from thinc.api import Adam, Relu
from tiny import assert_same, weights_of

from thinc_swa import SWA, use_averages
from thinc_swa.training import (
    ProgressBar,
    SaveCheckpoints,
    SaveModels,
    ScoreTable,
    TrainerState,
    TrainingLog,
    find_checkpoint,
    load_checkpoint,
)
from thinc_swa.training.callbacks import CallbackList
from thinc_swa.training.checkpoints import DamagedCheckpointError
from thinc_swa.training.fingerprints import TrainingFingerprint
from thinc_swa.training.logs import find_disorder, read_log


class StreamTrainer:
    """Least squares on a random stream, evaluated every four steps."""

    seed = 1
    score = "loss"
    fingerprint = TrainingFingerprint({}, {}, {})

    def __init__(self, n_steps, callbacks=()):
        self.state = TrainerState()
        self.n_steps = n_steps
        self.model = Relu(2, 3, init_W=lambda ops, shape: numpy.ones(shape, dtype="f"))
        self.model.initialize()
        self.optimizer = SWA(Adam(0.01), start_step=2)
        self.callbacks = CallbackList(callbacks)

    def stop(self, reason="stopped"):
        self.state.stop_reason = reason

    @contextmanager
    def use_averages(self):
        with use_averages(self.model, self.optimizer):
            yield

    def save_model(self, path):
        path.mkdir(exist_ok=True)
        (path / "layer").mkdir(exist_ok=True)
        (path / "layer" / "weights").write_bytes(self.model.to_bytes())

    def load_model(self, path):
        self.model.from_bytes((path / "layer" / "weights").read_bytes())

    def restore(self, state):
        self.state = state

    def run(self):
        self.callbacks.dispatch("on_start", self)
        while self.state.step < self.n_steps:
            position = self.state.extra.get("position", 0)
            random = numpy.random.default_rng(position)
            X = random.normal(size=(4, 3)).astype("f")
            Y, backprop = self.model.begin_update(X)
            backprop(Y - X[:, :2])
            self.model.finish_update(self.optimizer)
            self.optimizer.step_schedules()
            losses = {"first": float(abs(Y - X[:, :2]).mean()), "second": 1.0}
            self.state.add_step(losses, epoch=0, learn_rate=0.01, n_averaged=None, seconds=0.0)
            self.state.extra["position"] = position + 1
            self.callbacks.dispatch("on_step", self)
            if self.state.step % 4 == 0:
                evaluation = self.state.add_evaluation(-losses["first"], None)
                self.callbacks.dispatch("on_evaluate", self, evaluation)
        self.callbacks.dispatch("on_end", self)


def make(folder, n_steps):
    log = TrainingLog(folder / "log.jsonl")
    callbacks = [log, SaveModels(folder), SaveCheckpoints(folder, log)]
    table = io.StringIO()
    callbacks += [ProgressBar(io.StringIO()), ScoreTable(table)]
    return StreamTrainer(n_steps, callbacks), table


def test_another_trainer_is_resumed_bit_for_bit(tmp_path):
    require("rich")
    for name in ("whole", "output"):
        (tmp_path / name).mkdir()
    whole, _ = make(tmp_path / "whole", 12)
    whole.run()
    output = tmp_path / "output"
    make(output, 8)[0].run()
    resumed, table = make(output, 12)
    load_checkpoint(find_checkpoint(output), resumed)
    assert (resumed.state.step, resumed.state.extra) == (8, {"position": 8})
    resumed.run()
    assert_same(weights_of(resumed.model), weights_of(whole.model))
    assert resumed.state.evaluations == whole.state.evaluations
    saved = [
        tmp_path / name / "model-last" / "layer" / "weights" for name in ("whole", "output")
    ]
    assert saved[0].read_bytes() == saved[1].read_bytes()
    assert [row.split()[0] for row in table.getvalue().splitlines()] == ["step", "4", "8", "12"]
    records = [r for r in read_log(output / "log.jsonl") if r["type"] != "end"]
    assert find_disorder(records) is None
    assert [r["step"] for r in records if r["type"] == "checkpoint"] == [4, 8, 12]
    assert records[0]["total_steps"] is None


def test_damage_in_the_folder_of_a_model_is_found(tmp_path):
    require("rich")
    make(tmp_path, 4)[0].run()
    path = tmp_path / "step-00000004"
    (path / "model" / "layer" / "weights").write_bytes(b"half")
    with pytest.raises(DamagedCheckpointError, match="content of model/layer/weights"):
        load_checkpoint(path, make(tmp_path, 4)[0])
