"""Check that loading PyTorch layers cannot execute code."""

import os
import re
from typing import Any

import thinc.compat

from .parameters import ModelT, named_shims

# None without PyTorch.
torch: Any = thinc.compat.torch

# The first version of PyTorch with `weights_only=True` as the default of `torch.load`. In
# earlier versions that option is not safe either (CVE-2025-32434).
SAFE_VERSION = (2, 6)

# If set, `torch.load` can execute code in every version.
UNSAFE_VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def check_pytorch_loading(model: ModelT, *, trust: bool = False) -> None:
    """Check that `from_bytes` and `from_disk` of a model cannot execute code from a file.

    Thinc's PyTorch shim calls `torch.load` without `weights_only`. With PyTorch < 2.6, or with
    the environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD, this unpickles arbitrary objects,
    which can execute code from a manipulated file. Models without PyTorch layers always pass.
    Call this before loading a model from a file.

    model (Model | Language): The model to be loaded.
    trust (bool): Whether the origin of the file is trusted; then every model passes.
    RAISES: ValueError if the model has PyTorch layers and loading them can execute code;
        TypeError if the model has the wrong type.
    """
    has_shims = any(named_shims(model))
    if not has_shims or trust:
        return
    risk = _find_risk()
    if risk is not None:
        raise ValueError(
            f"The model has PyTorch layers, and loading them can execute code from the file: "
            f"{risk}. If you trust the origin of the file, pass trust=True"
        )


def _find_risk() -> str | None:
    """Why loading is not safe, and what to do; None if it is safe."""
    version = "none" if torch is None else str(torch.__version__)
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < SAFE_VERSION:
        first = ".".join(map(str, SAFE_VERSION))
        return f"the installed PyTorch is {version}, install PyTorch >= {first}"
    if os.environ.get(UNSAFE_VARIABLE, "0").lower() in ("1", "y", "yes", "true"):
        return f"the environment variable {UNSAFE_VARIABLE} is set, unset it"
    return None
