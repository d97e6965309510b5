"""PyTorch layers in half precision under every wrapper, against loops that are written out."""

from itertools import pairwise

import numpy
import pytest
from helpers import require

require("torch")

import torch  # noqa: E402
from half_precision_training import (  # noqa: E402
    BACKOFF,
    GROWTH,
    INPUTS,
    INTERVAL,
    N_STEPS,
    TARGETS,
    Bfloat16,
    Float16,
    arrays_of,
    copies,
    make_model,
    make_module,
    make_scaler,
    plain_steps,
    run_step,
    shims_of,
)
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from reference import assert_close, due, mean, moving_average  # noqa: E402
from thinc.api import (  # noqa: E402
    SGD,
    Adam,
    Linear,
    Model,
    Optimizer,
    PyTorchGradScaler,
    PyTorchWrapper,
    PyTorchWrapper_v2,
    RAdam,
    Softmax,
    chain,
    concatenate,
    fix_random_seed,
    glorot_uniform_init,
)
from thinc.compat import has_torch_cuda_gpu  # noqa: E402
from wrapped_optimizers import OPTIMIZERS  # noqa: E402

from thinc_swa import (  # noqa: E402
    EMA,
    L2SP,
    LAWA,
    SWA,
    LocalSGD,
    Lookahead,
    OptimizerWrapper,
    ParamGroups,
    ScheduleFree,
    apply_averages,
    load_optimizer,
    save_optimizer,
    use_averages,
)

F = numpy.float32


def adam():
    return Adam(0.05, use_averages=False)


def sgd():
    return SGD(0.05, use_averages=False)


# The wrappers, written out. `update` is called with every parameter of a step that is not
# skipped, `end_step` after every step, with float32 copies of all weights.


class Plain:
    def __init__(self, optimizer):
        self.optimizer = optimizer

    def update(self, name, weights, gradient):
        self.optimizer((0, name), weights, gradient)

    def end_step(self, step, weights, updated):
        pass

    def averages(self):
        return {}


class PlainSWA(Plain):
    """start_step=2, freq=3"""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.total, self.n = {}, 0

    def end_step(self, step, weights, updated):
        if step in due(2, 3, N_STEPS):
            self.n += 1
            self.total = {
                name: self.total.get(name, F(0)) + array.astype("f")
                for name, array in weights.items()
            }

    def averages(self):
        return {name: total * F(1 / self.n) for name, total in self.total.items()}


class PlainEndingSWA(PlainSWA):
    """start_step=2, freq=3, end_step=8"""

    def end_step(self, step, weights, updated):
        if step <= 8:
            super().end_step(step, weights, updated)
        if step == 8:
            for name, average in super().averages().items():
                weights[name][...] = average

    def averages(self):
        return {}


class PlainEMA(Plain):
    """decay=0.9"""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.average = {}

    def end_step(self, step, weights, updated):
        for name, array in weights.items():
            average = self.average.get(name, array.astype("f"))
            self.average[name] = F(0.9) * average + F(0.1) * array.astype("f")

    def averages(self):
        return self.average


class PlainOverwritingEMA(PlainEMA):
    """decay=0.9, overwrite_freq=4"""

    def end_step(self, step, weights, updated):
        super().end_step(step, weights, updated)
        if step % 4 == 0:
            for name, array in weights.items():
                array[...] = self.average[name]


