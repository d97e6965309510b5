"""Phases of a training of a Thinc model, against loops that are written out."""

import itertools

import numpy
import pytest
from helpers import require
from hypothesis import given, settings
from hypothesis import strategies as st
from output_folders import config_of, results_of
from thinc.api import (
    SGD,
    Adam,
    Config,
    Relu,
    Softmax,
    chain,
    compounding,
    fix_random_seed,
)
from tiny import assert_same, make_arrays, make_dataset, make_trainer, weights_of

from thinc_swa import EMA, SWA, Lookahead, ParamGroups
from thinc_swa.schedules.compat import make_schedule
from thinc_swa.training import Callback, Trainer, TrainingPhase, train
from thinc_swa.training.batch_plan import BatchPlan
from thinc_swa.training.training_phases import KEEPS_ORDER, make_spans

require("filelock")

BIASES = {"name": "biases", "params": ["b"]}
WEIGHTS = {"name": "weights", "params": ["W"]}


def make_layers():
    return chain(Relu(8, dropout=0.2), Relu(6, dropout=0.4), Softmax())


def groups(optimizer=None):
    return ParamGroups(optimizer or Adam(0.01, use_averages=False), groups=[BIASES, WEIGHTS])


class Watch(Callback):
    """Notes a value after every step."""

    def __init__(self, find):
        self.find, self.found = find, []

    def on_step(self, trainer):
        self.found.append(self.find(trainer))


def run(optimizer=None, **arguments):
    trainer = make_trainer(optimizer, **arguments)
    trainer.run()
    return trainer


def update(model, optimizer, X, Y, *, rates, frozen=()):
    """A step with dropout rates of the two hidden layers and without some parameters."""
    for layer, rate in zip(model.layers[:2], rates, strict=True):
        for node in layer.walk():
            if "dropout_rate" in node.attrs:
                node.attrs["dropout_rate"] = rate
    predictions, backprop = model.begin_update(X)
    backprop((predictions - Y) / len(Y))
    for node in model.walk():
        for name in node.param_names:
            if node.has_grad(name):
                weights, gradient = node.get_param(name), node.get_grad(name)
                if name in frozen:
                    gradient[...] = 0.0
                else:
                    weights, gradient = optimizer((node.id, name), weights, gradient)
                node.set_param(name, weights)
    optimizer.step_schedules()


def test_phases_equal_a_manual_thinc_loop():
    """Batch sizes, dropout, frozen groups, another dataset and the start of SWA."""
    extra = make_dataset(n_train=20, seed=5)
    trainer = run(
        SWA(groups(), start_step="phase", freq=2),
        model=make_layers(),
        seed=3,
        max_steps=15,
        datasets={"extra": extra},
        phases={
            "warm": {
                "steps": 5,
                "batch_size": [2, 3, 4.9],
                "dropout": 0.5,
                "frozen": ["biases"],
            },
            "other": {"epochs": 2, "dataset": "extra", "batch_size": 16},
            "last": {"start_swa": True, "dropout": 0.0, "frozen": ["weights"]},
        },
    )

    main = make_dataset()[0]
    fix_random_seed(3)
    model = make_layers().initialize(X=main[0][:2], Y=main[1][:2])
    optimizer = Adam(0.01, use_averages=False)
    own, warm, last = (0.2, 0.4), (0.5, 0.5), (0.0, 0.0)
    steps = [
        # Data, epoch, rows, dropout rates, what is frozen.
        (main, 0, slice(0, 2), warm, "b"),
        (main, 0, slice(2, 5), warm, "b"),
        (main, 0, slice(5, 9), warm, "b"),
        (main, 0, slice(9, 13), warm, "b"),
        (main, 0, slice(13, 17), warm, "b"),
        (extra[0], 1, slice(0, 16), own, ""),
        (extra[0], 1, slice(16, 20), own, ""),
        (extra[0], 2, slice(0, 16), own, ""),
        (extra[0], 2, slice(16, 20), own, ""),
        *((main, 3, slice(i, i + 8), last, "W") for i in range(0, 48, 8)),
    ]
    snapshots = []
    for number, ((X, Y), epoch, rows, rates, frozen) in enumerate(steps):
        if number in (9, 11, 13):
            snapshots.append(weights_of(model))
        order = numpy.random.default_rng((3, epoch)).permutation(len(X))[rows]
        update(model, optimizer, X[order], Y[order], rates=rates, frozen=frozen)
    snapshots.append(weights_of(model))
    assert_same(weights_of(trainer.model), weights_of(model))
    assert trainer.optimizer.n_averaged == 4
    with trainer.use_averages():
        averages = weights_of(trainer.model)
    for found, weights in zip(averages, zip(*snapshots, strict=True), strict=True):
        numpy.testing.assert_allclose(found, numpy.mean(weights, axis=0), rtol=1e-5, atol=1e-7)


