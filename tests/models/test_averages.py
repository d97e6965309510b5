"""`use_averages` and `apply_averages` on Thinc models."""

import asyncio

import numpy
import pytest
from reference import assert_equal, to_numpy
from small_models import X, make_model, parameters, train
from thinc.api import (
    SGD,
    Adam,
    Linear,
    Model,
    NumpyOps,
    Relu,
    Softmax,
    clone,
    concatenate,
)

from thinc_swa import EMA, SWA, Lookahead, apply_averages, update_batch_norm, use_averages

WRAPPERS = {
    "Adam": Adam,
    "SWA": lambda: SWA(Adam(0.1), start_step=0, freq=2),
    "EMA": lambda: EMA(Adam(0.1), decay=0.8),
    "Lookahead": lambda: Lookahead(Adam(0.1), freq=2),
    "Lookahead, then SWA": lambda: SWA(Lookahead(Adam(0.1), freq=2), start_step=2),
}
OPS = NumpyOps()


@pytest.fixture(params=WRAPPERS)
def optimizer(request):
    return WRAPPERS[request.param]()


def test_use_averages_swaps_weights_and_restores_them(optimizer):
    model = make_model()
    train(model, optimizer)
    own, before = parameters(model), to_numpy(parameters(model))
    with use_averages(model, optimizer):
        assert_equal(parameters(model), optimizer.averages)
        assert any((array != before[key]).any() for key, array in parameters(model).items())
        averaged = model.predict(X)
    assert all(array is own[key] for key, array in parameters(model).items())
    assert_equal(parameters(model), before)
    with model.use_params(optimizer.averages):
        numpy.testing.assert_array_equal(model.predict(X), averaged)
    apply_averages(model, optimizer)
    numpy.testing.assert_array_equal(model.predict(X), averaged)


def test_weights_are_restored_after_exceptions_and_assignments(optimizer):
    model = make_model()
    train(model, optimizer)
    before = to_numpy(parameters(model))
    with pytest.raises(KeyboardInterrupt):
        with use_averages(model, optimizer):
            raise KeyboardInterrupt
    assert_equal(parameters(model), before)
    with use_averages(model, optimizer):
        for node in model.walk():
            for name in node.param_names:
                node.set_param(name, node.get_param(name) * 0)
    assert_equal(parameters(model), before)
    train(model, optimizer)


def test_changes_inside_use_averages_do_not_affect_averages(optimizer):
    model = make_model()
    train(model, optimizer)
    before, averages = to_numpy(parameters(model)), optimizer.averages
    kept = to_numpy(averages)
    with use_averages(model, optimizer):
        for array in parameters(model).values():
            array += 100
        train(model, SGD(0.5))
        assert optimizer.averages is averages
        assert_equal(averages, kept)
    assert_equal(parameters(model), before)
    assert_equal(optimizer.averages, kept)


def test_nested_use_averages_is_refused(optimizer):
    model, other = make_model(), make_model()
    train(model, optimizer)
    before = to_numpy(parameters(model))
    with use_averages(model, optimizer):
        for part in (model, model.layers[0]):
            with pytest.raises(RuntimeError, match=r"is in use_averages\(\) already"):
                with use_averages(part, optimizer):
                    pass
        with pytest.raises(RuntimeError, match=r"is in use_averages\(\) already"):
            apply_averages(model, optimizer)
        other_optimizer = WRAPPERS["EMA"]()
        train(other, other_optimizer)
        with use_averages(other, other_optimizer):
            pass
    assert_equal(parameters(model), before)
    with use_averages(model, optimizer):
        pass


def test_overlapping_asynchronous_tasks_are_refused(optimizer):
    """The second of two overlapping tasks fails, and the weights are restored."""
    model, entered, failed = make_model(), [], []
    train(model, optimizer)
    before = to_numpy(parameters(model))

    async def evaluate(n_turns):
        try:
            with use_averages(model, optimizer):
                entered.append(n_turns)
                for _ in range(n_turns):
                    await asyncio.sleep(0)
        except RuntimeError:
            failed.append(n_turns)

    async def evaluate_together():
        await asyncio.gather(evaluate(2), evaluate(5))

    asyncio.run(evaluate_together())
    assert entered == [2] and failed == [5]
    assert_equal(parameters(model), before)


def test_lookahead_continues_from_applied_averages():
    """The slow weights are set to the applied averages."""
    model = Linear(1, 1).initialize()
    lookahead = Lookahead(SGD(1.0, use_averages=False), freq=2)
    optimizer = SWA(lookahead, start_step=1)

    def update():
        for name in model.param_names:
            weights, _ = optimizer(
                (model.id, name), model.get_param(name), numpy.ones_like(model.get_param(name))
            )
            model.set_param(name, weights)
        optimizer.step_schedules()

    for name in model.param_names:
        model.get_param(name)[...] = 4.0
    values = []
    for step in range(1, 6):
        update()
        if step == 3:
            apply_averages(model, optimizer)
            assert_equal(lookahead.averages, parameters(model))
        values.append(float(model.get_param("W")[0, 0]))
    # Updates give 3, then 2, pulled back to 3, then 2. The applied mean of 3, 3, 2 is 8 / 3.
    # The next update gives 8 / 3 - 1, pulled back halfway to 8 / 3.
    assert values == pytest.approx([3, 3, 8 / 3, 8 / 3 - 0.5, 8 / 3 - 1.5])


