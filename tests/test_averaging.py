"""The kernels and the running average, against plain arithmetic in float64."""

import subprocess
import sys
import tracemalloc

import numpy
import pytest
from helpers import require
from reference import assert_close, moving_average

from thinc_swa import averaging
from thinc_swa.averaging import (
    BLOCK_SIZE,
    TORCH_BLOCK_SIZE,
    TORCH_WHOLE_SIZE,
    RunningAverage,
    add_scaled,
    pull_back,
    scale_to,
)


@pytest.fixture(autouse=True, params=["with PyTorch", "without PyTorch"])
def torch(request, monkeypatch):
    """The kernels use PyTorch where it is installed."""
    if request.param == "without PyTorch":
        monkeypatch.setattr(averaging, "torch", None)
    elif averaging.torch is None:
        require("torch")


SIZES = [0, 1, 5, BLOCK_SIZE, 2 * BLOCK_SIZE + 3, TORCH_WHOLE_SIZE + TORCH_BLOCK_SIZE + 1]
DTYPES = [("float32", "float32"), ("float32", "float16"), ("float64", "float64")]


def arrays(xp, size, dtypes):
    random = numpy.random.RandomState(0)
    return [xp.asarray(random.uniform(-1, 1, (size,)).astype(dtype)) for dtype in dtypes]


def to_float64(array):
    return getattr(array, "get", lambda: array)().astype("float64")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("factor", [1.0, 0.3, 1e6])
def test_add_scaled(xp, size, dtypes, factor):
    total, weights = arrays(xp, size, dtypes)
    expected = to_float64(total) + factor * to_float64(weights)
    unchanged = to_float64(weights)
    add_scaled(total, weights, factor)
    numpy.testing.assert_allclose(to_float64(total), expected, rtol=1e-5, atol=1e-6)
    numpy.testing.assert_array_equal(to_float64(weights), unchanged)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtypes", DTYPES)
def test_scale_to(xp, size, dtypes):
    total, out = arrays(xp, size, dtypes)
    expected = to_float64(total) / 3
    scale_to(out, total, 1 / 3)
    assert out.dtype == dtypes[1]
    tolerance = 1e-3 if dtypes[1] == "float16" else 1e-6
    numpy.testing.assert_allclose(to_float64(out), expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("pullback", [0.3, 1.0])
def test_pull_back(xp, size, dtypes, pullback):
    slow, fast = arrays(xp, size, dtypes)
    expected = to_float64(slow) + pullback * (to_float64(fast) - to_float64(slow))
    pull_back(slow, fast, pullback)
    assert (slow.dtype, fast.dtype) == dtypes
    numpy.testing.assert_allclose(to_float64(slow), expected, rtol=1e-5, atol=1e-6)
    numpy.testing.assert_array_equal(to_float64(fast), to_float64(slow.astype(dtypes[1])))


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
        assert_close(average.means(), {1: weights * 1.1})
        average.write_to({1: layout})
        numpy.testing.assert_allclose(layout, average.means()[1])


@pytest.mark.parametrize("noise, bound", [(0.0, 3e-3), (0.1, 5e-5)])
def test_the_mean_of_many_snapshots(noise, bound):
    """A running sum in float32 loses little, even where the weights stand still: that is
    the worst case for it, because every addition rounds the same way."""
    random = numpy.random.RandomState(0)
    centre = random.uniform(-1, 1, 50).astype("f")
    average, exact, n_snapshots = RunningAverage(), numpy.zeros(50), 100_000
    for _ in range(n_snapshots):
        weights = (centre + noise * random.uniform(-1, 1, 50)).astype("f")
        average.add_snapshot({1: weights})
        exact += weights
    error = abs(average.means()[1] - exact / n_snapshots) / abs(centre)
    assert error.max() < bound


def test_a_moving_average_over_many_rescalings():
    random = numpy.random.RandomState(0)
    snapshots = [{1: random.uniform(-1, 1, 50).astype("f")} for _ in range(3000)]
    average = RunningAverage()
    for snapshot in snapshots:
        average.add_snapshot(snapshot, 0.9)
    assert_close(average.means(), moving_average(snapshots, [0.9] * 2999), atol=1e-6)


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


def test_cupy_is_not_imported():
    """Where Thinc does not import it either."""
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
