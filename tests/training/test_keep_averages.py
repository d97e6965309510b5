"""Snapshots of averages during a training: files, resuming, and reconstruction."""

import numpy
import pytest
import tiny
from helpers import require
from output_folders import config_of, content_of
from thinc.api import Adam, Config, Model
from tiny import ADAM, make_trainer, write_config

from thinc_swa import EMA, reconstruct_average
from thinc_swa.errors import CallbackError, TrainingWarning
from thinc_swa.serialization.average_snapshots import AverageSnapshot, find_snapshots
from thinc_swa.training import Callback, KeepAverages, SaveCheckpoints, registry
from thinc_swa.training.trainer import train

require("filelock")

TWO_WIDTHS = tiny.TWO_WIDTHS.format(learn_rate=0.01)
KEEP = tiny.KEEP.format(freq=7)


def config_with_snapshots(tmp_path, optimizer=TWO_WIDTHS, more=KEEP, **settings):
    return config_of(tmp_path, optimizer=optimizer, more=more, **settings)


def steps_of(folder):
    return [AverageSnapshot(path).step for path in find_snapshots(folder)]


def describe(folder):
    """Everything in the snapshots but the id of the training."""
    found = {}
    for path in find_snapshots(folder):
        snapshot = AverageSnapshot(path)
        header = {**snapshot._reader.header, "run": None}
        arrays = {name: snapshot.read(name).tobytes() for name in sorted(snapshot.names)}
        found[path.name] = header, arrays
    return found


