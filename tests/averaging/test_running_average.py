"""Kernels and running averages, compared with plain float64 arithmetic."""

import subprocess
import sys
import tracemalloc
from contextlib import nullcontext

import numpy
import pytest
from helpers import require
from reference import assert_close, moving_average

from thinc_swa.averaging import cpu_kernels
from thinc_swa.averaging.cpu_kernels import (
    BLOCK_SIZE,
    TORCH_BLOCK_SIZE,
    TORCH_WHOLE_SIZE,
    add_scaled,
    interpolate,
    pull_back,
    scale_to,
)
from thinc_swa.averaging.finite import SkipCount, pull_back_finite
from thinc_swa.averaging.running_average import RunningAverage


@pytest.fixture(autouse=True, params=["with PyTorch", "without PyTorch"])
def torch(request, monkeypatch):
    """Run each test with and without PyTorch, which the kernels use if it is installed."""
    if request.param == "without PyTorch":
        monkeypatch.setattr(cpu_kernels, "torch", None)
    elif cpu_kernels.torch is None:
        require("torch")


SIZES = [0, 1, 5, BLOCK_SIZE, 2 * BLOCK_SIZE + 3, TORCH_WHOLE_SIZE + TORCH_BLOCK_SIZE + 1]
DTYPES = [("float32", "float32"), ("float32", "float16"), ("float64", "float64")]


def make_arrays(xp, size, dtypes):
    random = numpy.random.RandomState(0)
    return [xp.asarray(random.uniform(-1, 1, (size,)).astype(dtype)) for dtype in dtypes]


def to_float64(array):
    return getattr(array, "get", lambda: array)().astype("float64")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("factor", [1.0, 0.3, 1e6])
def test_add_scaled(xp, size, dtypes, factor):
    total, weights = make_arrays(xp, size, dtypes)
    expected = to_float64(total) + factor * to_float64(weights)
    unchanged = to_float64(weights)
    add_scaled(total, weights, factor)
    numpy.testing.assert_allclose(to_float64(total), expected, rtol=1e-5, atol=1e-6)
    numpy.testing.assert_array_equal(to_float64(weights), unchanged)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("factor", [1e-5, 0.3, -0.1])
def test_interpolate(xp, size, dtypes, factor):
    total, weights = make_arrays(xp, size, dtypes)
    expected = (1 - factor) * to_float64(total) + factor * to_float64(weights)
    interpolate(total, weights, factor)
    numpy.testing.assert_allclose(to_float64(total), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtypes", DTYPES)
def test_scale_to(xp, size, dtypes):
    total, out = make_arrays(xp, size, dtypes)
    expected = to_float64(total) / 3
    scale_to(out, total, 1 / 3)
    assert out.dtype == dtypes[1]
    tolerance = 1e-3 if dtypes[1] == "float16" else 1e-6
    numpy.testing.assert_allclose(to_float64(out), expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("pullback", [0.3, 1.0])
def test_pull_back(xp, size, dtypes, pullback):
    slow, fast = make_arrays(xp, size, dtypes)
    expected = to_float64(slow) + pullback * (to_float64(fast) - to_float64(slow))
    pull_back(slow, fast, pullback)
    assert (slow.dtype, fast.dtype) == dtypes
    numpy.testing.assert_allclose(to_float64(slow), expected, rtol=1e-5, atol=1e-6)
    numpy.testing.assert_array_equal(to_float64(fast), to_float64(slow.astype(dtypes[1])))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("pullback", [0.3, 1.0])
@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf, None])
def test_pull_back_finite(size, dtypes, pullback, value):
    """Only finite elements are synchronised; the others do not change the slow weights."""
    slow, fast = make_arrays(numpy, size, dtypes)
    before = slow.copy()
    indices = sorted({0, size // 2, size - 1}) if value is not None and size else []
    fast.reshape(-1)[indices] = value
    expected = to_float64(slow) + pullback * (to_float64(fast) - to_float64(slow))
    expected.reshape(-1)[indices] = before.reshape(-1)[indices]
    skipped = SkipCount()
    with (
        pytest.warns(RuntimeWarning, match=r"parameter \(1, 'W'\)")
        if indices
        else nullcontext()
    ):
        pull_back_finite((1, "W"), slow, fast, pullback, skipped)
    assert skipped.n_skipped == bool(indices)
    assert (slow.dtype, fast.dtype) == dtypes
    numpy.testing.assert_allclose(to_float64(slow), expected, rtol=1e-5, atol=1e-6)
    kept = numpy.isfinite(fast)
    assert kept.sum() == size - len(indices)
    numpy.testing.assert_array_equal(fast[kept], slow.astype(dtypes[1])[kept])
    if pullback == 1.0:
        numpy.testing.assert_array_equal(slow[kept], fast[kept].astype(dtypes[0]))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 2, 2, 2)])
