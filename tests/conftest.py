import os

# Before NumPy and PyTorch are loaded: small arrays gain nothing from threads, and several
# test processes fight over the cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy  # noqa: E402
import pytest  # noqa: E402
from thinc.compat import has_cupy_gpu  # noqa: E402


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """The array library."""
    if request.param == "numpy":
        return numpy
    if not has_cupy_gpu:
        pytest.skip("needs CuPy and a GPU")
    import cupy

    return cupy
