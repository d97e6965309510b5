"""OptimizerWrapper, and what every optimizer of the package has to keep: a new one is one
line in OPTIMIZERS."""

import copy
import itertools
import pickle
import warnings

import numpy
import pytest
from helpers import as_numpy
from reference import KEYS, assert_close, assert_equal, make_weights, to_numpy, train
from thinc.api import SGD, Adam, Optimizer, RAdam
from wrapped_optimizers import OPTIMIZERS, Refusing, can_nest

from thinc_swa import EMA, SWA, Lookahead, OptimizerWrapper
from thinc_swa.schedules.learn_rate import current_rate

WITHOUT_AVERAGES = ("OptimizerWrapper", "ParamGroups", "L2SP")
AVERAGING = [name for name in OPTIMIZERS if name not in WITHOUT_AVERAGES]
PAIRS = list(itertools.product(["SWA", "EMA", "Lookahead"], repeat=2))
ALL_PAIRS = [
    (outer, inner)
    for outer, inner in itertools.product(AVERAGING, repeat=2)
    if can_nest([inner, outer])
]


@pytest.fixture(params=OPTIMIZERS)
def wrap(request):
    return OPTIMIZERS[request.param]


# A class


def test_is_an_optimizer(wrap):
    assert isinstance(wrap(Adam()), Optimizer)


@pytest.mark.parametrize("name", [name for name in Optimizer.__slots__ if name != "averages"])
def test_attributes_are_the_wrapped_optimizers(wrap, name):
    optimizer = Adam(0.01)
    if not hasattr(optimizer, name):
        pytest.skip("a slot that this Thinc does not use")
    for wrapper in (wrap(optimizer), wrap(wrap(optimizer))):
        assert getattr(wrapper, name) is getattr(optimizer, name)
        value = object()
        setattr(wrapper, name, value)
        assert getattr(optimizer, name) is value


def test_last_score_and_step(wrap):
    optimizer = Adam()
    if not hasattr(optimizer, "last_score"):
        pytest.skip("new in Thinc 9")
    wrapper = wrap(optimizer)
    wrapper.step_schedules()
    wrapper.last_score = 0.5
    assert wrapper.step == optimizer.step == 1
    assert wrapper.last_score == optimizer.last_score == (1, 0.5)


def test_is_locked(wrap):
    with pytest.raises(AttributeError):
        wrap(Adam()).learning_rate = 0.1


@pytest.mark.parametrize("what", [None, 0.001, Adam, "Adam.v1"])
def test_wraps_optimizers_only(wrap, what):
    with pytest.raises(TypeError, match="wraps a Thinc Optimizer, but got"):
        wrap(what)


def test_repr_shows_nesting_and_settings():
    optimizer = SWA(
        Lookahead(EMA(Adam(0.001), half_life=10), freq=6, end_step=75),
        start_step=0.75,
        total_steps=100,
        freq=10,
        learn_rate=0.0005,
    )
    assert repr(optimizer) == (
        "SWA(Lookahead(EMA(Optimizer(learn_rate=0.001), decay=0.9330329915368074, "
        "warmup=False, freq=1, start_step=0), freq=6, pullback=0.5, inner_state='keep', "
        "end_step=75), start_step=75, freq=10, learn_rate=0.0005)"
    )


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("n_steps", [0, 5])
def test_copies_go_on_alike(wrap, duplicate, n_steps):
    optimizer = wrap(wrap(Adam(0.1)))
    weights = make_weights()
    train(optimizer, weights, n_steps)
    other, other_weights = duplicate((optimizer, weights))
    assert repr(other) == repr(optimizer)
    train(optimizer, weights, 7, seed=2)
    train(other, other_weights, 7, seed=2)
    assert_equal(other_weights, weights)
    assert_equal(other.averages, optimizer.averages)
    assert other.nr_update is not optimizer.nr_update


