"""Layers with state between batches, in trainings over long texts."""

import numpy
import pytest
from helpers import require
from long_texts import (
    config_of,
    key_entropy,
    make_dataset,
    make_model,
    make_trainer,
    predict_streams,
)
from output_folders import results_of
from thinc.api import (
    Adam,
    Model,
    PyTorchWrapper,
    SequenceCategoricalCrossentropy,
    chain,
    fix_random_seed,
    with_padded,
)
from tiny import LOCAL_SGD, assert_same, weights_of

from thinc_swa import EMA, use_averages
from thinc_swa.distributed import run_simulated
from thinc_swa.layers.stateful_lstm import stateful_lstm
from thinc_swa.losses.activation_penalty import activation_penalty
from thinc_swa.training import (
    Callback,
    RateRange,
    TrainingPhase,
    find_rate,
    reset_layers,
    train,
)
from thinc_swa.training.streams import stream_rows


def make_adam():
    return Adam(0.01, use_averages=False)


def state_of(model):
    return model.layers[1].layers[0].attrs["state"]


class Watch(Callback):
    """Notes the batches and the states before them."""

    runs_on_all_workers = True

    def __init__(self):
        self.batches, self.states = [], []

    def on_batch(self, trainer, X, Y):
        self.batches.append(numpy.concatenate(X).tobytes())
        self.states.append(state_of(trainer.model))
        return X, Y


class Stop(Callback):
    """Stops a training as Ctrl-C does."""

    runs_on_all_workers = True

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.state.step == self.step:
            trainer.stop("interrupted")


# The training


@pytest.mark.parametrize("eval_frequency", [3, 8, 100])
def test_training_equals_a_manual_thinc_loop(eval_frequency):
    """Whatever is evaluated in between."""
    optimizer = EMA(make_adam(), half_life=5)
    trainer = make_trainer(optimizer, seed=3, eval_frequency=eval_frequency)
    trainer.run()

    (X, Y), dev = make_dataset()
    fix_random_seed(3)
    model = make_model().initialize(X=X[:2], Y=Y[:2])
    optimizer, loss = make_adam(), SequenceCategoricalCrossentropy()
    for step in range(20):
        # Six parts of eight pieces each; two pieces are left over.
        place = step % 8
        if place == 0:
            state_of_lstm = None
        model.layers[1].layers[0].attrs["state"] = state_of_lstm
        rows = [8 * part + place for part in range(6)]
        predictions, backprop = model.begin_update([X[row] for row in rows])
        backprop(loss.get_grad(predictions, [Y[row] for row in rows]))
        model.finish_update(optimizer)
        optimizer.step_schedules()
        state_of_lstm = state_of(model)
    assert_same(weights_of(trainer.model), weights_of(model))
    predictions = numpy.concatenate(predict_streams(model, dev[0], 6))
    accuracy = (predictions.argmax(axis=1) == numpy.concatenate(dev[1])).mean()
    assert trainer.state.evaluations[-1].raw == accuracy


def test_averages_are_evaluated_from_the_initial_state():
    trainer = make_trainer(EMA(make_adam(), half_life=2), max_steps=10)
    trainer.run()
    dev = trainer.dataset[1]
    with use_averages(trainer.model, trainer.optimizer):
        predictions = numpy.concatenate(predict_streams(trainer.model, dev[0], 6))
    accuracy = (predictions.argmax(axis=1) == numpy.concatenate(dev[1])).mean()
    assert trainer.state.evaluations[-1].averages == accuracy


def test_states_are_reset_at_the_start_of_each_epoch():
    watch = Watch()
    trainer = make_trainer(make_adam(), [watch], max_epochs=3, max_steps=0)
    trainer.run()
    assert trainer.state.step == 24
    assert [state is None for state in watch.states] == ([True] + [False] * 7) * 3
    assert watch.batches[:8] == watch.batches[8:16] == watch.batches[16:]


def test_layers_are_reset_after_the_training():
    trainer = make_trainer(make_adam())
    trainer.run()
    assert state_of(trainer.model) is None


def test_saved_models_have_no_state(tmp_path):
    saved = []

    class Save(Callback):
        def on_step(self, trainer):
            before = state_of(trainer.model)
            trainer.save_model(tmp_path / "model")
            assert_same(state_of(trainer.model), before)
            model = make_model().from_bytes((tmp_path / "model").read_bytes())
            saved.append(state_of(model))

    make_trainer(make_adam(), [Save()], max_steps=3).run()
    assert saved == [None] * 3


