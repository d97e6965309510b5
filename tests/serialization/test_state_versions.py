"""Loading of files that earlier versions wrote."""

import pytest
from new_process import TESTS
from optimizer_states import assert_same, state_of
from thinc.api import Adam, decaying
from training_cases import make_nested_swa
from update_events import make_small_model, replay

from thinc_swa import load_optimizer, save_optimizer
from thinc_swa.schedules.compat import Schedule


@pytest.mark.parametrize("kind", ["version-1-bare", "version-1-wrapped", "version-2-wrapped"])
def test_files_of_earlier_versions_can_be_loaded(kind, tmp_path):
    """The files were written after seven steps of the same training. Version 1 has no positions
    of generators and no checksums of arrays, version 2 no step counter."""
    line = "8.3" if Schedule is None else "9.1"
    path = TESTS / "data" / f"{kind}-thinc-{line}.safetensors"
    make = make_nested_swa if kind.endswith("wrapped") else lambda: Adam(decaying(0.1, 0.1))
    model, optimizer = make_small_model(), make()
    replay(model, optimizer, ["all"] * 7)
    other = make()
    load_optimizer(path, other, model)
    other_model = make_small_model()
    other_model.from_bytes(model.to_bytes())
    save_optimizer(tmp_path / "optimizer", other, model)
    other = make()
    load_optimizer(tmp_path / "optimizer", other, other_model)
    replay(model, optimizer, ["all"] * 9, 7)
    replay(other_model, other, ["all"] * 9, 7)
    # Version 1 saved the first rate of the completed annealing.
    ignored = {"0/_learn_rate/_rate_before"}
    states = [state_of(other, other_model), state_of(optimizer, model)]
    assert_same(*({n: v for n, v in state.items() if n not in ignored} for state in states))