lengths = st.one_of(
    st.integers(1, 9).map(lambda n: {"steps": n}),
    st.floats(0.01, 0.3).map(lambda part: {"steps": part}),
)


@given(st.lists(lengths, max_size=3))
@settings(max_examples=15, deadline=None)
def test_phases_without_settings_change_nothing(parts):
    phases = {f"phase {i}": part for i, part in enumerate(parts)}
    expected = run(Adam(0.01), max_steps=30)
    found = run(Adam(0.01), max_steps=30, phases=phases)
    assert_same(weights_of(found.model), weights_of(expected.model))
    assert found.state.evaluations == expected.state.evaluations


@given(
    st.lists(st.one_of(st.integers(1, 20), st.floats(0.001, 0.999)), min_size=1, max_size=6),
    st.integers(1, 500),
)
@settings(deadline=None)
def test_lengths_of_phases(parts, max_steps):
    phases = [TrainingPhase(name=str(i), steps=part) for i, part in enumerate(parts)]
    fractions = [part for part in parts if isinstance(part, float)]
    try:
        spans = make_spans(phases, max_steps)
    except ValueError:
        whole = sum(part for part in parts if isinstance(part, int))
        # Each fraction has at least one step, and is else rounded to the nearest.
        assert (
            sum(fractions) > 1
            or whole + sum(fractions) * max_steps + len(fractions) + 0.5 > max_steps
        )
        return
    assert sum(span.n_steps for span in spans[:-1]) <= max_steps
    assert spans[-1].n_steps is None and spans[-1].name is None
    exact = 0.0
    rounded = 0
    for span, part in zip(spans, parts, strict=False):
        if isinstance(part, int):
            assert span.n_steps == part
        else:
            assert span.n_steps >= 1
            exact += part * max_steps
            rounded += span.n_steps
            assert abs(rounded - exact) <= 0.5 + 1e-6 or span.n_steps == 1


