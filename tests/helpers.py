"""What several test modules need."""

import importlib
import os

import pytest


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
