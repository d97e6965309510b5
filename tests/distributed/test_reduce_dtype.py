"""Workers that send float16 numbers."""

import numpy
import pytest
from helpers import require
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from thinc.api import Adam
from workers import (
    finish,
    make_model,
    places,
    start_processes,
    train_on_batches,
    train_on_gradients,
)

from thinc_swa import LocalSGD
from thinc_swa.distributed import connect, run_simulated
from thinc_swa.distributed.exchange import ParameterExchange

# Of a sum of two float16 numbers, to the largest value of a parameter: both are rounded, and
# their sum is.
ROUNDING = 2**-10


def reduce_once(values_of):
    """Sum values of all parameters of a small model over two workers.

    values_of (Callable[[int, int, shape], ndarray]): The values by rank and index of the
        parameter.
    RETURNS (list[list[Total]]): By rank.
    """

    def work(communicator):
        model = make_model()
        exchange = ParameterExchange(
            model, communicator, lambda key: False, reduce_dtype="float16"
        )
        indices = {key: index for index, key in enumerate(exchange.keys)}

        def write(key, weights, out):
            out[...] = values_of(communicator.rank, indices[key], out.shape)
            return True

        return [
            found._replace(total=found.total.copy())
            for found in exchange.reduce(write, takes_part=True)
        ]

    return run_simulated(2, work)


def plain_sum(first, second):
    """Multiples of the mean of the largest absolute values, rounded to float16 and summed."""
    scale = numpy.float32(abs(first).max() / numpy.float32(2))
    scale = scale + numpy.float32(abs(second).max() / numpy.float32(2))
    scale = scale or numpy.float32(1)
    rounded = (first / scale).astype("float16") + (second / scale).astype("float16")
    return rounded.astype("float32") * scale


FLOATS = arrays(
    "float32",
    (2, 4, 5),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
)


@settings(deadline=None, max_examples=50)
@given(values=FLOATS, exponents=st.tuples(st.integers(-38, 0), st.integers(-38, 0)))
def test_sums_are_those_of_rounded_multiples(values, exponents):
    values *= numpy.float32(10) ** numpy.array(exponents, dtype="f").reshape(2, 1, 1)

    def values_of(rank, index, shape):
        return numpy.resize(values[rank], shape)

    found = reduce_once(values_of)
    for index, (first, second) in enumerate(zip(*found, strict=True)):
        terms = [values_of(rank, index, first.total.shape) for rank in range(2)]
        assert first.total.tobytes() == plain_sum(*terms).tobytes() == second.total.tobytes()
        assert first.n_values == 2 and first.n_non_finite == 0
        largest = max(abs(term).max() for term in terms)
        assert (abs(first.total - sum(terms)) <= ROUNDING * largest + 1e-37).all()


def test_values_that_are_not_finite_are_left_out():
    def values_of(rank, index, shape):
        return numpy.full(shape, numpy.inf if rank == index == 1 else 1e38, dtype="f")

    for totals in reduce_once(values_of):
        with_one = totals[1]
        assert (with_one.n_values, with_one.n_non_finite) == (1, 1)
        assert (with_one.total == numpy.float32(1e38)).all()


@pytest.mark.parametrize("start_step", [0, 5])
def test_weights_are_close_to_those_of_float32_and_equal_on_all_workers(start_step):
    found = {
        dtype: run_simulated(
            4,
            lambda communicator, dtype=dtype: train_on_gradients(
                communicator, n_steps=11, freq=3, start_step=start_step, reduce_dtype=dtype
            ),
        )
        for dtype in ("float32", "float16")
    }
    histories = found["float16"]
    last = 11 - (11 - start_step) % 3
    differs = False
    for place, exact in found["float32"][0][last].items():
        assert len({history[last][place].tobytes() for history in histories}) == 1
        rounded = histories[0][last][place]
        # Four exchanges of changes of up to 0.3, or eight of gradients of up to 1 at most.
        numpy.testing.assert_allclose(rounded, exact, rtol=0, atol=0.004)
        differs = differs or bool((rounded != exact).any())
    assert differs


@pytest.mark.parametrize("n_workers", [2, 4])
def test_half_as_many_bytes_are_sent(n_workers):
    n_parameters = sum(array.size for _, array in places(make_model(width=512)).values())
    sent = []
    for n_steps in (0, 12):
        found = run_simulated(
            n_workers,
            lambda c, n=n_steps: train_on_batches(
                c, n_steps=n, width=512, freq=3, reduce_dtype="float16"
            ),
        )
        sent.append(int(found[1]["bytes_sent"]))
    expected = 4 * 2 * (n_workers - 1) / n_workers * 2 * n_parameters
    assert expected <= sent[1] - sent[0] <= 1.01 * expected


@pytest.mark.slow
def test_two_processes_are_two_simulated_workers_bit_for_bit(tmp_path):
    require("torch")
    results = finish(start_processes("train", 2, tmp_path, "float16"))
    assert [code for code, _, _ in results] == [0, 0], results
    expected = run_simulated(
        2, lambda communicator: train_on_batches(communicator, freq=3, reduce_dtype="float16")
    )
    for rank in range(2):
        with numpy.load(tmp_path / f"{rank}.npz") as found:
            for place, array in expected[rank].items():
                assert found[place].tobytes() == array.tobytes(), place


def test_different_dtypes_are_an_error_on_all_workers():
    messages = []

    def work(communicator):
        dtype = ("float32", "float16")[communicator.rank]
        try:
            connect(LocalSGD(Adam(0.1), reduce_dtype=dtype), make_model(), communicator)
        except ValueError as error:
            messages.append(str(error))

    run_simulated(2, work)
    assert len(messages) == 2
    assert (
        "rank 0 has 'reduce_dtype = float32', rank 1 has 'reduce_dtype = float16'"
        in (messages[1])
    )


def test_one_worker_sends_nothing():
    found = [
        run_simulated(1, lambda c, dtype=dtype: train_on_batches(c, freq=3, reduce_dtype=dtype))
        for dtype in ("float32", "float16")
    ]
    for place, array in found[0][0].items():
        assert found[1][0][place].tobytes() == array.tobytes(), place
