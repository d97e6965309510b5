"""Trainings of a PyTorch layer in half precision are resumed bit for bit: checkpoints have the
state of its gradient scaler."""

from pathlib import Path

import pytest
from helpers import require
from output_folders import config_of, results_of

from thinc_swa.training import Callback, Trainer, train

LAYER = {"@layers": "tests.half_precision.v1", "n_inputs": 3, "width": 8, "n_outputs": 8}


class Watch(Callback):
    """Notes the scale of the gradients and whether the step was skipped, and may stop."""

    def __init__(self, last_step=None):
        self.last_step, self.found = last_step, []

    def on_step(self, trainer):
        (shim,) = trainer.model.layers[0].shims
        n_updates = max(trainer.optimizer.nr_update.values())
        first = trainer.optimizer.nr_update.get((shim.id, "module.0.weight"), 0)
        self.found.append((shim._grad_scaler._scale.item(), n_updates - first))
        if trainer.state.step == self.last_step:
            trainer.stop("interrupted")


@pytest.mark.parametrize("last_step", [3, 25])
def test_resuming_is_bit_identical(tmp_path, last_step):
    require("torch", "filelock")
    import torch_layers

    config = config_of(tmp_path)
    config["model"]["*"]["hidden"] = LAYER
    config["model"]["*"]["output"]["nI"] = 8
    code = Path(torch_layers.__file__)
    watches = [Watch(), Watch(last_step), Watch()]
    for name, watch in zip(["whole", "output", "output"], watches, strict=True):
        train(
            config,
            output=tmp_path / name,
            code=code,
            callbacks=[watch],
            resume=watch is watches[2],
        )
    found = [*watches[1].found, *watches[2].found]
    assert found == watches[0].found and len(found) == 60
    # Steps were skipped before and after the interruption.
    n_skipped = [number for _, number in found]
    assert n_skipped[-1] > n_skipped[last_step - 1] > 0
    # One that begins again with the first scale would skip others.
    (shim,) = Trainer.from_config(config, code=code).model.layers[0].shims
    assert found[last_step - 1][0] < shim._grad_scaler._scale.item()
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")