def test_arrays_of_any_shape_and_memory_layout(shape):
    random = numpy.random.RandomState(0)
    weights = random.uniform(-1, 1, shape).astype("f")
    layouts = [
        weights.copy(),
        numpy.asfortranarray(weights),
        numpy.repeat(weights, 2, axis=-1)[..., ::2],
    ]
    for layout in layouts:
        average = RunningAverage()
        average.add_snapshot({1: layout}, 0.9)
        average.add_snapshot({1: layout * 2}, 0.9)
        assert_close(average.averages(), {1: weights * 1.1})
        average.write_to({1: layout})
        numpy.testing.assert_allclose(layout, average.averages()[1])


def many_snapshots(n_snapshots, snapshot):
    """Average many snapshots.

    snapshot (Callable): Maps the index of a snapshot to its weights.
    RETURNS (tuple[ndarray, ndarray]): The mean of `RunningAverage`, and the mean in float64.
    """
    average, exact = RunningAverage(), 0.0
    for k in range(n_snapshots):
        weights = snapshot(k).astype("f")
        average.add_snapshot({1: weights})
        exact += weights.astype("float64")
    return average.averages()[1].astype("float64"), exact / n_snapshots


CENTRES = numpy.random.RandomState(0).uniform(-1, 1, 500)


@pytest.mark.parametrize(
    "name, snapshot",
    [
        ("constant", lambda k: CENTRES),
        ("drift of 1 %", lambda k: CENTRES * (1 + k * 1e-7)),
        ("one change of 2e-4", lambda k: CENTRES * (1 + 2e-4 * (k > 50_000))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_mean_of_many_snapshots_is_exact(name, snapshot):
    """Nearly constant weights are the worst case: in a float32 sum all summands are rounded in
    the same direction, and in a running mean the updates are smaller than the precision."""
    mean, exact = many_snapshots(100_000, snapshot)
    numpy.testing.assert_allclose(mean, exact, rtol=1e-5)


@pytest.mark.parametrize("noise", [0.001, 0.1])
def test_the_mean_of_many_snapshots_of_moving_weights(noise):
    """Here the rounding errors are random. With 24 bits their root mean square is 5e-6, and one
    weight in thousands has an error of 1.6e-5."""
    random = numpy.random.RandomState(1)
    mean, exact = many_snapshots(
        100_000, lambda k: CENTRES * (1 + noise * random.uniform(-1, 1, len(CENTRES)))
    )
    error = abs(mean / exact - 1)
    assert numpy.sqrt((error**2).mean()) < 1e-5
    assert error.max() < 2e-5


def test_the_mean_of_many_snapshots_of_a_random_walk():
    """Consecutive rounding errors are similar, so their sum is twice as large."""
    random = numpy.random.RandomState(1)
    steps = iter(CENTRES + 2 + 1e-4 * random.standard_normal((100_000, 500)).cumsum(axis=0))
    mean, exact = many_snapshots(100_000, lambda k: next(steps))
    error = abs(mean / exact - 1)
    assert numpy.sqrt((error**2).mean()) < 1.5e-5
    assert error.max() < 5e-5


@pytest.mark.parametrize("dtypes", [("float32", "float16"), ("float64", "float64")])
def test_the_mean_of_many_snapshots_in_other_precisions(dtypes):
    random = numpy.random.RandomState(0)
    snapshots = [random.uniform(-1, 1, 50).astype(dtypes[1]) for _ in range(300)]
    average = RunningAverage()
    for weights in snapshots:
        average.add_snapshot({1: weights})
    assert average.averages()[1].dtype == dtypes[0]
    expected = numpy.mean(snapshots, axis=0, dtype="float64")
    tolerance = 1e-6 if dtypes[0] == "float32" else 1e-13
    numpy.testing.assert_allclose(average.averages()[1], expected, atol=tolerance)


# Parameters that are missing in some snapshots


@pytest.mark.parametrize("decay", [None, 0.9])
def test_missing_parameters_count_with_their_next_weights(decay):
    """The snapshots that a parameter missed are made up for when it is next included."""
    random = numpy.random.RandomState(0)
    average, whole = RunningAverage(), RunningAverage()
    still = random.uniform(-1, 1, 5).astype("f")
    for k in range(300):
        moving = random.uniform(-1, 1, 5).astype("f")
        b = random.uniform(-1, 1, 5).astype("f") if k < 3 else still
        whole.add_snapshot({"a": moving, "b": b}, decay)
        if 3 <= k < 200 or 250 <= k < 260:
            if k in (4, 199, 259):  # Its average is available all the time.
                assert set(average.averages()) == {"a", "b"}
                assert abs(average.averages()["b"]).max() <= 1.01
            average.add_snapshot({"a": moving}, decay)
        else:
            average.add_parameter("b", still.copy())
            average.add_snapshot({"a": moving, "b": b}, decay)
            assert_close(average.averages(), whole.averages(), atol=2e-6)


# Weights that are not finite


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("n_before", [0, 1, 5, 200])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_non_finite_snapshots_are_left_out(value, decay, n_before, dtype):
    random = numpy.random.RandomState(0)
    average, expected = RunningAverage(), RunningAverage()

    def snapshot():
        return {name: random.uniform(-1, 1, 40).astype(dtype) for name in "ab"}

    for k in range(n_before + 4):
        weights = snapshot()
        if k in (n_before, n_before + 1):
            weights["b"][7] = value
        else:
            expected.add_snapshot(weights, decay)
        if k == n_before:
            with pytest.warns(RuntimeWarning, match="NaN or infinite .parameter b. are left"):
                average.add_snapshot(weights, decay)
        else:
            average.add_snapshot(weights, decay)
    assert (average.n_averaged, average.n_skipped) == (n_before + 2, 2)
    assert_close(average.averages(), expected.averages(), rtol=1e-6)


@pytest.mark.parametrize("decay", [None, 0.999])
@pytest.mark.parametrize("n_before", [3, 100])
@pytest.mark.parametrize("size", [100, 1_000_000])
@pytest.mark.parametrize("last", [1.0, numpy.inf])
def test_snapshots_that_are_left_out_do_not_change_averages(decay, n_before, size, last):
    """Compare bits. Diverging weights are huge before they are infinite."""
    random = numpy.random.RandomState(0)
    weights = {1: random.uniform(-1, 1, size).astype("f"), 2: numpy.ones((3,), dtype="f")}
    average = RunningAverage()
    for _ in range(n_before):
        average.add_snapshot(weights, decay)
    before = average.averages()
    broken = {1: numpy.full((size,), 1e30, dtype="f"), 2: numpy.ones((3,), dtype="f")}
    broken[1][-1], broken[2][1] = last, numpy.nan
    with pytest.warns(RuntimeWarning):
        average.add_snapshot(broken, decay)
    assert average.n_averaged == n_before and average.n_skipped == 1
    for key, mean in average.averages().items():
        assert numpy.array_equal(mean, before[key])


def test_finite_weights_with_infinite_squares_are_averaged():
    average = RunningAverage()
    for _ in range(3):
        average.add_snapshot({1: numpy.full((10,), 1e30, dtype="f")})
    assert average.n_averaged == 3 and average.n_skipped == 0


def test_check_finite_can_be_disabled():
    average = RunningAverage(check_finite=False)
    average.add_snapshot({1: numpy.ones((3,), dtype="f")})
    average.add_snapshot({1: numpy.full((3,), numpy.nan, dtype="f")})
    assert average.n_averaged == 2 and numpy.isnan(average.averages()[1]).all()


def test_parameters_with_non_finite_first_weights():
    average = RunningAverage()
    average.add_snapshot({1: numpy.ones((3,), dtype="f")})
    average.add_parameter(2, numpy.full((3,), numpy.nan, dtype="f"))
    assert set(average.averages()) == {1}
    for value in (2, 4):
        weights = {key: numpy.full((3,), value, dtype="f") for key in (1, 2)}
        average.add_snapshot(weights)
    means = average.averages()
    assert means[1] == pytest.approx(7 / 3) and means[2] == pytest.approx(3)


def test_moving_average_with_many_rescalings():
    random = numpy.random.RandomState(0)
    snapshots = [{1: random.uniform(-1, 1, 50).astype("f")} for _ in range(3000)]
    average = RunningAverage()
    for snapshot in snapshots:
        average.add_snapshot(snapshot, 0.9)
    assert_close(average.averages(), moving_average(snapshots, [0.9] * 2999), atol=1e-6)


def test_updates_make_no_temporary_arrays():
    weights = {1: numpy.ones((4_000_000,), dtype="f")}
    size = weights[1].nbytes
    tracemalloc.start()
    try:
        for decay in (None, 0.9):
            average = RunningAverage()
            average.add_snapshot(weights, decay)
            assert size <= tracemalloc.get_traced_memory()[0] < size + 2**20
            tracemalloc.reset_peak()
            average.add_snapshot(weights, decay)
            average.write_to(weights)
            assert tracemalloc.get_traced_memory()[1] < size + 2**20
            del average
        slow = numpy.ones_like(weights[1])
        tracemalloc.reset_peak()
        pull_back(slow, weights[1], 0.5)
        assert tracemalloc.get_traced_memory()[1] < size + 2**20
    finally:
        tracemalloc.stop()


def test_works_without_cupy():
    program = (
        "import sys; sys.modules['cupy'] = None\n"
        "import numpy, thinc_swa\n"
        "from thinc.api import Adam\n"
        "optimizer = thinc_swa.SWA(thinc_swa.Lookahead(Adam(0.1), freq=1), start_step=0)\n"
        "weights = numpy.ones((3,), dtype='f')\n"
        "optimizer((1, 'W'), weights, weights.copy())\n"
        "assert optimizer.averages\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
