"""The training loop: its steps, its evaluations, who is told, and what is saved."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy
import pytest
from helpers import require
from thinc.api import (
    SGD,
    Adam,
    CategoricalCrossentropy,
    Config,
    Model,
    PyTorchWrapper,
    Relu,
    Softmax,
    chain,
    fix_random_seed,
    glorot_uniform_init,
    registry,
    with_array,
)
from tiny import ADAM, SequenceLoss, make_dataset, write_config

from thinc_swa import EMA, SWA, Lookahead, use_averages
from thinc_swa.callbacks import Callback, CallbackError, SaveModels
from thinc_swa.checkpoints import find_checkpoint, load_checkpoint, save_checkpoint
from thinc_swa.datasets import check_dataset
from thinc_swa.evaluation import accuracy
from thinc_swa.logs import read_log
from thinc_swa.training import Training, train


def make_model():
    return chain(Relu(8, dropout=0.2), Softmax())


def make_training(optimizer=None, callbacks=(), dataset=None, model=None, **settings):
    settings = {"max_steps": 20, "batch_size": 8, "eval_frequency": 10, **settings}
    return Training(
        model or make_model(),
        optimizer or SGD(0.1, use_averages=False),
        CategoricalCrossentropy(),
        dataset or make_dataset(),
        callbacks=callbacks,
        **settings,
    )


def weights_of(model):
    return [
        node.get_param(name).copy()
        for node in model.walk()
        for name in node.param_names
        if node.has_param(name)
    ]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        numpy.testing.assert_array_equal(one, other)


# The loop


def test_is_a_plain_thinc_loop():
    training = make_training(Adam(0.01, use_averages=False), max_steps=15, seed=3)
    training.run()

    (X, Y), _ = make_dataset()
    fix_random_seed(3)
    model = make_model().initialize(X=X[:2], Y=Y[:2])
    optimizer = Adam(0.01, use_averages=False)
    # 50 rows are 6 batches of 8 and one of 2.
    for epoch in range(3):
        order = numpy.random.default_rng((3, epoch)).permutation(50)
        for start in range(0, 50, 8):
            if epoch == 2 and start == 8:
                break
            rows = order[start : start + 8]
            guesses, backprop = model.begin_update(X[rows])
            backprop((guesses - Y[rows]) / len(rows))
            model.finish_update(optimizer)
            optimizer.step_schedules()
    assert_same(weights_of(training.model), weights_of(model))


def test_every_row_is_seen_once_in_an_epoch():
    X = numpy.arange(50, dtype="f").reshape(50, 1) + 1
    Y = numpy.ones((50, 2), dtype="f") / 2
    seen = []
    model = Softmax()
    forward = model._func
    model._func = lambda m, X, is_train: (
        (seen.extend(X[:, 0]) if is_train else 0) or forward(m, X, is_train)
    )
    make_training(model=model, dataset=((X, Y), (X, Y)), max_steps=0, max_epochs=2).run()
    assert sorted(seen[:50]) == sorted(seen[50:]) == X[:, 0].tolist()
    assert seen[:50] != seen[50:]


@pytest.mark.parametrize("wrap", [lambda o: o, SWA, EMA, Lookahead])
def test_batches_and_dropout_are_the_same_for_all_optimizers(wrap):
    losses = []

    class Watch(Callback):
        def on_step(self, training):
            losses[-1].append(training.last_loss)

    for optimizer in (SGD(0.0, use_averages=False), wrap(SGD(0.0, use_averages=False))):
        losses.append([])
        # Thinc's own first weights of a Softmax are zeros.
        model = chain(Relu(8, dropout=0.2), Softmax(init_W=glorot_uniform_init))
        make_training(optimizer, [Watch()], model=model).run()
    assert losses[0] == losses[1]
    assert len(set(losses[0])) > 10


def test_plain_weights_and_averages_are_evaluated():
    optimizer = SWA(SGD(0.5, use_averages=False), start_step=15, freq=1)
    training = make_training(optimizer)
    training.run()
    early, late = training.evaluations
    assert (early.step, late.step) == (10, 20)
    assert early.averages is None and early.score == early.plain
    assert (early.n_averaged, late.n_averaged) == (0, 6)
    _, (X, Y) = make_dataset()
    assert late.plain == accuracy(training.model.predict(X), Y)
    with use_averages(training.model, optimizer):
        averages = training.model.predict(X)
    assert late.averages == late.score == accuracy(averages, Y)


def test_large_data_are_predicted_in_pieces(monkeypatch):
    whole = make_training()
    whole.run()
    monkeypatch.setattr("thinc_swa.evaluation.PREDICT_BATCH_SIZE", 7)
    in_pieces = make_training()
    in_pieces.run()
    assert in_pieces.evaluations == whole.evaluations


def test_an_evaluation_has_the_mean_loss_since_the_one_before():
    losses = []

    class Watch(Callback):
        def on_step(self, training):
            losses.append(training.last_loss)

    training = make_training(callbacks=[Watch()])
    training.run()
    expected = [numpy.mean(losses[:10]), numpy.mean(losses[10:])]
    assert [evaluation.loss for evaluation in training.evaluations] == pytest.approx(expected)


@pytest.mark.parametrize(
    "settings, step, reason",
    [
        ({"max_steps": 13}, 13, "max_steps"),
        ({"max_steps": 0, "max_epochs": 2}, 14, "max_epochs"),
        ({"max_steps": 100, "max_epochs": 1}, 7, "max_epochs"),
        ({"max_steps": 7, "max_epochs": 9}, 7, "max_steps"),
        # The rate is 0, so nothing is better than the first evaluation, at step 10.
        ({"max_steps": 100, "patience": 30}, 40, "patience"),
        ({"max_steps": 100, "patience": 35}, 50, "patience"),
    ],
)
def test_it_ends_when_it_should(settings, step, reason):
    training = make_training(SGD(0.0, use_averages=False), **settings)
    training.run()
    assert (training.step, training.stop_reason) == (step, reason)
    # The last step is evaluated in any case.
    assert training.evaluations[-1].step == step


def test_lists_of_arrays_are_trained_too():
    (train_X, train_Y), (dev_X, dev_Y) = make_dataset()

    def split(array):
        return [array[i : i + 4] for i in range(0, 40, 4)]

    dataset = (split(train_X), split(train_Y)), (split(dev_X), split(dev_Y))
    training = make_training(
        SGD(0.5, use_averages=False),
        model=with_array(make_model()),
        dataset=dataset,
        max_steps=30,
        batch_size=2,
    )
    training.loss = SequenceLoss()
    training.run()
    assert training.evaluations[-1].score > 0.6


def test_score_loss_is_minus_the_loss():
    training = make_training(score="loss")
    training.run()
    _, (X, Y) = make_dataset()
    loss = CategoricalCrossentropy().get_loss(training.model.predict(X), Y)
    assert training.evaluations[-1].score == pytest.approx(-float(loss))


@pytest.mark.parametrize(
    "guesses, truths, expected",
    [
        ([[0.2, 0.8], [0.7, 0.3]], [1, 1], 0.5),
        ([[0.2, 0.8], [0.7, 0.3]], [[0, 1], [1, 0]], 1.0),
    ],
)
def test_accuracy(guesses, truths, expected):
    guesses, truths = numpy.array(guesses, dtype="f"), numpy.array(truths)
    assert accuracy(guesses, truths) == expected
    if truths.ndim == 1:
        assert accuracy(guesses, truths.tolist()) == expected
    assert accuracy([guesses[:1], guesses[1:]], [truths[:1], truths[1:]]) == expected


def test_accuracy_of_other_things_is_an_error():
    with pytest.raises(ValueError, match='try score = "loss"'):
        accuracy(numpy.zeros((3,)), numpy.zeros((3,)))


@pytest.mark.parametrize(
    "guesses, truths", [((3, 1), (3, 1)), ((3, 1), (3,)), ((3, 4), (3, 1)), ((3, 4), (3, 5))]
)
def test_an_accuracy_that_would_mean_nothing_is_an_error(guesses, truths):
    with pytest.raises(ValueError, match='try score = "loss"'):
        accuracy(numpy.ones(guesses), numpy.ones(truths))


def test_classes_as_numbers_all_have_an_output():
    (train_X, train_Y), (dev_X, dev_Y) = make_dataset()
    dataset = (train_X, train_Y.argmax(axis=1)), (dev_X, dev_Y.argmax(axis=1))
    training = make_training(SGD(0.3), dataset=dataset, max_steps=60)
    training.run()
    assert training.model.get_dim("nO") == 3
    assert training.evaluations[-1].score > 0.6


def test_a_score_that_is_no_number_is_not_the_best(monkeypatch):
    scores = iter([numpy.nan, -0.5, numpy.nan, -0.6, -0.4])
    training = make_training(max_steps=50)
    monkeypatch.setattr(training, "_score", lambda: next(scores))
    training.run()
    assert [found.is_best for found in training.evaluations] == [True, True, False, False, True]


def test_schedules_hear_of_the_scores():
    optimizer = Adam(0.01)
    if not hasattr(optimizer, "last_score"):
        pytest.skip("new in Thinc 9")
    training = make_training(SWA(optimizer, start_step=5))
    training.run()
    assert optimizer.last_score == (20, training.evaluations[-1].score)


def test_a_layer_that_draws_when_it_is_made_has_the_seed_too(tmp_path):
    @registry.layers("test_training.drawn.v1")
    def make_drawn():
        drawn = numpy.random.random()
        return Model("drawn", lambda model, X, is_train: (X * drawn, lambda dY: dY * drawn))

    config = config_of(tmp_path)
    config["model"] = {
        "@layers": "chain.v1",
        "*": {"drawn": {"@layers": "test_training.drawn.v1"}, **config["model"]["*"]},
    }
    X = numpy.ones((1, 3), dtype="f")
    first = Training.from_config(config).model.layers[0].predict(X)
    numpy.random.random(7)
    numpy.testing.assert_array_equal(
        Training.from_config(config).model.layers[0].predict(X), first
    )


# Wrong arguments


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_steps": 0}, "max_steps or max_epochs must be at least 1"),
        ({"max_steps": 1.5}, "max_steps must be an int >= 0, but was 1.5"),
        ({"batch_size": 0}, "batch_size must be an int >= 1, but was 0"),
        ({"eval_frequency": True}, "eval_frequency must be an int >= 1"),
        ({"patience": -1}, "patience must be an int >= 0"),
        ({"score": "f1"}, "score must be one of 'accuracy', 'loss', but was 'f1'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_training(**settings)


def test_wrong_parts():
    with pytest.raises(TypeError, match="optimizer must be a Thinc Optimizer, but was 0.1"):
        make_training(0.1)
    with pytest.raises(TypeError, match="model must be a Thinc Model"):
        make_training(model="chain")
    with pytest.raises(TypeError, match="loss must be a Thinc Loss"):
        Training(make_model(), SGD(0.1), None, make_dataset(), max_steps=1)


@pytest.mark.parametrize(
    "dataset, message",
    [
        (3, "must be .*, but was int"),
        (([1], [2], [3]), "must be .*, but was tuple"),
        ((([], []), ([1], [1])), "has no rows in train_X"),
        ((([1], [1]), ([], [])), "has no rows in dev_X"),
        ((([1, 2], [1]), ([1], [1])), "has 2 rows of train_X, but 1 of train_Y"),
    ],
)
def test_wrong_datasets(dataset, message):
    with pytest.raises(ValueError, match=message):
        check_dataset(dataset)


def test_wrong_configs(tmp_path):
    config = Config().from_disk(write_config(tmp_path))
    without = Config({name: config[name] for name in config if name != "loss"})
    with pytest.raises(ValueError, match=r"but has no \[loss\]"):
        Training.from_config(without)
    config["training"]["epochs"] = 3
    with pytest.raises(ValueError, match=r"unknown settings \['epochs'\]: there are"):
        Training.from_config(config)


# Callbacks


class Recorder(Callback):
    def __init__(self, fails_in=None):
        self.events = []
        self.fails_in = fails_in

    def on_start(self, training):
        self._hear("on_start", training)

    def on_step(self, training):
        self._hear("on_step", training)

    def on_evaluate(self, training, evaluation):
        assert evaluation is training.evaluations[-1]
        self._hear("on_evaluate", training)

    def on_end(self, training):
        self._hear("on_end", training)

    def _hear(self, event, training):
        self.events.append((event, training.step))
        if self.fails_in == (event, training.step):
            raise KeyError("my key")


def test_callbacks_are_told():
    recorder = Recorder()
    make_training(callbacks=[recorder], max_steps=3, eval_frequency=2).run()
    assert recorder.events == [
        ("on_start", 0),
        ("on_step", 1),
        ("on_step", 2),
        ("on_evaluate", 2),
        ("on_step", 3),
        ("on_evaluate", 3),
        ("on_end", 3),
    ]


def test_a_callback_stops_a_training():
    class Stop(Callback):
        def on_step(self, training):
            if training.step == 4:
                training.stop("enough")

    training = make_training(callbacks=[Stop()])
    training.run()
    assert (training.step, training.stop_reason) == (4, "enough")


@pytest.mark.parametrize(
    "place", [("on_start", 0), ("on_step", 4), ("on_evaluate", 10), ("on_end", 20)]
)
def test_a_callback_that_fails_is_named_and_all_hear_of_the_end(place):
    failing, other = Recorder(fails_in=place), Recorder()
    training = make_training(callbacks=[failing, other])
    event, step = place
    message = rf"Recorder\.{event} failed after step {step}: KeyError: 'my key'"
    with pytest.raises(CallbackError, match=message) as caught:
        training.run()
    assert isinstance(caught.value.__cause__, KeyError)
    assert failing.events[-1] == other.events[-1] == ("on_end", step)


def test_an_error_at_the_end_does_not_hide_what_ended_it():
    failing = [Recorder(fails_in=("on_step", 4)), Recorder(fails_in=("on_end", 4))]
    with pytest.raises(CallbackError, match="on_step failed"):
        make_training(callbacks=failing).run()


# What is saved


def config_of(tmp_path, **settings):
    return Config().from_disk(write_config(tmp_path, **settings))


def load_model(config, path):
    training = Training.from_config(config)
    return training, training.model.from_bytes(path.read_bytes())


def test_models_are_saved_with_the_averages(tmp_path):
    config = config_of(tmp_path)
    training = train(config, output=tmp_path / "output")
    for name, evaluation in (
        ("model-best", training.best),
        ("model-last", training.evaluations[-1]),
    ):
        other, model = load_model(config, tmp_path / "output" / name)
        assert evaluation.averages is not None
        assert other._score() == evaluation.averages
    with use_averages(training.model, training.optimizer):
        assert_same(weights_of(model), weights_of(training.model))


def test_a_training_that_is_stopped_between_evaluations_saves_its_last_weights(tmp_path):
    class Stop(Callback):
        def on_step(self, training):
            if training.step == 17:
                training.stop()

    training = make_training(callbacks=[SaveModels(tmp_path), Stop()])
    training.run()
    model = make_training().model.from_bytes((tmp_path / "model-last").read_bytes())
    assert_same(weights_of(model), weights_of(training.model))


def test_after_an_error_what_was_saved_before_is_still_there(tmp_path):
    """The weights may be half updated then."""

    class Break(Callback):
        def on_step(self, training):
            if training.step == 17:
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


def test_the_log_has_everything(tmp_path):
    training = train(config_of(tmp_path), output=tmp_path / "output")
    records = list(read_log(tmp_path / "output" / "log.jsonl"))
    kinds = [record["type"] for record in records]
    assert kinds[0] == "start" and kinds[-1] == "end"
    assert kinds.count("step") == 60 and kinds.count("evaluation") == 6
    assert records[-1]["reason"] == "max_steps"
    steps = [record for record in records if record["type"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 61))
    assert [steps[i]["n_averaged"] for i in (18, 19, 21, 22, 59)] == [0, 1, 1, 2, 14]
    evaluations = [record for record in records if record["type"] == "evaluation"]
    assert [record["plain"] for record in evaluations] == [
        evaluation.plain for evaluation in training.evaluations
    ]


def test_an_old_training_is_not_overwritten_by_chance(tmp_path):
    config = config_of(tmp_path, max_steps=10)
    train(config, output=tmp_path / "output")
    before = (tmp_path / "output" / "log.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="There is a training in"):
        train(config, output=tmp_path / "output")
    assert (tmp_path / "output" / "log.jsonl").read_bytes() == before
    training = train(config, output=tmp_path / "output", overwrite=True)
    assert training.step == 10
    assert len(list(read_log(tmp_path / "output" / "log.jsonl"))) == 13


def test_files_of_others_are_left_alone(tmp_path):
    config = config_of(tmp_path, max_steps=10)
    output = tmp_path / "output"
    (output / "step-by-step").mkdir(parents=True)
    (output / "step-00000010.txt").write_text("mine")
    assert train(config, output=output).step == 10
    assert train(config, output=output, overwrite=True).step == 10
    assert (output / "step-by-step").is_dir() and (output / "step-00000010.txt").exists()
    (output / "log.jsonl").unlink()
    (output / "config.cfg").write_text("mine")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="There is config.cfg, model-best, .* no log"):
            train(config, output=output, resume=resume)
    assert (output / "config.cfg").read_text() == "mine"
    assert train(config, output=output, overwrite=True).step == 10


# Going on


def results_of(folder):
    """What must not depend on interruptions: the models, and the log without times."""
    records = [
        {name: value for name, value in record.items() if name != "seconds"}
        for record in read_log(folder / "log.jsonl")
        if record["type"] in ("step", "evaluation")
    ]
    return records, [(folder / name).read_bytes() for name in ("model-best", "model-last")]


SLOW_STEPS = """
import os, sys, time
from pathlib import Path
from thinc.api import Config
from thinc_swa.callbacks import Callback
from thinc_swa.training import train

