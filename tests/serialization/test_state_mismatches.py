"""Files that do not fit the optimizer or the model are refused, with the differences listed."""

import numpy
import pytest
from optimizer_states import keys_of
from state_files import assert_refused
from thinc.api import SGD, Adam, Model, RAdam, Relu, Softmax, chain, decaying, warmup_linear
from training_cases import (
    make_model,
    make_nested_swa,
    make_phases,
    make_trained,
    make_warmup,
    repeat_last,
)

from thinc_swa import EMA, SWA, Lookahead, load_optimizer, one_cycle, phases, save_optimizer
from thinc_swa.schedules.compat import Schedule

OTHER_OPTIMIZERS = {
    "not wrapped": (
        lambda: Adam(make_warmup()),
        r"optimizers \['SWA', 'Lookahead', 'Optimizer'\]",
    ),
    "one less": (lambda: SWA(Adam(make_warmup()), start_step=4), r"not \['SWA', 'Optimizer'\]"),
    "other order": (
        lambda: Lookahead(SWA(Adam(make_warmup()), start_step=4)),
        r"not \['Lookahead', 'SWA', 'Optimizer'\]",
    ),
    "other wrapper": (
        lambda: SWA(EMA(Adam(make_warmup())), start_step=4),
        r"not \['SWA', 'EMA', 'Optimizer'\]",
    ),
    "freq": (
        lambda: SWA(
            Lookahead(Adam(make_warmup()), freq=4), start_step=4, freq=3, learn_rate=0.01
        ),
        r"freq of SWA was 2, and is 3\n- freq of Lookahead was 3, and is 4",
    ),
    "start_step": (
        lambda: SWA(
            Lookahead(Adam(make_warmup()), freq=3), start_step=5, freq=2, learn_rate=0.01
        ),
        "start_step of SWA was 4, and is 5",
    ),
    "no learn_rate": (
        lambda: SWA(Lookahead(Adam(make_warmup()), freq=3), start_step=4, freq=2),
        "learn_rate of SWA was 0.01, and is None",
    ),
    "inner_state": (
        lambda: SWA(
            Lookahead(Adam(make_warmup()), freq=3, inner_state="pullback"),
            start_step=4,
            freq=2,
            learn_rate=0.01,
        ),
        "inner_state of Lookahead was keep, and is pullback",
    ),
    "RAdam": (
        lambda: SWA(
            Lookahead(RAdam(make_warmup()), freq=3), start_step=4, freq=2, learn_rate=0.01
        ),
        "use_radam of Optimizer was False, and is True",
    ),
    "a schedule more": (
        lambda: SWA(
            Lookahead(Adam(make_warmup(), L2=[0.1, 0.2]), freq=3),
            start_step=4,
            freq=2,
            learn_rate=0.01,
        ),
        "L2",
    ),
}


def test_other_swa_learn_rate_is_refused(tmp_path):
    def swa(*rates):
        return SWA(Adam(0.1), start_step=2, learn_rate=list(rates))

    model, optimizer = make_trained(lambda: swa(0.05, 0.04), 4)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    message = r"learn_rate of SWA was \[0.05, 0.04\], and is \[0.05, 0.03\]"
    assert_refused(tmp_path / "optimizer", lambda: swa(0.05, 0.03), message)
    if Schedule is not None:
        from thinc.api import decaying

        def decaying_swa(decay):
            return SWA(Adam(0.1), start_step=2, learn_rate=decaying(0.05, decay))

        model, optimizer = make_trained(lambda: decaying_swa(0.5), 4)
        save_optimizer(tmp_path / "optimizer", optimizer, model)
        assert_refused(tmp_path / "optimizer", lambda: decaying_swa(0.6), "'decay': 0.6")


@pytest.mark.parametrize("n_steps", [2, 7])
@pytest.mark.parametrize("make, message", OTHER_OPTIMIZERS.values(), ids=OTHER_OPTIMIZERS)
def test_other_wrappers_are_refused(make, message, n_steps, tmp_path):
    model, optimizer = make_trained(make_nested_swa, n_steps)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert_refused(tmp_path / "optimizer", make, message)


