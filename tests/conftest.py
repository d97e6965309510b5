import os
import signal
from typing import NamedTuple

# Before NumPy and PyTorch are loaded: small arrays gain nothing from threads, and several
# test processes fight over the cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy  # noqa: E402
import pytest  # noqa: E402
from helpers import HAS_GPU  # noqa: E402
from hypothesis import settings  # noqa: E402

from thinc_swa.models import parameter_paths  # noqa: E402

# The same examples in every run: a new one that fails belongs on a developer's screen.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(params=["numpy", "cupy"] if HAS_GPU else ["numpy"])
def xp(request):
    """The array library."""
    if request.param == "numpy":
        return numpy
    import cupy

    return cupy


@pytest.fixture(autouse=True)
def unnamed(monkeypatch):
    """No test knows the paths of another one's parameters: many make up their keys."""
    monkeypatch.setattr(parameter_paths, "_registered_paths", {})


@pytest.fixture
def interruptible():
    """SIGINT as in a foreground process, also where the tests run in the background: a shell
    starts those with SIGINT ignored, and their subprocesses inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys, monkeypatch):
    """Like `helpers.run_command`, in this process, which takes less time."""
    # The command line is optional: test modules require it.
    from thinc_swa.cli.main import main

    def run(folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("NO_COLOR", "1")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return Result(ended.value.code, *capsys.readouterr())

    return run
