"""Trainer: steps, evaluations, and invalid arguments."""

import numpy
import pytest
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

from thinc_swa import EMA, SWA, Lookahead, use_averages
from thinc_swa.training.callbacks import Callback
from thinc_swa.training.datasets import check_dataset
from thinc_swa.training.evaluation import accuracy
from thinc_swa.training.trainer import Trainer


def test_trainer_equals_a_manual_thinc_loop():
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
        # By default the weights of a Softmax start at zero.
        model = chain(Relu(8, dropout=0.2), Softmax(init_W=glorot_uniform_init))
        make_trainer(optimizer, [Watch()], model=model).run()
    assert losses[0] == losses[1]
    assert len(set(losses[0])) > 10


def test_raw_weights_and_averages_are_evaluated():
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


def test_predictions_in_batches_are_the_same(monkeypatch):
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
        # With a learning rate of 0 the first evaluation, at step 10, stays the best.
        ({"max_steps": 100, "patience": 30}, 40, "patience"),
        ({"max_steps": 100, "patience": 35}, 50, "patience"),
    ],
)
def test_limits_and_patience_end_the_training(settings, step, reason):
    trainer = make_trainer(SGD(0.0, use_averages=False), **settings)
    trainer.run()
    assert (trainer.state.step, trainer.state.stop_reason) == (step, reason)
    # The last step is always evaluated.
    assert trainer.state.evaluations[-1].step == step


def test_lists_of_arrays_are_supported():
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
def test_accuracy_of_indices_and_one_hot_rows(predictions, targets, expected):
    predictions, targets = numpy.array(predictions, dtype="f"), numpy.array(targets)
    assert accuracy(predictions, targets) == expected
    if targets.ndim == 1:
        assert accuracy(predictions, targets.tolist()) == expected
    assert accuracy([predictions[:1], predictions[1:]], [targets[:1], targets[1:]]) == expected


def test_accuracy_of_scalars_is_an_error():
    with pytest.raises(ValueError, match='use score = "loss"'):
        accuracy(numpy.zeros((3,)), numpy.zeros((3,)))


@pytest.mark.parametrize(
    "predictions, targets",
    [((3, 1), (3, 1)), ((3, 1), (3,)), ((3, 4), (3, 1)), ((3, 4), (3, 5))],
)
def test_accuracy_of_shapes_that_do_not_fit_is_an_error(predictions, targets):
    with pytest.raises(ValueError, match='use score = "loss"'):
        accuracy(numpy.ones(predictions), numpy.ones(targets))


def test_class_indices_determine_the_number_of_outputs():
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
def test_nan_is_never_the_best_score_after_a_number(monkeypatch, scores, expected):
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


def test_schedules_get_the_scores():
    optimizer = Adam(0.01)
    if not hasattr(optimizer, "last_score"):
        pytest.skip("new in Thinc 9")
    trainer = make_trainer(SWA(optimizer, start_step=5))
    trainer.run()
    assert optimizer.last_score == (20, trainer.state.evaluations[-1].raw)


def test_the_seed_is_set_before_layers_are_made(tmp_path):
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
def test_invalid_settings_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_invalid_model_optimizer_and_loss_are_errors():
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
def test_invalid_datasets_are_errors(dataset, message):
    with pytest.raises(ValueError, match=message):
        check_dataset(dataset)


def test_invalid_configs_are_errors(tmp_path):
    config = Config().from_disk(write_config(tmp_path))
    without = Config({name: config[name] for name in config if name != "loss"})
    with pytest.raises(ValueError, match=r"but has no \[loss\]"):
        Trainer.from_config(without)
    config["training"]["epochs"] = 3
    with pytest.raises(ValueError, match=r"unknown settings \['epochs'\]: there are"):
        Trainer.from_config(config)