@pytest.mark.parametrize("parts", [[0.1] * 10, [0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [1 / 3] * 3])
@pytest.mark.parametrize("max_steps", [10, 17, 100, 1001])
def test_fractions_whose_sum_is_1_cover_the_training(parts, max_steps):
    phases = [TrainingPhase(name=str(i), steps=part) for i, part in enumerate(parts)]
    assert sum(span.n_steps for span in make_spans(phases, max_steps)[:-1]) == max_steps


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_batches_of_a_plan(data):
    """Every pass that is not ended early has each example once, in batches without gaps."""
    n_examples = {None: data.draw(st.integers(1, 20)), "other": data.draw(st.integers(1, 20))}
    phases = [
        TrainingPhase(
            name=str(i),
            **data.draw(
                st.one_of(
                    st.integers(1, 9).map(lambda n: {"steps": n}),
                    st.integers(1, 3).map(lambda n: {"epochs": n}),
                )
            ),
            dataset=data.draw(st.sampled_from([None, "other"])),
            batch_size=data.draw(st.one_of(st.none(), st.integers(1, 9), st.just([1, 2.5, 7]))),
        )
        for i in range(data.draw(st.integers(0, 4)))
    ]
    plan = BatchPlan(make_spans(phases, 0), n_examples=n_examples, batch_size=4)
    starts = plan.starts()
    batches = list(itertools.islice(plan.batches(), starts[-1] + 5))
    assert [batch.step for batch in batches].count(0) == len(plan.spans)
    for index, start in enumerate(starts):
        assert (batches[start].index, batches[start].step) == (index, 0)
    for before, batch in itertools.pairwise(batches):
        data_before, data_now = (plan.spans[b.index].phase.dataset for b in (before, batch))
        end = before.start + before.size
        begins = batch.step == 0 and plan.spans[batch.index].n_epochs is not None
        if end < n_examples[data_before] and data_before == data_now and not begins:
            assert (batch.epoch, batch.start) == (before.epoch, end)
        else:
            assert (batch.epoch, batch.start) == (before.epoch + 1, 0)
    for phase, start, end in zip(phases, starts, starts[1:], strict=False):
        if phase.epochs is not None:
            assert batches[end].start == 0
            assert batches[end].epoch == batches[start].epoch + phase.epochs
    for max_epochs in (1, 3):
        expected = next(
            (i for i, batch in enumerate(batches) if batch.epoch == max_epochs), None
        )
        if expected is not None:
            assert plan.count_steps(max_steps=0, max_epochs=max_epochs) == expected


def test_max_epochs_with_phases():
    phases = {"short": {"steps": 2}, "large": {"epochs": 1, "batch_size": 25}}
    trainer = run(SGD(0.1), max_steps=0, max_epochs=3, phases=phases)
    # The first pass is ended after 2 of 7 steps, the second has 2 and the third 7.
    assert (trainer.state.step, trainer.state.stop_reason) == (11, "max_epochs")
    assert trainer.state.total_steps == 11


@pytest.mark.parametrize("schedule", [compounding(2.0, 9.0, 1.5), [2.0, 3.0, 4.5, 6.75, 9.0]])
def test_schedules_of_batch_sizes(schedule):
    seen, model = [], Softmax()
    sizes = Watch(lambda trainer: len(seen.pop()))
    forward = model._func

    def recording(model, X, is_train):
        if is_train:
            seen.append(X)
        return forward(model, X, is_train)

    model._func = recording
    phases = {"one": {"steps": 7, "batch_size": schedule}}
    run(SGD(0.1), model=model, callbacks=[sizes], max_steps=8, phases=phases)
    assert sizes.found == [2, 3, 4, 6, 9, 9, 9, 8]


def test_the_settings_of_the_training_apply_after_the_last_phase():
    model = make_layers()
    node = next(node for node in model.walk() if "dropout_rate" in node.attrs)
    watch = Watch(lambda trainer: (trainer.phase, node.attrs["dropout_rate"]))
    phases = {"one": {"steps": 1, "dropout": 0.0}, "two": {"steps": 1}}
    run(model=model, callbacks=[watch], max_steps=3, phases=phases)
    assert watch.found == [("one", 0.0), ("two", 0.2), (None, 0.2)]


def test_saved_models_have_their_own_dropout_rates(tmp_path):
    phases = {"one": {"dropout": 0.9}}
    trainer = run(phases=phases)
    trainer.save_model(tmp_path / "model")
    model = chain(Relu(8, dropout=0.1), Softmax()).from_bytes((tmp_path / "model").read_bytes())
    node = next(node for node in model.walk() if "dropout_rate" in node.attrs)
    assert node.attrs["dropout_rate"] == 0.2


def test_early_stopping_inside_a_phase():
    watch = Watch(lambda trainer: trainer.phase)
    trainer = run(
        SGD(0.0),
        callbacks=[watch],
        max_steps=1000,
        patience=20,
        phases={"first": {"steps": 25}, "second": {"steps": 900}},
    )
    assert (trainer.state.step, trainer.state.stop_reason) == (30, "patience")
    assert watch.found == ["first"] * 25 + ["second"] * 5


@pytest.mark.parametrize(
    "wrap", [EMA, Lookahead, lambda optimizer: SWA(optimizer, start_step=3)]
)
def test_frozen_parameters_keep_their_weights(wrap):
    biases = Watch(lambda trainer: trainer.model.layers[0].layers[0].get_param("b").copy())
    model = chain(Relu(8), Softmax())
    phases = {"frozen": {"steps": 6, "frozen": ["biases"]}}
    trainer = make_trainer(
        wrap(groups(SGD(0.5, use_averages=False, L2=0.1))),
        [biases],
        model=model,
        max_steps=9,
        phases=phases,
    )
    layer = next(node for node in model.walk() if node.has_param("b"))
    biases.find = lambda trainer: layer.get_param("b").copy()
    trainer.run()
    assert not numpy.any(biases.found[5])
    assert numpy.any(biases.found[6])


def test_phases_of_pytorch_layers():
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    def make():
        torch.manual_seed(0)
        return chain(PyTorchWrapper(torch.nn.Linear(3, 8)), Softmax())

    optimizer = ParamGroups(
        SGD(0.1, use_averages=False), groups=[{"name": "torch", "params": ["bias"]}]
    )
    model = make()
    before = model.layers[0].shims[0]._model.bias.detach().numpy().copy()
    run(optimizer, model=model, phases={"first": {"frozen": ["torch"]}})
    layer = model.layers[0].shims[0]._model
    numpy.testing.assert_array_equal(layer.bias.detach().numpy(), before)
    assert numpy.any(
        layer.weight.detach().numpy()
        != make().layers[0].shims[0]._model.weight.detach().numpy()
    )


# Configs and checkpoints

PHASES = """
[datasets]

[datasets.easy]
@datasets = "npz.v1"
path = "{data}"

[training.phases]

[training.phases.*.zoom]
steps = 0.2
dataset = "easy"
dropout = 0.5

[training.phases.*.zoom.batch_size]
@schedules = "compounding.v1"
start = 1
stop = 10
compound = 1.3

[training.phases.*.again]
epochs = 2
frozen = ["biases"]

[training.phases.*.average]
start_swa = true
batch_size = 16
"""

GROUPS = """
[optimizer]
@optimizers = "SWA.v1"
start_step = "phase"
freq = 3

[optimizer.optimizer]
@optimizers = "ParamGroups.v1"
groups = [{"name": "biases", "params": ["b"]}]

[optimizer.optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.01
use_averages = false
"""


def phased_config(tmp_path, text=PHASES, optimizer=GROUPS, **changes):
    if not (tmp_path / "easy.npz").exists():
        numpy.savez(tmp_path / "easy.npz", **make_arrays(n_train=21, seed=4))
    path = tmp_path / "tiny.cfg"
    config = config_of(tmp_path, optimizer=optimizer, **changes)
    config = Config().from_str(
        config.to_str() + text.replace("{data}", str(tmp_path / "easy.npz"))
    )
    config.to_disk(path)
    return Config().from_disk(path)


def test_phases_of_a_config_are_in_the_order_of_the_file(tmp_path):
    trainer = Trainer.from_config(phased_config(tmp_path))
    assert [span.name for span in trainer._plan.spans] == ["zoom", "again", "average"]
    assert trainer._plan.starts() == [0, 12, 26]


class Stop(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.state.step == self.step:
            trainer.stop("interrupted")


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=() if step in (7, 12, 30) else pytest.mark.slow)
        for step in (1, 7, 11, 12, 13, 20, 25, 26, 27, 30, 59)
    ],
)
def test_resuming_is_bit_identical_in_every_phase(tmp_path, step):
    config = phased_config(tmp_path)
    train(config, output=tmp_path / "whole")
    stopped = train(config, output=tmp_path / "output", callbacks=[Stop(step)])
    assert stopped.state.step == step
    trainer = train(phased_config(tmp_path), output=tmp_path / "output", resume=True)
    assert trainer.state.step == 60 and trainer.optimizer.n_averaged == 12
    assert results_of(tmp_path / "output") == results_of(tmp_path / "whole")