@pytest.mark.parametrize("name", AVERAGING)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_holds_neither_weights_nor_read_averages(name, duplicate):
    """Only its own state, in copies of the parameters, and what the wrapped optimizer keeps."""
    optimizer = OPTIMIZERS[name](SGD(0.1, use_averages=False))
    weights = {(1, "W"): numpy.ones((50_000,), dtype="f")}
    train(optimizer, weights, 4)
    assert optimizer.averages
    n_copies = 2 if name in ("LAWA", "LocalSGD", "ScheduleFree") else 1
    assert len(pickle.dumps(optimizer)) < n_copies * weights[1, "W"].nbytes + 10_000
    other = duplicate(optimizer)
    assert_equal(other.averages, optimizer.averages)
    # Updates of the copy's own weights do not touch those of the first.
    before = to_numpy(weights)
    train(other, to_numpy(weights), 4)
    assert_equal(weights, before)


@pytest.mark.parametrize("name", AVERAGING)
def test_a_copy_catches_up_on_parameters_without_a_gradient(name):
    """It does not know their weights until their next update, and counts what it missed."""
    optimizer = OPTIMIZERS[name](SGD(0.1))
    weights = make_weights()
    train(optimizer, weights, 4)
    other, other_weights = copy.deepcopy((optimizer, weights))

    def is_updated(step, key):
        return key == (4, "W") or step > 4

    for each, its_weights in ((optimizer, weights), (other, other_weights)):
        train(each, its_weights, 6, is_updated=is_updated, seed=2)
    if name not in ("EMA overwriting", "LocalSGD", "SWA ending"):
        assert_equal(other_weights, weights)
        assert_close(other.averages, optimizer.averages)


@pytest.mark.parametrize("name", AVERAGING)
def test_a_copy_refuses_a_resized_parameter(name):
    optimizer = OPTIMIZERS[name](SGD(0.1))
    train(optimizer, make_weights(), 3)
    other = copy.deepcopy(optimizer)
    larger = numpy.ones((5, 3), dtype="f")
    with pytest.raises(ValueError, match=r"\(3, 'W'\).*\(4, 3\).*\(5, 3\)"):
        other((3, "W"), larger, numpy.ones((5, 3), dtype="f"))
    assert (larger == 1).all()


# A call


def test_without_wrapping_anything_nothing_changes(xp):
    weights, expected = make_weights(xp), make_weights(xp)
    train(OptimizerWrapper(Adam(0.1)), weights, 9)
    train(Adam(0.1), expected, 9)
    assert_equal(weights, expected)


@pytest.mark.parametrize("make", [Adam, RAdam, SGD])
def test_learning_rate_scale_is_passed_on(wrap, make):
    weights, expected = numpy.ones((2,), dtype="f"), numpy.ones((2,), dtype="f")
    optimizer, bare = wrap(make(0.1)), make(0.1)
    optimizer((1, "W"), weights, numpy.ones((2,), dtype="f"), lr_scale=0.5)
    if make is RAdam:
        bare.b1 = optimizer.b1  # There is no momentum in ScheduleFree.
    bare((1, "W"), expected, numpy.ones((2,), dtype="f"), lr_scale=0.5)
    assert_equal({1: weights}, {1: expected})


def test_updates_in_place_and_zeroes_the_gradient(wrap, xp):
    weights, gradient = xp.ones((2, 3), dtype="f"), xp.ones((2, 3), dtype="f")
    returned, returned_gradient = wrap(SGD(0.1))((1, "W"), weights, gradient)
    assert (weights == returned).all() and (weights != 1).all()
    assert (gradient == 0).all() and (returned_gradient == 0).all()


def test_empty_gradient_is_no_update(wrap):
    optimizer = wrap(Adam(0.1))
    empty = numpy.zeros((0, 3), dtype="f")
    for _ in range(3):
        weights, gradient = optimizer((1, "W"), empty, empty)
        assert weights.size == gradient.size == 0
    optimizer.step_schedules()
    assert not optimizer.averages and not optimizer.nr_update