class Fail(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.state.step == self.step:
            raise KeyError("fails")


@pytest.mark.parametrize("name", ["keep_averages.v1", "thinc_swa.keep_averages.v1"])
def test_config_names(name):
    config = Config(
        {"callbacks": {"keep": {"@callbacks": name, "freq": 3, "dtype": "float16"}}}
    )
    callback = registry.resolve(config)["callbacks"]["keep"]
    assert isinstance(callback, KeepAverages)
    assert (callback.freq, callback.dtype) == (3, "float16")


def test_snapshots_are_saved_every_so_many_steps_and_at_the_end(tmp_path):
    config = config_with_snapshots(tmp_path, max_steps=31)
    trainer = train(config, output=tmp_path / "output")
    paths = find_snapshots(tmp_path / "output" / "averages")
    assert [path.name for path in paths[:2]] == [
        "step-00000007-sigma_rel-0.05.safetensors",
        "step-00000007-sigma_rel-0.1.safetensors",
    ]
    found = [AverageSnapshot(path) for path in paths]
    assert [snapshot.step for snapshot in found[::2]] == [7, 14, 21, 28, 31]
    assert {snapshot.run_id for snapshot in found} == {trainer.state.run_id}
    averages = reconstruct_average(tmp_path / "output", trainer.model, sigma_rel=0.1)
    for key, average in trainer.optimizer.averages.items():
        numpy.testing.assert_array_equal(averages[key], average)


@pytest.mark.parametrize("step", [3, 13, 14, 15, 28, 44])
def test_snapshots_of_a_resumed_training_are_the_same(tmp_path, step):
    config = config_with_snapshots(tmp_path, max_steps=45)
    train(config, output=tmp_path / "whole")
    with pytest.raises(CallbackError, match="KeyError"):
        train(config, output=tmp_path / "output", callbacks=[Fail(step)])
    before = content_of(tmp_path / "output" / "averages")
    train(config, output=tmp_path / "output", resume=True)
    after = content_of(tmp_path / "output" / "averages")
    if step >= 10:  # There was a checkpoint.
        assert before.items() <= after.items()
    found = describe(tmp_path / "output" / "averages")
    assert found == describe(tmp_path / "whole" / "averages")
    assert len(found) == 2 * 7
    assert len({AverageSnapshot(path).run_id for path in after}) == 1


def test_an_interrupted_training_has_snapshots_at_the_usual_steps(tmp_path):
    class Stop(Callback):
        def on_step(self, trainer):
            if trainer.state.step == 17:
                trainer.stop("interrupted")

    config = config_with_snapshots(tmp_path, max_steps=30)
    train(config, output=tmp_path / "output", callbacks=[Stop()])
    assert steps_of(tmp_path / "output" / "averages") == [7, 7, 14, 14]
    train(config, output=tmp_path / "output", resume=True)
    assert steps_of(tmp_path / "output" / "averages")[4:] == [21, 21, 28, 28, 30, 30]


def test_a_training_that_is_overwritten_loses_its_snapshots(tmp_path):
    train(config_with_snapshots(tmp_path), output=tmp_path / "output")
    other = tmp_path / "output" / "averages" / "notes.txt"
    other.write_text("mine")
    train(
        config_with_snapshots(tmp_path, max_steps=10),
        output=tmp_path / "output",
        overwrite=True,
    )
    assert steps_of(tmp_path / "output" / "averages") == [7, 7, 10, 10]
    assert other.read_text() == "mine"


def test_a_folder_with_snapshots_has_a_training(tmp_path):
    train(config_with_snapshots(tmp_path), output=tmp_path / "first")
    (tmp_path / "output").mkdir()
    (tmp_path / "first" / "averages").rename(tmp_path / "output" / "averages")
    with pytest.raises(FileExistsError, match="already contains a training"):
        train(config_with_snapshots(tmp_path), output=tmp_path / "output")


def test_snapshots_of_another_training_are_refused(tmp_path):
    train(config_with_snapshots(tmp_path), output=tmp_path / "first")
    config = config_with_snapshots(tmp_path, max_steps=20)
    train(config, output=tmp_path / "output")
    foreign = find_snapshots(tmp_path / "first" / "averages")[-1]
    foreign.rename(tmp_path / "output" / "averages" / foreign.name)
    config["training"]["max_steps"] = 30
    with pytest.raises(CallbackError, match="is a snapshot of another training: move it away"):
        train(config, output=tmp_path / "output", resume=True)


def test_without_an_output_folder_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_with_snapshots(tmp_path, max_steps=10)
    before = content_of(tmp_path)
    with pytest.warns(TrainingWarning, match="saves no averages, because the training has no"):
        train(config)
    assert content_of(tmp_path) == before


def test_an_optimizer_without_power_function_averages_is_refused_at_the_start(tmp_path):
    config = config_with_snapshots(tmp_path, optimizer=ADAM)
    with pytest.raises(CallbackError, match="on_start failed after step 0.*no power-function"):
        train(config, output=tmp_path / "output")
    assert not (tmp_path / "output" / "averages").exists()


def test_a_trainer_in_python(tmp_path):
    """In a given folder, or beside the checkpoints."""
    for callbacks, folder in (
        ([KeepAverages(freq=10, folder=tmp_path / "here")], tmp_path / "here"),
        ([SaveCheckpoints(tmp_path), KeepAverages(freq=10)], tmp_path / "averages"),
    ):
        make_trainer(EMA(Adam(0.01)), callbacks).run()
        assert steps_of(folder) == [10, 20]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"freq": 0}, "freq must be an int >= 1, but was 0"),
        ({"freq": 1.5}, "freq must be an int >= 1, but was 1.5"),
        ({"freq": 1, "dtype": "int8"}, "dtype must be one of 'float32', 'float16', but was"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        KeepAverages(**arguments)


def test_reconstructions_of_a_training_on_digits(tmp_path):
    """Within 1 % of the averages that another training with the same seed has really kept."""
    require("sklearn")
    text = write_config(tmp_path, optimizer=TWO_WIDTHS).read_text()
    config = Config().from_str(text)
    config["dataset"] = {"@datasets": "digits.v1"}
    config["model"]["*"]["hidden"]["nO"] = 32
    config["training"].update(max_steps=600, batch_size=32, eval_frequency=300)
    config["callbacks"] = {"keep": {"@callbacks": "keep_averages.v1", "freq": 30}}
    trainer = train(config, output=tmp_path / "output")
    raw = weights_by_place(trainer.model)
    kept = dict(zip((0.1, 0.05), own_averages(trainer.optimizer), strict=True))
    widths = (0.04, 0.07, 0.12, 0.16, 0.2)
    inner = config["optimizer"]["optimizer"]["optimizer"]
    for width in widths:
        inner = {"@optimizers": "EMA.v1", "sigma_rel": width, "optimizer": inner}
    config["optimizer"] = inner
    del config["callbacks"]
    other = train(config)
    for place, weights in weights_by_place(other.model).items():
        numpy.testing.assert_array_equal(weights, raw[place])
    for width, average in zip(reversed(widths), own_averages(other.optimizer), strict=True):
        true = join(other.model, average)
        found = join(
            trainer.model,
            reconstruct_average(tmp_path / "output", trainer.model, sigma_rel=width),
        )
        nearest = min(kept, key=lambda stored: abs(stored - width))
        error = numpy.linalg.norm(found - true)
        assert error < 0.01 * numpy.linalg.norm(true - numpy.concatenate(list(raw.values())))
        assert error < 0.01 * numpy.linalg.norm(true - join(trainer.model, kept[nearest]))


def own_averages(optimizer):
    """The averages of all wrappers, outermost first."""
    found = []
    while isinstance(optimizer, EMA):
        found.append(optimizer.own_averages)
        optimizer = optimizer.optimizer
    return found


def parameters_of(model: Model):
    return [(node, name) for node in model.walk() for name in node.param_names]


def weights_by_place(model):
    return {
        place: node.get_param(name).ravel().astype("f8")
        for place, (node, name) in enumerate(parameters_of(model))
    }


def join(model, averages):
    arrays = [averages[node.id, name].ravel() for node, name in parameters_of(model)]
    return numpy.concatenate(arrays).astype("f8")
