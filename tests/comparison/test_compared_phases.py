"""Training phases in comparisons: the results of `train`."""

import numpy
import pytest
from comparison_runs import compare, prepare, results_without_times
from helpers import require
from test_shared_training import ADAM, n_trainings, wrap
from thinc.api import Config
from tiny import make_arrays, write_config

from thinc_swa.training import Trainer

require("filelock")

PHASES = {
    "small": {"steps": 0.3, "batch_size": 4, "dropout": 0.5},
    "average": {"start_swa": True, "frozen": []},
}
STARTED = wrap("SWA", 'start_step = "phase"\nfreq = 3')


def test_phases_in_a_shared_training_are_those_of_single_trainings(tmp_path):
    texts = {
        "swa": STARTED,
        "often": STARTED.replace("3", "1"),
        "swa_ema": wrap("SWA", "start_step = 50", wrap("EMA", "")),
    }
    paths = [
        write_config(tmp_path, name, text, max_steps=60, phases={"*": PHASES})
        for name, text in texts.items()
    ]
    shared = compare(tmp_path / "shared", paths, n_seeds=1)
    assert n_trainings(shared) == 1
    single = compare(tmp_path / "single", paths, n_seeds=1, is_shared=False)
    assert n_trainings(single) == 3
    assert results_without_times(shared) == results_without_times(single)
    trainer = Trainer.from_config(Config().from_disk(paths[0]))
    trainer.run()
    expected = [(found.raw, found.averages) for found in trainer.state.evaluations]
    found = [(record["raw"], record["averages"]) for record in shared[0].evaluations]
    assert found == expected
    assert expected[0][1] is None and expected[1][1] is not None


def test_an_entry_without_swa_is_trained_alone_if_a_phase_starts_swa(tmp_path):
    """It fails in a training of its own, so it must not succeed in a shared one."""
    paths = [
        write_config(tmp_path, name, text, max_steps=20, phases={"*": PHASES})
        for name, text in {"swa": STARTED, "adam": ADAM}.items()
    ]
    swa, adam = compare(tmp_path / "output", paths, n_seeds=1)
    assert (swa.state, adam.state) == ("done", "failed")
    assert "start_swa of phase 'average' needs an optimizer with SWA" in adam.error


@pytest.mark.slow
def test_another_dataset_of_a_phase_is_noticed(tmp_path):
    data = tmp_path / "easy.npz"
    numpy.savez(data, **make_arrays(n_train=20, seed=3))
    more = f'\n[datasets]\n\n[datasets.easy]\n@datasets = "npz.v1"\npath = "{data}"\n'
    phases = {"easy": {"steps": 5, "dataset": "easy"}}
    path = write_config(tmp_path, "adam", ADAM, more, max_steps=10, phases=phases)
    (before,) = compare(tmp_path / "output", [path], n_seeds=1)
    assert before.state == "done"
    (same,) = prepare(tmp_path / "output", [path], n_seeds=1)
    assert (same.state, same.outdated) == ("done", None)
    numpy.savez(data, **make_arrays(n_train=20, seed=8))
    (changed,) = prepare(tmp_path / "output", [path], n_seeds=1)
    assert changed.state == "waiting"
    assert "content of easy train_X has changed" in changed.outdated
    (now,) = compare(tmp_path / "output", [path], n_seeds=1)
    assert now.evaluations != before.evaluations