class PlainLAWA(Plain):
    """window=3, freq=2"""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.ring = [None, None, None]

    def end_step(self, step, weights, updated):
        if step % 2 == 0:
            snapshot = {name: array.astype("f") for name, array in weights.items()}
            self.ring[(step // 2 - 1) % 3] = snapshot

    def averages(self):
        return {name: sum(part[name] for part in self.ring) * F(1 / 3) for name in self.ring[0]}


class PlainLookahead(Plain):
    """freq=3: every third update of a parameter, which a skipped step is not"""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.slow, self.n_updates = {}, 0

    def update(self, name, weights, gradient):
        if name not in self.slow:
            self.slow[name] = weights.astype("f")
        super().update(name, weights, gradient)

    def end_step(self, step, weights, updated):
        self.n_updates += updated
        if updated and self.n_updates % 3 == 0:
            for name, array in weights.items():
                slow = self.slow[name]
                slow += F(0.5) * (array.astype("f") - slow)
                array[...] = slow

    def averages(self):
        return self.slow


class PlainLocalSGD(PlainLookahead):
    """freq=3, outer_learn_rate=0.7, outer_momentum=0.5: every third step, skipped ones
    included"""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.moments, self.is_changed = {}, False

    def end_step(self, step, weights, updated):
        self.is_changed |= updated
        if step % 3 or not self.slow:
            return
        for name, array in weights.items():
            slow = self.slow[name]
            change = (slow - array) if self.is_changed else numpy.zeros_like(slow)
            moment = F(0.5) * self.moments.get(name, numpy.zeros_like(slow)) + change
            slow -= F(0.7) * (change + F(0.5) * moment)
            self.moments[name] = moment
            array[...] = slow
        self.is_changed = False


class PlainScheduleFree(Plain):
    """beta=0.9, around an optimizer without momentum and with a constant rate"""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.z, self.x, self.n_updates = {}, {}, {}

    def update(self, name, weights, gradient):
        z = self.z.setdefault(name, weights.astype("f"))
        x = self.x.setdefault(name, weights.astype("f"))
        t = self.n_updates[name] = self.n_updates.get(name, 0) + 1
        super().update(name, z, gradient.astype("f"))
        x += F(1 / t) * (z - x)
        weights[...] = z + F(0.9) * (x - z)

    def averages(self):
        return self.x


class PlainL2SP(Plain):
    """alpha=0.1"""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.initial = {}

    def update(self, name, weights, gradient):
        initial = self.initial.setdefault(name, weights.astype("f"))
        total = (weights - initial) * F(0.1) + gradient
        super().update(name, weights, total.astype(gradient.dtype))


class PlainGroups(Plain):
    """Half the learning rate for biases"""

    def update(self, name, weights, gradient):
        scale = 0.5 if name.endswith("bias") else 1.0
        self.optimizer((0, name), weights, gradient, lr_scale=scale)


GROUPS = [{"name": "biases", "params": ["*bias"], "lr_scale": 0.5}]

# With the relative error of what is calculated in another order, or None if it is the same bit
# for bit: of the weights, and of the averages.
CASES = {
    "OptimizerWrapper": (OptimizerWrapper, Plain, None, None),
    "SWA": (lambda o: SWA(o, start_step=2, freq=3), PlainSWA, None, None),
    "SWA ending": (
        lambda o: SWA(o, start_step=2, freq=3, end_step=8),
        PlainEndingSWA,
        None,
        None,
    ),
    "EMA": (lambda o: EMA(o, decay=0.9), PlainEMA, None, 1e-5),
    "EMA overwriting": (
        lambda o: EMA(o, decay=0.9, overwrite_freq=4),
        PlainOverwritingEMA,
        1e-4,
        1e-4,
    ),
    "LAWA": (lambda o: LAWA(o, window=3, freq=2), PlainLAWA, None, None),
    "Lookahead": (lambda o: Lookahead(o, freq=3), PlainLookahead, None, None),
    "LocalSGD": (
        lambda o: LocalSGD(o, freq=3, outer_learn_rate=0.7, outer_momentum=0.5),
        PlainLocalSGD,
        None,
        None,
    ),
    "ScheduleFree": (ScheduleFree, PlainScheduleFree, 1e-4, 1e-4),
    "L2SP": (lambda o: L2SP(o, alpha=0.1), PlainL2SP, None, None),
    "ParamGroups": (lambda o: ParamGroups(o, groups=GROUPS), PlainGroups, None, None),
}


def make_optimizer(name, kind):
    """The optimizer that is wrapped. Thinc's Adam updates float32 weights only."""
    return sgd() if kind is Float16 or name == "ScheduleFree" else adam()


def assert_same(got, expected, rtol):
    assert got.keys() == expected.keys()
    for name, array in got.items():
        assert array.dtype == expected[name].dtype
        if rtol is None:
            assert array.tobytes() == expected[name].tobytes(), name
        else:
            numpy.testing.assert_allclose(array, expected[name], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("kind", [Bfloat16, Float16])
@pytest.mark.parametrize("name", CASES)
def test_training_equals_a_plain_loop(name, kind, is_stepped):
    """Steps in which gradients overflow are skipped. They count as steps where the loop says
    that they are, by step_schedules()."""
    make, plain_class, rtol, averages_rtol = CASES[name]
    plain, step, n_skipped = plain_class(make_optimizer(name, kind)), 0, 0
    expected = []
    for _, weights, gradients in plain_steps(kind):
        if gradients is None:
            n_skipped += 1
        for parameter, gradient in (gradients or {}).items():
            plain.update(parameter, weights[parameter], gradient)
        if is_stepped:
            plain.optimizer.step_schedules()
        if is_stepped or gradients:
            step += 1
            plain.end_step(step, weights, bool(gradients))
        expected.append(copies(weights))
    assert 3 <= n_skipped <= N_STEPS - 8
    # The very first step is one of them.
    assert_same(expected[0], arrays_of(make_module(kind)), None)

    if kind is Float16 and rtol is not None:
        rtol = averages_rtol = 2e-3
    model = make_model(kind)
    (shim,) = shims_of(model)
    optimizer = make(make_optimizer(name, kind))
    for index in range(N_STEPS):
        run_step(model, optimizer, index, is_stepped=is_stepped)
        if is_stepped:
            assert_same(arrays_of(shim._model), expected[index], rtol)
    averages = {parameter: array for (_, parameter), array in optimizer.averages.items()}
    # In a loop without step_schedules(), reading the averages completes the last step.
    assert_same(arrays_of(shim._model), expected[-1], rtol)
    assert_same(averages, plain.averages(), averages_rtol)
    assert optimizer._steps.n_steps == step
    for array in averages.values():
        assert array.dtype == numpy.float32


@pytest.mark.filterwarnings("ignore:No parameter was selected by group 'biases'")
@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layers_and_plain_calls_are_the_same(name, is_stepped):
    """Thinc's layer with its scaler does what calls of the optimizer do that leave out the
    parameters of skipped steps."""
    plain = OPTIMIZERS[name](adam())
    for _, weights, gradients in plain_steps():
        for parameter, gradient in (gradients or {}).items():
            plain((0, parameter), weights[parameter], gradient)
        if is_stepped:
            plain.step_schedules()
    model, optimizer = make_model(), OPTIMIZERS[name](adam())
    for index in range(N_STEPS):
        run_step(model, optimizer, index, is_stepped=is_stepped)
    for found in (plain, optimizer):
        assert found.averages is not None
    by_name = [{n: a for (_, n), a in found.averages.items()} for found in (optimizer, plain)]
    assert_same(*by_name, None)
    assert_same(arrays_of(shims_of(model)[0]._model), weights, None)


def train_two_layers(optimizer, *, is_stepped):
    """A layer that skips steps and one of Thinc, which never does.

    RETURNS: The model, the weights after every step, and the skipped steps.
    """
    fix_random_seed(0)
    softmax = Softmax(3, init_W=glorot_uniform_init)
    model = chain(make_model(), softmax).initialize(INPUTS[0], TARGETS[0])
    (shim,) = shims_of(model)
    history, skipped = [], []

    def weights():
        own = {name: softmax.get_param(name) for name in ("W", "b")}
        return copies({**own, **arrays_of(shim._model)})

    for index in range(N_STEPS):
        before = weights()
        # A large factor, for gradients that overflow.
        predicted, backprop = model.begin_update(INPUTS[index])
        backprop(20 * (predicted - numpy.eye(3, dtype="f")[numpy.arange(12) % 3]))
        if shim._grad_scaler.found_inf:
            skipped.append(index + 1)
        model.finish_update(optimizer)
        history.append(weights())
        changed = {name for name, array in before.items() if (array != history[-1][name]).any()}
        assert changed == ({"W", "b"} if index + 1 in skipped else set(before))
        if is_stepped:
            optimizer.step_schedules()
    assert skipped[0] == 1 and 3 <= len(skipped) <= N_STEPS - 8
    return model, history, skipped


@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("name", ["SWA", "EMA", "LAWA"])
def test_layer_that_skips_steps_counts_in_every_snapshot(name, is_stepped):
    """With the value that it has then. The other layer goes on, so all steps count, also in a
    loop without step_schedules(). There an update that follows a skipped one belongs to the
    step before, until all layers have as many updates again."""
    optimizer = {
        "SWA": lambda: SWA(adam(), start_step=1),
        "EMA": lambda: EMA(adam(), decay=0.8),
        "LAWA": lambda: LAWA(adam(), window=5, freq=1),
    }[name]()
    model, history, _ = train_two_layers(optimizer, is_stepped=is_stepped)
    if not is_stepped:
        # The first step was skipped, and the layer is updated before the other one.
        for weights, following in pairwise(history):
            own = {n: following[n] for n in weights if n not in ("W", "b")}
            weights.update(own)
    if name == "SWA":
        expected = mean(history)
    elif name == "LAWA":
        expected = mean(history[-5:])
    else:
        expected = {n: array.astype("f8") for n, array in history[0].items()}
        for weights in history[1:]:
            expected = {n: 0.8 * a + 0.2 * weights[n] for n, a in expected.items()}
    averages = {parameter: array for (_, parameter), array in optimizer.averages.items()}
    assert optimizer.n_averaged == (5 if name == "LAWA" else N_STEPS)
    assert optimizer.n_skipped == 0
    assert averages.keys() == expected.keys()
    for parameter, array in averages.items():
        assert array.dtype == numpy.float32
        numpy.testing.assert_allclose(array, expected[parameter], rtol=1e-5, atol=1e-6)
    raw = copies(arrays_of(shims_of(model)[0]._model))
    with use_averages(model, optimizer):
        assert_same(
            arrays_of(shims_of(model)[0]._model),
            {parameter: averages[parameter] for parameter in raw},
            None,
        )
    assert_same(arrays_of(shims_of(model)[0]._model), raw, None)


def test_lookahead_counts_the_updates_of_each_layer():
    """A layer that skips steps is pulled back after as many updates as any other."""
    optimizer = Lookahead(adam(), freq=2)
    model, history, skipped = train_two_layers(optimizer, is_stepped=True)
    n_updates = {name: n for (_, name), n in optimizer.nr_update.items()}
    assert n_updates.pop("W") == n_updates.pop("b") == N_STEPS
    assert set(n_updates.values()) == {N_STEPS - len(skipped)}


AVERAGES = {
    "SWA": lambda start, freq: SWA(adam(), start_step=start, freq=freq),
    "EMA": lambda start, freq: EMA(adam(), decay=0.8, start_step=start, freq=freq),
    "LAWA": lambda start, freq: LAWA(adam(), window=3, start_step=start, freq=freq),
}


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(AVERAGES)),
    start=st.integers(0, 4),
    freq=st.integers(1, 3),
    overflows=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=7, max_size=7),
)
def test_any_pattern_of_skipped_steps(name, start, freq, overflows):
    """Of two layers, each with a scaler of its own: all snapshots are those of the whole model
    after steps, skipped or not, and the scales change as those of PyTorch."""
    layers = [make_model(scaler=make_scaler(first_scale=1.0)) for _ in range(2)]
    model = concatenate(*layers).initialize(INPUTS[0])
    shims = shims_of(model)
    optimizer = AVERAGES[name](start, freq)
    history = []
    scales, n_finite = [1.0, 1.0], [0, 0]
    for index, is_overflowing in enumerate(overflows):
        predicted, backprop = model.begin_update(INPUTS[index])
        slopes = (predicted - 0.5).reshape(-1, 2, 3)
        for layer in range(2):
            if is_overflowing[layer]:
                slopes[0, layer, 0] = numpy.inf
        backprop(slopes.reshape(predicted.shape))
        before = [copies(arrays_of(shim._model)) for shim in shims]
        model.finish_update(optimizer)
        weights = {(s.id, n): a.copy() for s in shims for n, a in arrays_of(s._model).items()}
        history.append(weights)
        optimizer.step_schedules()
        for layer, shim in enumerate(shims):
            is_changed = any((weights[shim.id, n] != a).any() for n, a in before[layer].items())
            assert is_changed == (not is_overflowing[layer])
            if is_overflowing[layer]:
                scales[layer], n_finite[layer] = scales[layer] * BACKOFF, 0
            else:
                n_finite[layer] += 1
                if n_finite[layer] == INTERVAL:
                    scales[layer], n_finite[layer] = scales[layer] * GROWTH, 0
            assert shim._grad_scaler._scale.item() == scales[layer]
    snapshots = [history[step - 1] for step in due(start, freq, len(history))]
    if name == "LAWA":
        snapshots = snapshots[-3:]
    assert optimizer.n_averaged == len(snapshots)
    if name == "EMA":
        expected = moving_average(snapshots, [0.8] * len(snapshots))
    else:
        expected = mean(snapshots)
    # A layer that was never updated is unknown to the optimizer.
    updated = {key[0] for key in optimizer.nr_update}
    assert len(updated) == sum(not all(skips) for skips in zip(*overflows, strict=True))
    expected = {key: array for key, array in expected.items() if key[0] in updated}
    assert_close(optimizer.averages, expected)


