"""What several test modules need."""

import importlib
import importlib.util
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from thinc.compat import has_cupy_gpu

# On a machine with a GPU for CuPy, or where THINC_SWA_REQUIRE asks for it.
HAS_GPU = has_cupy_gpu or "cupy" in os.environ.get("THINC_SWA_REQUIRE", "")


def require(*packages):
    """Skip what needs these packages where they are missing. Those that the environment
    variable THINC_SWA_REQUIRE names (comma separated) must be there: no skip, an error.

    packages (str): Names to import. They are not imported here: JAX, which optax imports, warns
        at every fork of its process from then on.
    """
    required = os.environ.get("THINC_SWA_REQUIRE", "").replace(" ", "").split(",")
    for package in packages:
        if importlib.util.find_spec(package) is None:
            if package in required:
                raise ModuleNotFoundError(f"No module named {package!r}, which is required")
            pytest.skip(f"{package} is not installed", allow_module_level=True)


@contextmanager
def scripts(folder):
    """Context manager in which the scripts of a folder can be imported, as they import each
    other. RETURNS (Callable): Imports one by its name."""
    names = {path.stem for path in folder.glob("*.py")}
    hidden = {name: sys.modules.pop(name) for name in names & set(sys.modules)}
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def as_numpy(array):
    """The array itself, or a copy of one that is on the GPU."""
    return array.get() if hasattr(array, "get") else array


def run_command(folder, *arguments, **environment):
    """`python -m thinc_swa`, which is what `thinc-swa` is."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "thinc_swa", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf8",
        timeout=120,
    )
