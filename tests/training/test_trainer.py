"""The training loop: its steps, its evaluations, and its callbacks."""

import random
import signal

import numpy
import pytest
from helpers import require
from thinc.api import (
    SGD,
    Adam,
    CategoricalCrossentropy,
    Config,
    Model,
    Relu,
    Softmax,
    chain,
    fix_random_seed,
    glorot_uniform_init,
    registry,
    with_array,
)
from tiny import (
    SequenceLoss,
    assert_same,
    make_dataset,
    make_model,
    make_trainer,
    weights_of,
    write_config,
)

from thinc_swa import EMA, SWA, Lookahead, apply_averages, update_batch_norm, use_averages
from thinc_swa.errors import CallbackError
from thinc_swa.training.callbacks import Callback, SaveModels, StopOnInterrupt
from thinc_swa.training.datasets import check_dataset
from thinc_swa.training.evaluation import accuracy
from thinc_swa.training.trainer import Trainer

# The loop


def test_is_a_plain_thinc_loop():
    trainer = make_trainer(Adam(0.01, use_averages=False), max_steps=15, seed=3)
    trainer.run()

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
            predictions, backprop = model.begin_update(X[rows])
            backprop((predictions - Y[rows]) / len(rows))
            model.finish_update(optimizer)
            optimizer.step_schedules()
    assert_same(weights_of(trainer.model), weights_of(model))


def test_every_row_is_seen_once_in_an_epoch():
    X = numpy.arange(50, dtype="f").reshape(50, 1) + 1
    Y = numpy.ones((50, 2), dtype="f") / 2
    seen = []
    model = Softmax()
    forward = model._func
    model._func = lambda m, X, is_train: (
        (seen.extend(X[:, 0]) if is_train else 0) or forward(m, X, is_train)
    )
    make_trainer(model=model, dataset=((X, Y), (X, Y)), max_steps=0, max_epochs=2).run()
    assert sorted(seen[:50]) == sorted(seen[50:]) == X[:, 0].tolist()
    assert seen[:50] != seen[50:]


@pytest.mark.parametrize("wrap", [lambda o: o, SWA, EMA, Lookahead])
def test_batches_and_dropout_are_the_same_for_all_optimizers(wrap):
    losses = []

    class Watch(Callback):
        def on_step(self, trainer):
            losses[-1].append(trainer.state.loss)

    for optimizer in (SGD(0.0, use_averages=False), wrap(SGD(0.0, use_averages=False))):
        losses.append([])
        # Thinc's own first weights of a Softmax are zeros.
        model = chain(Relu(8, dropout=0.2), Softmax(init_W=glorot_uniform_init))
        make_trainer(optimizer, [Watch()], model=model).run()
    assert losses[0] == losses[1]
    assert len(set(losses[0])) > 10


def test_plain_weights_and_averages_are_evaluated():
    optimizer = SWA(SGD(0.5, use_averages=False), start_step=15, freq=1)
    trainer = make_trainer(optimizer)
    trainer.run()
    early, late = trainer.state.evaluations
    assert (early.step, late.step) == (10, 20)
    assert early.averages is None and early.score == early.raw
    assert (early.n_averaged, late.n_averaged) == (0, 6)
    _, (X, Y) = make_dataset()
    assert late.raw == accuracy(trainer.model.predict(X), Y)
    with use_averages(trainer.model, optimizer):
        averages = trainer.model.predict(X)
    assert late.averages == late.score == accuracy(averages, Y)


def test_large_data_are_predicted_in_pieces(monkeypatch):
    whole = make_trainer()
    whole.run()
    monkeypatch.setattr("thinc_swa.training.evaluation.PREDICT_BATCH_SIZE", 7)
    in_pieces = make_trainer()
    in_pieces.run()
    assert in_pieces.state.evaluations == whole.state.evaluations