def test_thinc_still_divides_accumulated_gradients_twice():
    """If this fails, Thinc unscales accumulated gradients correctly, and the documentation can
    say so."""
    model, module = make_model(scaler=make_scaler(first_scale=1024.0)), make_module()
    for index in range(2):
        predicted, backprop = model.begin_update(INPUTS[index])
        backprop(predicted - TARGETS[index])
        output = module(torch.from_numpy(INPUTS[index]))
        output.backward(output.detach() - torch.from_numpy(TARGETS[index]))
        if index == 0:
            first = module.module[2].bias.grad.clone()
    (shim,) = shims_of(model)
    found, exact = (m.module[2].bias.grad for m in (shim._model, module))
    assert not torch.allclose(found, exact, rtol=0.1)
    torch.testing.assert_close(found, exact - first + first / 1024, rtol=1e-4, atol=1e-4)


# Weights of other types than float32


def test_averages_of_float16_weights_are_rounded_once():
    """In contexts, and where they are written for good."""
    model = make_model(Float16)
    optimizer = SWA(sgd(), start_step=1)
    for index in range(N_STEPS):
        run_step(model, optimizer, index)
    (shim,) = shims_of(model)
    averages = {parameter: array for (_, parameter), array in optimizer.averages.items()}
    rounded = {parameter: array.astype("float16") for parameter, array in averages.items()}
    raw = copies(arrays_of(shim._model))
    assert any((rounded[name] != raw[name]).any() for name in raw)
    for context in (use_averages(model, optimizer), model.use_params(optimizer.averages)):
        with context:
            assert_same(arrays_of(shim._model), rounded, None)
        assert_same(arrays_of(shim._model), raw, None)
    apply_averages(model, optimizer)
    assert_same(arrays_of(shim._model), rounded, None)


