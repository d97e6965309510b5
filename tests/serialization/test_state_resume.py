"""Resuming from a saved optimizer state is bit-identical to an uninterrupted training."""

import os
import pickle
import tempfile
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from new_process import run_in_new_process
from optimizer_states import assert_same, keys_of, state_of
from thinc.api import SGD, Adam, RAdam, decaying
from training_cases import (
    CASES,
    N_STEPS,
    is_available,
    make_model,
    make_nested,
    make_phases,
    make_torch_model,
    make_trained,
)
from update_events import EVENTS, make_small_model, replay
from wrapped_optimizers import OPTIMIZERS, can_nest

from thinc_swa import SWA, Lookahead, load_optimizer, one_cycle_momentum, save_optimizer


def resume_all_cases(folder):
    """Run in the new process. Other models are made first, so that all ids differ."""
    for make in (make_model, make_torch_model if is_available("torch") else make_model):
        make(), make()
    states = {}
    for path in sorted(Path(folder).glob("*.model")):
        name, n_before = path.stem.split("@")
        case, optimizer = CASES[name], CASES[name].make_optimizer()
        model = case.make_model()
        model.from_bytes(path.read_bytes())
        load_optimizer(path.with_suffix(".optimizer"), optimizer, model)
        if name == "nested" and is_available("torch"):
            assert min(node for node, _ in keys_of(model)) > 20
        resumed = state_of(optimizer, model)
        case.train(model, optimizer, int(n_before), N_STEPS)
        states[path.stem] = (resumed, state_of(optimizer, model))
    (Path(folder) / "states").write_bytes(pickle.dumps(states))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The states of all cases when saved and at the end, by "name@steps": of the trainings
    resumed in a new process, and of the uninterrupted ones in this process."""
    folder = tmp_path_factory.mktemp("resumed")
    expected = {}
    for name, case in CASES.items():
        for n_before in case.breaks:
            stem = f"{name}@{n_before:02}"
            model, optimizer = case.make_model(), case.make_optimizer()
            case.train(model, optimizer, 0, n_before)
            save_optimizer(folder / f"{stem}.optimizer", optimizer, model)
            (folder / f"{stem}.model").write_bytes(model.to_bytes())
            saved = state_of(optimizer, model)
            case.train(model, optimizer, n_before, N_STEPS)
            expected[stem] = (saved, state_of(optimizer, model))
    run_in_new_process(resume_all_cases, folder)
    actual = pickle.loads((folder / "states").read_bytes())
    assert set(actual) == set(expected)
    return actual, expected


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_resume_in_a_new_process_is_bit_identical(resumed, name):
    actual, expected = resumed
    for n_before in CASES[name].breaks:
        stem = f"{name}@{n_before:02}"
        assert_same(actual[stem][0], expected[stem][0])
        assert_same(actual[stem][1], expected[stem][1])


@pytest.mark.slow
def test_training_cases_differ_and_change_weights(resumed):
    """Otherwise the test above could not fail."""
    ends = {}
    for stem, (saved, end) in resumed[1].items():
        weights = [name for name in end if name.startswith("weights/")]
        is_changed = any(saved[name] != end[name] for name in weights)
        assert is_changed == (stem[-2:] != str(N_STEPS)), stem
        ends.setdefault(repr(sorted(end.items())), set()).add(stem.split("@")[0])
    assert [names for names in ends.values() if len(names) > 1] == []


@pytest.mark.slow
def test_all_training_cases_are_resumed(resumed):
    assert len(resumed[0]) == sum(len(list(case.breaks)) for case in CASES.values())
    if os.environ.get("THINC_SWA_REQUIRE"):
        required = os.environ["THINC_SWA_REQUIRE"]
        assert ("torch" in required) <= ("PyTorch" in CASES)
        assert ("spacy" in required) <= ("spaCy" in CASES)


INNERMOST = {
    "Adam": lambda: Adam(0.1),
    "Adam, schedule": lambda: Adam(decaying(0.1, 0.1)),
    "RAdam": lambda: RAdam(decaying(0.1, 0.1)),
    "SGD": lambda: SGD(0.1),
    "Adam, phases": lambda: Adam(make_phases(), beta1=one_cycle_momentum(steps=9)),
}


WRAPPERS = {
    **OPTIMIZERS,
    "SWA at any time": lambda optimizer: SWA(optimizer, freq=2, learn_rate=0.02),
    "SWA anneals": lambda o: SWA(o, start_step=2, learn_rate=0.02, anneal_steps=3),
    "SWA with a schedule": lambda o: SWA(o, start_step=2, learn_rate=decaying(0.05, 0.5)),
    "SWA with phases": lambda o: SWA(o, start_step=2, learn_rate=make_phases()),
    "Lookahead ends": lambda o: Lookahead(o, freq=3, inner_state="pullback", end_step=4),
}


@pytest.mark.filterwarnings("ignore:Every parameter was updated")
@settings(deadline=None, max_examples=150)
@given(
    innermost=st.sampled_from(sorted(INNERMOST)),
    wrappers=st.lists(st.sampled_from(sorted(WRAPPERS)), max_size=3).filter(can_nest),
    before=st.lists(EVENTS, max_size=12),
    after=st.lists(EVENTS, max_size=12),
)
def test_resume_is_bit_identical_at_any_step(innermost, wrappers, before, after):
    def make():
        optimizer = INNERMOST[innermost]()
        for name in wrappers:
            optimizer = WRAPPERS[name](optimizer)
        return make_small_model(), optimizer

    model, optimizer = make()
    replay(model, optimizer, before)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimizer")
        save_optimizer(path, optimizer, model)
        content = model.to_bytes()
        other_model, other = make()
        other_model.from_bytes(content)
        load_optimizer(path, other, other_model)
    replay(model, optimizer, after, len(before))
    replay(other_model, other, after, len(before))
    assert_same(state_of(other, other_model), state_of(optimizer, model))


@pytest.mark.parametrize("wrap", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_resume_of_float64_weights_is_bit_identical(wrap, tmp_path):
    """Averages of float64 weights are float64 in memory and in the file."""
    states = []
    for is_interrupted in (False, True):
        model, optimizer = make_small_model(), wrap(SGD(0.1))
        for node in model.walk():
            for name in node.param_names:
                node.set_param(name, node.get_param(name).astype("float64"))
        replay(model, optimizer, ["all"] * 7)
        if is_interrupted:
            save_optimizer(tmp_path / "optimizer", optimizer, model)
            optimizer = wrap(SGD(0.1))
            load_optimizer(tmp_path / "optimizer", optimizer, model)
        replay(model, optimizer, ["all"] * 4, 7)
        states.append(state_of(optimizer, model))
    assert_same(states[1], states[0])
    assert "float64" in {value[0] for value in states[0].values()}


def test_loaded_arrays_are_not_shared(tmp_path):
    """Loaded arrays are shared neither with the file nor between optimizers, and the wrappers
    refer to the arrays of the model."""
    model, optimizer = make_trained(lambda: make_nested(Adam(0.1)))
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    first, second = make_nested(Adam(0.1)), make_nested(Adam(0.1))
    load_optimizer(tmp_path / "optimizer", first, model)
    load_optimizer(tmp_path / "optimizer", second, model)
    (tmp_path / "optimizer").write_bytes(b"")
    before = state_of(second, model)
    for moment in first.mom1.values():
        moment += 1
    assert_same(state_of(second, model), before)
    for key, weights in keys_of(model).items():
        assert numpy.shares_memory(first._weights[key], weights)
