"""Headers with wrong contents and a valid checksum never leave an optimizer half loaded."""

import copy
import random
import warnings

import pytest
from optimizer_states import assert_same, state_of
from state_files import assert_clear, assert_unchanged, forge
from thinc.api import Adam, RAdam, constant_then, decaying, warmup_linear
from training_cases import make_model, make_nested_swa, make_trained, repeat_last, train

from thinc_swa import EMA, SWA, ParamGroups, cosine, load_optimizer, phases, save_optimizer


def paths_in(value, path=()):
    """The paths of all parts of a JSON value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in parts:
        if isinstance(part, (dict, list)):
            yield from paths_in(part, (*path, name))
        else:
            yield (*path, name)


FORGED_VALUES = [
    None,
    True,
    0,
    -1,
    5,
    0.5,
    "x",
    [],
    {},
    [1, 2],
    {"x": 1},
    {"arrays": {"0/W": "x"}},
]


def alter_header(state, generator):
    """Replace, remove, rename or add one random part."""
    *path, name = generator.choice([place for place in paths_in(state) if place])
    parent = state
    for part in path:
        parent = parent[part]
    kind = generator.choice(["replace", "replace", "remove", "rename", "add"])
    if kind == "replace" or (isinstance(parent, list) and kind != "remove"):
        parent[name] = copy.deepcopy(generator.choice(FORGED_VALUES))
    elif kind == "remove":
        del parent[name]
    elif kind == "rename":
        parent[f"x{name}"] = parent.pop(name)
    else:
        parent["x"] = copy.deepcopy(generator.choice(FORGED_VALUES))


def make_optimizers_to_forge():
    """Optimizers whose headers contain every kind of value."""
    return {
        "wrapped": make_nested_swa,
        "groups": lambda: ParamGroups(
            RAdam(decaying(0.1, 0.1), beta1=[0.9, 0.8]),
            groups=[
                {"name": "b", "params": ["b"], "lr_scale": decaying(0.5, 0.5), "beta1": 0.8}
            ],
        ),
        "phases": lambda: EMA(Adam(phases((3, repeat_last(0.1, 0.2)), cosine(0.1, steps=9)))),
        "bare": lambda: Adam(constant_then(0.1, 3, warmup_linear(0.1, 3, 40)), L2=0.1),
    }


@pytest.mark.parametrize("name", make_optimizers_to_forge())
def test_altered_header_with_valid_checksum_is_loaded_or_refused(name, tmp_path):
    """If the file is refused, the optimizer is unchanged."""
    make = make_optimizers_to_forge()[name]
    model, optimizer = make_trained(make)
    path = tmp_path / "optimizer"
    save_optimizer(path, optimizer, model)
    content = path.read_bytes()
    generator = random.Random(0)
    other, n_refused = make(), 0
    before = state_of(other, model)
    for _ in range(400):
        path.write_bytes(forge(content, state=lambda state: alter_header(state, generator)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                load_optimizer(path, other, model)
            except ValueError as error:
                assert_clear(error, path)
                assert_same(state_of(other, model), before)
                n_refused += 1
            else:
                other = make()
    assert n_refused > 200


@pytest.mark.parametrize("value", [True, "x", 3, [1], {"by parameter": {}}, {"arrays": {}}])
def test_forged_value_for_an_unused_field_is_refused(value, tmp_path):
    def change(state):
        saved = state["optimizers"][0]["state"]
        assert saved["_learn_rate"] is None
        saved["_learn_rate"] = value

    def make():
        return SWA(Adam(0.1), start_step=5)

    model, optimizer = make_trained(make)
    path = tmp_path / "optimizer"
    save_optimizer(path, optimizer, model)
    path.write_bytes(forge(path.read_bytes(), state=change))
    model, optimizer = make_trained(make)
    with assert_unchanged(optimizer, model):
        with pytest.raises(ValueError, match="_learn_rate has another form"):
            load_optimizer(path, optimizer, model)


def test_optional_values_are_restored(tmp_path):
    """The first rate of the annealing is None after the start of averaging."""
    model = make_model()
    saved, other = (SWA(Adam(0.1), start_step=5, learn_rate=0.01) for _ in range(2))
    train(model, saved, 0, 8)
    train(model, other, 0, 3)
    assert saved._learn_rate.rate_used is None and other._learn_rate.rate_used == 0.1
    save_optimizer(tmp_path / "optimizer", saved, model)
    load_optimizer(tmp_path / "optimizer", other, model)
    assert_same(state_of(other, model), state_of(saved, model))