class Slow(Callback):
    def on_step(self, training):
        print(training.step, flush=True)
        time.sleep(0.01)

train(Config().from_disk("tiny.cfg"), output=Path("output"), resume=True, callbacks=[Slow()])
"""


@pytest.mark.parametrize("step", [5, 33, 58])
def test_a_training_that_was_killed_goes_on_bit_for_bit(tmp_path, step):
    config = config_of(tmp_path)
    train(config, output=tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STEPS], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    with process:
        for line in process.stdout:
            if int(line) == step:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    training = train(config, output=tmp_path / "output", resume=True)
    assert training.step == 60
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_a_training_goes_on_from_any_of_its_steps(tmp_path):
    whole = make_training(SWA(Adam(0.01), start_step=6, freq=2), max_steps=20)
    whole.run()

    class Save(Callback):
        def on_step(self, training):
            if training.step == 9:
                save_checkpoint(tmp_path, training)

    make_training(SWA(Adam(0.01), start_step=6, freq=2), [Save()], max_steps=20).run()
    resumed = make_training(SWA(Adam(0.01), start_step=6, freq=2), max_steps=20)
    load_checkpoint(find_checkpoint(tmp_path), resumed)
    assert resumed.step == 9
    resumed.run()
    assert_same(weights_of(resumed.model), weights_of(whole.model))
    assert resumed.evaluations == whole.evaluations


def test_dropout_of_pytorch_goes_on_too(tmp_path):
    require("torch")
    import torch

    def make():
        torch.manual_seed(0)
        layers = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)
        )
        return make_training(Adam(0.01), model=chain(PyTorchWrapper(layers), Softmax(3, 3)))

    whole = make()
    whole.run()
    first = make()

    class Save(Callback):
        def on_step(self, training):
            if training.step == 9:
                save_checkpoint(tmp_path, training)

    first.callbacks.append(Save())
    first.run()
    resumed = make()
    load_checkpoint(find_checkpoint(tmp_path), resumed)
    resumed.run()
    assert [e.loss for e in resumed.evaluations] == [e.loss for e in whole.evaluations]


def test_going_on_twice_changes_nothing(tmp_path):
    config = config_of(tmp_path)
    train(config, output=tmp_path / "output")
    before = results_of(tmp_path / "output")
    assert train(config, output=tmp_path / "output", resume=True).step == 60
    assert results_of(tmp_path / "output") == before


def test_a_training_that_lost_patience_does_not_go_on(tmp_path):
    optimizer = ADAM.replace("0.01", "0.0")
    config = config_of(tmp_path, optimizer=optimizer, patience=20, max_steps=1000)
    assert train(config, output=tmp_path / "output").step == 30
    assert train(config, output=tmp_path / "output", resume=True).step == 30


def test_a_training_can_be_made_longer(tmp_path):
    train(config_of(tmp_path, max_steps=30), output=tmp_path / "output")
    train(config_of(tmp_path), output=tmp_path / "output", resume=True)
    train(config_of(tmp_path), output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_another_training_is_not_gone_on_with(tmp_path):
    config = config_of(tmp_path, max_steps=20)
    train(config, output=tmp_path / "output")
    before = results_of(tmp_path / "output")
    other = config.copy()
    other["training"]["batch_size"] = 4
    with pytest.raises(
        ValueError, match=r"differs from that of the training in .* \[training\]"
    ):
        train(other, output=tmp_path / "output", resume=True)
    assert results_of(tmp_path / "output") == before


def test_a_checkpoint_that_is_not_complete_is_left_out(tmp_path):
    train(config_of(tmp_path, max_steps=20), output=tmp_path / "output")
    (tmp_path / "output" / "step-00000030").mkdir()
    (tmp_path / "output" / "step-00000030" / "model").write_bytes(b"half")
    assert find_checkpoint(tmp_path / "output").name == "step-00000020"
    train(config_of(tmp_path), output=tmp_path / "output", resume=True)
    train(config_of(tmp_path), output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_a_log_that_was_cut_off_is_gone_on_with(tmp_path):
    train(config_of(tmp_path, max_steps=20), output=tmp_path / "output")
    with (tmp_path / "output" / "log.jsonl").open("a") as file:
        file.write('{"type": "step", "st')
    train(config_of(tmp_path), output=tmp_path / "output", resume=True)
    train(config_of(tmp_path), output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_of_two_checkpoints_the_later_one_is_taken(tmp_path):
    """A crash may come before the earlier one is deleted."""
    train(config_of(tmp_path, max_steps=20), output=tmp_path / "output")
    later = tmp_path / "output" / "step-00000020"
    for name in ("step-00000003", "step-00000010"):
        shutil.copytree(later, tmp_path / "output" / name)
    assert find_checkpoint(tmp_path / "output") == later


def test_ctrl_c_ends_a_training_that_can_be_gone_on_with(tmp_path):
    for package in ("typer", "tqdm"):
        require(package)
    path = write_config(tmp_path, max_steps=20000)
    command = [sys.executable, "-m", "thinc_swa", "train", path.name, "-o", "output"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
    )
    log = tmp_path / "output" / "log.jsonl"
    while not (log.exists() and log.read_text().count('"evaluation"') > 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    assert f"Stopped after step {step}; --resume goes on." in printed
    assert "Traceback" not in printed
    assert (tmp_path / "output" / "model-last").exists()
    # Not at an evaluation: it went on from the very step.
    longer = config_of(tmp_path, max_steps=step + 15)
    train(longer, output=tmp_path / "output", resume=True)
    train(longer, output=tmp_path / "whole")
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")
