"""Trainings to save, resume and compare: an optimizer, a model and a training loop each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import pytest
import small_models
from helpers import require
from optimizer_states import X, Y, make_examples, make_pipeline
from thinc.api import (
    SGD,
    Adam,
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
    one_cycle,
    one_cycle_momentum,
    phases,
    register_parameter_paths,
    swa_anneal,
)
from thinc_swa.schedules.compat import Schedule


def make_model():
    """A small model with fixed initial weights."""
    fix_random_seed(0)
    return small_models.make_model()


def train(model, optimizer, start, stop, is_stepped=True, scores=None):
    """Run the steps start + 1 to stop of a training, each with other data."""
    for step in range(start, stop):
        inputs = X + numpy.random.RandomState(step).uniform(-1, 1, X.shape).astype("f")
        predicted, backprop = model.begin_update(inputs)
        backprop((predicted - Y) / len(Y))
        model.finish_update(optimizer)
        if is_stepped:
            optimizer.step_schedules()
        if scores:
            optimizer.last_score = scores[step]


class Case(NamedTuple):
    """A training to interrupt.

    make_optimizer (Callable): Makes a new optimizer.
    make_model (Callable): Makes a model with fixed initial weights.
    train (Callable): Runs some steps: (model, optimizer, start, stop).
    breaks (Iterable[int]): The numbers of steps after which the training is interrupted.
    """

    make_optimizer: Callable[[], Any]
    make_model: Callable[[], Any] = make_model
    train: Callable[..., None] = train
    breaks: Any = (0, 4, 7)


N_STEPS = 14
SCORES = [0.5, 0.6, 0.6, 0.55, 0.5, 0.4, 0.7, 0.6, 0.5, 0.4, 0.4, 0.3, 0.2, 0.1]


def make_warmup():
    return warmup_linear(0.1, 3, 40)


def make_phases(rate=0.1, decay=0.1, steps=3):
    """Nested phases with schedules of the package and of Thinc."""
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
        fix_random_seed(step)  # The parser splits texts at random.
        nlp.update(make_examples(nlp), sgd=optimizer, drop=0.0)
        optimizer.step_schedules()


def train_unstepped(model, optimizer, start, stop):
    train(model, optimizer, start, stop, is_stepped=False)


def train_with_scores(model, optimizer, start, stop):
    train(model, optimizer, start, stop, scores=SCORES)


def train_and_start(model, optimizer, start, stop):
    """Train, and call start_swa() after step 3."""
    for step in range(start, stop):
        train(model, optimizer, step, step + 1)
        if step == 2:
            optimizer.start_swa()


def make_nested(innermost):
    return SWA(
        Lookahead(EMA(innermost, decay=0.8, overwrite_freq=5), freq=3, inner_state="reset"),
        start_step=6,
        freq=2,
        learn_rate=0.01,
        anneal_steps=5,
        anneal_strategy="cosine",
    )


def make_cases():
    """All cases by name, without those that need a package that is not installed."""
    innermost = {
        "Adam": lambda: Adam(0.1),
        "Adam, schedule": lambda: Adam(make_warmup()),
        "Adam, lists": lambda: Adam([0.1, 0.05, 0.02], beta1=[0.8] * 5 + [0.9], L2=0.01),
        "RAdam": lambda: RAdam(0.1),
        "RAdam, schedules": lambda: RAdam(make_warmup(), beta1=decaying(0.9, 0.01)),
        "SGD": lambda: SGD(0.1),
        # NumPy's floats and Python's floats lead to different precisions.
        "SGD, NumPy": lambda: SGD(numpy.float64(0.1), L2=decaying(0.1, 0.5)),
        "Adam, no averages": lambda: Adam(0.1, use_averages=False),
    }
    cases = {name: Case(make) for name, make in innermost.items()}
    for name, wrap in OPTIMIZERS.items():
        cases[name] = Case(lambda wrap=wrap: wrap(Adam(make_warmup())))
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
            lambda arguments=arguments: SWA(
                Adam(make_warmup()), start_step=5, freq=2, **arguments
            )
        )
    cases["SWA, schedule"] = Case(
        lambda: SWA(
            Adam(make_warmup()), start_step=3, learn_rate=decaying(0.05, 0.5), end_step=10
        )
    )
    cases["SWA, list"] = Case(
        lambda: SWA(SGD(0.1), start_step=3, learn_rate=[0.05, 0.04, 0.03, 0.02, 0.01])
    )
    cases["SWA, two rates"] = Case(
        lambda: SWA(
            SWA(Adam(make_warmup()), start_step=2, learn_rate=decaying(0.05, 0.5)),
            start_step=4,
            learn_rate=0.02,
            anneal_steps=5,
        ),
        breaks=range(N_STEPS + 1),
    )
    cases["SWA, ended"] = Case(lambda: SWA(Adam(make_warmup()), start_step=2, end_step=6))
    cases["start_swa"] = Case(
        lambda: SWA(Adam(make_warmup()), freq=3, learn_rate=0.02), train=train_and_start
    )
    cases["nested"] = Case(lambda: make_nested(RAdam(make_warmup())), breaks=range(N_STEPS + 1))
    cases["nested, not stepped"] = Case(
        lambda: make_nested(Adam(0.1)), train=train_unstepped, breaks=range(N_STEPS + 1)
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
        lambda: Adam(make_phases(), beta1=phases((5, 0.9), one_cycle_momentum(steps=9))),
        breaks=range(N_STEPS + 1),
    )
    cases["phases, not stepped"] = Case(
        lambda: EMA(Adam(make_phases(0.3)), decay=0.8), train=train_unstepped
    )
    cases["constant_then, one_cycle"] = Case(
        lambda: SGD(constant_then(0.1, 3, one_cycle(0.2, steps=20)))
    )
    cases["SWA, phases"] = Case(
        lambda: SWA(
            Adam(one_cycle(0.1, steps=12), beta1=one_cycle_momentum(steps=12)),
            start_step=3,
            learn_rate=make_phases(),
        ),
        breaks=range(N_STEPS + 1),
    )
    cases["nested, one_cycle"] = Case(
        lambda: make_nested(RAdam(one_cycle(0.1, steps=12), beta1=one_cycle_momentum(steps=12)))
    )
    cases["groups, schedules"] = Case(
        lambda: SWA(
            ParamGroups(
                Lookahead(Adam(make_warmup()), freq=3),
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
                    "lr_scale": make_phases(),
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
    if is_available("torch"):
        cases["PyTorch"] = Case(lambda: make_nested(Adam(make_warmup())), make_torch_model)
        cases["PyTorch, RAdam"] = Case(lambda: RAdam(0.1), make_torch_model)
    if is_available("spacy"):
        cases["spaCy"] = Case(
            lambda: make_nested(Adam(make_warmup())), make_pipeline, train_pipeline
        )
        cases["spaCy, Adam"] = Case(
            lambda: Adam(make_warmup()), make_pipeline, train_pipeline, (5,)
        )
    return cases


def is_available(package):
    """Whether a package is installed. See `helpers.require`."""
    try:
        require(package)
    except pytest.skip.Exception:
        return False
    return True


CASES = make_cases()


def repeat_last(*values):
    """A custom generator that repeats its last value."""
    yield from values
    while True:
        yield values[-1]


def make_trained(make_optimizer, n_steps=7, make=make_model):
    model, optimizer = make(), make_optimizer()
    train(model, optimizer, 0, n_steps)
    return model, optimizer


def make_nested_swa():
    return SWA(Lookahead(Adam(make_warmup()), freq=3), start_step=4, freq=2, learn_rate=0.01)
