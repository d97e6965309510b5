"""Which entries of a comparison share a training."""

import inspect
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thinc.api import SGD, Adam, Config, RAdam, registry

from thinc_swa.comparison.sharing import (
    PASSIVE,
    THINC,
    Nesting,
    describe_sharing,
    nest,
    sharing_key,
    take_apart,
)

ADAM = {"@optimizers": "Adam.v1", "learn_rate": 0.01, "use_averages": False}


def wrap(name, inner=ADAM, **settings):
    return {"@optimizers": f"{name}.v1", **settings, "optimizer": inner}


def thinc_config(optimizer, **training):
    return Config(
        {
            "dataset": {"@datasets": "digits.v1"},
            "model": {"@layers": "Softmax.v1"},
            "loss": {"@losses": "CategoricalCrossentropy.v3"},
            "optimizer": optimizer,
            "training": {"seed": 1, "max_steps": 10, **training},
        }
    )


def spacy_config(optimizer, **training):
    return Config(
        {
            "nlp": {"lang": "en"},
            "training": {"seed": 1, "max_steps": 10, "optimizer": optimizer, **training},
        }
    )


def are_shared(first, second):
    return all(
        sharing_key(make(first)) == sharing_key(make(second))
        for make in (thinc_config, spacy_config)
    )


SCHEDULE = {"@schedules": "constant_then.v1", "rate": 0.1, "steps": 5}


@pytest.mark.parametrize(
    "optimizer",
    [
        wrap("EMA"),
        wrap("EMA", decay=0.99, warmup=True, freq=3),
        wrap("EMA", overwrite_freq=None),
        wrap("SWA", start_step=0.75, total_steps=10),
        wrap("SWA", start_step=5, learn_rate=None, end_step=None, anneal_steps=None),
        wrap("SWA", start_step="plateau"),
        wrap("LAWA", window=3),
        wrap("thinc_swa.EMA", wrap("thinc_swa.SWA", start_step=3)),
        wrap("SWA", wrap("EMA", wrap("LAWA")), start_step=3),
        {**ADAM, "use_averages": True},
        {"@optimizers": "Adam.v1", "learn_rate": 0.01},
        wrap("EMA", {"@optimizers": "Adam.v1", "learn_rate": 0.01}),
        dict(reversed(ADAM.items())),
        dict(reversed(wrap("EMA").items())),
        ADAM,
    ],
)
def test_these_share_the_training_of_adam(optimizer):
    assert are_shared(optimizer, ADAM)


@pytest.mark.parametrize(
    "optimizer",
    [
        wrap("EMA", overwrite_freq=10),
        wrap("SWA", start_step=5, learn_rate=0.01),
        wrap("SWA", start_step=5, learn_rate=SCHEDULE),
        wrap("SWA", start_step=5, end_step=7),
        wrap("Lookahead"),
        wrap("EMA", wrap("Lookahead")),
        # It averages inside a training that is not that of Adam.
        wrap("Lookahead", wrap("EMA")),
        wrap("SWA", wrap("EMA", overwrite_freq=10), start_step=3),
        wrap("ScheduleFree"),
        wrap("mine"),
        wrap("EMA", {**ADAM, "learn_rate": 0.02}),
        wrap("EMA", {**ADAM, "learn_rate": SCHEDULE}),
        wrap("EMA", {**ADAM, "L2": 0.0}),
        {**ADAM, "@optimizers": "RAdam.v1"},
        {**ADAM, "use_averages": "yes"},
        {"@optimizers": "EMA.v1"},
        {"@optimizers": "EMA.v1", "optimizer": 3},
        {},
        3,
        None,
    ],
)
def test_these_do_not(optimizer):
    assert not are_shared(optimizer, ADAM)


