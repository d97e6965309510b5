"""The configs in configs/training, each of which trains as it is described."""

from pathlib import Path

from helpers import require
from thinc.api import Config

from thinc_swa.training import Callback, Trainer

ROOT = Path(__file__).parents[2]


class Watch(Callback):
    """Notes a value after every step."""

    def __init__(self, find):
        self.find, self.found = find, []

    def on_step(self, trainer):
        self.found.append(self.find(trainer))


def trained(name, callbacks=(), max_steps=400):
    require("sklearn")
    path = ROOT / "configs" / "training" / f"{name}.cfg"
    config = Config().from_disk(path, overrides={"training.max_steps": max_steps})
    trainer = Trainer.from_config(config, callbacks)
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
