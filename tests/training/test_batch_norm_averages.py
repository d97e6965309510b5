"""BatchNorm statistics of the averages during a training."""

import random

import numpy
import pytest
from helpers import require
from thinc.api import (
    SGD,
    Adam,
    Model,
    Softmax,
    chain,
)
from tiny import (
    assert_same,
    make_trainer,
    weights_of,
)

from thinc_swa import SWA, apply_averages, update_batch_norm
from thinc_swa.training.callbacks import Callback, SaveModels


def make_batch_norm(callbacks=(), optimizer=None, **settings):
    require("torch")
    import torch
    from torch_layers import make_batch_norm

    torch.manual_seed(0)

    def forward(model, X, is_train):
        # Predictions draw random numbers too.
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
    # Statistics of all rows give nearly the same score.
    update_batch_norm(trainer.model, [X])
    assert trainer._score() == pytest.approx(found.averages, abs=difference / 4)


def test_batch_norm_batches_zero_keeps_the_statistics():
    trainer = make_batch_norm(batch_norm_batches=0)
    trainer.model.layers[1]._func = lambda model, X, is_train: (X, lambda dY: dY)
    trainer.run()
    apply_averages(trainer.model, trainer.optimizer)
    assert trainer._score() == trainer.state.evaluations[-1].averages


def test_batch_norm_statistics_of_averages_do_not_change_the_training():
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
    # Once per evaluation with averages, however often they are used.
    assert calls == [expected] * 3


class UseAverages(Callback):
    def on_evaluate(self, trainer, evaluation):
        with trainer.use_averages():
            pass


def test_a_model_without_batch_norm_reads_no_data_for_it(monkeypatch):
    trainer = make_trainer(SWA(Adam(0.01), start_step=0, freq=1))
    monkeypatch.setattr(trainer, "_batch_norm_data", None)
    trainer.run()
    assert trainer.state.evaluations[-1].averages is not None


def test_without_averages_no_data_is_read_for_batch_norm(monkeypatch):
    trainer = make_batch_norm(optimizer=SGD(0.1, use_averages=False))
    monkeypatch.setattr(trainer, "_batch_norm_data", None)
    trainer.run()
    assert trainer.state.evaluations[-1].averages is None