OTHER_THINC_OPTIMIZERS = {
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
    "a schedule": (lambda: Adam(0.1), lambda: Adam(make_warmup()), "learn_rate"),
    "no schedule": (lambda: Adam(make_warmup()), lambda: Adam(0.1), "learn_rate"),
    "other list": (lambda: Adam([0.1, 0.2, 0.3]), lambda: Adam([0.4, 0.2, 0.1]), "learn_rate"),
    "other list, wrapped": (
        lambda: EMA(Adam([0.1, 0.2, 0.3])),
        lambda: EMA(Adam([0.3, 0.2, 0.1])),
        "learn_rate",
    ),
    "other schedule": (
        lambda: Adam(make_warmup()),
        lambda: Adam(warmup_linear(0.1, 4, 40)),
        "learn_rate",
    ),
    "other kind": (lambda: Adam(make_warmup()), lambda: Adam(decaying(0.1, 0.1)), "learn_rate"),
    "one_cycle": (
        lambda: Adam(one_cycle(0.1, steps=9)),
        lambda: Adam(one_cycle(0.2, steps=9)),
        "learn_rate was .*'max_rate': 0.1, .*, and is .*'max_rate': 0.2",
    ),
    "within phases": (
        lambda: Adam(0.1, beta1=make_phases(0.1)),
        lambda: Adam(0.1, beta1=make_phases(0.2)),
        "b1 was .*'max_rate': 0.1, .*, and is .*'max_rate': 0.2",
    ),
    "lengths of phases": (
        lambda: Adam(make_phases(steps=3)),
        lambda: Adam(make_phases(steps=2)),
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
        lambda: Adam(make_warmup()),
        "learn_rate was .*'one_cycle'",
    ),
    "from Thinc to the package": (
        lambda: Adam(make_warmup()),
        lambda: Adam(one_cycle(0.1, steps=9)),
        "learn_rate was .*, and is .*'one_cycle'",
    ),
    "SWA's own, phases": (
        lambda: SWA(Adam(0.1), start_step=2, learn_rate=make_phases(0.1)),
        lambda: SWA(Adam(0.1), start_step=2, learn_rate=make_phases(0.2)),
        "learn_rate of SWA was .*'max_rate': 0.1, .*, and is .*'max_rate': 0.2",
    ),
    "generator, wrapped": (
        lambda: EMA(Adam(repeat_last(0.1, 0.2, 0.3))),
        lambda: EMA(Adam(repeat_last(0.1, 0.2, 0.4))),
        "learn_rate was",
    ),
    "generator within phases": (
        lambda: Adam(phases((3, 0.1), repeat_last(0.1, 0.2, 0.3))),
        lambda: Adam(phases((3, 0.1), repeat_last(0.1, 0.2, 0.4))),
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


@pytest.mark.parametrize(
    "make, make_other, message", OTHER_THINC_OPTIMIZERS.values(), ids=OTHER_THINC_OPTIMIZERS
)
def test_other_thinc_optimizers_are_refused(make, make_other, message, tmp_path):
    model, optimizer = make_trained(make)
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert_refused(tmp_path / "optimizer", make_other, message)


OTHER_MODELS = {
    "missing": (
        lambda: chain(Relu(6, 5), Softmax(3, 6)),
        lambda: chain(Relu(6, 5), Relu(6, 6), Softmax(3, 6)),
        "it has no state of the parameter 3/W\n- it has no state of the parameter 3/b",
    ),
    "extra": (
        lambda: chain(Relu(6, 5), Relu(6, 6), Softmax(3, 6)),
        lambda: chain(Relu(6, 5), Softmax(3, 6)),
        "the shape of 2/W was .6, 6., and is .3, 6.(.|\n)*the model has no parameter 3/W\n"
        "- the model has no parameter 3/b",
    ),
    "renamed": (
        lambda: make_model_with_parameters("V", "b"),
        lambda: make_model_with_parameters("W", "b"),
        "the model has no parameter 0/V\n- it has no state of the parameter 0/W$",
    ),
    "resized": (
        lambda: chain(Relu(6, 5), Softmax(3, 6)),
        lambda: chain(Relu(7, 5), Softmax(3, 7)),
        r"the shape of 1/W was \[6, 5\], and is \[7, 5\]\n"
        r"- the shape of 1/b was \[6\], and is \[7\]\n"
        r"- the shape of 2/W was \[3, 6\], and is \[3, 7\]",
    ),
}


def make_model_with_parameters(*names):
    """A model with parameters of the given names."""
    parameters = {name: numpy.ones((3,), dtype="f") for name in names}
    return Model("named", lambda model, X, is_train: (X, lambda dY: dY), params=parameters)


@pytest.mark.parametrize("make, make_other, message", OTHER_MODELS.values(), ids=OTHER_MODELS)
@pytest.mark.parametrize("n_steps", [0, 1])
def test_other_models_are_refused(make, make_other, message, n_steps, tmp_path):
    model, optimizer = make().initialize(), make_nested_swa()
    for key, weights in keys_of(model).items() if n_steps else ():
        optimizer(key, weights, numpy.ones_like(weights))
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert_refused(
        tmp_path / "optimizer", make_nested_swa, message, lambda: make_other().initialize()
    )


def test_saving_with_another_model_is_refused(tmp_path):
    _, optimizer = make_trained(make_nested_swa)
    with pytest.raises(ValueError, match="10 parameters that are not in the model"):
        save_optimizer(tmp_path / "optimizer", optimizer, make_model())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [save_optimizer, load_optimizer])
def test_wrong_types_are_refused(function, tmp_path):
    model, optimizer = make_trained(make_nested_swa)
    path = tmp_path / "optimizer"
    save_optimizer(path, optimizer, model)
    content = path.read_bytes()
    with pytest.raises(TypeError, match="Not a Thinc Optimizer: dict"):
        function(path, {}, model)
    with pytest.raises(TypeError, match="Not a Thinc Model or a spaCy Language: dict"):
        function(path, optimizer, {})
    assert path.read_bytes() == content