@pytest.mark.parametrize("make", [thinc_config, spacy_config])
def test_other_settings_are_another_training(make):
    config = make(ADAM)
    assert sharing_key(make(wrap("EMA"))) == sharing_key(config)
    for change in (
        lambda config: config["training"].update(seed=2),
        lambda config: config["training"].update(patience=3),
        lambda config: config["training"].update(max_steps=10.0),
        lambda config: config.update(more={"x": 1}),
        lambda config: config.update(training=dict(reversed(config["training"].items()))),
    ):
        other = make(wrap("EMA"))
        change(other)
        assert sharing_key(other) != sharing_key(config)
    assert sharing_key(thinc_config(ADAM)) != sharing_key(spacy_config(ADAM))


def test_the_order_of_positional_arguments_matters():
    parts = {"a": {"x": 1}, "b": {"x": 2}}
    schedules = [
        {"@schedules": "phases.v1", "*": found}
        for found in (parts, dict(reversed(parts.items())))
    ]
    first, second = ({**ADAM, "learn_rate": schedule} for schedule in schedules)
    assert not are_shared(first, second)
    assert are_shared(first, wrap("EMA", dict(reversed(first.items()))))


def test_the_config_is_not_changed():
    config = spacy_config(wrap("EMA", wrap("SWA", start_step=3)))
    before = config.copy()
    sharing_key(config)
    nest([take_apart(config["training"]["optimizer"])])
    assert config == before


# Random nestings

wrappers = st.sampled_from(
    [
        ("EMA", {}),
        ("EMA", {"decay": 0.9}),
        ("LAWA", {"window": 2}),
        ("SWA", {"start_step": 3}),
        ("SWA", {"start_step": 3, "learn_rate": None}),
    ]
)
active = st.sampled_from(
    [
        ("Lookahead", {"freq": 3}),
        ("EMA", {"overwrite_freq": 5}),
        ("SWA", {"start_step": 3, "learn_rate": 0.1}),
        ("SWA", {"start_step": 3, "end_step": 5}),
    ]
)
averages = st.sampled_from([{}, {"use_averages": True}, {"use_averages": False}])


def build(outer, inner, use_averages):
    section = {"@optimizers": "Adam.v1", **use_averages}
    for name, settings in [*outer, *inner][::-1]:
        section = wrap(name, section, **settings)
    return section


@given(st.lists(wrappers, max_size=3), st.lists(wrappers, max_size=3), averages, averages)
def test_any_averages_share_a_training(first, second, one, other):
    assert are_shared(build(first, [], one), build(second, [], other))


@given(
    st.lists(wrappers, max_size=3),
    st.lists(wrappers, max_size=3),
    active,
    st.lists(wrappers, max_size=2),
    averages,
)
def test_averages_share_the_training_of_what_they_wrap(first, second, changing, inner, thinc):
    inside = [changing, *inner]
    assert are_shared(build(first, inside, thinc), build(second, inside, thinc))
    assert not are_shared(build(first, inside, thinc), build(second, inner, thinc))
    taken = take_apart(build(first, inside, thinc))
    assert [wrapper["@optimizers"] for wrapper in taken.wrappers] == [
        f"{name}.v1" for name, _ in first
    ]
    assert taken.optimizer == build([], inside, thinc)


@given(st.lists(st.tuples(st.lists(wrappers, max_size=3), averages), min_size=1, max_size=4))
def test_a_nesting_has_the_wrappers_of_all_entries(entries):
    nestings = [take_apart(build(found, [], thinc)) for found, thinc in entries]
    section = nest(nestings)
    found = [[]]
    while "optimizer" in section:
        if "entry" in section:
            assert section["entry"] == len(found) - 1
            found.append([])
        else:
            found[-1].append(section["@optimizers"])
        section = section["optimizer"]
    assert found[:-1] == [[f"{name}.v1" for name, _ in wrapped] for wrapped, _ in entries]
    # Thinc's averages, if an entry has them at all.
    assert section["use_averages"] == any(
        thinc.get("use_averages", True) and all(name == "SWA" for name, _ in wrapped)
        for wrapped, thinc in entries
    )


