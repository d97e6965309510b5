"""Several workers in one process."""

import random
import threading
import time

import numpy
import pytest

from thinc_swa.distributed import SingleWorker, WorkerError, run_simulated


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_collective_operations(size):
    def work(communicator):
        assert communicator.size == size
        rank = communicator.rank
        total = numpy.array([rank, 1.0])
        communicator.all_reduce(total)
        first = numpy.array([rank + 7])
        communicator.broadcast(first)
        last = numpy.array([rank + 7])
        communicator.broadcast(last, source=size - 1)
        gathered = communicator.all_gather(numpy.array([[rank]]))
        texts = communicator.gather_texts("ä" * rank)
        # Of different lengths.
        sent = [communicator.broadcast_text("ä" * rank, source) for source in range(size)]
        return total, first, last, gathered, texts, sent

    for total, first, last, gathered, texts, sent in run_simulated(size, work):
        assert total.tolist() == [size * (size - 1) / 2, size]
        assert first.tolist() == [7]
        assert last.tolist() == [size + 6]
        assert [array.tolist() for array in gathered] == [[[rank]] for rank in range(size)]
        assert texts == ["ä" * rank for rank in range(size)]
        assert sent == texts


def test_results_are_by_rank():
    assert run_simulated(3, lambda communicator: communicator.rank) == [0, 1, 2]


def test_one_worker_runs_at_a_time_by_rank():
    seen = []

    def work(communicator):
        for moment in range(3):
            seen.append((moment, communicator.rank))
            time.sleep(0.001)
            communicator.all_reduce(numpy.ones(1))

    run_simulated(3, work)
    assert seen == [(moment, rank) for moment in range(3) for rank in range(3)]


def test_each_worker_has_its_own_random_state():
    def draw(communicator):
        numpy.random.seed(communicator.rank)
        random.seed(communicator.rank)
        found = []
        for _ in range(3):
            found += [numpy.random.uniform(), random.random()]
            communicator.all_reduce(numpy.ones(1))
        return found

    numpy.random.seed(5)
    expected = numpy.random.RandomState(5).uniform()
    together = run_simulated(2, draw)
    assert numpy.random.uniform() == expected
    for rank, found in enumerate(together):
        numpy.random.seed(rank)
        random.seed(rank)
        assert found == [f() for _ in range(3) for f in (numpy.random.uniform, random.random)]


def test_the_first_error_of_a_worker_is_raised():
    def work(communicator):
        communicator.all_reduce(numpy.ones(1))
        if communicator.rank == 1:
            raise KeyError("mine")
        communicator.all_reduce(numpy.ones(1))

    with pytest.raises(KeyError, match="mine"):
        run_simulated(3, work)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_a_worker_that_ends_too_early_is_named(late):
    def work(communicator):
        if communicator.rank != late:
            communicator.all_reduce(numpy.ones(1))

    with pytest.raises(WorkerError, match=rf"in all_reduce, but rank {late} has ended"):
        run_simulated(3, work)


def test_a_worker_that_does_not_come_is_named():
    released = threading.Event()

    def work(communicator):
        if communicator.rank == 1:
            released.wait(20)
        communicator.broadcast(numpy.ones(1))

    start = time.monotonic()
    try:
        with pytest.raises(WorkerError, match="rank 1 did not take part within 0.2 seconds"):
            run_simulated(2, work, timeout=0.2)
    finally:
        released.set()
    assert time.monotonic() - start < 10


def test_different_operations_are_an_error():
    def work(communicator):
        communicator.all_reduce(numpy.ones(2 + communicator.rank))

    message = r"rank 0: all_reduce of float64\(2,\); rank 1: all_reduce of float64\(3,\)"
    with pytest.raises(WorkerError, match=message):
        run_simulated(2, work)


def test_bytes_sent():
    def work(communicator):
        communicator.all_reduce(numpy.ones(100, dtype="f"))
        return communicator.bytes_sent

    assert run_simulated(1, work) == [0]
    assert run_simulated(2, work) == [400, 400]
    assert run_simulated(4, work) == [600] * 4


def test_a_single_worker_is_alone():
    communicator = SingleWorker()
    array = numpy.array([1.0, 2.0])
    communicator.all_reduce(array)
    communicator.broadcast(array)
    assert communicator.all_gather(array)[0].tolist() == array.tolist() == [1.0, 2.0]
    assert (communicator.rank, communicator.size, communicator.bytes_sent) == (0, 1, 0)
    communicator.close()
