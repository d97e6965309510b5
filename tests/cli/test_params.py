"""`thinc-swa params`, and frozen groups in `thinc-swa train`."""

import re
from pathlib import Path

import numpy
from helpers import require
from thinc.api import Config
from tiny import write_config

require("typer")
require("rich")
require("matplotlib")
require("scipy")

from thinc_swa.training.trainer import Trainer  # noqa: E402

ROOT = Path(__file__).parents[2]


GROUPS = """
[optimizer]
@optimizers = "ParamGroups.v1"
groups = [
    {"name": "biases", "params": ["*/b"], "L2": 0.0},
    {"name": "first", "params": ["relu/*"], "frozen": true}
  ]

[optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
"""


def test_params_lists_parameters_and_groups(tmp_path, run):
    path = write_config(tmp_path, "groups", GROUPS)
    result = run(tmp_path, "params", path)
    assert result.returncode == 0, result.stderr
    rows = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    assert rows == [
        ["learning rate", "group", "settings", "shape", "path"],
        ["frozen", "first", "-", "8 x 3", "relu/W"],
        ["1 x", "biases", "L2 = 0.0", "8", "relu/b"],
        ["1 x", "-", "-", "3 x 8", "softmax/W"],
        ["1 x", "biases", "L2 = 0.0", "3", "softmax/b"],
        ["4 parameters, 59 weights, 24 of them frozen."],
    ]


def test_params_shows_the_paths_that_a_group_could_select(tmp_path, run):
    path = write_config(tmp_path, "groups", GROUPS.replace("relu/*", "rule/*"))
    result = run(tmp_path, "params", path)
    assert result.returncode == 1
    assert "relu/W" in result.stdout
    assert result.stderr.startswith(f"Error: {path}: No parameter of the model is selected by")
    assert len(result.stderr.splitlines()) == 1


def test_params_of_a_spacy_config(tmp_path, run):
    require("spacy")
    from corpus import generate_records, write_corpus

    train_path, dev_path = write_corpus(tmp_path, 20, 5, get_records=generate_records)
    path = ROOT / "configs" / "spacy" / "swa.cfg"
    settings = (f"--paths.train={train_path}", f"--paths.dev={dev_path}")
    result = run(tmp_path, "params", path, *settings)
    assert result.returncode == 0, result.stderr
    paths = [line.split()[-1] for line in result.stdout.splitlines()[1:-1]]
    assert "tok2vec/with_array-2/residual-3/maxout/W" in paths
    assert len(set(paths)) == len(paths) == 31


def test_frozen_layers_are_not_trained(tmp_path, run):
    path = write_config(tmp_path, "groups", GROUPS, max_steps=20)
    result = run(tmp_path, "train", path, "-o", "output")
    assert result.returncode == 0, result.stderr
    trainer = Trainer.from_config(Config().from_disk(path))
    model = trainer.model
    layers = {node.name: node for node in model.walk() if "W" in node.param_names}
    before = {name: layer.get_param("W").copy() for name, layer in layers.items()}
    model.from_bytes((tmp_path / "output" / "model-last").read_bytes())
    changed = {
        name: not numpy.array_equal(layer.get_param("W"), before[name])
        for name, layer in layers.items()
    }
    assert changed == {"relu": False, "softmax": True}