def test_an_evaluation_has_the_mean_loss_since_the_one_before():
    losses = []

    class Watch(Callback):
        def on_step(self, trainer):
            losses.append(trainer.state.loss)

    trainer = make_trainer(callbacks=[Watch()])
    trainer.run()
    expected = [numpy.mean(losses[:10]), numpy.mean(losses[10:])]
    assert [evaluation.loss for evaluation in trainer.state.evaluations] == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    "settings, step, reason",
    [
        ({"max_steps": 13}, 13, "max_steps"),
        ({"max_steps": 0, "max_epochs": 2}, 14, "max_epochs"),
        ({"max_steps": 100, "max_epochs": 1}, 7, "max_epochs"),
        ({"max_steps": 7, "max_epochs": 9}, 7, "max_steps"),
        ({"max_steps": 14, "max_epochs": 2}, 14, "max_steps"),
        # The rate is 0, so nothing is better than the first evaluation, at step 10.
        ({"max_steps": 100, "patience": 30}, 40, "patience"),
        ({"max_steps": 100, "patience": 35}, 50, "patience"),
    ],
)
def test_it_ends_when_it_should(settings, step, reason):
    trainer = make_trainer(SGD(0.0, use_averages=False), **settings)
    trainer.run()
    assert (trainer.state.step, trainer.state.stop_reason) == (step, reason)
    # The last step is evaluated in any case.
    assert trainer.state.evaluations[-1].step == step


def test_lists_of_arrays_are_trained_too():
    (train_X, train_Y), (dev_X, dev_Y) = make_dataset()

    def split(array):
        return [array[i : i + 4] for i in range(0, 40, 4)]

    dataset = (split(train_X), split(train_Y)), (split(dev_X), split(dev_Y))
    trainer = make_trainer(
        SGD(0.5, use_averages=False),
        model=with_array(make_model()),
        dataset=dataset,
        max_steps=30,
        batch_size=2,
    )
    trainer.loss = SequenceLoss()
    trainer.run()
    assert trainer.state.evaluations[-1].score > 0.6


def test_score_loss_is_minus_the_loss():
    trainer = make_trainer(score="loss")
    trainer.run()
    _, (X, Y) = make_dataset()
    loss = CategoricalCrossentropy().get_loss(trainer.model.predict(X), Y)
    assert trainer.state.evaluations[-1].score == pytest.approx(-float(loss))


@pytest.mark.parametrize(
    "predictions, targets, expected",
    [
        ([[0.2, 0.8], [0.7, 0.3]], [1, 1], 0.5),
        ([[0.2, 0.8], [0.7, 0.3]], [[0, 1], [1, 0]], 1.0),
    ],
)
def test_accuracy(predictions, targets, expected):
    predictions, targets = numpy.array(predictions, dtype="f"), numpy.array(targets)
    assert accuracy(predictions, targets) == expected
    if targets.ndim == 1:
        assert accuracy(predictions, targets.tolist()) == expected
    assert accuracy([predictions[:1], predictions[1:]], [targets[:1], targets[1:]]) == expected


def test_accuracy_of_other_things_is_an_error():
    with pytest.raises(ValueError, match='use score = "loss"'):
        accuracy(numpy.zeros((3,)), numpy.zeros((3,)))


@pytest.mark.parametrize(
    "predictions, targets",
    [((3, 1), (3, 1)), ((3, 1), (3,)), ((3, 4), (3, 1)), ((3, 4), (3, 5))],
)
def test_an_accuracy_that_would_mean_nothing_is_an_error(predictions, targets):
    with pytest.raises(ValueError, match='use score = "loss"'):
        accuracy(numpy.ones(predictions), numpy.ones(targets))


def test_classes_as_numbers_all_have_an_output():
    (train_X, train_Y), (dev_X, dev_Y) = make_dataset()
    dataset = (train_X, train_Y.argmax(axis=1)), (dev_X, dev_Y.argmax(axis=1))
    trainer = make_trainer(SGD(0.3), dataset=dataset, max_steps=60)
    trainer.run()
    assert trainer.model.get_dim("nO") == 3
    assert trainer.state.evaluations[-1].score > 0.6


