"""Training of Thinc configs on several simulated workers."""

import json
import math

import numpy
import pytest
from helpers import require
from output_folders import config_of, results_of
from thinc.api import Adam, Config
from tiny import ADAM, make_arrays, make_trainer, weights_of, write_config

from thinc_swa import LocalSGD
from thinc_swa.distributed import SingleWorker, run_simulated
from thinc_swa.models.batch_norm import get_batch_norm
from thinc_swa.training import Callback, train
from thinc_swa.training.checkpoints import DamagedCheckpointError

require("filelock")

LOCAL_SGD = """
[optimizer]
@optimizers = "SWA.v1"
start_step = 24
freq = 4

[optimizer.optimizer]
@optimizers = "LocalSGD.v1"
freq = 4
start_step = {start_step}
inner_state = "pullback"

[optimizer.optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
use_averages = false
"""


def local_config(tmp_path, start_step=4, **settings):
    # Evaluations are mostly between synchronisations.
    optimizer = LOCAL_SGD.format(start_step=start_step)
    return config_of(tmp_path, optimizer=optimizer, **settings)


def train_on(n_workers, config, **options):
    """The trainers by rank, after the end of the training."""
    return run_simulated(n_workers, lambda c: train(config, communicator=c, **options))


class Stopping(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.state.step == self.step:
            trainer.stop()


class Recorder(Callback):
    """The examples of each step, from all workers."""

    runs_on_all_workers = True

    def __init__(self):
        self.rows, self.seen = [], []

    def on_start(self, trainer):
        next_batch = trainer._next_batch

        def recording():
            epoch, X, Y = next_batch()
            self.rows.append((trainer.state.step, trainer.communicator.rank, len(X)))
            self.seen += map(bytes, X)
            return epoch, X, Y

        trainer._next_batch = recording


@pytest.mark.parametrize("n_workers", [1, 2, 3, 7])
def test_an_epoch_has_each_example_once(tmp_path, n_workers):
    config = local_config(tmp_path, max_steps=0, max_epochs=2)
    del config["training"]["max_steps"]
    recorder = Recorder()
    trainers = train_on(n_workers, config, callbacks=[recorder])
    n_steps = math.ceil(math.ceil(50 / n_workers) / 8)
    assert {trainer.state.step for trainer in trainers} == {2 * n_steps}
    arrays = make_arrays()
    expected = list(map(bytes, arrays["train_X"]))
    assert sorted(recorder.seen) == sorted(2 * expected)
    assert sum(size for step, _, size in recorder.rows if step < n_steps) == 50


def test_a_worker_may_have_no_examples_left(tmp_path):
    """Of 17 examples rank 0 gets 9, so two batches, and rank 1 gets 8."""
    arrays = make_arrays(n_train=17)
    numpy.savez(tmp_path / "data.npz", **arrays)
    for start_step in (0, 1000):
        recorder = Recorder()
        config = local_config(tmp_path, start_step, max_steps=8)
        config["optimizer"] = config["optimizer"]["optimizer"]
        first, second = train_on(2, config, callbacks=[recorder])
        assert sorted(row for row in recorder.rows if row[0] < 2) == [
            (0, 0, 8),
            (0, 1, 8),
            (1, 0, 1),
            (1, 1, 0),
        ]
        assert (first.state.step, second.state.step) == (8, 8)
        for one, other in zip(weights_of(first.model), weights_of(second.model), strict=True):
            assert one.tobytes() == other.tobytes()


def test_evaluations_are_those_of_rank_0_on_all_workers(tmp_path):
    trainers = train_on(3, local_config(tmp_path, max_steps=40))
    evaluations = [trainer.state.evaluations for trainer in trainers]
    assert len(evaluations[0]) == 4
    assert evaluations[0] == evaluations[1] == evaluations[2]
    assert len({trainer.state.run_id for trainer in trainers}) == 1
    # Step 40 is a synchronisation.
    first, *others = [weights_of(trainer.model) for trainer in trainers]
    for other in others:
        assert [a.tobytes() for a in other] == [a.tobytes() for a in first]


def test_losses_are_means_over_all_workers(tmp_path):
    class Losses(Callback):
        runs_on_all_workers = True
        losses = []

        def on_step(self, trainer):
            self.losses.append((trainer.state.step, trainer.state.loss))

    recorder = Losses()
    first, _ = train_on(2, local_config(tmp_path, max_steps=30), callbacks=[recorder])
    for found in first.state.evaluations:
        losses = [
            loss for step, loss in recorder.losses if found.step - 10 < step <= found.step
        ]
        assert len(losses) == 20
        assert found.loss == pytest.approx(numpy.mean(losses))


def test_dropout_differs_between_workers(tmp_path):
    """With the same examples on both, only dropout can make a difference."""
    arrays = make_arrays(n_train=2)
    for name in ("train_X", "train_Y"):
        arrays[name] = numpy.repeat(arrays[name][:1], 8, axis=0)
    numpy.savez(tmp_path / "data.npz", **arrays)
    config = local_config(tmp_path, start_step=0, max_steps=2)
    config["optimizer"] = config["optimizer"]["optimizer"]
    first, second = train_on(2, config)
    assert any(
        not numpy.array_equal(one, other)
        for one, other in zip(weights_of(first.model), weights_of(second.model), strict=True)
    )


def test_one_worker_is_a_training_without_workers(tmp_path):
    config = local_config(tmp_path, max_steps=30)
    train(config, output=tmp_path / "alone")
    train(config, output=tmp_path / "single", communicator=SingleWorker())
    assert results_of(tmp_path / "single") == results_of(tmp_path / "alone")


def test_simulated_trainings_are_reproducible(tmp_path):
    config = local_config(tmp_path, max_steps=30)
    for name in ("first", "second"):
        train_on(2, config, output=tmp_path / name)
    assert results_of(tmp_path / "first") == results_of(tmp_path / "second")


@pytest.mark.parametrize(
    "step, start_step",
    [(26, 4)]
    + [
        pytest.param(step, start_step, marks=pytest.mark.slow)
        for step in (7, 26, 40, 45)
        for start_step in (4, 32)
        if (step, start_step) != (26, 4)
    ],
)
def test_resuming_is_bit_identical(tmp_path, step, start_step):
    config = local_config(tmp_path, start_step)
    whole = train_on(2, config, output=tmp_path / "whole")
    stopped = train_on(2, config, output=tmp_path / "output", callbacks=[Stopping(step)])
    assert len({trainer.state.step for trainer in stopped}) == 1
    # With the next exchange: of every step, of every fourth step, or at an evaluation.
    assert step <= stopped[0].state.step <= step + 3
    assert {trainer.state.stop_reason for trainer in stopped} == {"stopped"}
    resumed = train_on(2, config, output=tmp_path / "output", resume=True)
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")
    for one, other in zip(resumed, whole, strict=True):
        for array, expected in zip(weights_of(one.model), weights_of(other.model), strict=True):
            assert array.tobytes() == expected.tobytes()
    for name in ("optimizer.safetensors", "rank-1-optimizer.safetensors", "rank-1-model"):
        paths = [tmp_path / folder / "step-00000060" / name for folder in ("output", "whole")]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name


def test_resuming_with_pytorch_layers_is_bit_identical(tmp_path):
    """BatchNorm statistics differ between workers until the next synchronisation."""
    require("torch")
    import torch_layers  # noqa: F401

    # BatchNorm needs at least two examples in the last batch of an epoch.
    config = local_config(tmp_path, max_steps=30, batch_size=5)
    config["model"] = {
        "@layers": "chain.v1",
        "*": {
            "hidden": {
                "@layers": "tests.batch_norm.v1",
                "n_inputs": 3,
                "n_outputs": 8,
                "width": 8,
                "dropout": 0.3,
            },
            "output": {"@layers": "Softmax.v1", "nI": 8},
        },
    }
    train_on(2, config, output=tmp_path / "whole")
    train_on(2, config, output=tmp_path / "output", callbacks=[Stopping(13)])
    resumed = train_on(2, config, output=tmp_path / "output", resume=True)
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")
    # Step 30 is two steps after a synchronisation.
    first, second = (get_batch_norm(trainer.model) for trainer in resumed)
    assert not first[0]["running_mean"].equal(second[0]["running_mean"])


def test_a_damaged_part_of_a_worker_is_found(tmp_path):
    config = local_config(tmp_path, max_steps=10)
    train_on(2, config, output=tmp_path / "output")
    path = tmp_path / "output" / "step-00000010" / "rank-1-training.json"
    assert json.loads(path.read_text())["progress"]["n_losses"] == 0
    path.write_text("{}")
    with pytest.raises(DamagedCheckpointError, match="content of rank-1-training.json"):
        train_on(2, config, output=tmp_path / "output", resume=True)


def test_a_worker_that_cannot_write_its_part_is_named(tmp_path, monkeypatch):
    from thinc_swa.training import checkpoints

    write = checkpoints.replace_text

    def fail(path, text):
        if path.name.startswith("rank-1"):
            raise OSError(28, "No space left on device")
        write(path, text)

    monkeypatch.setattr(checkpoints, "replace_text", fail)
    messages = []

    def work(communicator):
        try:
            config = local_config(tmp_path, max_steps=10)
            train(config, output=tmp_path / "output", communicator=communicator)
        except Exception as error:
            messages.append(str(error))

    write_config(tmp_path)
    run_simulated(2, work)
    assert len(messages) == 2
    assert "rank 1 could not write its part: No space left" in messages[0]
    assert not list((tmp_path / "output").glob("*step-*"))


def test_all_workers_stop_by_patience_at_the_same_step(tmp_path):
    config = local_config(tmp_path, patience=20, max_steps=1000)
    config["optimizer"]["optimizer"]["optimizer"]["learn_rate"] = 0.0
    trainers = train_on(3, config)
    assert [trainer.state.step for trainer in trainers] == [30, 30, 30]
    assert {trainer.state.stop_reason for trainer in trainers} == {"patience"}


def test_only_rank_0_calls_callbacks(tmp_path):
    ranks = []

    class Recording(Callback):
        def on_step(self, trainer):
            ranks.append(trainer.communicator.rank)

    train_on(2, local_config(tmp_path, max_steps=3), callbacks=[Recording()])
    assert ranks == [0, 0, 0]


# Errors


def test_more_workers_than_examples(tmp_path):
    numpy.savez(tmp_path / "data.npz", **make_arrays(n_train=3))
    with pytest.raises(ValueError, match="4 workers, but only 3 training examples"):
        train_on(4, local_config(tmp_path))


def test_an_optimizer_without_local_sgd(tmp_path):
    with pytest.raises(ValueError, match="needs an optimizer with one LocalSGD"):
        train_on(2, config_of(tmp_path, optimizer=ADAM))


def test_different_configs(tmp_path):
    config = local_config(tmp_path)

    def work(communicator):
        mine = Config(config).copy()
        mine["training"]["batch_size"] = 8 * (communicator.rank + 1)
        train(mine, output=tmp_path / "output", communicator=communicator)

    message = (
        "configs of the workers differ: rank 0 has 'batch_size = 8', rank 1 has 'batch_size"
    )
    with pytest.raises(ValueError, match=message):
        run_simulated(2, work)
    assert not (tmp_path / "output").exists()


def test_different_initial_weights():
    """From layers that draw numbers from elsewhere, or from other data."""

    def work(communicator):
        seed = communicator.rank
        make_trainer(LocalSGD(Adam(0.1)), communicator=communicator, seed=seed)

    with pytest.raises(ValueError, match="initial weights of the workers differ: rank 0 has"):
        run_simulated(2, work)