def test_refuses_a_gradient_of_another_shape(wrap, xp):
    optimizer = wrap(Adam(0.1))
    weights = make_weights(xp)
    train(optimizer, weights, 3)
    before, averages = to_numpy(weights), to_numpy(optimizer.averages)
    counts = dict(optimizer.nr_update)
    with pytest.raises(ValueError, match=r"\(3, 'b'\).*\(5,\).*\(4,\)"):
        optimizer((3, "b"), weights[3, "b"], xp.ones((5,), dtype="f"))
    assert_equal(weights, before)
    assert_equal(optimizer.averages, averages)
    assert optimizer.nr_update == counts


def test_refuses_a_resized_parameter(wrap, xp):
    optimizer = wrap(Adam(0.1))
    weights = make_weights(xp)
    train(optimizer, weights, 3)
    averages, counts = to_numpy(optimizer.averages), dict(optimizer.nr_update)
    larger = xp.ones((5, 3), dtype="f")
    with pytest.raises(ValueError, match=r"\(3, 'W'\).*\(4, 3\).*\(5, 3\)"):
        optimizer((3, "W"), larger, xp.ones((5, 3), dtype="f"))
    assert (larger == 1).all()
    assert_equal(optimizer.averages, averages)
    assert optimizer.nr_update == counts
    train(optimizer, weights, 3)  # The others go on.


@pytest.mark.parametrize("is_stepped", [True, False])
def test_a_call_that_fails_leaves_no_trace(wrap, is_stepped):
    refusing = Refusing(0.1)
    refusing.calls = 0
    optimizer, twin = wrap(refusing), wrap(Adam(0.1))
    weights, expected = make_weights(), make_weights()
    for _ in range(6):
        for key in weights:
            gradient = numpy.ones_like(weights[key])
            weights[key], _ = optimizer(key, weights[key], gradient.copy())
            averages = to_numpy(optimizer.averages)
            with pytest.raises(RuntimeError, match="no"):
                optimizer(key, weights[key], gradient.copy())
            assert_equal(optimizer.averages, averages)
            expected[key], _ = twin(key, expected[key], gradient.copy())
            twin.averages  # noqa: B018  Looked at as often as the other one.
        if is_stepped:
            optimizer.step_schedules()
            twin.step_schedules()
    assert_equal(weights, expected)
    assert_equal(optimizer.averages, twin.averages)


# Steps


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_before_the_first_step_schedules_are_one_step(name, looks):
    """As if it had been known from the start that the loop calls step_schedules()."""
    results = []
    for is_known in (False, True):
        optimizer = OPTIMIZERS[name](Adam(0.1))
        optimizer._steps.uses_step_schedules = is_known
        weights = make_weights()
        for step in range(7):
            for update in range(2):
                train(optimizer, weights, 1, is_stepped=False, seed=2 * step + update)
                if looks and not is_known:
                    optimizer.averages  # noqa: B018
            optimizer.step_schedules()
        results.append((weights, optimizer.averages, optimizer._steps.n_steps))
    assert_equal(results[0][0], results[1][0])
    assert_equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2] == 7


@pytest.mark.parametrize("name", AVERAGING)
def test_a_look_in_the_first_step_does_not_end_it(name):
    results = []
    for looks in (False, True):
        optimizer = OPTIMIZERS[name](Adam(0.1))
        weights = make_weights()
        for _ in range(5):
            for key, array in weights.items():
                weights[key], _ = optimizer(key, array, numpy.ones_like(array))
                if looks:
                    optimizer.averages  # noqa: B018
            optimizer.step_schedules()
        results.append((weights, optimizer.averages))
    assert_equal(results[0][0], results[1][0])
    assert_equal(results[0][1], results[1][1])


def test_a_loop_that_steps_once_per_epoch_is_warned_of_once(wrap):
    optimizer = wrap(wrap(Adam(0.1)))
    weights = make_weights()
    train(optimizer, weights, 5, is_stepped=False)
    with pytest.warns(UserWarning, match=r"updated 5 times before step_schedules\(\)") as found:
        optimizer.step_schedules()
    assert len(found) == 1
    for _ in range(3):  # Warnings are errors here.
        train(optimizer, weights, 5, is_stepped=False)
        optimizer.step_schedules()


