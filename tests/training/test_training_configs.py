"""The configs in configs/training, each of which trains as it is described."""

from pathlib import Path

import numpy
import pytest
from helpers import require
from thinc.api import Config

from thinc_swa.training import Callback, Trainer, reset_layers
from thinc_swa.training.configs import import_code

ROOT = Path(__file__).parents[2]


class Watch(Callback):
    """Notes a value after every step."""

    def __init__(self, find):
        self.find, self.found = find, []

    def on_step(self, trainer):
        self.found.append(self.find(trainer))


def trained(name, callbacks=(), max_steps=400, overrides=(), code=None):
    require("sklearn")
    path = ROOT / "configs" / "training" / f"{name}.cfg"
    config = Config().from_disk(
        path, overrides={"training.max_steps": max_steps, **dict(overrides)}
    )
    if code is not None:
        import_code(code)
    trainer = Trainer.from_config(config, callbacks, code=code)
    trainer.run()
    return trainer


def test_phases():
    watch = Watch(lambda trainer: (trainer.phase, trainer.optimizer.n_averaged))
    trainer = trained("phases", [watch])
    names = [name for name, _ in watch.found]
    assert names == ["warmup"] * 40 + ["main"] * 260 + ["average"] * 100
    # The first snapshot is the one at the end of the phase before.
    assert [n for _, n in watch.found[299:302]] == [0, 1, 1]
    assert trainer.optimizer.n_averaged == 11
    assert trainer.state.best_score > 0.95


def test_every_config_is_tested():
    names = {path.stem for path in (ROOT / "configs" / "training").glob("*.cfg")}
    assert {f"test_{name}" for name in names} <= set(globals())


def test_weighted_losses():
    watch = Watch(lambda trainer: list(trainer.loss.weights))
    trainer = trained("weighted_losses", [watch])
    for i, weight in [(0, 1.0), (99, 1.0), (200, 0.798), (300, 0.6), (399, 0.6)]:
        numpy.testing.assert_allclose(watch.found[i], [weight, 1 - weight], atol=1e-12)
    assert trainer.state.best_score > 0.95


def test_activation_penalty():
    trainer = trained("activation_penalty")
    X = trainer.dataset[1][0]
    activations = trainer.model.layers[1].predict(trainer.model.layers[0].predict(X))
    without = trained("activation_penalty", overrides={"model.*.hidden2.ar": 1e-9})
    hidden = without.model.layers[0].predict(X)
    expected = without.model.layers[1].predict(hidden)
    assert (activations**2).mean() < 0.8 * (expected**2).mean()
    assert trainer.state.best_score > 0.95


def test_mixup():
    trainer = trained("mixup")
    assert trainer.state.best_score > 0.95
    assert trainer.fingerprint.settings["Mixup.alpha"] == "0.2"


def test_label_smoothing():
    """The gradient is that of smoothed one-hot rows."""
    trainer = trained("label_smoothing")
    assert trainer.state.best_score > 0.95
    probabilities = numpy.full((2, 10), 0.1, dtype="f")
    gradient, _ = trainer.loss(probabilities, numpy.array([3, 0], dtype="i"))
    smoothed = numpy.full((2, 10), 0.1 / 9)
    smoothed[[0, 1], [3, 0]] = 0.9
    numpy.testing.assert_allclose(gradient, (probabilities - smoothed) / 2, rtol=1e-4)


def test_half_precision():
    """The layer computes in half precision, its weights and averages are float32. Here on a
    CPU: without a command that selects a GPU, Thinc uses none."""
    require("torch")
    import torch

    code = ROOT / "configs" / "training" / "half_precision.py"
    half = set()

    class Note(Callback):
        def on_start(self, trainer):
            module = trainer.model.layers[0].shims[0]._model.module
            module.register_forward_hook(lambda _, __, output: half.add(output.dtype))

    trainer = trained("half_precision", [Note()], code=code)
    assert half == {torch.bfloat16}
    (shim,) = trainer.model.layers[0].shims
    assert {tensor.dtype for tensor in shim._model.parameters()} == {torch.float32}
    assert trainer.state.best_score > 0.95
    assert trainer.optimizer.n_averaged == 11
    assert len(trainer.optimizer.averages) == 6
    assert {array.dtype.name for array in trainer.optimizer.averages.values()} == {"float32"}


def test_language_model():
    trainer = trained("language_model", max_steps=40, overrides={"dataset.dev_size": 0.01})
    assert trainer.dataset[0][0][0].shape == (32,)
    assert trainer.state.best_score > 0.1


@pytest.mark.slow
def test_language_model_needs_its_state():
    """It predicts the text better than if it is reset in every step of the training."""

    class Reset(Callback):
        def on_batch(self, trainer, X, Y):
            reset_layers(trainer.model)
            return X, Y

    overrides = {"training.eval_frequency": 400}
    with_state, without = (
        trained("language_model", callbacks, 800, overrides).state.evaluations[-1]
        for callbacks in ([], [Reset()])
    )
    assert with_state.raw > without.raw > 0.4
    assert with_state.loss < without.loss