def test_averages_in_a_bfloat16_module_are_rounded_once():
    """A module that was trained in float32 and is used in bfloat16."""
    model = PyTorchWrapper(make_module().module)
    optimizer = SWA(adam(), start_step=1)
    for index in range(N_STEPS):
        run_step(model, optimizer, index)
    module = shims_of(model)[0]._model.bfloat16()
    averages = {name: torch.from_numpy(a) for (_, name), a in optimizer.averages.items()}
    raw = {name: p.detach().clone() for name, p in module.named_parameters()}
    for context in (use_averages(model, optimizer), model.use_params(optimizer.averages)):
        with context:
            for name, parameter in module.named_parameters():
                assert torch.equal(parameter.data, averages[name].bfloat16())
        for name, parameter in module.named_parameters():
            assert torch.equal(parameter.data, raw[name])
    apply_averages(model, optimizer)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.data, averages[name].bfloat16())


def test_frozen_bfloat16_layers_are_left_alone(tmp_path):
    """A frozen encoder in bfloat16 under a trained layer of Thinc: averages, and the state of
    the optimizer."""
    encoder = torch.nn.Linear(5, 5).bfloat16().requires_grad_(False)

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, inputs):
            return self.encoder(inputs.bfloat16()).float()

    model = chain(PyTorchWrapper(Encoder()), Softmax(3)).initialize(INPUTS[0], TARGETS[0])
    optimizer = SWA(adam(), start_step=1)
    before = encoder.weight.clone()
    for X in INPUTS[:3]:
        predicted, backprop = model.begin_update(X)
        backprop(predicted - numpy.eye(3, dtype="f")[numpy.arange(12) % 3])
        model.finish_update(optimizer)
        optimizer.step_schedules()
    assert {name for _, name in optimizer.averages} == {"W", "b"}
    with use_averages(model, optimizer):
        assert torch.equal(encoder.weight, before) and encoder.weight.dtype == torch.bfloat16
    save_optimizer(tmp_path / "optimizer", optimizer, model)
    loaded = SWA(adam(), start_step=1)
    load_optimizer(tmp_path / "optimizer", loaded, model)
    for key, average in optimizer.averages.items():
        numpy.testing.assert_array_equal(loaded.averages[key], average)