@pytest.mark.slow
def test_less_loss_than_is_possible_without_state():
    """Where only dashes come before a key in its batch, no model without state can be better
    than guessing one of four."""

    class Reset(Callback):
        def on_batch(self, trainer, X, Y):
            reset_layers(trainer.model)
            return X, Y

    dataset = make_dataset(n_train=3600, n_dev=400)
    entropies, losses = [], []
    for keeps_state in (True, False):
        trainer = make_trainer(
            Adam(0.015, use_averages=False),
            [] if keeps_state else [Reset()],
            model=make_model(width=24),
            dataset=dataset,
            max_steps=900,
            batch_size=16,
            eval_frequency=450,
        )
        trainer.run()
        losses.append(trainer.state.evaluations[-1].loss)
        entropies.append(key_entropy(trainer.model, dataset[1], 16, keeps_state=keeps_state))
    guessing = numpy.log(4)
    assert entropies[0] < 0.5 * guessing
    assert entropies[1] > 0.95 * guessing
    assert losses[0] < losses[1]


def test_penalties_on_activations_of_a_layer_with_state():
    X = make_dataset()[0][0]
    sizes = []
    for weight in (1e-9, 50.0):
        model = make_model()
        lstm = activation_penalty(with_padded(stateful_lstm(8, 8)), ar=weight, tar=weight)
        model = chain(model.layers[0], lstm, model.layers[2])
        make_trainer(make_adam(), model=model, max_steps=100).run()
        hidden = numpy.concatenate(lstm.predict(model.layers[0].predict(X)))
        sizes.append((hidden**2).mean())
    assert sizes[1] < 0.5 * sizes[0]


def test_phases_with_other_data_begin_with_the_initial_state():
    watch = Watch()
    trainer = make_trainer(
        make_adam(),
        [watch],
        phases=[TrainingPhase(name="first", steps=3, dataset="other")],
        datasets={"other": make_dataset(seed=1)},
        max_steps=6,
    )
    trainer.run()
    assert [state is None for state in watch.states] == [True, False, False] * 2
    assert watch.batches[0] != watch.batches[3]


# Resuming


def test_resuming_is_bit_identical(tmp_path):
    """Within an epoch, between two epochs, and at an evaluation. An epoch has 43 steps."""
    require("filelock")
    config = config_of(tmp_path)
    train(config, output=tmp_path / "whole")
    for step in (17, 43, 60):
        folder = tmp_path / f"output{step}"
        train(config, output=folder, callbacks=[Stop(step)])
        assert (folder / f"step-{step:08}" / "layer-states.safetensors").exists()
        assert train(config, output=folder, resume=True).state.epoch == 1
        assert results_of(folder) == results_of(tmp_path / "whole")


def test_a_training_is_not_resumed_in_another_order(tmp_path):
    require("filelock")
    config = config_of(tmp_path, max_steps=10)
    config["model"]["*"]["lstm"]["layer"]["@layers"] = "LSTM.v1"
    train(config, output=tmp_path / "output")
    config["training"]["order"] = "shuffled"
    with pytest.raises(ValueError, match='training.order was "streams" and is "shuffled" now'):
        train(config, output=tmp_path / "output", resume=True)


