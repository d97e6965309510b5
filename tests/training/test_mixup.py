"""Mixup, against a loop that is written out."""

import numpy
import pytest
from helpers import require
from output_folders import config_of, results_of
from thinc.api import Adam, fix_random_seed
from tiny import ADAM, assert_same, make_dataset, make_model, make_trainer, weights_of

from thinc_swa.training import Callback, CallbackError, Mixup, train


def test_mixup_equals_a_manual_thinc_loop():
    trainer = make_trainer(
        Adam(0.01, use_averages=False), [Mixup(alpha=0.4)], max_steps=9, seed=3
    )
    trainer.run()

    (X, Y), _ = make_dataset()
    fix_random_seed(3)
    model = make_model().initialize(X=X[:2], Y=Y[:2])
    optimizer = Adam(0.01, use_averages=False)
    for step in range(9):
        epoch, position = divmod(step, 7)
        rows = numpy.random.default_rng((3, epoch)).permutation(50)
        rows = rows[8 * position : 8 * position + 8]
        random = numpy.random.default_rng((3, step, 0, 2))
        share = random.beta(0.4, 0.4)
        others = rows[random.permutation(len(rows))]
        inputs = share * X[rows] + (1 - share) * X[others]
        targets = share * Y[rows] + (1 - share) * Y[others]
        predictions, backprop = model.begin_update(inputs)
        backprop((predictions - targets) / len(rows))
        model.finish_update(optimizer)
        optimizer.step_schedules()
    assert_same(weights_of(trainer.model), weights_of(model))


class Stop(Callback):
    def on_step(self, trainer):
        if trainer.state.step == 33:
            trainer.stop("interrupted")


MIXUP = """

[callbacks]

[callbacks.mixup]
@callbacks = "mixup.v1"
alpha = 0.4
"""


def test_resuming_is_bit_identical(tmp_path):
    require("filelock")
    config = config_of(tmp_path, more=MIXUP)
    train(config, output=tmp_path / "whole")
    train(config, output=tmp_path / "output", callbacks=[Stop()])
    other = config_of(tmp_path, more=MIXUP.replace("0.4", "0.5"))
    with pytest.raises(ValueError, match=r"Mixup.alpha was 0.4 and is 0.5 now"):
        train(other, output=tmp_path / "output", resume=True)
    train(config, output=tmp_path / "output", resume=True)
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")
    train(config_of(tmp_path), output=tmp_path / "without")
    assert results_of(tmp_path / "without") != results_of(tmp_path / "whole")


def test_rows_and_evaluations_are_as_they_were():
    (X, Y), dev = make_dataset()
    before = X.copy(), Y.copy()
    trainer = make_trainer(callbacks=[Mixup(alpha=1.0)], dataset=((X, Y), dev))
    trainer.run()
    numpy.testing.assert_array_equal(X, before[0])
    numpy.testing.assert_array_equal(Y, before[1])


def test_mixed_batches_have_the_type_and_the_sums_of_the_originals():
    batches = []

    class Watch(Callback):
        def on_batch(self, trainer, X, Y):
            batches.append((X, Y))
            return X, Y

    make_trainer(callbacks=[Watch(), Mixup(alpha=0.5), Watch()], max_steps=3).run()
    for (X, _), (mixed_X, mixed_Y) in zip(batches[::2], batches[1::2], strict=True):
        assert mixed_X.dtype == mixed_Y.dtype == "float32"
        numpy.testing.assert_allclose(mixed_X.mean(axis=0), X.mean(axis=0), atol=1e-6)
        numpy.testing.assert_allclose(mixed_Y.sum(axis=1), 1.0, rtol=1e-6)
        assert numpy.any(mixed_X != X)


@pytest.mark.parametrize("alpha", [0, -1.0, "0.2", True])
def test_invalid_alpha_is_an_error(alpha):
    with pytest.raises(ValueError, match="alpha must be a number > 0, but was"):
        Mixup(alpha=alpha)


def test_class_indices_are_an_error():
    (train_X, train_Y), (dev_X, dev_Y) = make_dataset()
    dataset = (train_X, train_Y.argmax(axis=1)), (dev_X, dev_Y.argmax(axis=1))
    trainer = make_trainer(callbacks=[Mixup(alpha=1.0)], dataset=dataset)
    with pytest.raises(CallbackError, match="needs targets that are arrays of floats.*int64"):
        trainer.run()


def test_mixup_on_workers(tmp_path):
    """Each worker draws numbers of its own."""
    require("filelock")
    from thinc_swa.distributed import run_simulated

    local = ADAM.replace("[optimizer]", "[optimizer.optimizer]")
    local = f'[optimizer]\n@optimizers = "LocalSGD.v1"\nfreq = 4\n{local}'
    config = config_of(tmp_path, optimizer=local, max_steps=8)
    ranks = []

    class Watch(Mixup):
        def on_batch(self, trainer, X, Y):
            mixed, targets = super().on_batch(trainer, X, Y)
            rank = trainer.communicator.rank
            random = numpy.random.default_rng((1, trainer.state.step, rank, 2))
            share = random.beta(1.0, 1.0)
            order = random.permutation(len(X))
            numpy.testing.assert_array_equal(mixed, share * X + (1.0 - share) * X[order])
            ranks.append(rank)
            return mixed, targets

    run_simulated(2, lambda c: train(config, communicator=c, callbacks=[Watch(alpha=1.0)]))
    assert sorted(ranks) == [0] * 8 + [1] * 8