NAN = numpy.nan


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([NAN, -0.5, NAN, -0.6, -0.4], [True, True, False, False, True]),
        ([NAN, NAN, NAN, -0.6, NAN], [True, False, False, True, False]),
        ([-numpy.inf, NAN, -0.5, numpy.inf, NAN], [True, False, True, True, False]),
    ],
)
def test_nan_is_never_better_than_a_score_before(monkeypatch, scores, expected):
    scores = iter(scores)
    trainer = make_trainer(max_steps=50)
    monkeypatch.setattr(trainer, "_score", lambda: next(scores))
    trainer.run()
    assert [found.is_best for found in trainer.state.evaluations] == expected


def test_patience_ends_a_training_whose_scores_are_all_nan(monkeypatch):
    trainer = make_trainer(max_steps=500, patience=30)
    monkeypatch.setattr(trainer, "_score", lambda: NAN)
    trainer.run()
    assert (trainer.state.step, trainer.state.stop_reason) == (40, "patience")
    assert trainer.state.best is trainer.state.evaluations[0]


def test_schedules_hear_of_the_scores():
    optimizer = Adam(0.01)
    if not hasattr(optimizer, "last_score"):
        pytest.skip("new in Thinc 9")
    trainer = make_trainer(SWA(optimizer, start_step=5))
    trainer.run()
    assert optimizer.last_score == (20, trainer.state.evaluations[-1].score)


