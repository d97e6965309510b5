"""Optimizers in files: what is loaded in another process goes on bit for bit, and a file that
is not right changes nothing."""

import copy
import hashlib
import io
import itertools
import json
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import safetensors.numpy
import small_models
import thinc.schedules
from helpers import require
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optimizer_states import (
    X,
    Y,
    assert_same,
    keys_of,
    levels_of,
    make_examples,
    make_pipeline,
    state_of,
)
from thinc.api import (
    SGD,
    Adam,
    Linear,
    Model,
    RAdam,
    Relu,
    Softmax,
    chain,
    constant,
    constant_then,
    decaying,
    fix_random_seed,
    warmup_linear,
)
from wrapped_optimizers import OPTIMIZERS

from thinc_swa import (
    EMA,
    SWA,
    Lookahead,
    ParamGroups,
    cosine,
    load_optimizer,
    one_cycle,
    one_cycle_momentum,
    phases,
    register_parameter_paths,
    save_optimizer,
    swa_anneal,
)
from thinc_swa.schedules.compat import Schedule
from thinc_swa.schedules.learn_rate import current_rate
from thinc_swa.serialization.state_file import DTYPES, StateReader, write_arrays, write_state

# Where curated transformers are installed, this is what the import of spaCy warns of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)

TESTS = Path(__file__).parents[1]


# What an optimizer is, without the help of the package


def make_model():
    """The same weights every time."""
    fix_random_seed(0)
    return small_models.make_model()


def train(model, optimizer, start, stop, is_stepped=True, scores=None):
    """Steps start + 1 to stop of a training, each with its own data."""
    for step in range(start, stop):
        inputs = X + numpy.random.RandomState(step).uniform(-1, 1, X.shape).astype("f")
        predicted, backprop = model.begin_update(inputs)
        backprop((predicted - Y) / len(Y))
        model.finish_update(optimizer)
        if is_stepped:
            optimizer.step_schedules()
        if scores:
            optimizer.last_score = scores[step]


# A new process


class Case(NamedTuple):
    """A training to interrupt."""

    make_optimizer: Callable[[], Any]
    make_model: Callable[[], Any] = make_model
    train: Callable[..., None] = train
    breaks: Any = (0, 4, 7)


N_STEPS = 14
SCORES = [0.5, 0.6, 0.6, 0.55, 0.5, 0.4, 0.7, 0.6, 0.5, 0.4, 0.4, 0.3, 0.2, 0.1]


def warmup():
    return warmup_linear(0.1, 3, 40)


def three_phases(rate=0.1, decay=0.1, steps=3):
    """Schedules of the package, in phases within phases, beside one of Thinc's."""
    return phases(
        (4, one_cycle(rate, steps=4)),
        (5, phases((steps, 0.05), decaying(0.1, decay))),
        cosine(0.2, steps=9, cycles=3),
    )


def make_named_model():
    model = make_model()
    register_parameter_paths(model)
    return model


def make_torch_model():
    import torch
    from thinc.api import PyTorchWrapper

    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 5)
    wrapped = PyTorchWrapper(torch.nn.Sequential(*layers))
    return chain(Relu(6, 5), wrapped, Softmax(3, 5)).initialize()


def train_pipeline(nlp, optimizer, start, stop):
    for step in range(start, stop):
        fix_random_seed(step)  # The parser cuts texts at random.
        nlp.update(make_examples(nlp), sgd=optimizer, drop=0.0)
        optimizer.step_schedules()


def train_unstepped(model, optimizer, start, stop):
    train(model, optimizer, start, stop, is_stepped=False)


def train_with_scores(model, optimizer, start, stop):
    train(model, optimizer, start, stop, scores=SCORES)


def train_and_start(model, optimizer, start, stop):
    """start_swa() is called after step 3."""
    for step in range(start, stop):
        train(model, optimizer, step, step + 1)
        if step == 2:
            optimizer.start_swa()


def nested(innermost):
    return SWA(
        Lookahead(EMA(innermost, decay=0.8, overwrite_freq=5), freq=3, inner_state="reset"),
        start_step=6,
        freq=2,
        learn_rate=0.01,
        anneal_steps=5,
        anneal_strategy="cosine",
    )


def make_cases():
    """By name. Those that need a package that is not there are left out."""
    innermost = {
        "Adam": lambda: Adam(0.1),
        "Adam, schedule": lambda: Adam(warmup()),
        "Adam, lists": lambda: Adam([0.1, 0.05, 0.02], beta1=[0.8] * 5 + [0.9], L2=0.01),
        "RAdam": lambda: RAdam(0.1),
        "RAdam, schedules": lambda: RAdam(warmup(), beta1=decaying(0.9, 0.01)),
        "SGD": lambda: SGD(0.1),
        # NumPy's floats calculate in another precision than Python's.
        "SGD, NumPy": lambda: SGD(numpy.float64(0.1), L2=decaying(0.1, 0.5)),
        "Adam, no averages": lambda: Adam(0.1, use_averages=False),
    }
    cases = {name: Case(make) for name, make in innermost.items()}
    for name, wrap in OPTIMIZERS.items():
        cases[name] = Case(lambda wrap=wrap: wrap(Adam(warmup())))
    for state in ("keep", "reset", "pullback"):
        for name in ("RAdam, schedules", "SGD"):
            cases[f"Lookahead {state}, {name}"] = Case(
                lambda make=innermost[name], state=state: Lookahead(
                    make(), freq=5, inner_state=state, end_step=12
                )
            )
    rates = {
        "number": {"learn_rate": 0.01},
        "linear": {"learn_rate": 0.01, "anneal_steps": 5},
        "cosine": {"learn_rate": 0.01, "anneal_steps": 5, "anneal_strategy": "cosine"},
    }
    for name, arguments in rates.items():
        cases[f"SWA, {name}"] = Case(
            lambda arguments=arguments: SWA(Adam(warmup()), start_step=5, freq=2, **arguments)
        )
    cases["SWA, schedule"] = Case(
        lambda: SWA(Adam(warmup()), start_step=3, learn_rate=decaying(0.05, 0.5), end_step=10)
    )
    cases["SWA, list"] = Case(
        lambda: SWA(SGD(0.1), start_step=3, learn_rate=[0.05, 0.04, 0.03, 0.02, 0.01])
    )
    cases["SWA, two rates"] = Case(
        lambda: SWA(
            SWA(Adam(warmup()), start_step=2, learn_rate=decaying(0.05, 0.5)),
            start_step=4,
            learn_rate=0.02,
            anneal_steps=5,
        ),
        breaks=range(N_STEPS + 1),
    )
    cases["SWA, ended"] = Case(lambda: SWA(Adam(warmup()), start_step=2, end_step=6))
    cases["start_swa"] = Case(
        lambda: SWA(Adam(warmup()), freq=3, learn_rate=0.02), train=train_and_start
    )
    cases["nested"] = Case(lambda: nested(RAdam(warmup())), breaks=range(N_STEPS + 1))
    cases["nested, not stepped"] = Case(
        lambda: nested(Adam(0.1)), train=train_unstepped, breaks=range(N_STEPS + 1)
    )
    cases["Adam, schedule, not stepped"] = Case(
        lambda: Adam(decaying(0.05, 0.1)), train=train_unstepped
    )
    cases["Adam, one_cycle"] = Case(
        lambda: Adam(one_cycle(0.1, steps=12), beta1=one_cycle_momentum(steps=12))
    )
    cases["RAdam, cosine"] = Case(
        lambda: RAdam(
            cosine(0.1, steps=12, cycles=2),
            L2=swa_anneal(0.0, 0.1, start_step=3, anneal_steps=5),
        )
    )
    cases["Adam, phases"] = Case(
        lambda: Adam(three_phases(), beta1=phases((5, 0.9), one_cycle_momentum(steps=9))),
        breaks=range(N_STEPS + 1),
    )
    cases["phases, not stepped"] = Case(
        lambda: EMA(Adam(three_phases(0.3)), decay=0.8), train=train_unstepped
    )
    cases["constant_then, one_cycle"] = Case(
        lambda: SGD(constant_then(0.1, 3, one_cycle(0.2, steps=20)))
    )
    cases["SWA, phases"] = Case(
        lambda: SWA(
            Adam(one_cycle(0.1, steps=12), beta1=one_cycle_momentum(steps=12)),
            start_step=3,
            learn_rate=three_phases(),
        ),
        breaks=range(N_STEPS + 1),
    )
    cases["nested, one_cycle"] = Case(
        lambda: nested(RAdam(one_cycle(0.1, steps=12), beta1=one_cycle_momentum(steps=12)))
    )
    cases["groups, schedules"] = Case(
        lambda: SWA(
            ParamGroups(
                Lookahead(Adam(warmup()), freq=3),
                groups=[
                    {"name": "biases", "params": ["b"], "lr_scale": "slow", "L2": [0.1, 0.2]},
                    {"name": "weights", "params": ["W"], "beta1": 0.7, "eps": 0.01},
                ],
                schedules={"slow": decaying(0.5, 0.5)},
            ),
            start_step=3,
        ),
        breaks=range(N_STEPS + 1),
    )
    cases["groups, one_cycle"] = Case(
        lambda: ParamGroups(
            Adam(one_cycle(0.1, steps=12)),
            groups=[
                {
                    "name": "biases",
                    "params": ["b"],
                    "lr_scale": three_phases(),
                    "beta1": one_cycle_momentum(steps=12),
                }
            ],
        )
    )
    cases["groups, RAdam"] = Case(
        lambda: ParamGroups(
            RAdam(0.1), groups=[{"name": "biases", "params": ["b"], "beta1": [0.8, 0.7, 0.6]}]
        )
    )
    cases["groups, frozen"] = Case(
        lambda: SWA(
            ParamGroups(
                Adam(0.1),
                groups=[{"name": "first", "params": ["relu-0/W"], "frozen": True}],
                layer_lr_decay=0.5,
                layer_patterns=["relu-0/*", "*residual/*", "softmax/*"],
            ),
            start_step=3,
        ),
        make_named_model,
    )
    if Schedule is not None:
        from thinc.api import plateau

        cases["phases, plateau"] = Case(
            lambda: Adam(phases((2, 0.1), (6, plateau(2, 0.5, constant(0.1))), 0.05)),
            train=train_with_scores,
            breaks=range(N_STEPS + 1),
        )
        cases["groups, plateau"] = Case(
            lambda: ParamGroups(
                Adam(0.1),
                groups=[
                    {
                        "name": "biases",
                        "params": ["b"],
                        "lr_scale": plateau(2, 0.5, constant(0.5)),
                    }
                ],
            ),
            train=train_with_scores,
            breaks=range(N_STEPS + 1),
        )
        cases["plateau"] = Case(
            lambda: Adam(constant_then(0.1, 2, plateau(2, 0.5, constant(0.1)))),
            train=train_with_scores,
            breaks=range(N_STEPS + 1),
        )
        cases["SWA, plateau"] = Case(
            lambda: SWA(SGD(0.1), start_step=2, learn_rate=plateau(2, 0.5, constant(0.1))),
            train=train_with_scores,
            breaks=range(N_STEPS + 1),
        )
    if is_there("torch"):
        cases["PyTorch"] = Case(lambda: nested(Adam(warmup())), make_torch_model)
        cases["PyTorch, RAdam"] = Case(lambda: RAdam(0.1), make_torch_model)
    if is_there("spacy"):
        cases["spaCy"] = Case(lambda: nested(Adam(warmup())), make_pipeline, train_pipeline)
        cases["spaCy, Adam"] = Case(lambda: Adam(warmup()), make_pipeline, train_pipeline, (5,))
    return cases


