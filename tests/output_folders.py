"""Trainings in output folders, and their results."""

import pytest
from thinc.api import Config
from tiny import write_config

from thinc_swa.training.logs import read_log
from thinc_swa.training.trainer import Trainer, train


def config_of(tmp_path, **settings):
    return Config().from_disk(write_config(tmp_path, **settings))


def load_model(config, path):
    trainer = Trainer.from_config(config)
    return trainer, trainer.model.from_bytes(path.read_bytes())


def results_of(folder):
    """Results that must not depend on interruptions: models, and the log without times."""
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
from thinc_swa.training import Callback, train

class Slow(Callback):
    def on_step(self, trainer):
        print(trainer.state.step, flush=True)
        time.sleep(0.01)

train(Config().from_disk("tiny.cfg"), output=Path("output"), resume=True, callbacks=[Slow()])
"""


def content_of(folder):
    """Contents of all files, without the lock."""
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".thinc-swa")
    }


def assert_refused(folder, error, message, config, **settings):
    """Assert that `train` raises an error and changes no file."""
    before = content_of(folder)
    with pytest.raises(error, match=message):
        train(config, output=folder, **settings)
    assert content_of(folder) == before