@pytest.mark.parametrize("name", ["SWA", "EMA", "LAWA", "Lookahead", "LocalSGD", "L2SP"])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_adam_refuses_other_types(name, dtype):
    """At the first update, and nothing has changed then."""
    model = Linear(3, 5).initialize()
    weights = model.get_param("W").astype(dtype)
    model.set_param("W", weights)
    optimizer = OPTIMIZERS[name](adam())
    gradient = numpy.ones_like(weights)
    before = weights.copy()
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            optimizer((model.id, "W"), weights, gradient)
        assert str(caught.value) == (
            f"Parameter ({model.id}, 'W') has weights of the dtype {dtype}, but Thinc's Adam "
            "can only update float32: keep the weights in float32 (mixed_precision = True "
            "lets a PyTorch layer compute in half precision then), or use SGD or RAdam"
        )
    numpy.testing.assert_array_equal(weights, before)
    numpy.testing.assert_array_equal(gradient, numpy.ones_like(weights))
    assert not optimizer.nr_update and not optimizer.mom1 and not optimizer.averages
    weights, gradient = weights.astype("f"), gradient.astype("f")
    optimizer((model.id, "W"), weights, gradient)
    assert dict(optimizer.nr_update) == {(model.id, "W"): 1}


def test_thinc_layer_with_float16_weights():
    """In a training of the layer. Most of Thinc's layers fail before, in their matrix
    products."""

    def forward(model, X, is_train):
        def backprop(dY):
            model.inc_grad("scale", (dY * X).sum(axis=0))
            return dY

        return X * model.get_param("scale"), backprop

    weights = numpy.ones(5, dtype="float16")
    model = Model("scale", forward, params={"scale": weights})
    for optimizer in (SWA(adam(), start_step=1), EMA(Lookahead(adam()))):
        _, backprop = model.begin_update(INPUTS[0])
        backprop(INPUTS[1])
        with pytest.raises(ValueError, match=r"'scale'\) has weights of the dtype float16"):
            model.finish_update(optimizer)
        assert (model.get_param("scale") == 1).all() and not optimizer.nr_update


