"""Which of the workers that have failed is named."""

import json
import signal

import pytest
from helpers import require

require("torch")

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure  # noqa: E402

from thinc_swa.distributed.launcher import _find_cause  # noqa: E402


@pytest.fixture
def fail(tmp_path):
    """Function that makes the failure of a worker, with the error that it reported if any."""

    def make(rank, exit_code, message=None, is_consequence=False):
        path = tmp_path / f"{rank}.json"
        if message is not None:
            details = {"timestamp": "1", "is_consequence": is_consequence}
            path.write_text(json.dumps({"message": {"message": message, "extraInfo": details}}))
        return ProcessFailure(rank, 1000 + rank, exit_code, str(path))

    return make


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("consequence", [-signal.SIGTERM, -signal.SIGABRT, 1])
def test_a_killed_worker_is_named_before_the_consequences(fail, killed, consequence):
    other = 1 - killed
    message = "Rank 0 waited for another worker" if consequence == 1 else None
    failures = {
        other: fail(other, consequence, message, is_consequence=True),
        killed: fail(killed, -signal.SIGKILL),
    }
    error = _find_cause(failures)
    assert str(error).startswith(f"Worker {killed} was ended by SIGKILL")
    assert error.exit_code == 128 + signal.SIGKILL


@pytest.mark.parametrize("exit_code", [1, -signal.SIGTERM])
def test_an_error_is_shown_before_everything_else(fail, exit_code):
    failures = {
        0: fail(0, -signal.SIGABRT),
        1: fail(1, 1, "Rank 1 waited for rank 2", is_consequence=True),
        2: fail(2, exit_code, "A loss is not finite"),
    }
    error = _find_cause(failures)
    assert (str(error), error.exit_code) == ("A loss is not finite", 1)


def test_a_worker_ended_by_sigterm_is_named_before_those_that_waited_for_it(fail):
    failures = {
        0: fail(0, 1, "Rank 0 waited for rank 1", is_consequence=True),
        1: fail(1, -signal.SIGTERM),
    }
    error = _find_cause(failures)
    assert (str(error), error.exit_code) == ("Worker 1 was ended by SIGTERM", 143)


def test_an_exit_code_without_an_error_is_before_the_consequences(fail):
    failures = {0: fail(0, -signal.SIGTERM), 1: fail(1, 3)}
    error = _find_cause(failures)
    assert (str(error), error.exit_code) == ("", 3)


def test_of_several_errors_the_one_of_the_lowest_rank_is_shown(fail):
    failures = {rank: fail(rank, 1, f"Error {rank}") for rank in (2, 1)}
    assert str(_find_cause(failures)) == "Error 1"