def test_a_damaged_file_of_states_is_noticed(tmp_path):
    require("filelock")
    config = config_of(tmp_path, max_steps=10)
    train(config, output=tmp_path / "output")
    (tmp_path / "output" / "step-00000010" / "layer-states.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="content of layer-states.safetensors has changed"):
        train(config_of(tmp_path), output=tmp_path / "output", resume=True)


# PyTorch


def make_torch_model():
    import torch

    class StatefulGRU(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(8, 8)
            self.norm = torch.nn.BatchNorm1d(8)
            self.reset()

        def reset(self):
            self.state = {"hidden": [None], "steps": 0}

        def forward(self, X):
            Y, hidden = self.gru(X, self.state["hidden"][0])
            self.state["hidden"] = [hidden.detach()]
            self.state["steps"] += 1
            return self.norm(Y.reshape(-1, 8)).reshape(Y.shape)

    def convert_inputs(model, X, is_train):
        from thinc.api import ArgsKwargs, torch2xp, xp2torch

        inputs = ArgsKwargs((xp2torch(X.data, requires_grad=is_train),), {})
        return inputs, lambda d: type(X)(torch2xp(d.args[0]), X.size_at_t, X.lengths, X.indices)

    def convert_outputs(model, X_Y, is_train):
        from thinc.api import ArgsKwargs, torch2xp, xp2torch

        X, Y = X_Y
        outputs = type(X)(torch2xp(Y), X.size_at_t, X.lengths, X.indices)
        return outputs, lambda d: ArgsKwargs(
            args=((Y,),), kwargs={"grad_tensors": xp2torch(d.data)}
        )

    fix_random_seed(0)
    layer = PyTorchWrapper(StatefulGRU(), convert_inputs, convert_outputs)
    layer.set_dim("nI", 8)
    layer.set_dim("nO", 8)
    return make_model(layer)


def torch_module_of(model):
    return model.layers[1].layers[0].shims[0]._model


def all_weights_of(model):
    """With those of PyTorch, and the statistics of BatchNorm."""
    state = torch_module_of(model).state_dict()
    return [*weights_of(model), *(value.numpy().copy() for value in state.values())]


def test_pytorch_modules_with_state(tmp_path):
    """Evaluations, which also estimate BatchNorm statistics, change nothing; and a training is
    resumed within an epoch."""
    require("torch", "filelock")
    from thinc_swa.training import SaveCheckpoints, find_checkpoint, load_checkpoint

    results = []
    for eval_frequency in (4, 100):
        trainer = make_trainer(
            EMA(make_adam(), half_life=5),
            model=make_torch_model(),
            eval_frequency=eval_frequency,
        )
        trainer.run()
        results.append(all_weights_of(trainer.model))
    assert_same(*results)
    assert torch_module_of(trainer.model).state["steps"] == 0

    def make(*callbacks):
        optimizer = EMA(make_adam(), half_life=5)
        return make_trainer(optimizer, callbacks, model=make_torch_model())

    make(SaveCheckpoints(tmp_path), Stop(13)).run()
    trainer = make()
    load_checkpoint(find_checkpoint(tmp_path), trainer, trust=True)
    state = torch_module_of(trainer.model).state
    assert state["steps"] == 5 and state["hidden"][0].shape == (1, 6, 8)
    trainer.run()
    assert_same(all_weights_of(trainer.model), results[0])


# Workers


def test_each_worker_reads_streams_of_its_own(tmp_path):
    (X, _), _ = make_dataset()
    found = {}

    def run(communicator):
        watch = Watch()
        from thinc_swa import LocalSGD

        make_trainer(
            LocalSGD(make_adam(), freq=4),
            [watch],
            communicator=communicator,
            batch_size=3,
            max_steps=8,
        ).run()
        found[communicator.rank] = watch

    run_simulated(2, run)
    for rank in range(2):
        for step in range(8):
            parts = range(3 * rank, 3 * rank + 3)
            rows = [8 * part + step for part in parts]
            expected = numpy.concatenate([X[row] for row in rows])
            assert found[rank].batches[step] == expected.tobytes()


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_resuming_on_workers(tmp_path, n_workers):
    """Bit for bit, or in a new epoch with another number of them."""
    require("filelock")
    config = config_of(tmp_path, optimizer=LOCAL_SGD, batch_size=2, max_steps=60)

    def run(folder, n_workers, *callbacks, resume=False):
        trainers = run_simulated(
            n_workers,
            lambda communicator: train(
                config,
                output=tmp_path / folder,
                communicator=communicator,
                callbacks=callbacks,
                resume=resume,
            ),
        )
        return trainers[0]

    run("output", 2, Stop(20))
    if n_workers == 2:
        whole = run("whole", 2)
        resumed = run("output", 2, resume=True)
        assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")
        assert_same(weights_of(resumed.model), weights_of(whole.model))
        return
    watches = [Watch() for _ in range(3)]
    with pytest.warns(UserWarning, match="results differ"):
        run("output", n_workers, *watches[:1], resume=True)
    assert watches[0].states[0] is None


# Rates and comparisons


def test_find_rate(tmp_path):
    curve = find_rate(config_of(tmp_path), rate_range=RateRange(1e-4, 1e-2, 60))
    assert len(curve.losses) == 60
    assert curve.losses[-1] < curve.losses[0]


# Errors


def test_shuffled_examples_are_an_error():
    message = (
        "The state of layer 'stateful_lstm' goes on from one batch to the next, but the "
        'examples are shuffled: set order = "streams"'
    )
    with pytest.raises(ValueError, match=message):
        make_trainer(make_adam(), order="shuffled")


def test_too_few_examples_are_an_error():
    message = "batch_size = 51 streams, but .dataset. has only 50 training examples"
    with pytest.raises(ValueError, match=message):
        make_trainer(make_adam(), batch_size=51)
    message = r"8 streams, but \[datasets.other\] has only 7 training examples"
    with pytest.raises(ValueError, match=message):
        make_trainer(make_adam(), batch_size=8, datasets={"other": make_dataset(n_train=7)})


def test_unknown_order_is_an_error():
    with pytest.raises(ValueError, match="order must be one of 'shuffled', 'streams', but was"):
        make_trainer(make_adam(), order="sorted")


def test_batch_sizes_of_phases_are_an_error():
    with pytest.raises(ValueError, match="Phase 'large' cannot have batch_size: with order"):
        make_trainer(make_adam(), phases=[TrainingPhase(name="large", steps=5, batch_size=12)])


def make_layer(**attrs):
    return Model("memory", lambda model, X, is_train: (X, lambda dY: dY), attrs=attrs)


def forget(model):
    model.attrs["state"] = None


@pytest.mark.parametrize(
    "attrs, error, message",
    [
        ({"reset": True, "state": 1}, TypeError, "of layer 'memory' must be a function.*True"),
        ({"reset": forget}, ValueError, "layer 'memory' has attrs.*but no attrs..state"),
    ],
)
def test_incomplete_layers_are_errors(attrs, error, message):
    model = chain(make_layer(**attrs), make_model())
    with pytest.raises(error, match=message):
        make_trainer(make_adam(), model=model)


def test_a_state_that_cannot_be_saved_is_an_error():
    model = chain(make_layer(reset=lambda model: None, state={"a": {1}}), make_model())
    trainer = make_trainer(make_adam(), model=model)
    with pytest.raises(TypeError, match="state of layer 'memory' must consist of.*has {1}"):
        trainer.run()


def test_a_pytorch_module_without_state_is_an_error():
    require("torch")
    import torch

    class Module(torch.nn.Module):
        def reset(self):
            pass

    model = chain(PyTorchWrapper(torch.nn.Sequential(Module())), make_model())
    with pytest.raises(ValueError, match="module 'Module' has a method reset.., but no attr"):
        make_trainer(make_adam(), model=model)


def test_states_of_all_types_are_restored(tmp_path):
    from thinc_swa.training.layer_states import load_layer_states, save_layer_states

    state = {
        "a": (None, True, 2, 0.1, "text"),
        3: [numpy.arange(6, dtype="int16").reshape(2, 3), numpy.float32([]), numpy.array(7.0)],
    }
    model = make_layer(reset=forget, state=state)
    save_layer_states(tmp_path / "states", model)
    forget(model)
    load_layer_states(tmp_path / "states", model)
    found = model.attrs["state"]
    assert found["a"] == state["a"] and list(found) == ["a", 3]
    for one, other in zip(found[3], state[3], strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        numpy.testing.assert_array_equal(one, other)


def test_tensors_of_all_types_are_restored(tmp_path):
    require("torch")
    import torch

    from thinc_swa.training.layer_states import load_layer_states, save_layer_states

    tensors = [
        torch.arange(6).reshape(2, 3),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.ones(2, 1, requires_grad=True) * 2,
        torch.zeros(0, 4, dtype=torch.float16),
    ]
    model = make_layer(reset=forget, state=tensors)
    save_layer_states(tmp_path / "states", model)
    forget(model)
    load_layer_states(tmp_path / "states", model)
    for one, other in zip(model.attrs["state"], tensors, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert torch.equal(one, other) and not one.requires_grad


def test_rows_of_streams():
    assert stream_rows(11, 3).tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert stream_rows(11, 2, rank=1, size=2).tolist() == [4, 6, 5, 7]