def test_float16_gradients_are_refused_too():
    optimizer = SWA(adam(), start_step=1)
    with pytest.raises(ValueError, match=r"has a gradient of the dtype float16, but Thinc's"):
        optimizer((1, "W"), numpy.ones(3, dtype="f"), numpy.ones(3, dtype="float16"))


def test_layer_that_becomes_float16_during_training():
    model, optimizer = make_model(), SWA(adam(), start_step=1)
    for index in range(6):
        run_step(model, optimizer, index)
    weights = next(iter(arrays_of(shims_of(model)[0]._model).values())).astype("float16")
    key = next(iter(optimizer.averages))
    with pytest.raises(ValueError, match=r"has weights of the dtype float16"):
        optimizer(key, weights, numpy.ones_like(weights))


@pytest.mark.parametrize("make", [RAdam, SGD])
@pytest.mark.parametrize("name", ["SWA", "Lookahead"])
def test_other_optimizers_update_float16_weights(name, make):
    weights = numpy.ones((3, 2), dtype="float16")
    optimizer = OPTIMIZERS[name](make(0.1, use_averages=False))
    for _ in range(4):
        optimizer((1, "W"), weights, numpy.ones_like(weights))
        optimizer.step_schedules()
    assert weights.dtype == numpy.float16 and (weights < 1).all()
    assert optimizer.averages[1, "W"].dtype == numpy.float32


