"""Functions in forked processes."""

import os
import sys
import threading
import time

import numpy
import pytest
from helpers import require
from new_process import run_in_new_process
from thinc.api import Relu, chain

from thinc_swa.comparison.forked_call import ForkedCall, can_fork

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")


def test_the_result_is_exact_and_nothing_else_changes(tmp_path):
    value = numpy.float64(0.1) + 0.2
    seen = []

    def function():
        seen.append(os.getpid())
        return {"a": [float(value), float("inf")], "pid": os.getpid(), "long": "x" * 200_000}

    with (tmp_path / "log").open("w") as file:
        file.write("once")
        result = ForkedCall(function).result()
    assert result["a"] == [value, float("inf")] and len(result["long"]) == 200_000
    assert result["pid"] != os.getpid() and seen == []
    # Buffered data are not written twice.
    assert (tmp_path / "log").read_text() == "once"


def test_it_sees_the_values_of_its_start():
    array = numpy.zeros(3)
    reader, writer = os.pipe()

    def function():
        os.read(reader, 1)  # Until the array has been changed.
        return array.tolist()

    call = ForkedCall(function)
    assert not call.is_done()
    array += 1.0
    os.write(writer, b"x")
    end = time.monotonic() + 30
    while not call.is_done():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert call.result() == [0.0] * 3
    os.close(reader)
    os.close(writer)


def test_errors_and_crashes_are_errors(capfd):
    def fail():
        raise KeyError("my key")

    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        ForkedCall(fail).result()
    assert "my key" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="ended with exit code -9"):
        ForkedCall(lambda: os.kill(os.getpid(), 9)).result()


def test_a_cancelled_process_ends():
    call = ForkedCall(lambda: time.sleep(100))
    pid = call._pid
    call.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_processes_with_threads_are_not_forked():
    # In a new process: other tests may have left threads, such as those of progress bars.
    run_in_new_process(check_threads)


def check_threads():
    assert can_fork(chain(Relu(2, 3), Relu(2, 2)))
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()
    assert not can_fork(Relu(2, 3))
    is_over.set()
    thread.join()
    assert can_fork(Relu(2, 3))


def test_models_of_other_libraries_are_not_forked():
    require("torch")
    run_in_new_process(check_pytorch)


def check_pytorch():
    import torch
    from thinc.api import PyTorchWrapper

    assert can_fork(Relu(2, 3))
    assert not can_fork(chain(Relu(2, 3), PyTorchWrapper(torch.nn.Linear(2, 2))))