def test_layers_that_are_shared_by_many_are_not_warned_of(wrap):
    """Every component of a pipeline updates its own layers, and those that all share."""
    optimizer = wrap(Adam(0.1))
    weights = make_weights()
    for _ in range(3):
        for component in range(20):
            for key in ((3, "W"), (3, "b"), (5 + component, "W")):
                array = weights.setdefault(key, numpy.ones((2,), dtype="f"))
                weights[key], _ = optimizer(key, array, numpy.ones_like(array))
        optimizer.step_schedules()


def test_accumulation_is_not_warned_of(wrap):
    """Two to four updates in a step, also before the first step_schedules()."""
    for n_updates in (2, 3, 4):
        optimizer = wrap(Adam(0.1))
        for _ in range(4):
            train(optimizer, make_weights(), n_updates, is_stepped=False)
            optimizer.step_schedules()


# Averages


@pytest.mark.parametrize("name", AVERAGING)
def test_averages_are_falsy_until_there_are_some(name):
    optimizer = OPTIMIZERS[name](Adam(0.1, use_averages=False))
    assert not optimizer.averages
    assert optimizer.averages == {}


@pytest.mark.parametrize("name", AVERAGING)
def test_own_averages_are_dropped(name):
    innermost = Adam(0.1)
    optimizer = OPTIMIZERS[name](OptimizerWrapper(innermost))
    train(optimizer, make_weights(), 4)
    assert innermost.averages is None
    assert optimizer.averages


@pytest.mark.parametrize("name", [name for name in AVERAGING if name != "SWA ending"])
def test_averages_are_nobody_elses_arrays(name, xp):
    optimizer = OPTIMIZERS[name](Adam(0.1))
    weights = make_weights(xp)
    train(optimizer, weights, 4)
    averages = optimizer.averages
    kept = to_numpy(averages)
    assert optimizer.averages is averages  # Reading again costs nothing.
    before = to_numpy(weights)
    for array in averages.values():
        array += 100  # Whoever has read them may do with them what they like.
    assert_equal(weights, before)
    train(optimizer, weights, 4)
    for key, array in to_numpy(averages).items():
        numpy.testing.assert_allclose(array, kept[key] + 100, rtol=1e-6)
    for array in optimizer.averages.values():
        assert (abs(array) < 50).all()


@pytest.mark.parametrize("name", AVERAGING)
def test_weights_are_never_the_array_of_an_average(name):
    optimizer = OPTIMIZERS[name](Adam(0.1))
    weights = make_weights()
    for _ in range(4):
        train(optimizer, weights, 3)
        for key, array in optimizer.averages.items():
            assert not numpy.shares_memory(array, weights[key])


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("name", AVERAGING)
def test_weights_that_are_not_finite_never_enter_an_average(name, is_stepped, value, xp):
    """After they are repaired, everything goes on."""
    optimizer = OPTIMIZERS[name](SGD(0.1, use_averages=False))
    weights = make_weights(xp)
    train(optimizer, weights, 3, is_stepped=is_stepped)
    kept = weights[3, "W"].copy()
    weights[3, "W"][1, 1] = value
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train(optimizer, weights, 1, is_stepped=is_stepped)
        assert all(
            numpy.isfinite(array).all() for array in to_numpy(optimizer.averages).values()
        )
        train(optimizer, weights, 1, is_stepped=is_stepped)
        n_skipped = optimizer.n_skipped
    assert len(found) == (n_skipped > 0)
    for warning in found:
        assert warning.category is RuntimeWarning and "NaN or infinite" in str(warning.message)
    if name != "SWA ending":
        weights[3, "W"][...] = kept
    train(optimizer, weights, 6, is_stepped=is_stepped)
    for array in (*weights.values(), *optimizer.averages.values()):
        assert numpy.isfinite(as_numpy(array)).all()
    assert optimizer.n_skipped == n_skipped > 0