def test_schedule_free_lets_adam_update_float16_weights():
    """It passes on float32 weights, and gradients in float32."""
    weights, exact = (numpy.ones((3, 2), dtype=dtype) for dtype in ("float16", "float32"))
    optimizers = [ScheduleFree(Adam(0.1, beta1=0.0)) for _ in range(2)]
    for _ in range(5):
        gradient = numpy.full((3, 2), 0.25, dtype="float16")
        optimizers[0]((1, "W"), weights, gradient)
        assert (gradient == 0).all()
        optimizers[1]((1, "W"), exact, numpy.full((3, 2), 0.25, dtype="f"))
    assert weights.dtype == numpy.float16
    average, expected = (optimizer.averages[1, "W"] for optimizer in optimizers)
    numpy.testing.assert_allclose(average, expected, rtol=2e-3)
    numpy.testing.assert_allclose(weights, exact, rtol=2e-3)


def test_optimizers_that_take_every_type_are_not_checked():
    class Own(Optimizer):
        def __call__(self, key, weights, gradient, *, lr_scale=1.0):
            weights -= gradient
            return weights, gradient

    weights = numpy.ones(3, dtype="float16")
    SWA(Own(0.1), start_step=1)((1, "W"), weights, numpy.ones_like(weights))
    assert (weights == 0).all()


# On a GPU


@pytest.mark.skipif(not has_torch_cuda_gpu, reason="needs a GPU")
@pytest.mark.parametrize("name", CASES)
def test_mixed_precision_of_thinc_on_a_gpu(name):
    """float16 with Thinc's own autocast and scaler, on CuPy arrays."""
    import cupy
    from thinc.api import use_ops

    make, plain_class, *_ = CASES[name]
    with use_ops("cupy"):
        module = make_module().module.cuda()
        scaler = make_scaler(Float16, cls=PyTorchGradScaler)
        model = PyTorchWrapper_v2(module, mixed_precision=True, grad_scaler=scaler)
        optimizer = make(make_optimizer(name, Bfloat16))
        plain = plain_class(make_optimizer(name, Bfloat16))
        n_skipped = 0
        expected = {n: p.detach().cpu().numpy().copy() for n, p in module.named_parameters()}
        for index in range(N_STEPS):
            predicted, backprop = model.begin_update(cupy.asarray(INPUTS[index]))
            slope = predicted.astype("f") - cupy.asarray(TARGETS[index])
            backprop((slope / len(slope)).astype(predicted.dtype))
            is_skipped = scaler.found_inf
            n_skipped += is_skipped
            if not is_skipped:
                for parameter, tensor in module.named_parameters():
                    plain.update(parameter, expected[parameter], tensor.grad.cpu().numpy())
            model.finish_update(optimizer)
            optimizer.step_schedules()
            plain.optimizer.step_schedules()
            plain.end_step(index + 1, expected, not is_skipped)
        assert 0 < n_skipped < N_STEPS
        for parameter, tensor in module.named_parameters():
            assert tensor.dtype == torch.float32
            numpy.testing.assert_allclose(
                tensor.detach().cpu().numpy(), expected[parameter], rtol=1e-3, atol=1e-3
            )
        averages = plain.averages()
        assert {parameter for _, parameter in optimizer.averages} == set(averages)
        for (_, parameter), array in optimizer.averages.items():
            assert isinstance(array, cupy.ndarray) and array.dtype == "float32"
            numpy.testing.assert_allclose(
                array.get(), averages[parameter], rtol=1e-3, atol=1e-3
            )
        assert optimizer._steps.n_steps == N_STEPS


@pytest.mark.skipif(not has_torch_cuda_gpu, reason="needs a GPU")
def test_float16_gradients_cannot_be_clipped_on_a_gpu():
    import cupy

    weights = cupy.ones(3, dtype="float16")
    optimizer = SWA(SGD(0.1, grad_clip=1.0), start_step=1)
    with pytest.raises(ValueError, match=r"cannot clip the norm.*set grad_clip = 0\.0"):
        optimizer((1, "W"), weights, cupy.ones_like(weights))
