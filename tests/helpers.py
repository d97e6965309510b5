"""What several test modules need."""

import importlib
import os

import pytest
from thinc.compat import has_cupy_gpu

# On a machine with a GPU for CuPy, or where THINC_SWA_REQUIRE asks for it.
HAS_GPU = has_cupy_gpu or "cupy" in os.environ.get("THINC_SWA_REQUIRE", "")


def require(*packages):
    """Skip what needs these packages where they are missing. Those that the environment
    variable THINC_SWA_REQUIRE names (comma separated) must be there: no skip, an error.

    packages (str): Names to import.
    """
    required = os.environ.get("THINC_SWA_REQUIRE", "").replace(" ", "").split(",")
    for package in packages:
        if package in required:
            importlib.import_module(package)
        else:
            pytest.importorskip(package)