@pytest.mark.parametrize("dtype, expected", [("float16", "float32"), ("float64", "float64")])
@pytest.mark.parametrize("name", ["SWA", "EMA", "Lookahead", "LocalSGD"])
def test_precision(name, dtype, expected, xp):
    # Thinc cannot clip gradients of half precision on the GPU.
    optimizer = OPTIMIZERS[name](SGD(0.1, grad_clip=0.0))
    weights = make_weights(xp, dtype=dtype)
    train(optimizer, weights, 4)
    assert {array.dtype.name for array in weights.values()} == {dtype}
    assert {array.dtype.name for array in optimizer.averages.values()} == {expected}


@pytest.mark.parametrize("is_stepped", [True, False])
@pytest.mark.parametrize("outer, inner", PAIRS)
def test_nesting(outer, inner, is_stepped):
    """The averages are the outer one's, and the weights of the outer one's snapshots are
    those that the inner one leaves."""
    nested = OPTIMIZERS[outer](OPTIMIZERS[inner](Adam(0.1)))
    weights = make_weights()
    history = train(nested, weights, 8, is_stepped=is_stepped)
    if outer != "Lookahead":
        inner_history = train(OPTIMIZERS[inner](Adam(0.1)), make_weights(), 8)
        assert_equal(history[-1], inner_history[-1])
    replayed = OPTIMIZERS[outer](Replay(history))
    train(replayed, make_weights(), 8)
    if outer != "Lookahead":
        for key, array in to_numpy(nested.averages).items():
            numpy.testing.assert_array_equal(array, replayed.averages[key])
    assert set(nested.averages) == set(KEYS)
    assert nested.optimizer.averages  # The inner one has its own all the same.


class Replay(Optimizer):
    """Sets the weights to recorded ones."""

    __slots__ = ["history", "calls"]

    def __init__(self, history):
        super().__init__(0.0, use_averages=False)
        self.history = history
        self.calls = {}

    def __call__(self, key, weights, gradient, *, lr_scale=1.0):
        self.calls[key] = self.calls.get(key, 0) + 1
        weights[...] = self.history[self.calls[key]][key]
        return weights, gradient


@pytest.mark.parametrize("outer, inner", ALL_PAIRS)
def test_with_and_without_step_schedules(outer, inner):
    results = []
    for is_stepped in (True, False):
        optimizer = OPTIMIZERS[outer](OPTIMIZERS[inner](Adam(0.1)))
        weights = make_weights()
        train(optimizer, weights, 11, is_stepped=is_stepped)
        results.append((weights, optimizer.averages))
    assert_equal(results[0][0], results[1][0])
    assert_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_and_without_step_schedules_and_looking(name):
    """Looking at the averages at any moment changes nothing."""
    results = []
    for is_stepped in (True, False):
        optimizer = OPTIMIZERS[name](Adam(0.1))
        weights = make_weights()
        looks = {step: lambda o=optimizer: o.averages for step in (1, 2, 5, 6)}
        train(optimizer, weights, 11, is_stepped=is_stepped, after=looks)
        results.append((weights, optimizer.averages))
    assert_equal(results[0][0], results[1][0])
    assert_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", AVERAGING)
def test_averages_are_those_of_the_moment(name):
    """What was read before an update, or before the end of a step, does not stay."""

    def look(moments):
        optimizer, seen = OPTIMIZERS[name](Adam(0.1, use_averages=False)), {}
        weights = numpy.ones((3,), dtype="f")
        for step in range(7):
            weights, _ = optimizer((1, "W"), weights, numpy.ones((3,), dtype="f"))
            if 2 * step in moments:
                seen[2 * step] = to_numpy(optimizer.averages)
            optimizer.step_schedules()
            if 2 * step + 1 in moments:
                seen[2 * step + 1] = to_numpy(optimizer.averages)
        return seen

    always = look(range(14))
    for moment in always:
        assert_equal(look([moment])[moment], always[moment])


def test_reading_the_learning_rate(wrap):
    optimizer = wrap(wrap(Adam(0.25)))
    assert current_rate(optimizer) == 0.25
