"""Plain training and plain averages: the oracle for what the package computes."""

import numpy
from helpers import as_numpy
from thinc.api import get_array_module

KEYS = {(3, "W"): (4, 3), (3, "b"): (4,), (4, "W"): (2, 2, 2)}


def make_weights(xp=numpy, dtype="float32", seed=0):
    """The weights of a small model: two nodes, three parameters."""
    random = numpy.random.RandomState(seed)
    return {
        key: xp.asarray(random.uniform(-1, 1, shape).astype(dtype))
        for key, shape in KEYS.items()
    }


def train(optimizer, weights, n_steps, *, is_stepped=True, is_updated=None, after=None, seed=1):
    """Train on random gradients, the same for the same seed.

    weights (dict[KeyT, FloatsXd]): The weights, replaced by what the optimizer returns.
    is_stepped (bool): Whether the loop calls step_schedules().
    is_updated (Callable | None): (step, key) -> bool: who gets a gradient, if not all.
    after (dict[int, Callable] | None): What to call after which step.
    RETURNS (list[dict[KeyT, ndarray]]): Copies of the weights at the beginning and after
        every step, taken before the step is completed.
    """
    random = numpy.random.RandomState(seed)
    history = [to_numpy(weights)]
    for step in range(1, n_steps + 1):
        for key, array in weights.items():
            gradient = random.uniform(-1, 1, array.shape).astype(array.dtype)
            if is_updated is None or is_updated(step, key):
                gradient = get_array_module(array).asarray(gradient)
                weights[key], _ = optimizer(key, array, gradient)
        history.append(to_numpy(weights))
        if is_stepped:
            optimizer.step_schedules()
        if after and step in after:
            after[step]()
    return history


def to_numpy(arrays):
    """Copies in NumPy."""
    return {key: numpy.array(as_numpy(array)) for key, array in arrays.items()}


def due(start_step, freq, n_steps):
    """The steps after which there is a snapshot, until step n_steps."""
    return list(range(start_step or freq, n_steps + 1, freq))


def mean(snapshots):
    """The arithmetic mean of whole models, in float64."""
    return {
        key: numpy.mean([snapshot[key].astype("float64") for snapshot in snapshots], axis=0)
        for key in snapshots[0]
    }


def moving_average(snapshots, decays):
    """decays[i] is what is left of the average when snapshot i + 1 comes in."""
    average = {key: array.astype("float64") for key, array in snapshots[0].items()}
    for snapshot, decay in zip(snapshots[1:], decays, strict=False):
        for key, array in snapshot.items():
            average[key] = decay * average[key] + (1 - decay) * array
    return average


def assert_close(got, expected, rtol=1e-5, atol=1e-6):
    """The same parameters with the same values."""
    assert set(got) == set(expected)
    for key, array in to_numpy(got).items():
        numpy.testing.assert_allclose(array, expected[key], rtol=rtol, atol=atol)


def assert_equal(got, expected):
    """The same parameters, bit for bit."""
    assert set(got) == set(expected)
    got, expected = to_numpy(got), to_numpy(expected)
    for key, array in got.items():
        assert array.dtype == expected[key].dtype
        assert array.tobytes() == expected[key].tobytes(), key
