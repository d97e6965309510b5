"""Trainings of a PyTorch layer in half precision are resumed bit for bit: checkpoints have the
state of its gradient scaler."""

from pathlib import Path

import pytest
from helpers import require
from output_folders import config_of, results_of
from tiny import SWA

from thinc_swa.training import Callback, Trainer, train

LAYER = {"@layers": "tests.half_precision.v1", "n_inputs": 3, "width": 8, "n_outputs": 8}
# Thinc's Adam updates float32 weights only.
SGD = SWA.replace("Adam.v1", "SGD.v1")


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


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_resuming_is_bit_identical(tmp_path, kind, last_step=25):
    require("torch", "filelock")
    import torch_layers

    config = config_of(tmp_path, optimizer=SWA if kind == "bfloat16" else SGD)
    config["model"]["*"]["hidden"] = {**LAYER, "kind": kind}
    config["model"]["*"]["output"]["nI"] = 8
    code = Path(torch_layers.__file__)
    watches = [Watch(), Watch(last_step), Watch()]
    for name, watch in zip(["whole", "output", "output"], watches, strict=True):
        trainer = train(
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
    other = Trainer.from_config(config, code=code)
    scaler = other.model.layers[0].shims[0]._grad_scaler
    assert found[last_step - 1][0] != scaler._scale.item()
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")

    # The saved model has the averages, which are float32, in the type of its weights.
    other.model.from_bytes((tmp_path / "output" / "model-last").read_bytes())
    (shim,) = trainer.model.layers[0].shims
    for name, tensor in other.model.layers[0].shims[0]._model.named_parameters():
        average = trainer.optimizer.averages[shim.id, name]
        weights = tensor.detach().numpy()
        assert average.dtype == "float32"
        assert weights.dtype == ("float32" if kind == "bfloat16" else "float16")
        assert weights.tobytes() == average.astype(weights.dtype).tobytes()
