"""Training phases on several simulated workers."""

import numpy
import pytest
from helpers import require
from output_folders import results_of
from test_workers_training import Stopping, local_config, train_on
from tiny import assert_same, make_arrays, weights_of

from thinc_swa.training import Callback

require("filelock")

SMALL = {"steps": 8, "batch_size": [2, 3], "dropout": 0.0}
AVERAGE = {"start_swa": True}


def phased_config(tmp_path, phases, **settings):
    numpy.savez(tmp_path / "easy.npz", **make_arrays(n_train=21, seed=4))
    config = local_config(tmp_path, max_steps=40, **settings)
    config["optimizer"]["start_step"] = "phase"
    config["datasets"] = {"easy": {"@datasets": "npz.v1", "path": str(tmp_path / "easy.npz")}}
    config["training"]["phases"] = {"*": phases}
    return config


# Of 21 examples each worker gets 11 or 7, so that two epochs have 8 or 6 steps.
@pytest.mark.parametrize(
    "n_workers, n_steps", [(2, 8), pytest.param(3, 6, marks=pytest.mark.slow)]
)
def test_phases_on_several_workers_resume_bit_for_bit(tmp_path, n_workers, n_steps):
    phases = {
        "small": SMALL,
        "easy": {"epochs": 2, "dataset": "easy", "batch_size": 3},
        # SWA starts when the workers are synchronised.
        "wait": {"steps": 16 - n_steps},
        "average": AVERAGE,
    }
    config = phased_config(tmp_path, phases)
    whole = train_on(n_workers, config, output=tmp_path / "whole")
    assert [trainer.optimizer.start_step for trainer in whole] == n_workers * [24]
    assert whole[0].optimizer.n_averaged == 5
    train_on(n_workers, config, output=tmp_path / "output", callbacks=[Stopping(10)])
    resumed = train_on(n_workers, config, output=tmp_path / "output", resume=True)
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")
    for one, other in zip(resumed, whole, strict=True):
        assert_same(weights_of(one.model), weights_of(other.model))


def test_swa_between_synchronisations_is_an_error(tmp_path):
    config = phased_config(tmp_path, {"small": {"steps": 7}, "average": AVERAGE})
    with pytest.raises(ValueError, match="start_step") as error:
        train_on(2, config)
    assert "\n" not in str(error.value)


def test_more_workers_than_examples_of_a_phase_are_an_error(tmp_path):
    config = phased_config(tmp_path, {"average": AVERAGE})
    numpy.savez(tmp_path / "easy.npz", **make_arrays(n_train=2))
    with pytest.raises(ValueError, match="3 workers, but only 2 training examples"):
        train_on(3, config)


def test_frozen_groups_on_several_workers(tmp_path):
    """Synchronisations leave frozen parameters as they are, until they are updated."""
    biases = []

    class Watch(Callback):
        def on_step(self, trainer):
            biases.append([node.get_param("b").copy() for node in hidden_layers(trainer)])

    phases = {"frozen": {"steps": 16, "frozen": ["biases"]}, "average": AVERAGE}
    config = phased_config(tmp_path, phases)
    inner = config["optimizer"]["optimizer"]
    inner["optimizer"] = {
        "@optimizers": "ParamGroups.v1",
        "groups": [{"name": "biases", "params": ["b"]}],
        "optimizer": inner["optimizer"],
    }
    first, second = train_on(2, config, callbacks=[Watch()])
    assert not any(numpy.any(array) for array in biases[15])
    assert all(numpy.any(array) for array in biases[16])
    assert_same(weights_of(first.model), weights_of(second.model))


def hidden_layers(trainer):
    return [node for node in trainer.model.walk() if node.has_param("b") is True]