def is_there(package):
    try:
        require(package)
    except pytest.skip.Exception:
        return False
    return True


CASES = make_cases()


def go_on(folder):
    """What the new process does. Other models are made first, so that all ids are others."""
    for make in (make_model, make_torch_model if is_there("torch") else make_model):
        make(), make()
    states = {}
    for path in sorted(Path(folder).glob("*.model")):
        name, n_before = path.stem.split("@")
        case, optimizer = CASES[name], CASES[name].make_optimizer()
        model = case.make_model()
        model.from_bytes(path.read_bytes())
        load_optimizer(path.with_suffix(".optimizer"), optimizer, model)
        if name == "nested" and is_there("torch"):
            assert min(node for node, _ in keys_of(model)) > 20
        resumed = state_of(optimizer, model)
        case.train(model, optimizer, int(n_before), N_STEPS)
        states[path.stem] = (resumed, state_of(optimizer, model))
    (Path(folder) / "states").write_bytes(pickle.dumps(states))


def run(function, *arguments):
    """Call a function of this module in a new process. RETURNS (str): What it prints."""
    module = Path(__file__).stem
    code = f"import sys, {module}; {module}.{function.__name__}(*sys.argv[1:])"
    paths = os.pathsep.join(
        [str(TESTS), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The states of all cases, when they were saved and at the end: in this process without a
    break, and in a new one. They are (at the break, at the end) by "name@steps"."""
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
    run(go_on, folder)
    actual = pickle.loads((folder / "states").read_bytes())
    assert set(actual) == set(expected)
    return actual, expected


@pytest.mark.parametrize("name", CASES)
def test_goes_on_in_a_new_process(resumed, name):
    actual, expected = resumed
    for n_before in CASES[name].breaks:
        stem = f"{name}@{n_before:02}"
        assert_same(actual[stem][0], expected[stem][0])
        assert_same(actual[stem][1], expected[stem][1])


def test_the_trainings_differ(resumed):
    """Else the test above would tell nothing: every case trains, and in its own way."""
    ends = {}
    for stem, (saved, end) in resumed[1].items():
        weights = [name for name in end if name.startswith("weights/")]
        is_changed = any(saved[name] != end[name] for name in weights)
        assert is_changed == (stem[-2:] != str(N_STEPS)), stem
        ends.setdefault(repr(sorted(end.items())), set()).add(stem.split("@")[0])
    assert [names for names in ends.values() if len(names) > 1] == []


def test_a_new_process_is_used(resumed):
    assert len(resumed[0]) == sum(len(list(case.breaks)) for case in CASES.values())
    if os.environ.get("THINC_SWA_REQUIRE"):
        required = os.environ["THINC_SWA_REQUIRE"]
        assert ("torch" in required) <= ("PyTorch" in CASES)
        assert ("spacy" in required) <= ("spaCy" in CASES)


# Any moment of any training

INNERMOST = {
    "Adam": lambda: Adam(0.1),
    "Adam, schedule": lambda: Adam(decaying(0.1, 0.1)),
    "RAdam": lambda: RAdam(decaying(0.1, 0.1)),
    "SGD": lambda: SGD(0.1),
    "Adam, phases": lambda: Adam(three_phases(), beta1=one_cycle_momentum(steps=9)),
}
WRAPPERS = {
    **OPTIMIZERS,
    "SWA at any time": lambda optimizer: SWA(optimizer, freq=2, learn_rate=0.02),
    "SWA anneals": lambda o: SWA(o, start_step=2, learn_rate=0.02, anneal_steps=3),
    "SWA with a schedule": lambda o: SWA(o, start_step=2, learn_rate=decaying(0.05, 0.5)),
    "SWA with phases": lambda o: SWA(o, start_step=2, learn_rate=three_phases()),
    "Lookahead ends": lambda o: Lookahead(o, freq=3, inner_state="pullback", end_step=4),
}
# An update of a parameter, or of all and the end of the step; the end of a step; a look at the
# averages; start_swa().
EVENTS = st.sampled_from([0, 1, 2, 3, "all", "all", "all", "step", "look", "start"])


def make_small_model():
    """The same weights every time."""
    fix_random_seed(0)
    model = chain(Linear(2, 3), Linear(2, 2)).initialize()
    register_parameter_paths(model)  # Not all parameters are in the first step of what follows.
    return model


def play(model, optimizer, events, first=0):
    """first (int): The number of the first event, for its gradients."""
    keys = list(keys_of(model).items())
    for number, event in enumerate(events, first):
        if event == "look":
            optimizer.averages  # noqa: B018
        elif event == "start":
            for level in levels_of(optimizer):
                if isinstance(level, SWA) and level.end_step is None:
                    level.start_swa()
                    break
        elif event == "step":
            optimizer.step_schedules()
        else:
            for key, weights in keys if event == "all" else keys[event : event + 1]:
                gradients = numpy.random.RandomState(number).uniform(-1, 1, weights.shape)
                optimizer(key, weights, gradients.astype("f"))
            if event == "all":
                optimizer.step_schedules()


@pytest.mark.filterwarnings("ignore:Every parameter was updated")
@settings(deadline=None, max_examples=150)
@given(
    innermost=st.sampled_from(sorted(INNERMOST)),
    wrappers=st.lists(st.sampled_from(sorted(WRAPPERS)), max_size=3),
    before=st.lists(EVENTS, max_size=12),
    after=st.lists(EVENTS, max_size=12),
)
def test_goes_on_from_any_moment(innermost, wrappers, before, after):
    def make():
        optimizer = INNERMOST[innermost]()
        for name in wrappers:
            optimizer = WRAPPERS[name](optimizer)
        return make_small_model(), optimizer

    model, optimizer = make()
    play(model, optimizer, before)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimizer")
        save_optimizer(path, optimizer, model)
        content = model.to_bytes()
        other_model, other = make()
        other_model.from_bytes(content)
        load_optimizer(path, other, other_model)
    play(model, optimizer, after, len(before))
    play(other_model, other, after, len(before))
    assert_same(state_of(other, other_model), state_of(optimizer, model))


@pytest.mark.parametrize("wrap", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_float64(wrap, tmp_path):
    """Averages of float64 weights are float64, in the file too."""
    states = []
    for is_interrupted in (False, True):
        model, optimizer = make_small_model(), wrap(SGD(0.1))
        for node in model.walk():
            for name in node.param_names:
                node.set_param(name, node.get_param(name).astype("float64"))
        play(model, optimizer, ["all"] * 7)
        if is_interrupted:
            save_optimizer(tmp_path / "optimizer", optimizer, model)
            optimizer = wrap(SGD(0.1))
            load_optimizer(tmp_path / "optimizer", optimizer, model)
        play(model, optimizer, ["all"] * 4, 7)
        states.append(state_of(optimizer, model))
    assert_same(states[1], states[0])
    assert "float64" in {value[0] for value in states[0].values()}


def test_loaded_arrays_are_nobody_elses(tmp_path):
    """The file can go, what was loaded twice does not train twice, and the wrappers know the
    model's own arrays."""
    model, optimizer = trained(lambda: nested(Adam(0.1)))
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    first, second = nested(Adam(0.1)), nested(Adam(0.1))
    load_optimizer(tmp_path / "optimizer", first, model)
    load_optimizer(tmp_path / "optimizer", second, model)
    (tmp_path / "optimizer").write_bytes(b"")
    before = state_of(second, model)
    for moment in first.mom1.values():
        moment += 1
    assert_same(state_of(second, model), before)
    for key, weights in keys_of(model).items():
        assert numpy.shares_memory(first._weights[key], weights)


# Where a schedule stands


# Loops that call step_schedules() as often as there are updates, more often, less often, never.
LOOPS = {
    "per update": ["all"],
    "twice per update": ["all", "step"],
    "every second update": ["all", 0, 1, 2, 3],
    "every fourth update of one parameter": [0, 0, 0, "all"],
    "never": [0, 1, 2, 3],
}
# Schedules that Thinc's users write. Some give the same value at several positions.
ITERATORS = {
    "list": lambda: [1.0 / step for step in range(1, 99)],
    "list, short": lambda: [0.3, 0.2, 0.1],
    "constant": lambda: thinc.schedules.constant(0.1),
    "constant_then": lambda: constant_then(0.1, 15, decaying(0.2, 0.5)),
    "constant_then twice": lambda: constant_then(
        0.1, 5, constant_then(0.1, 6, warmup_linear(0.1, 9, 40))
    ),
    "constant_then a list": lambda: constant_then(0.1, 99, [0.2, 0.1]),
    "constant_then a constant": lambda: constant_then(0.1, 7, thinc.schedules.constant(0.2)),
    "constant_then ours": lambda: constant_then(0.1, 5, cosine(0.2, steps=30)),
    "decaying": lambda: decaying(0.1, 0.5, t=3),
    "decaying from a fraction": lambda: decaying(0.1, 0.5, t=0.3),
    "compounding": lambda: thinc.schedules.compounding(0.001, 0.1, 1.3),
    "compounding down": lambda: thinc.schedules.compounding(0.1, 0.01, 0.8),
    "slanted_triangular": lambda: thinc.schedules.slanted_triangular(0.1, 60, cut_frac=0.3),
    "warmup_linear": lambda: warmup_linear(0.1, 9, 20),
    "cyclic_triangular": lambda: thinc.schedules.cyclic_triangular(0.01, 0.1, 4),
}
if Schedule is not None:  # There, a Schedule cannot begin with a list.
    del ITERATORS["constant_then a list"]


@pytest.mark.filterwarnings("ignore:Every parameter was updated")
@pytest.mark.parametrize("wrap", [lambda o: o, OPTIMIZERS["SWA"]], ids=["bare", "wrapped"])
@pytest.mark.parametrize("events", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("schedule", ITERATORS.values(), ids=ITERATORS)
def test_steps_need_not_be_updates(schedule, events, wrap, tmp_path):
    """Resumed twice, as the second file is written by an optimizer that was resumed."""
    model, optimizer = make_small_model(), wrap(Adam(schedule()))
    other_model, other = make_small_model(), wrap(Adam(schedule()))
    for number in range(3):
        play(model, optimizer, events * 6, 99 * number)
        play(other_model, other, events * 6, 99 * number)
        save_optimizer(tmp_path / "optimizer", other, other_model)
        other = wrap(Adam(schedule()))
        load_optimizer(tmp_path / "optimizer", other, other_model)
        assert_same(state_of(other, other_model), state_of(optimizer, model))
    for _ in range(30):
        optimizer.step_schedules()
        other.step_schedules()
        assert current_rate(other) == current_rate(optimizer)


def generate(*values):
    """A generator that Thinc does not know. The last value is repeated."""
    yield from values
    while True:
        yield values[-1]


FLAT = [0.1] * 9 + [0.2] * 9 + [0.1] * 9 + [0.01 * number for number in range(40)]


@pytest.mark.filterwarnings("ignore:Every parameter was updated")
@pytest.mark.parametrize("events", LOOPS.values(), ids=LOOPS)
def test_draws_from_a_users_generator_are_counted(events, tmp_path):
    """By a wrapper. The generator gives the same value at many positions."""
    model, optimizer = make_small_model(), EMA(Adam(generate(*FLAT)))
    other_model, other = make_small_model(), EMA(Adam(generate(*FLAT)))
    for number in range(3):
        play(model, optimizer, events * 5, 99 * number)
        play(other_model, other, events * 5, 99 * number)
        save_optimizer(tmp_path / "optimizer", other, other_model)
        other = EMA(Adam(generate(*FLAT)))
        load_optimizer(tmp_path / "optimizer", other, other_model)
    for _ in range(60):
        assert current_rate(other) == current_rate(optimizer)
        optimizer.step_schedules()
        other.step_schedules()


@pytest.mark.skipif(Schedule is not None, reason="Thinc 9.1 tells schedules the step")
@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("name", ["learn_rate", "beta1"])
def test_uncounted_draws_are_refused(name, is_wrapped, tmp_path):
    """Of a generator that was never counted, or only after some updates."""

    def make():
        return Adam(**{"learn_rate": 0.1, name: generate(*FLAT)})

    model, optimizer = make_small_model(), make()
    play(model, optimizer, ["all"] * 3)
    if is_wrapped:
        optimizer = SWA(optimizer, start_step=5)
        play(model, optimizer, ["all"] * 3, 3)
    attribute = {"beta1": "b1"}.get(name, name)
    with pytest.raises(ValueError, match=f"schedule of {attribute} is not known.*first update"):
        save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert list(tmp_path.iterdir()) == []
    # A file of a wrapped one does not fit a bare one either.
    wrapped = SWA(make(), start_step=5)
    save_optimizer(tmp_path / "optimizer", wrapped, model)
    with pytest.raises(ValueError, match=f"{attribute} was .*unknown position: wrap"):
        fresh = SWA(Adam(0.1), start_step=5)
        fresh.optimizer = make()
        load_optimizer(tmp_path / "optimizer", fresh, model)


@pytest.mark.skipif(Schedule is not None, reason="Thinc 9.1 tells schedules the step")
@pytest.mark.parametrize("other", [(0.2, 0.2, 0.3), (0.1, 0.3, 0.3)])
def test_all_values_of_a_users_generator_are_compared(other, tmp_path):
    """Not only the last one."""
    model, optimizer = trained(lambda: EMA(Adam(generate(0.1, 0.2, 0.3))))
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert_refused(
        tmp_path / "optimizer", lambda: EMA(Adam(generate(*other))), "learn_rate was"
    )


@pytest.mark.parametrize("schedule", ITERATORS.values(), ids=ITERATORS)
def test_wrapped_in_mid_training(schedule, tmp_path):
    """The draws before count too."""
    model, optimizer = make_small_model(), Adam(schedule())
    play(model, optimizer, ["all"] * 6)
    optimizer = EMA(optimizer, decay=0.9)
    play(model, optimizer, ["all"] * 7, 6)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other = EMA(Adam(schedule()), decay=0.9)
    load_optimizer(tmp_path / "optimizer", other, model)
    for _ in range(30):
        assert current_rate(other) == current_rate(optimizer)
        optimizer.step_schedules()
        other.step_schedules()


@pytest.mark.parametrize("kind", ["version-1-bare", "version-1-wrapped", "version-2-wrapped"])
def test_files_of_earlier_versions(kind, tmp_path):
    """They were written after seven steps with the functions of this module. Version 1 had no
    positions of generators and no checksums of arrays, version 2 no step counter."""
    line = "8.3" if Schedule is None else "9.1"
    path = TESTS / "data" / f"{kind}-thinc-{line}.safetensors"
    make = make_target if kind.endswith("wrapped") else lambda: Adam(decaying(0.1, 0.1))
    model, optimizer = make_small_model(), make()
    play(model, optimizer, ["all"] * 7)
    other = make()
    load_optimizer(path, other, model)
    other_model = make_small_model()
    other_model.from_bytes(model.to_bytes())
    save_optimizer(tmp_path / "optimizer", other, model)
    other = make()
    load_optimizer(tmp_path / "optimizer", other, other_model)
    play(model, optimizer, ["all"] * 9, 7)
    play(other_model, other, ["all"] * 9, 7)
    # The sum had another form, and annealing began at another rate, which is over here.
    ignored = {"0/_learn_rate/_rate_before"}
    states = [state_of(other, other_model), state_of(optimizer, model)]
    assert_same(*({n: v for n, v in state.items() if n not in ignored} for state in states))


@pytest.mark.parametrize(
    "events", [["all", 0, 1, 2, 3], [0, 1, 2, 3], ["all"], ["all", "step"], [0, 0, 0, "all"]]
)
def test_schedules_of_the_package_know_where_they_are(events, tmp_path):
    """Without a wrapper, and on Thinc 8.3 too: nothing has to be counted."""

    def make():
        return Adam(phases((6, 0.1), one_cycle(0.2, steps=9)), beta1=cosine(0.9, steps=50))

    model, optimizer = make_small_model(), make()
    play(model, optimizer, events * 4)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other = make()
    load_optimizer(tmp_path / "optimizer", other, model)
    twin = copy.deepcopy(model)
    keys = [keys_of(one) for one in (model, twin)]
    for number in range(20):
        for key, twin_key in zip(*keys, strict=True):
            weights, twin_weights = keys[0][key], keys[1][twin_key]
            gradient = numpy.random.RandomState(number).uniform(-1, 1, weights.shape)
            optimizer(key, weights, gradient.astype("f"))
            other(key, twin_weights, gradient.astype("f"))
            assert weights.tobytes() == twin_weights.tobytes()
        optimizer.step_schedules()
        other.step_schedules()


# Back to an earlier state


@pytest.mark.parametrize("wrap", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_roll_back(wrap, tmp_path):
    """Without schedules, an optimizer that has trained can go back."""
    model, optimizer = trained(lambda: wrap(Adam(0.1)), 3)
    content = model.to_bytes()
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    train(model, optimizer, 3, 12)
    expected = state_of(optimizer, model)
    model.from_bytes(content)
    load_optimizer(tmp_path / "optimizer", optimizer, model)
    train(model, optimizer, 3, 12)
    assert_same(state_of(optimizer, model), expected)


def test_roll_back_before_swa(tmp_path):
    """The learning rate goes back too."""
    model, optimizer = trained(lambda: SWA(Adam(0.1), start_step=5, learn_rate=0.01), 3)
    content = model.to_bytes()
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    train(model, optimizer, 3, 9)
    assert current_rate(optimizer) == 0.01
    expected = state_of(optimizer, model)
    model.from_bytes(content)
    load_optimizer(tmp_path / "optimizer", optimizer, model)
    assert current_rate(optimizer) == 0.1
    train(model, optimizer, 3, 9)
    assert_same(state_of(optimizer, model), expected)


SCHEDULED = {
    "schedule": lambda: Adam(warmup()),
    "list": lambda: SGD([0.1, 0.05, 0.02]),
    "beta1": lambda: Adam(0.1, beta1=decaying(0.9, 0.01)),
    "wrapped": lambda: EMA(Adam(warmup())),
    "SWA's own": lambda: SWA(Adam(0.1), start_step=1, learn_rate=decaying(0.05, 0.5)),
    "one_cycle": lambda: Adam(one_cycle(0.1, steps=9)),
    "SWA's own, phases": lambda: SWA(Adam(0.1), start_step=1, learn_rate=three_phases()),
    "a group's": lambda: ParamGroups(
        Adam(0.1), groups=[{"name": "all", "params": ["*"], "lr_scale": decaying(0.5, 0.5)}]
    ),
}


@pytest.mark.parametrize("make", SCHEDULED.values(), ids=SCHEDULED)
def test_schedules_cannot_go_back(make, tmp_path):
    model, optimizer = trained(make, 3)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    train(model, optimizer, 3, 4)
    with untouched(optimizer, model):
        with pytest.raises(ValueError, match="has been trained.*make a new one"):
            load_optimizer(tmp_path / "optimizer", optimizer, model)
    twin_model, twin = trained(make, 3)
    train(twin_model, twin, 3, 4)
    train(twin_model, twin, 4, 9)
    train(model, optimizer, 4, 9)
    assert_same(state_of(optimizer, model), state_of(twin, twin_model))


def trained(make_optimizer, n_steps=7, make=make_model):
    model, optimizer = make(), make_optimizer()
    train(model, optimizer, 0, n_steps)
    return model, optimizer


class untouched:
    """A context: in the end the optimizer and the model are what they were."""

    def __init__(self, optimizer, model):
        self.pair = optimizer, model

    def __enter__(self):
        self.before = state_of(*self.pair)

    def __exit__(self, *error):
        if error[0] is None:
            assert_same(state_of(*self.pair), self.before)


# Files that do not fit


def make_target():
    return SWA(Lookahead(Adam(warmup()), freq=3), start_step=4, freq=2, learn_rate=0.01)


OTHER_OPTIMIZERS = {
    "not wrapped": (lambda: Adam(warmup()), r"optimizers \['SWA', 'Lookahead', 'Optimizer'\]"),
    "one less": (lambda: SWA(Adam(warmup()), start_step=4), r"not \['SWA', 'Optimizer'\]"),
    "other order": (
        lambda: Lookahead(SWA(Adam(warmup()), start_step=4)),
        r"not \['Lookahead', 'SWA', 'Optimizer'\]",
    ),
    "other wrapper": (
        lambda: SWA(EMA(Adam(warmup())), start_step=4),
        r"not \['SWA', 'EMA', 'Optimizer'\]",
    ),
    "freq": (
        lambda: SWA(Lookahead(Adam(warmup()), freq=4), start_step=4, freq=3, learn_rate=0.01),
        r"freq of SWA was 2, and is 3\n- freq of Lookahead was 3, and is 4",
    ),
    "start_step": (
        lambda: SWA(Lookahead(Adam(warmup()), freq=3), start_step=5, freq=2, learn_rate=0.01),
        "start_step of SWA was 4, and is 5",
    ),
    "no learn_rate": (
        lambda: SWA(Lookahead(Adam(warmup()), freq=3), start_step=4, freq=2),
        "learn_rate of SWA was 0.01, and is None",
    ),
    "inner_state": (
        lambda: SWA(
            Lookahead(Adam(warmup()), freq=3, inner_state="pullback"),
            start_step=4,
            freq=2,
            learn_rate=0.01,
        ),
        "inner_state of Lookahead was keep, and is pullback",
    ),
    "RAdam": (
        lambda: SWA(Lookahead(RAdam(warmup()), freq=3), start_step=4, freq=2, learn_rate=0.01),
        "use_radam of Optimizer was False, and is True",
    ),
    "a schedule more": (
        lambda: SWA(
            Lookahead(Adam(warmup(), L2=[0.1, 0.2]), freq=3),
            start_step=4,
            freq=2,
            learn_rate=0.01,
        ),
        "L2",
    ),
}


def test_another_rate_of_swas_own(tmp_path):
    def swa(*rates):
        return SWA(Adam(0.1), start_step=2, learn_rate=list(rates))

    model, optimizer = trained(lambda: swa(0.05, 0.04), 4)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    message = r"learn_rate of SWA was \[0.05, 0.04\], and is \[0.05, 0.03\]"
    assert_refused(tmp_path / "optimizer", lambda: swa(0.05, 0.03), message)
    if Schedule is not None:
        from thinc.api import decaying

        def decaying_swa(decay):
            return SWA(Adam(0.1), start_step=2, learn_rate=decaying(0.05, decay))

        model, optimizer = trained(lambda: decaying_swa(0.5), 4)
        save_optimizer(tmp_path / "optimizer", optimizer, model)
        assert_refused(tmp_path / "optimizer", lambda: decaying_swa(0.6), "'decay': 0.6")


@pytest.mark.parametrize("n_steps", [2, 7])
@pytest.mark.parametrize("make, message", OTHER_OPTIMIZERS.values(), ids=OTHER_OPTIMIZERS)
def test_other_optimizers(make, message, n_steps, tmp_path):
    model, optimizer = trained(make_target, n_steps)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert_refused(tmp_path / "optimizer", make, message)


BARE = {
    "use_averages": (
        lambda: SGD(0.1),
        lambda: SGD(0.1, use_averages=False),
        "use_averages was",
    ),
    "no use_averages": (
        lambda: SGD(0.1, use_averages=False),
        lambda: SGD(0.1),
        "use_averages was False, and is True",
    ),
    "a schedule": (lambda: Adam(0.1), lambda: Adam(warmup()), "learn_rate"),
    "no schedule": (lambda: Adam(warmup()), lambda: Adam(0.1), "learn_rate"),
    "other list": (lambda: Adam([0.1, 0.2, 0.3]), lambda: Adam([0.4, 0.2, 0.1]), "learn_rate"),
    "other list, wrapped": (
        lambda: EMA(Adam([0.1, 0.2, 0.3])),
        lambda: EMA(Adam([0.3, 0.2, 0.1])),
        "learn_rate",
    ),
    "other schedule": (
        lambda: Adam(warmup()),
        lambda: Adam(warmup_linear(0.1, 4, 40)),
        "learn_rate",
    ),
    "other kind": (lambda: Adam(warmup()), lambda: Adam(decaying(0.1, 0.1)), "learn_rate"),
    "one_cycle": (
        lambda: Adam(one_cycle(0.1, steps=9)),
        lambda: Adam(one_cycle(0.2, steps=9)),
        "learn_rate was .*'max_rate': 0.1, .*, and is .*'max_rate': 0.2",
    ),
    "within phases": (
        lambda: Adam(0.1, beta1=three_phases(0.1)),
        lambda: Adam(0.1, beta1=three_phases(0.2)),
        "b1 was .*'max_rate': 0.1, .*, and is .*'max_rate': 0.2",
    ),
    "lengths of phases": (
        lambda: Adam(three_phases(steps=3)),
        lambda: Adam(three_phases(steps=2)),
        r"learn_rate was .*\[3, None\].*, and is .*\[2, None\]",
    ),
    "Thinc's schedule within phases": (
        lambda: Adam(phases((5, 0.1), decaying(0.1, 0.1))),
        lambda: Adam(phases((5, 0.1), decaying(0.1, 0.2))),
        "learn_rate",
    ),
    "list within phases": (
        lambda: Adam(phases((9, [0.1, 0.2]), 0.1)),
        lambda: Adam(phases((9, [0.1, 0.3]), 0.1)),
        r"learn_rate was .*\[0.1, 0.2\].*, and is .*\[0.1, 0.3\]",
    ),
    "from the package to Thinc": (
        lambda: Adam(one_cycle(0.1, steps=9)),
        lambda: Adam(warmup()),
        "learn_rate was .*'one_cycle'",
    ),
    "from Thinc to the package": (
        lambda: Adam(warmup()),
        lambda: Adam(one_cycle(0.1, steps=9)),
        "learn_rate was .*, and is .*'one_cycle'",
    ),
    "SWA's own, phases": (
        lambda: SWA(Adam(0.1), start_step=2, learn_rate=three_phases(0.1)),
        lambda: SWA(Adam(0.1), start_step=2, learn_rate=three_phases(0.2)),
        "learn_rate of SWA was .*'max_rate': 0.1, .*, and is .*'max_rate': 0.2",
    ),
    "generator, wrapped": (
        lambda: EMA(Adam(generate(0.1, 0.2, 0.3))),
        lambda: EMA(Adam(generate(0.1, 0.2, 0.4))),
        "learn_rate was",
    ),
    "generator within phases": (
        lambda: Adam(phases((3, 0.1), generate(0.1, 0.2, 0.3))),
        lambda: Adam(phases((3, 0.1), generate(0.1, 0.2, 0.4))),
        "learn_rate",
    ),
    "L2, a schedule": (
        lambda: Adam(0.1, L2=0.5),
        lambda: Adam(0.1, L2=decaying(0.1, 0.1)),
        "L2",
    ),
    "L2 is weight decay": (
        lambda: Adam(0.1),
        lambda: Adam(0.1, L2_is_weight_decay=False),
        "L2_is_weight_decay of Optimizer was True, and is False",
    ),
}


@pytest.mark.parametrize("make, make_other, message", BARE.values(), ids=BARE)
def test_other_thinc_optimizers(make, make_other, message, tmp_path):
    model, optimizer = trained(make)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert_refused(tmp_path / "optimizer", make_other, message)


NUMBERS = {
    "learn_rate": 0.05,
    "L2": 0.5,
    "beta1": 0.8,
    "beta2": 0.9,
    "eps": 0.1,
    "grad_clip": 0.5,
}


@pytest.mark.parametrize("wrap", [lambda o: o, OPTIMIZERS["EMA"]], ids=["bare", "wrapped"])
@pytest.mark.parametrize("when", ["made", "set by hand"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_the_file(name, when, wrap, tmp_path):
    """The same rule for all hyperparameters, whether the optimizer was made with other ones or
    they were changed in mid-training."""
    attribute = {"beta1": "b1", "beta2": "b2"}.get(name, name)
    changed = {"learn_rate": 0.1, name: NUMBERS[name]}
    model = make_small_model()
    if when == "made":
        optimizer = wrap(Adam(**changed))
        play(model, optimizer, ["all"] * 5)
    else:
        optimizer = wrap(Adam(0.1))
        play(model, optimizer, ["all"] * 3)
        number = NUMBERS[name]
        setattr(optimizer, attribute, number if Schedule is None else constant(number))
        play(model, optimizer, ["all"] * 2, 3)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other_model, other = make_small_model(), wrap(Adam(0.1))
    other_model.from_bytes(model.to_bytes())
    with pytest.warns(
        UserWarning, match=f"those of the file: {attribute} = {NUMBERS[name]}, not"
    ):
        load_optimizer(tmp_path / "optimizer", other, other_model)
    play(model, optimizer, ["all"] * 5, 5)
    play(other_model, other, ["all"] * 5, 5)
    assert_same(state_of(other, other_model), state_of(optimizer, model))


def test_a_rate_that_swa_has_not_replaced_yet_is_the_files(tmp_path):
    model, optimizer = trained(lambda: SWA(Adam(0.1), start_step=10, learn_rate=0.3), 2)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other = SWA(Adam(0.2), start_step=10, learn_rate=0.3)
    with pytest.warns(UserWarning, match="those of the file: learn_rate = 0.1, not 0.2"):
        load_optimizer(tmp_path / "optimizer", other, model)
    assert current_rate(other) == 0.1


@pytest.mark.parametrize("name", ["decaying", "warmup_linear", "ours", "phases", "generator"])
def test_a_rate_set_by_hand_over_a_schedule(name, tmp_path):
    """It is in force until the next step, on Thinc 9.1 for good: other kinds do not fit."""

    def make():
        if name == "generator":
            return EMA(Adam(generate(0.1, 0.2, 0.25, 0.35, 0.1, 0.2)))
        schedules = {
            "decaying": lambda: decaying(0.1, 0.5),
            "warmup_linear": lambda: warmup_linear(0.1, 5, 20),
            "ours": lambda: cosine(0.1, steps=9),
            "phases": lambda: phases((2, generate(0.2, 0.3)), three_phases()),
        }
        return Adam(schedules[name]())

    model, optimizer = make_small_model(), make()
    play(model, optimizer, ["all"] * 3)
    optimizer.learn_rate = 0.3 if Schedule is None else constant(0.3)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    other_model, other = make_small_model(), make()
    other_model.from_bytes(model.to_bytes())
    if Schedule is not None:
        with pytest.raises(ValueError, match="learn_rate was 0.3, and is .*schedule"):
            load_optimizer(tmp_path / "optimizer", other, other_model)
        return
    load_optimizer(tmp_path / "optimizer", other, other_model)
    play(model, optimizer, ["all"] * 5, 5)
    play(other_model, other, ["all"] * 5, 5)
    for key, other_key in zip(keys_of(model), keys_of(other_model), strict=True):
        numpy.testing.assert_array_equal(keys_of(model)[key], keys_of(other_model)[other_key])
    assert current_rate(other) == current_rate(optimizer)


MODELS = {
    "missing": (
        lambda: chain(Relu(6, 5), Softmax(3, 6)),
        lambda: chain(Relu(6, 5), Relu(6, 6), Softmax(3, 6)),
        "it has nothing about the parameter 3/W\n- it has nothing about the parameter 3/b",
    ),
    "extra": (
        lambda: chain(Relu(6, 5), Relu(6, 6), Softmax(3, 6)),
        lambda: chain(Relu(6, 5), Softmax(3, 6)),
        "the shape of 2/W was .6, 6., and is .3, 6.(.|\n)*the model has no parameter 3/W\n"
        "- the model has no parameter 3/b",
    ),
    "renamed": (
        lambda: make_named("V", "b"),
        lambda: make_named("W", "b"),
        "the model has no parameter 0/V\n- it has nothing about the parameter 0/W$",
    ),
    "resized": (
        lambda: chain(Relu(6, 5), Softmax(3, 6)),
        lambda: chain(Relu(7, 5), Softmax(3, 7)),
        r"the shape of 1/W was \[6, 5\], and is \[7, 5\]\n"
        r"- the shape of 1/b was \[6\], and is \[7\]\n"
        r"- the shape of 2/W was \[3, 6\], and is \[3, 7\]",
    ),
}


def make_named(*names):
    """A model with parameters of these names."""
    parameters = {name: numpy.ones((3,), dtype="f") for name in names}
    return Model("named", lambda model, X, is_train: (X, lambda dY: dY), params=parameters)


@pytest.mark.parametrize("make, make_other, message", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("n_steps", [0, 1])
def test_other_models(make, make_other, message, n_steps, tmp_path):
    model, optimizer = make().initialize(), make_target()
    for key, weights in keys_of(model).items() if n_steps else ():
        optimizer(key, weights, numpy.ones_like(weights))
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert_refused(
        tmp_path / "optimizer", make_target, message, lambda: make_other().initialize()
    )


def test_state_of_another_model_is_not_saved(tmp_path):
    _, optimizer = trained(make_target)
    with pytest.raises(ValueError, match="10 parameters that are not in the model"):
        save_optimizer(tmp_path / "optimizer", optimizer, make_model())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [save_optimizer, load_optimizer])
def test_wrong_types(function, tmp_path):
    model, optimizer = trained(make_target)
    path = tmp_path / "optimizer"
    save_optimizer(path, optimizer, model)
    content = path.read_bytes()
    with pytest.raises(TypeError, match="Not a Thinc Optimizer: dict"):
        function(path, {}, model)
    with pytest.raises(TypeError, match="Not a Thinc Model or a spaCy Language: dict"):
        function(path, optimizer, {})
    assert path.read_bytes() == content


def assert_refused(path, make_optimizer, message, make=make_model, error=ValueError):
    """One clear error. The optimizer is what it was, and its schedules are where they were;
    there is no new file, and the old one stays."""
    optimizer, twin = make_optimizer(), make_optimizer()
    model, twin_model = make(), make()
    twin_model.from_bytes(model.to_bytes())
    names = sorted(path.parent.iterdir())
    content = path.read_bytes() if path.is_file() else None
    with untouched(optimizer, model):
        with pytest.raises(error, match=message) as caught:
            load_optimizer(path, optimizer, model)
    assert_clear(caught.value, path)
    assert sorted(path.parent.iterdir()) == names
    assert content is None or path.read_bytes() == content
    for one_model, one in ((model, optimizer), (twin_model, twin)):
        for number in range(9):
            for key, weights in keys_of(one_model).items():
                one(key, weights, numpy.full_like(weights, 0.1 * number))
            one.step_schedules()
    assert_same(state_of(optimizer, model), state_of(twin, twin_model))


def assert_clear(error, path):
    assert type(error) is ValueError or isinstance(error, OSError), repr(error)
    assert path.name in str(error) or "position of the schedules" in str(error)
    # No second traceback, from inside safetensors.
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)


# The format


def test_arrays_are_written_as_safetensors_reads_them(tmp_path):
    shapes = {"scalar": (), "empty": (0, 3), "odd": (5,), "matrix": (3, 7)}
    arrays = {
        f"{dtype} {name} \u00fc": (numpy.arange(21)[: math.prod(shape)] % 2)
        .astype(dtype)
        .reshape(shape)
        for dtype in DTYPES.values()
        for name, shape in shapes.items()
    }
    path = tmp_path / "arrays"
    with path.open("wb") as file:
        write_arrays(file, arrays, {"format": "a \u00fc"})
    found = safetensors.numpy.load_file(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    with safetensors.safe_open(path, framework="numpy") as opened:
        assert opened.metadata() == {"format": "a \u00fc"}


def test_no_arrays(tmp_path):
    with (tmp_path / "arrays").open("wb") as file:
        write_arrays(file, {})
    assert safetensors.numpy.load_file(tmp_path / "arrays") == {}


# Damaged files


@pytest.fixture(scope="module")
def saved():
    """A file that is all right, and the length of its header."""
    model, optimizer = trained(make_target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimizer")
        save_optimizer(path, optimizer, model)
        content = path.read_bytes()
    return content, 8 + int.from_bytes(content[:8], "little")


def read_file(content):
    """The two parts of a header: safetensors' own and the optimizer's."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["state"])


def forge(content, *, metadata=None, state=None, tensors=None):
    """Change a file so that only its meaning is wrong, not its form."""
    header, old_state = read_file(content)
    data = content[8 + int.from_bytes(content[:8], "little") :]
    if state:
        state(old_state)
        text = json.dumps(old_state)
        checksum = hashlib.sha256(text.encode("utf8")).hexdigest()
        header["__metadata__"].update(state=text, checksum=checksum)
    header["__metadata__"].update(metadata or {})
    if tensors:
        tensors(header)
    encoded = json.dumps(header).encode("utf8")
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def other_safetensors(content):
    return safetensors.numpy.save({"W": numpy.ones((3, 3), dtype="f")})


def rename_array(header):
    name = next(name for name in header if name != "__metadata__")
    header["x" + name] = header.pop(name)


def retype_array(header):
    next(part for name, part in header.items() if name != "__metadata__")["dtype"] = "I32"


def swap_arrays(header):
    """Two arrays of one size, with different shapes."""
    names = [name for name in header if name.endswith(("mom1/1/W", "slow/1/W"))]
    assert len(names) == 2
    header[names[0]], header[names[1]] = header[names[1]], header[names[0]]


def lie_about_shapes(header):
    for part in header.values():
        if "shape" in part:
            part["shape"] = [2**40]
            part["data_offsets"] = [0, 2**42]


NOT_OURS = {
    "empty": (lambda content: b"", "damaged or is no file of safetensors"),
    "random": (lambda content: random.Random(0).randbytes(5000), "damaged or is no file"),
    "text": (lambda content: b"[training.optimizer]\n" * 99, "damaged or is no file"),
    "pickle": (lambda content: pickle.dumps([Bomb()] * 9), "damaged or is no file"),
    "zeros": (lambda content: bytes(5000), "damaged or is no file"),
    "other safetensors": (other_safetensors, "does not hold an optimizer's state: save_optim"),
    "no metadata": (
        lambda content: forge(content, tensors=lambda header: header.pop("__metadata__")),
        "does not hold an optimizer's state",
    ),
    "newer": (
        lambda content: forge(content, metadata={"version": "4"}),
        "version 4 of the format.*reads version 3: install",
    ),
    "older": (
        lambda content: forge(content, metadata={"version": "0"}),
        "version 0 of the format",
    ),
    "other Thinc": (
        lambda content: forge(
            content,
            state=lambda state: (
                state.update(thinc="7.0"),
                state["optimizers"][-1]["state"].update(new=1),
            ),
        ),
        "from Thinc 7.0, not",
    ),
    "checksum": (
        lambda content: forge(content, metadata={"checksum": "0" * 64}),
        "header does not match its checksum",
    ),
    "an array's name": (
        lambda content: forge(content, tensors=rename_array),
        "arrays are not those of its header",
    ),
    "an array's type": (
        lambda content: forge(content, tensors=retype_array),
        "arrays are not those of its header",
    ),
    "an array's shape": (
        lambda content: forge(content, tensors=swap_arrays),
        "arrays are not those of its header",
    ),
    "huge arrays": (
        lambda content: forge(content, tensors=lie_about_shapes),
        "damaged or is no file",
    ),
    "more at the end": (lambda content: content + b"0", "damaged or is no file"),
    "one array less": (lambda content: content[:-4], "damaged or is no file"),
}
for _length in (0, 7, 8, 9, 10**3, 99_999_999, 10**8 + 1, 2**40, 2**63 - 1, 2**64 - 1):
    NOT_OURS[f"header of {_length}"] = (
        lambda content, length=_length: length.to_bytes(8, "little") + content[8:],
        "damaged or is no file",
    )


@pytest.mark.parametrize("damage, message", NOT_OURS.values(), ids=NOT_OURS)
def test_files_of_something_else(damage, message, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "optimizer"
    path.write_bytes(damage(saved[0]))
    assert_refused(path, make_target, message)
    assert_refused_by_trained(path, message)
    assert list(tmp_path.iterdir()) == [path]


def assert_refused_by_trained(path, message):
    model, optimizer = trained(make_target)
    with untouched(optimizer, model), pytest.raises(ValueError, match=message):
        load_optimizer(path, optimizer, model)


def test_truncated(saved, tmp_path):
    """At every class of lengths: within the length of the header, the header, the arrays."""
    content, start = saved
    lengths = {
        *range(0, 12),
        *range(start - 3, start + 9),
        *range(len(content) - 9, len(content)),
    }
    lengths.update(range(12, len(content), 131))
    model, optimizer = trained(make_target)
    path = tmp_path / "optimizer"
    with untouched(optimizer, model):
        for length in lengths:
            path.write_bytes(content[:length])
            with pytest.raises(
                ValueError, match="damaged or is no file of safetensors"
            ) as error:
                load_optimizer(path, optimizer, model)
            assert_clear(error.value, path)
    path.write_bytes(content)
    load_optimizer(path, make_target(), model)


@pytest.mark.parametrize("bit", [0, 3, 5])
def test_flipped_in_the_header(saved, bit, tmp_path):
    content, start = saved
    model, optimizer = trained(make_target)
    path = tmp_path / "optimizer"
    with untouched(optimizer, model):
        for position in range(bit, start, 13):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(ValueError) as caught:
                load_optimizer(path, optimizer, model)
            assert_clear(caught.value, path)
            assert (
                "damaged" in str(caught.value)
                or "the format" in str(caught.value)
                or ("does not hold" in str(caught.value))
            ), position


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_anywhere(saved, seed, tmp_path):
    """One bit of the whole file: refused, or there is no difference in what it means."""
    content, start = saved
    model, optimizer = trained(make_target)
    path = tmp_path / "optimizer"
    generator = random.Random(seed)
    n_refused = 0
    with untouched(optimizer, model):
        for number in range(400):
            # Half of them in the arrays.
            first, last = (start, len(content)) if number % 2 else (0, start)
            flipped = bytearray(content)
            flipped[generator.randrange(first, last)] ^= 1 << generator.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(ValueError) as caught:
                load_optimizer(path, optimizer, model)
            assert_clear(caught.value, path)
            n_refused += "does not match its checksum" in str(caught.value)
    assert n_refused >= 200


def test_a_damaged_array_is_named(saved, tmp_path):
    content, start = saved
    header, _ = read_file(content)
    path = tmp_path / "optimizer"
    places = {n: place["data_offsets"] for n, place in header.items() if n != "__metadata__"}
    assert len(places) > 9
    for name, (first, last) in places.items():
        for position in (first, last - 1):
            damaged = bytearray(content)
            damaged[start + position] ^= 128
            path.write_bytes(damaged)
            message = f"damaged: the array {re.escape(name)} does not match its checksum"
            assert_refused(path, make_target, message)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 513, 2**18, 2**18 + 1, 2**20 - 3])
def test_checksums_at_the_edges_of_rows_and_pieces(size, tmp_path):
    """The same when an array is written at once and read in pieces, and no byte is left out."""
    array = numpy.random.RandomState(size).uniform(-1, 1, size).astype("f")
    path = tmp_path / "file"
    write_state(path, {"a": 1}, {"x": array, "y": array[: size // 2]})
    content = path.read_bytes()
    with path.open("rb", buffering=0) as file:
        reader = StateReader(path, file)
        assert reader.header["a"] == 1
        read = reader.read_arrays()
    numpy.testing.assert_array_equal(read["x"], array)
    numpy.testing.assert_array_equal(read["y"], array[: size // 2])
    start = content.index(array.tobytes())
    rows = {0, 1, 2047, 2048, 2**20 - 1, 2**20, 4 * size - 1}
    for position in sorted(row for row in rows if row < 4 * size):
        damaged = bytearray(content)
        damaged[start + position] ^= 1
        path.write_bytes(damaged)
        with path.open("rb", buffering=0) as file:
            with pytest.raises(ValueError, match="array x does not match"):
                StateReader(path, file).read_arrays()


@pytest.mark.parametrize("size", [600, 4096])
def test_rows_that_are_swapped_or_zero_are_found(size, tmp_path):
    array = numpy.random.RandomState(0).uniform(-1, 1, (size, 512)).astype("f")
    path = tmp_path / "file"
    write_state(path, {}, {"x": array})
    content = path.read_bytes()
    start = content.index(array.tobytes())
    for other in (array[::-1], numpy.zeros_like(array), numpy.roll(array, 1)):
        path.write_bytes(content[:start] + numpy.ascontiguousarray(other).tobytes())
        with path.open("rb", buffering=0) as file:
            with pytest.raises(ValueError, match="array x does not match"):
                StateReader(path, file).read_arrays()


def places_in(value, path=()):
    """All places in a JSON value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in parts:
        if isinstance(part, (dict, list)):
            yield from places_in(part, (*path, name))
        else:
            yield (*path, name)


FORGERIES = [None, True, 0, -1, 5, 0.5, "x", [], {}, [1, 2], {"x": 1}, {"arrays": {"0/W": "x"}}]


def alter(state, generator):
    """Change, remove, rename, or add one thing."""
    *path, name = generator.choice([place for place in places_in(state) if place])
    parent = state
    for part in path:
        parent = parent[part]
    kind = generator.choice(["replace", "replace", "remove", "rename", "add"])
    if kind == "replace" or (isinstance(parent, list) and kind != "remove"):
        parent[name] = copy.deepcopy(generator.choice(FORGERIES))
    elif kind == "remove":
        del parent[name]
    elif kind == "rename":
        parent[f"x{name}"] = parent.pop(name)
    else:
        parent["x"] = copy.deepcopy(generator.choice(FORGERIES))


def make_forged_targets():
    """Optimizers with all that can be in a header."""
    return {
        "wrapped": make_target,
        "groups": lambda: ParamGroups(
            RAdam(decaying(0.1, 0.1), beta1=[0.9, 0.8]),
            groups=[
                {"name": "b", "params": ["b"], "lr_scale": decaying(0.5, 0.5), "beta1": 0.8}
            ],
        ),
        "phases": lambda: EMA(Adam(phases((3, generate(0.1, 0.2)), cosine(0.1, steps=9)))),
        "bare": lambda: Adam(constant_then(0.1, 3, warmup_linear(0.1, 3, 40)), L2=0.1),
    }


@pytest.mark.parametrize("name", make_forged_targets())
def test_altered_headers_with_a_right_checksum(name, tmp_path):
    """Refused with the optimizer as it was, or loaded without an error: never in between."""
    make = make_forged_targets()[name]
    model, optimizer = trained(make)
    path = tmp_path / "optimizer"
    save_optimizer(path, optimizer, model)
    content = path.read_bytes()
    generator = random.Random(0)
    other, n_refused = make(), 0
    before = state_of(other, model)
    for _ in range(400):
        path.write_bytes(forge(content, state=lambda state: alter(state, generator)))
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
def test_a_forged_value_in_place_of_none_changes_nothing(value, tmp_path):
    def change(state):
        saved = state["optimizers"][0]["state"]
        assert saved["_learn_rate"] is None
        saved["_learn_rate"] = value

    def make():
        return SWA(Adam(0.1), start_step=5)

    model, optimizer = trained(make)
    path = tmp_path / "optimizer"
    save_optimizer(path, optimizer, model)
    path.write_bytes(forge(path.read_bytes(), state=change))
    model, optimizer = trained(make)
    with untouched(optimizer, model):
        with pytest.raises(ValueError, match="_learn_rate has another form"):
            load_optimizer(path, optimizer, model)


def test_values_that_are_none_in_one_of_the_two_are_loaded(tmp_path):
    """The rate that annealing begins with is there only before the start."""
    model = make_model()
    saved, other = (SWA(Adam(0.1), start_step=5, learn_rate=0.01) for _ in range(2))
    train(model, saved, 0, 8)
    train(model, other, 0, 3)
    assert saved._learn_rate.rate_used is None and other._learn_rate.rate_used == 0.1
    save_optimizer(tmp_path / "optimizer", saved, model)
    load_optimizer(tmp_path / "optimizer", other, model)
    assert_same(state_of(other, model), state_of(saved, model))


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "truncate", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.booleans(),
        st.binary(min_size=1, max_size=9),
    ),
    min_size=1,
    max_size=3,
)


def mutate(content, start, mutations):
    for kind, place, is_header, data in mutations:
        content = bytes(content)
        position = int(place * (min(start, len(content)) if is_header else len(content)))
        end = position + len(data)
        if kind == "flip" and position < len(content):
            flipped = bytearray(content)
            flipped[position] ^= data[0] or 1
            content = bytes(flipped)
        elif kind == "insert":
            content = content[:position] + data + content[position:]
        elif kind == "delete":
            content = content[:position] + content[end:]
        elif kind == "truncate":
            content = content[:position]
        elif kind == "repeat":
            content = content[:position] + content[position:end] * 2 + content[end:]
    return content


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mutations=MUTATIONS)
def test_fuzz(saved, tmp_path, mutations):
    """Whatever is done to a file: it is loaded as it was, or refused."""
    content, start = saved
    path = tmp_path / "optimizer"
    mutated = mutate(content, start, mutations)
    path.write_bytes(mutated)
    model, optimizer = make_model(), make_target()
    before = state_of(optimizer, model)
    try:
        load_optimizer(path, optimizer, model)
    except (ValueError, OSError) as error:
        assert_clear(error, path)
        assert_same(state_of(optimizer, model), before)
    else:
        assert len(mutated) == len(content) and mutated[start:] == content[start:]
        assert read_file(mutated) == read_file(content)


# Files and folders


def test_missing_file_and_folder(tmp_path):
    model, optimizer = trained(make_target)
    for path in (tmp_path / "none", tmp_path / "no folder" / "none"):
        with untouched(optimizer, model), pytest.raises(FileNotFoundError) as caught:
            load_optimizer(path, optimizer, model)
        assert_clear(caught.value, path)
    with pytest.raises(OSError, match="none"):
        save_optimizer(tmp_path / "no folder" / "none", optimizer, model)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_its_place(tmp_path):
    model, optimizer = trained(make_target)
    path = tmp_path / "optimizer"
    path.mkdir()
    with untouched(optimizer, model):
        for function in (save_optimizer, load_optimizer):
            with pytest.raises(OSError, match="optimizer"):
                function(path, optimizer, model)
    assert list(tmp_path.iterdir()) == [path] and list(path.iterdir()) == []


@pytest.mark.parametrize("as_path", [str, Path])
def test_paths(as_path, tmp_path, monkeypatch):
    """Strings, relative paths, and an older file."""
    model, optimizer = trained(make_target)
    monkeypatch.chdir(tmp_path)
    Path("optimizer").write_text("older")
    save_optimizer(as_path("optimizer"), optimizer, model)
    load_optimizer(as_path("optimizer"), make_target(), model)
    assert os.listdir() == ["optimizer"]


def test_interrupted(tmp_path, monkeypatch):
    """By Control-C, when all is written but the file has not its name yet."""
    model, optimizer = trained(make_target)
    path = tmp_path / "optimizer"
    path.write_text("older")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_optimizer(path, optimizer, model)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    """So that a power cut leaves no empty file under the name, and then the folder, so that the
    new name is there."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(descriptor):
        is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        calls.append("folder" if is_folder else "file")
        fsync(descriptor)

    def watch_replace(*paths):
        calls.append("replace")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    model, optimizer = trained(make_target)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    if sys.platform == "linux":
        assert calls == ["file", "replace", "folder"]


needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


def try_without_permission(folder):
    """Root may do everything, so somebody else tries."""
    folder = Path(folder)
    model, optimizer = trained(make_target)
    save_optimizer(folder / "optimizer", optimizer, model)
    (folder / "optimizer").chmod(0)
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    with untouched(optimizer, model):
        for function in (load_optimizer, save_optimizer):
            with pytest.raises(OSError, match="ermission denied") as caught:
                function(folder / "optimizer", optimizer, model)
            assert_clear(caught.value, folder / "optimizer")
    assert os.listdir(folder) == ["optimizer"]
    os.seteuid(os.getuid())
    folder.chmod(0o755)
    (folder / "optimizer").chmod(0o644)
    load_optimizer(folder / "optimizer", make_target(), model)
    print("denied")


@needs_posix
def test_without_permission():
    # Not below pytest's own folder, where nobody else may even look.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        assert run(try_without_permission, folder) == "denied\n"


def try_with_a_full_disk(folder):
    """A limit to the size of files is as good as a full disk."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = Path(folder, "optimizer")
    model, optimizer = trained(make_target)
    save_optimizer(path, optimizer, model)
    content = path.read_bytes()
    train(model, optimizer, 7, 9)
    refused = []
    for limit in (0, 5, 100, len(content) // 2, len(content) - 1, len(content) + 10**6):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with untouched(optimizer, model):
            try:
                save_optimizer(path, optimizer, model)
            except OSError as error:
                assert_clear(error, path)
                refused.append(limit)
                assert path.read_bytes() == content
        assert os.listdir(folder) == ["optimizer"]
    assert len(refused) == 5 and path.read_bytes() != content
    print("full")


@needs_posix
def test_full_disk(tmp_path):
    assert run(try_with_a_full_disk, tmp_path) == "full\n"


def try_headers_that_lie(folder):
    """In little memory."""
    import resource

    model, optimizer = trained(make_target)
    path = Path(folder, "optimizer")
    save_optimizer(path, optimizer, model)
    content = path.read_bytes()
    load_optimizer(path, make_target(), model)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**26
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    names = [name for name in NOT_OURS if name.startswith(("header of", "huge"))]
    assert len(names) > 9
    for name in names:
        path.write_bytes(NOT_OURS[name][0](content))
        with pytest.raises(ValueError, match="damaged or is no file"):
            load_optimizer(path, optimizer, model)
    # So it is enough for a file that is right.
    path.write_bytes(content)
    load_optimizer(path, make_target(), model)
    with pytest.raises(MemoryError):
        bytearray(2**27)
    print("refused")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_headers_that_lie_cost_no_memory(tmp_path):
    assert run(try_headers_that_lie, tmp_path) == "refused\n"


# Killed


def set_version(optimizer, version):
    for moments in (optimizer.mom1, optimizer.mom2, optimizer.averages):
        for array in moments.values():
            array[...] = version
    for key in optimizer.nr_update:
        optimizer.nr_update[key] = version


def versions_in(optimizer):
    arrays = [*optimizer.mom1.values(), *optimizer.mom2.values(), *optimizer.averages.values()]
    return {float(x) for array in arrays for x in numpy.unique(array)}.union(
        map(float, optimizer.nr_update.values())
    )


def save_and_be_killed(folder, n_rounds):
    """Each round, a child saves one version after the other over the same file, until it is
    killed at a random moment. Then the file is loaded."""
    chooser = random.Random(0)
    path = Path(folder, "optimizer")
    model = chain(Linear(200, 300), Linear(100, 200)).initialize()
    optimizer = Adam(0.1)
    for key, weights in keys_of(model).items():
        optimizer(key, weights, numpy.ones_like(weights))
    set_version(optimizer, 1)
    started = time.perf_counter()
    for _ in range(5):
        save_optimizer(path, optimizer, model)
    duration = (time.perf_counter() - started) / 5
    found, n_temporaries = [], 0
    for number in range(1, int(n_rounds) + 1):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            for version in itertools.count(1000 * number):
                set_version(optimizer, version)
                save_optimizer(path, optimizer, model)
                os.write(writer, b".")
        os.close(writer)
        for _ in range(chooser.randint(0, 2)):
            os.read(reader, 1)
        time.sleep(chooser.uniform(0, 1.5 * duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        loaded = Adam(0.1)
        load_optimizer(path, loaded, model)
        (version,) = versions_in(loaded)
        found.append(version)
        for temporary in set(os.listdir(folder)) - {"optimizer"}:
            n_temporaries += 1
            Path(folder, temporary).unlink()
    print(json.dumps([found, n_temporaries]))


@needs_posix
def test_killed_while_saving(tmp_path):
    found, n_temporaries = json.loads(run(save_and_be_killed, tmp_path, 100))
    assert len(found) == 100 and found == sorted(found)
    assert found[-1] >= 50_000
    # Many of them were in the middle of it.
    assert len(set(found)) > 20 and n_temporaries > 20


# What is in a file


def test_the_header_is_for_people(saved):
    header, state = read_file(saved[0])
    assert header["__metadata__"]["format"] == "thinc_swa optimizer state"
    swa, lookahead, adam = state["optimizers"]
    assert (swa["class"], lookahead["class"]) == ("SWA", "Lookahead")
    assert swa["arguments"] == {"start_step": 4, "freq": 2, "learn_rate": 0.01}
    assert swa["state"]["_steps"]["n_steps"] == 7
    assert swa["state"]["_average"]["n_averaged"] == 2
    assert set(adam["state"]["nr_update"]["by parameter"].values()) == {7}
    names = list(state["parameters"])
    assert names == list(adam["state"]["nr_update"]["by parameter"])
    assert all(name.split("/")[0].isdigit() for name in names)
    assert state["parameters"][names[0]] in ([6, 5], [6])


def test_a_file_is_a_header_and_arrays(tmp_path):
    """And nothing else: every byte of it is known."""
    model, optimizer = trained(lambda: Adam(0.1))
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    content = (tmp_path / "optimizer").read_bytes()
    header, _ = read_file(content)
    data = io.BytesIO(content[8 + int.from_bytes(content[:8], "little") :])
    expected = {
        array.tobytes()
        for arrays in (optimizer.mom1, optimizer.mom2, optimizer.averages)
        for array in arrays.values()
    }
    parts = sorted(part["data_offsets"] for name, part in header.items() if name[0] != "_")
    assert {data.read(end - start) for start, end in parts} == expected
    assert data.read() == b"" and len(parts) == 3 * len(keys_of(model))


def test_files_know_no_ids(tmp_path):
    """Two trainings of equal models write the same, whatever their ids are."""
    headers, keys = [], []
    for _ in range(2):
        model, optimizer = trained(make_target)
        save_optimizer(tmp_path / "optimizer", optimizer, model)
        headers.append(read_file((tmp_path / "optimizer").read_bytes()))
        keys.append(set(keys_of(model)))
    assert headers[0] == headers[1] and not keys[0] & keys[1]