def test_a_layer_that_draws_when_it_is_made_has_the_seed_too(tmp_path):
    @registry.layers("test_training.drawn.v1")
    def make_drawn():
        drawn = numpy.random.random()
        return Model("drawn", lambda model, X, is_train: (X * drawn, lambda dY: dY * drawn))

    config = Config().from_disk(write_config(tmp_path))
    config["model"] = {
        "@layers": "chain.v1",
        "*": {"drawn": {"@layers": "test_training.drawn.v1"}, **config["model"]["*"]},
    }
    X = numpy.ones((1, 3), dtype="f")
    first = Trainer.from_config(config).model.layers[0].predict(X)
    numpy.random.random(7)
    numpy.testing.assert_array_equal(
        Trainer.from_config(config).model.layers[0].predict(X), first
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
        ({"batch_norm_batches": -1}, "batch_norm_batches must be an int >= 0, but was -1"),
        ({"score": "f1"}, "score must be one of 'accuracy', 'loss', but was 'f1'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_wrong_parts():
    with pytest.raises(TypeError, match="optimizer must be a Thinc Optimizer, but was 0.1"):
        make_trainer(0.1)
    with pytest.raises(TypeError, match="model must be a Thinc Model"):
        make_trainer(model="chain")
    with pytest.raises(TypeError, match="loss must be a Thinc Loss"):
        Trainer(make_model(), SGD(0.1), None, make_dataset(), max_steps=1)


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
        Trainer.from_config(without)
    config["training"]["epochs"] = 3
    with pytest.raises(ValueError, match=r"unknown settings \['epochs'\]: there are"):
        Trainer.from_config(config)


# Callbacks


class Recorder(Callback):
    def __init__(self, fails_in=None):
        self.events = []
        self.fails_in = fails_in

    def on_start(self, trainer):
        self._hear("on_start", trainer)

    def on_step(self, trainer):
        self._hear("on_step", trainer)

    def on_evaluate(self, trainer, evaluation):
        assert evaluation is trainer.state.evaluations[-1]
        self._hear("on_evaluate", trainer)

    def on_end(self, trainer):
        self._hear("on_end", trainer)

    def _hear(self, event, trainer):
        self.events.append((event, trainer.state.step))
        if self.fails_in == (event, trainer.state.step):
            raise KeyError("my key")


def test_callbacks_are_told():
    recorder = Recorder()
    make_trainer(callbacks=[recorder], max_steps=3, eval_frequency=2).run()
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
        def on_step(self, trainer):
            if trainer.state.step == 4:
                trainer.stop("enough")

    trainer = make_trainer(callbacks=[Stop()])
    trainer.run()
    assert (trainer.state.step, trainer.state.stop_reason) == (4, "enough")


@pytest.mark.parametrize(
    "place", [("on_start", 0), ("on_step", 4), ("on_evaluate", 10), ("on_end", 20)]
)
def test_a_callback_that_fails_is_named_and_all_hear_of_the_end(place):
    failing, other = Recorder(fails_in=place), Recorder()
    trainer = make_trainer(callbacks=[failing, other])
    event, step = place
    message = rf"Recorder\.{event} failed after step {step}: KeyError: 'my key'"
    with pytest.raises(CallbackError, match=message) as caught:
        trainer.run()
    assert isinstance(caught.value.__cause__, KeyError)
    assert failing.events[-1] == other.events[-1] == ("on_end", step)


def test_an_error_at_the_end_does_not_hide_what_ended_it():
    failing = [Recorder(fails_in=("on_step", 4)), Recorder(fails_in=("on_end", 4))]
    with pytest.raises(CallbackError, match="on_step failed"):
        make_trainer(callbacks=failing).run()


def test_a_training_that_is_stopped_between_evaluations_saves_its_last_weights(tmp_path):
    class Stop(Callback):
        def on_step(self, trainer):
            if trainer.state.step == 17:
                trainer.stop()

    trainer = make_trainer(callbacks=[SaveModels(tmp_path), Stop()])
    trainer.run()
    model = make_trainer().model.from_bytes((tmp_path / "model-last").read_bytes())
    assert_same(weights_of(model), weights_of(trainer.model))


def test_an_ignored_interrupt_stays_ignored():
    """As in a background job of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        make_trainer(callbacks=[Interrupt(), StopOnInterrupt()]).run()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


class Interrupt(Callback):
    def on_step(self, trainer):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_stops_after_the_step(interruptible):
    trainer = make_trainer(callbacks=[StopOnInterrupt(), Interrupt()])
    trainer.run()
    assert (trainer.state.step, trainer.state.stop_reason) == (1, "interrupted")


# BatchNorm


def make_batch_norm(callbacks=(), optimizer=None, **settings):
    require("torch")
    import torch
    from torch_layers import make_batch_norm

    torch.manual_seed(0)

    def forward(model, X, is_train):
        # Draws in predictions too.
        noise = numpy.random.normal(0, 0.01, X.shape) + torch.rand(1).item() + random.random()
        return X + noise.astype("f"), lambda dY: dY

    model = chain(make_batch_norm(3, 8, 8, 0.3), Model("noise", forward), Softmax(3, 8))
    optimizer = optimizer or SWA(Adam(0.05), start_step=4, freq=2)
    return make_trainer(
        optimizer, callbacks, model=model, score="loss", max_steps=30, **settings
    )


def statistics_of(model):
    return [
        tensor.numpy().copy()
        for tensor in model.layers[0].shims[0]._model.state_dict().values()
    ]


def test_averages_are_evaluated_with_batch_norm_statistics_of_their_own():
    trainer = make_batch_norm(optimizer=SWA(Adam(0.3), start_step=4, freq=2))
    # Without noise, to compare.
    trainer.model.layers[1]._func = lambda model, X, is_train: (X, lambda dY: dY)
    trainer.run()
    raw = trainer._score()
    found = trainer.state.evaluations[-1]
    assert found.raw == raw

    apply_averages(trainer.model, trainer.optimizer)
    stale = trainer._score()
    # All batches of 8 from the 50 rows, in the order of the training's own sample.
    (X, _), _ = trainer.dataset
    order = numpy.random.default_rng((0, 0, 1)).choice(50, 48, replace=False)
    assert len(set(order)) == 48
    update_batch_norm(trainer.model, [X[order[i : i + 8]] for i in range(0, 48, 8)])
    assert trainer._score() == found.averages
    difference = abs(found.averages - stale)
    assert difference > 0.01 * abs(stale)
    # Nearly that of statistics of all rows.
    update_batch_norm(trainer.model, [X])
    assert trainer._score() == pytest.approx(found.averages, abs=difference / 4)


def test_batch_norm_statistics_can_be_left_as_they_are():
    trainer = make_batch_norm(batch_norm_batches=0)
    trainer.model.layers[1]._func = lambda model, X, is_train: (X, lambda dY: dY)
    trainer.run()
    apply_averages(trainer.model, trainer.optimizer)
    assert trainer._score() == trainer.state.evaluations[-1].averages


def test_new_batch_norm_statistics_leave_the_training_as_it_is():
    """Weights, statistics and random states, bit for bit."""
    results = []
    for n_batches in (0, 1, 100):
        losses = []

        class Watch(Callback):
            def on_step(self, trainer, losses=losses):
                losses.append(trainer.state.loss)

        trainer = make_batch_norm([Watch()], batch_norm_batches=n_batches)
        trainer.run()
        plain = [found.raw for found in trainer.state.evaluations]
        averages = [found.averages for found in trainer.state.evaluations]
        results.append((losses, plain, statistics_of(trainer.model), averages))
    for losses, plain, statistics, _ in results[1:]:
        assert losses == results[0][0] and plain == results[0][1]
        assert_same(statistics, results[0][2])
    assert len({result[-1][-1] for result in results}) == 3


def test_batch_norm_statistics_are_restored_after_an_error():
    trainer = make_batch_norm()
    trainer.run()
    before = statistics_of(trainer.model)
    with pytest.raises(KeyError), trainer.use_averages():
        assert not numpy.array_equal(statistics_of(trainer.model)[2], before[2])
        raise KeyError("my key")
    assert_same(statistics_of(trainer.model), before)


def test_models_are_saved_with_the_batch_norm_statistics_of_the_averages(tmp_path):
    class Stop(Callback):
        def on_step(self, trainer):
            if trainer.state.step == 27:  # Between two evaluations.
                trainer.stop()

    for name, callbacks in (("whole", []), ("stopped", [Stop()])):
        folder = tmp_path / name
        folder.mkdir()
        trainer = make_batch_norm([SaveModels(folder), *callbacks])
        trainer.run()
        saved = make_batch_norm().model.from_bytes((folder / "model-last").read_bytes())
        raw = statistics_of(trainer.model)
        with trainer.use_averages():
            assert_same(statistics_of(saved), statistics_of(trainer.model))
            assert_same(weights_of(saved), weights_of(trainer.model))
        assert not numpy.array_equal(statistics_of(saved)[2], raw[2])


@pytest.mark.parametrize(
    "batch_size, n_batches, expected",
    [(8, 100, [8] * 6), (8, 2, [8, 8]), (50, 3, [50]), (80, 3, [50])],
)
def test_the_number_of_batches_for_batch_norm(monkeypatch, batch_size, n_batches, expected):
    calls = []

    def update(model, batches):
        calls.append([len(batch) for batch in batches])

    monkeypatch.setattr("thinc_swa.training.trainer.update_batch_norm", update)
    trainer = make_batch_norm(batch_size=batch_size, batch_norm_batches=n_batches)
    trainer.callbacks.append(UseAverages())
    trainer.run()
    # Once per evaluation with averages, whoever uses them.
    assert calls == [expected] * 3


class UseAverages(Callback):
    def on_evaluate(self, trainer, evaluation):
        with trainer.use_averages():
            pass


def test_a_model_without_batch_norm_reads_no_data_for_it(monkeypatch):
    trainer = make_trainer(SWA(Adam(0.01), start_step=0, freq=1))
    monkeypatch.setattr(trainer, "_batch_norm_data", None)
    monkeypatch.setattr("thinc_swa.training.trainer.keeping_random_state", None)
    trainer.run()
    assert trainer.state.evaluations[-1].averages is not None


def test_without_averages_no_data_is_read_for_batch_norm(monkeypatch):
    trainer = make_batch_norm(optimizer=SGD(0.1, use_averages=False))
    monkeypatch.setattr(trainer, "_batch_norm_data", None)
    trainer.run()
    assert trainer.state.evaluations[-1].averages is None