def test_training_inside_use_averages_does_not_affect_averages():
    results = []
    for is_trained in (True, False):
        model, optimizer = make_model(), SWA(SGD(0.1), start_step=0)
        for layer in model.walk():
            for name in layer.param_names:
                layer.get_param(name)[...] = 0.1
        train(model, optimizer)
        with use_averages(model, optimizer):
            if is_trained:
                train(model, SGD(0.1))
        train(model, optimizer)
        results.append(list(to_numpy(optimizer.averages).values()))
    for array, other in zip(*results, strict=True):
        numpy.testing.assert_array_equal(array, other)


def test_apply_averages_to_a_part_of_the_model():
    """The slow weights of the other part are unchanged."""
    model = make_model()
    optimizer = SWA(Lookahead(SGD(0.1, use_averages=False), freq=2), start_step=1)
    train(model, optimizer)
    slow = {key: array.copy() for key, array in optimizer.optimizer.averages.items()}
    apply_averages(model.layers[0], optimizer)
    for key, array in optimizer.optimizer.averages.items():
        if key[0] == model.layers[0].id:
            assert_equal({key: array}, {key: optimizer.averages[key]})
        else:
            assert_equal({key: array}, {key: slow[key]})


def test_apply_averages_copies_in_place(optimizer):
    model = make_model()
    train(model, optimizer)
    own = parameters(model)
    averages = optimizer.averages
    apply_averages(model, optimizer)
    for key, array in parameters(model).items():
        assert array is own[key] and not numpy.shares_memory(array, averages[key])
    assert_equal(parameters(model), averages)


def test_without_averages_weights_are_unchanged():
    model, optimizer = make_model(), SWA(Adam(use_averages=False))
    train(model, optimizer)
    before = to_numpy(parameters(model))
    with use_averages(model, optimizer):
        assert_equal(parameters(model), before)
    apply_averages(model, optimizer)
    assert_equal(parameters(model), before)


def test_parameters_without_an_average_are_unchanged(optimizer):
    left, right = Softmax(3, 5), Linear(3, 5).initialize()
    left.initialize()
    model = concatenate(left, right)
    train(left, optimizer)
    before = to_numpy(parameters(model))
    with use_averages(model, optimizer):
        now = to_numpy(parameters(model))
    assert_equal({k: now[k] for k in parameters(right)}, to_numpy(parameters(right)))
    assert any((now[key] != before[key]).any() for key in parameters(left))


def test_float16_models_stay_float16():
    """The averages of float16 weights are float32."""
    model = Linear(3, 5).initialize()
    for name in model.param_names:
        model.set_param(name, model.get_param(name).astype("float16"))
    optimizer = SWA(SGD(0.1), start_step=0)
    for _ in range(3):
        for name in model.param_names:
            weights = model.get_param(name)
            weights, _ = optimizer((model.id, name), weights, numpy.ones_like(weights))
    with use_averages(model, optimizer):
        assert {array.dtype.name for array in parameters(model).values()} == {"float16"}
    apply_averages(model, optimizer)
    assert {array.dtype.name for array in parameters(model).values()} == {"float16"}


@pytest.mark.parametrize("function", [use_averages, apply_averages])
def test_invalid_arguments_are_refused(function):
    def call(model, optimizer):
        result = function(model, optimizer)
        if function is use_averages:
            with result:
                pass

    model, optimizer = make_model(), SWA(Adam(0.1), start_step=0)
    train(model, optimizer)
    before = to_numpy(parameters(model))
    for invalid in (None, "model", optimizer):
        with pytest.raises(TypeError, match="Not a Thinc Model or a spaCy Language"):
            call(invalid, optimizer)
    for invalid in (None, list(optimizer.averages), Adam):
        with pytest.raises(
            TypeError, match="from a Thinc Optimizer or from a dict by parameter, but got"
        ):
            call(model, invalid)
    other = make_model()
    with pytest.raises(ValueError, match="10 parameters, but none of them belongs"):
        call(other, optimizer)
    last = [node for node in model.walk() if node.name == "softmax"][0]
    kept = last.get_param("W")
    last.set_param("W", OPS.alloc2f(4, 9))
    with pytest.raises(ValueError, match=r"'W'\) has the shape \(4, 9\).*\(3, 9\)"):
        call(model, optimizer)
    last.set_param("W", kept)
    assert_equal(parameters(model), before)


def test_update_batch_norm_without_layers_reads_no_data():
    def unread():
        raise AssertionError("read")
        yield

    update_batch_norm(make_model(), unread())
    update_batch_norm(clone(Relu(3, 3), 2), unread())
    with pytest.raises(TypeError, match="Not a Thinc Model"):
        update_batch_norm("model", [])


def test_subclasses_of_model_are_accepted():
    class Special(Model):
        pass

    model = Special("special", lambda model, X, is_train: (X, lambda dY: dY))
    with use_averages(model, Adam()):
        pass