def test_another_length_of_the_training_changes_phases_with_fractions(tmp_path):
    train(phased_config(tmp_path, max_steps=50), output=tmp_path / "output")
    with pytest.raises(
        ValueError, match=r"zoom.steps was 0.2 \(10\) and is 0.2 \(12\) now"
    ) as e:
        train(phased_config(tmp_path), output=tmp_path / "output", resume=True)
    assert "\n" not in str(e.value)
    longer = PHASES.replace("0.2", "12")
    train(phased_config(tmp_path, longer, max_steps=50), output=tmp_path / "two")
    train(phased_config(tmp_path, longer), output=tmp_path / "two", resume=True)
    train(phased_config(tmp_path, longer), output=tmp_path / "whole")
    assert results_of(tmp_path / "two") == results_of(tmp_path / "whole")


def test_other_data_of_a_phase_are_not_resumed(tmp_path):
    config = phased_config(tmp_path)
    train(config, output=tmp_path / "output", callbacks=[Stop(30)])
    numpy.savez(tmp_path / "easy.npz", **make_arrays(n_train=21, seed=9))
    with pytest.raises(ValueError, match="content of easy train_X has changed"):
        train(config, output=tmp_path / "output", resume=True)


@pytest.mark.parametrize(
    "phases, message",
    [
        ({"a": {"steps": 21}}, "not be longer than the training, but have 21 steps"),
        ({"a": {"steps": 10}, "b": {"steps": 11}}, "have 21 steps in total"),
        ({"a": {"epochs": 3}}, "not be longer than the training, but have 21 steps"),
        ({"a": {"steps": 20}, "b": {}}, "Phase 'b' never begins"),
        ({"a": {"epochs": 2}, "b": {"steps": 0.1}, "c": {"steps": 5}}, "have 21 steps"),
        ({"a": {}, "b": {"steps": 3}}, "'a' must have steps or epochs"),
        ({"a": {"steps": 0}}, "steps of phase 'a' must be an int >= 1"),
        ({"a": {"steps": 0.0}}, "steps of phase 'a' must be .*, but was 0.0"),
        ({"a": {"steps": -0.5}}, "steps of phase 'a' must be .*, but was -0.5"),
        ({"a": {"steps": 1.0}}, "steps of phase 'a' must be .*, but was 1.0"),
        ({"a": {"steps": True}}, "steps of phase 'a' must be .*, but was True"),
        ({"a": {"steps": "3"}}, "steps of phase 'a' must be .*, but was '3'"),
        ({"a": {"steps": 0.6}, "b": {"steps": 0.5}}, "at most 1 in total, but are 1.1"),
        ({"a": {"epochs": 0}}, "epochs of phase 'a' must be an int >= 1, but was 0"),
        ({"a": {"epochs": 1, "steps": 3}}, "must be steps or epochs, but both"),
        ({"a": {"batch_size": 0}}, "batch_size of phase 'a' must be an int >= 1, but was 0"),
        ({"a": {"batch_size": 2.5}}, "batch_size of phase 'a' must be an int >= 1"),
        ({"a": {"batch_size": [0.5]}}, "must be at least 1, but was 0.5 at its step 0"),
        ({"a": {"batch_size": "large"}}, "a list of numbers or a schedule, but was 'large'"),
        ({"a": {"dropout": 1.0}}, "dropout of phase 'a' must be a number >= 0 and < 1"),
        ({"a": {"dataset": "b"}}, r"'a' names the dataset 'b', but there is no \[datasets.b\]"),
        ({"a": {"dataset": 3}}, "dataset of phase 'a' must be a name, but was 3"),
        ({"a": {"frozen": ["all"]}}, "had 'all': the optimizer has no groups"),
        ({"a": {"frozen": "all"}}, "frozen of phase 'a' must be a list, but was 'all'"),
        ({"a": {"frozen": [1]}}, "must have names of groups, but had 1"),
        ({"a": {"start_swa": 1}}, "start_swa of phase 'a' must be true or false, but was 1"),
        ({"a": {"start_swa": True}}, "start_swa of phase 'a' needs an optimizer with SWA"),
        ({"a": {"learn_rate": 1}}, r"\[training.phases.a\] has the unknown settings"),
        ({"a": 3}, r"must have a section for each phase, but had a = 3"),
        ({"a": {"train_corpus": "corpora.train"}}, "unknown settings"),
        ([{"name": "a"}], "phases must have TrainingPhase objects"),
        ([TrainingPhase(name="a", steps=1), TrainingPhase(name="a")], "must be unique, but"),
        ([TrainingPhase(name="a", train_corpus="b")], "'a' cannot have train_corpus here"),
    ],
)
def test_invalid_phases_are_errors(phases, message):
    with pytest.raises(ValueError, match=message) as error:
        make_trainer(phases=phases)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "optimizer, phases, message",
    [
        (groups(), {"a": {"frozen": ["W"]}}, r"had 'W': there are \['biases', 'weights'\]"),
        (SWA(SGD(0.1), start_step="phase"), {"a": {}}, "needs a training phase with start_swa"),
        (
            SWA(SGD(0.1), start_step=2, end_step=5),
            {"a": {"steps": 5}, "b": {"start_swa": True}},
            "before end_step = 5, but 5 steps are complete",
        ),
    ],
)
def test_phases_that_do_not_fit_the_optimizer_are_errors(optimizer, phases, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(optimizer, phases=phases)


def test_phases_that_do_not_fit_the_model_or_the_data_are_errors():
    with pytest.raises(ValueError, match="dropout of phase 'a' has no effect"):
        make_trainer(model=Softmax(), phases={"a": {"dropout": 0.1}})
    with pytest.raises(ValueError, match="0.5 of max_steps, which is 0"):
        make_trainer(max_steps=0, max_epochs=1, phases={"a": {"steps": 0.5}})
    (X, Y), dev = make_dataset()
    with pytest.raises(ValueError, match=r"\[datasets.b\] has rows of the shape \(2,\)"):
        make_trainer(datasets={"b": ((X[:, :2], Y), dev)})
    with pytest.raises(ValueError, match=r"\[datasets.b\]: The dataset has no rows"):
        make_trainer(datasets={"b": ((X[:0], Y[:0]), dev)})


def test_two_phases_with_one_name_are_an_error_in_a_config(tmp_path):
    text = PHASES.replace("phases.*.again]", "phases.*.zoom]")
    with pytest.raises(Exception, match=r"section 'training.phases.\*.zoom' already exists"):
        phased_config(tmp_path, text)


def test_a_schedule_that_needs_a_score_is_no_batch_size():
    schedule = make_schedule("scored", lambda schedule, step, *, last_score: last_score)
    with pytest.raises(ValueError, match="must be a schedule that depends on the step alone"):
        make_trainer(phases={"a": {"batch_size": schedule}})


def test_sections_without_a_star(tmp_path):
    config = phased_config(tmp_path, PHASES.replace(".*", ""))
    if KEEPS_ORDER:
        trainer = Trainer.from_config(config)
        assert [span.name for span in trainer._plan.spans] == ["zoom", "again", "average"]
    else:
        with pytest.raises(ValueError, match=r"write \[training.phases.\*.NAME\]"):
            Trainer.from_config(config)
    one = phased_config(
        tmp_path, "\n\n[training.phases]\n\n[training.phases.average]\nstart_swa = true\n"
    )
    assert Trainer.from_config(one)._plan.spans[0].name == "average"
    both = phased_config(tmp_path, PHASES + "\n[training.phases.other]\nsteps = 3\n")
    with pytest.raises(ValueError, match=r"or only \[training.phases.NAME\], but had"):
        Trainer.from_config(both)
