"""Calls of test functions in a new Python process."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def run_in_new_process(function, *arguments):
    """Call a module-level function of the tests in a new process.

    function (Callable): The function. It gets its arguments as strings.
    RETURNS (str): What the function prints.
    """
    path = Path(inspect.getfile(function))
    code = f"import sys, {path.stem}; {path.stem}.{function.__name__}(*sys.argv[1:])"
    paths = [str(TESTS), str(path.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
