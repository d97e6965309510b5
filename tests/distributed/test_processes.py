"""Workers in processes of their own."""

import time

import numpy
import pytest
from helpers import require
from processes import assert_end
from workers import finish, start_processes, train_on_batches

from thinc_swa.distributed import TorchCommunicator, run_simulated

require("torch")


def test_two_processes_are_two_simulated_workers_bit_for_bit(tmp_path):
    results = finish(start_processes("train", 2, tmp_path))
    assert [code for code, _, _ in results] == [0, 0], results
    expected = run_simulated(2, lambda communicator: train_on_batches(communicator, freq=3))
    for rank in range(2):
        with numpy.load(tmp_path / f"{rank}.npz") as found:
            assert set(found) == set(expected[rank])
            for place, array in expected[rank].items():
                assert found[place].tobytes() == array.tobytes(), place


@pytest.mark.slow
def test_texts():
    results = finish(start_processes("texts", 3))
    texts = ["I am 0", "I am 1I am 1", "I am 2I am 2I am 2"]
    assert [output.strip() for _, output, _ in results] == [f"{texts} rank 2"] * 3, results


@pytest.mark.slow
@pytest.mark.parametrize("seconds, message", [(20, "within 1 seconds"), (0, "has failed or")])
def test_a_worker_that_does_not_take_part_is_named(seconds, message):
    """It comes too late, or has ended."""
    start = time.monotonic()
    processes = start_processes("late", 2, seconds, TEST_TIMEOUT="1")
    try:
        output, errors = processes[0].communicate(timeout=30)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert "Rank 0 waited in all_reduce for rank 1" in output, errors
    assert message in output
    assert time.monotonic() - start < 25
    assert_end([process.pid for process in processes])


def test_without_a_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="RANK, WORLD_SIZE, .* not set: start the workers"):
        TorchCommunicator()


@pytest.mark.slow
def test_workers_that_never_start():
    start = time.monotonic()
    (rank_0, rank_1) = start_processes("texts", 2, TEST_CONNECT_TIMEOUT="2")
    rank_1.kill()
    rank_1.communicate()
    ((code, _, errors),) = finish([rank_0], timeout=40)
    assert code == 1
    assert "WorkerError: Rank 0 could not connect to the other workers" in errors
    assert time.monotonic() - start < 30