# Agreement with the optimizers


@pytest.mark.parametrize("name", [*PASSIVE, *(f"thinc_swa.{name}" for name in PASSIVE)])
def test_the_optimizers_agree_on_what_is_passive(name):
    make = registry.get("optimizers", name)
    values = {"learn_rate": 0.1, "end_step": 50, "overwrite_freq": 3}
    start = {"start_step": 5} if name.endswith("SWA.v1") else {}
    active = PASSIVE[name.removeprefix("thinc_swa.")]
    for n in range(len(active) + 1):
        for settings in itertools.combinations(active, n):
            arguments = {**start, **{setting: values[setting] for setting in settings}}
            optimizer = make(Adam(0.1), **arguments)
            section = {"@optimizers": name, **arguments, "optimizer": ADAM}
            assert optimizer.is_passive == bool(take_apart(section).wrappers) == (n == 0)


@pytest.mark.parametrize("name", PASSIVE)
def test_no_other_setting_makes_an_optimizer_active(name):
    """All arguments with a value that is not their default."""
    make = registry.get("optimizers", name)
    values = {
        "start_step": 5,
        "freq": 3,
        "window": 2,
        "decay": 0.5,
        "half_life": 10.0,
        "sigma_rel": 0.05,
        "check_finite": False,
        "total_steps": 100,
        "plateau_evals": 2,
    }
    required = {"start_step": 3} if name == "SWA.v1" else {}
    # They need another one.
    skipped = {"optimizer", "warmup", "anneal_steps", "anneal_strategy", *PASSIVE[name]}
    for argument in inspect.signature(make).parameters.keys() - skipped:
        arguments = {**required, argument: values[argument]}
        assert make(Adam(0.1), **arguments).is_passive
        section = {"@optimizers": name, **arguments, "optimizer": ADAM}
        assert len(take_apart(section).wrappers) == 1


def test_all_other_config_names_are_active():
    """A new wrapper that never changes the training belongs into the table."""
    from thinc_swa.optimizers.base import OptimizerWrapper

    names = [
        name
        for name in registry.optimizers.get_all()
        if name.removeprefix("thinc_swa.") not in PASSIVE
    ]
    checked = 0
    for name in names:
        make = registry.get("optimizers", name)
        parameters = inspect.signature(make).parameters
        if "optimizer" not in parameters:
            continue
        found = make(SGD(0.1, use_averages=False))
        if isinstance(found, OptimizerWrapper):
            assert not found.is_passive, name
            checked += 1
    assert checked >= 2


def test_the_averages_of_thinc_are_on_by_default():
    for name, make in zip(THINC, (Adam, RAdam, SGD), strict=True):
        assert registry.get("optimizers", name) is make
        assert inspect.signature(make).parameters["use_averages"].default is True
        assert take_apart({"@optimizers": name}).use_averages is True
    assert take_apart({"@optimizers": "mine.v1"}) == Nesting((), {"@optimizers": "mine.v1"})


# Description


def described(**optimizers):
    return describe_sharing((name, thinc_config(found)) for name, found in optimizers.items())


def test_the_description_names_the_entries():
    ema, swa, lawa = wrap("EMA"), wrap("SWA", start_step=3), wrap("LAWA")
    assert described(adam=ADAM, ema=ema, lawa=lawa, swa=swa) == (
        "ema, lawa and swa are averages of the same training as adam: trained once per seed"
    )
    assert described(ema=ema, adam=ADAM) == (
        "ema is an average of the same training as adam: trained once per seed"
    )
    assert described(ema=ema, swa=swa) == (
        "ema and swa are averages of the same training: trained once per seed"
    )
    assert described(adam=ADAM, same=ADAM) == (
        "adam and same are the same training: trained once per seed"
    )
    assert described(adam=ADAM, thinc={**ADAM, "use_averages": True}) == (
        "thinc is an average of the same training as adam: trained once per seed"
    )
