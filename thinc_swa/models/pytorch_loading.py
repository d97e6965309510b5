"""Refuse to load PyTorch layers where loading can execute code."""

import os
import re
from typing import Any

import thinc.compat
from thinc.api import PyTorchShim

from .parameters import ModelT, component_models

# None without PyTorch.
torch: Any = thinc.compat.torch

# The first version whose `torch.load` reads only weights unless told otherwise. Before it,
# `weights_only=True` could be circumvented too (CVE-2025-32434).
SAFE_VERSION = (2, 6)

# If set, `torch.load` executes code again in every version.
UNSAFE_SWITCH = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def check_pytorch_loading(model: ModelT, *, trust: bool = False) -> None:
    """Check that `from_bytes` or `from_disk` of a model does not unpickle Python objects.

    Thinc's PyTorch shim loads its bytes with `torch.load` without `weights_only`. Under
    PyTorch < 2.6, or with the environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD, that
    executes whatever code a manipulated file contains. A model without PyTorch layers passes
    under every version. Call this before loading a model from a file.

    model (Model | Language): The model that is going to be loaded.
    trust (bool): Load it in any case, because the origin of the file is trusted.
    RAISES: ValueError if the model has PyTorch layers and loading them can execute code;
        TypeError for something that is no model.
    """
    has_shims = any(
        isinstance(shim, PyTorchShim)
        for _, root in component_models(model)
        for node in root.walk()
        for shim in node.shims
    )
    if not has_shims or trust:
        return
    reason = _find_reason()
    if reason is not None:
        raise ValueError(
            f"The model has PyTorch layers, and loading them can execute code from the file: "
            f"{reason}. If you trust the origin of the file, pass trust=True"
        )


def _find_reason() -> str | None:
    """Why loading is not safe, and what to do; None if it is safe."""
    version = "none" if torch is None else str(torch.__version__)
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or (int(match[1]), int(match[2])) < SAFE_VERSION:
        first = ".".join(map(str, SAFE_VERSION))
        return f"the installed PyTorch is {version}, install PyTorch >= {first}"
    if os.environ.get(UNSAFE_SWITCH, "0").lower() in ("1", "y", "yes", "true"):
        return f"the environment variable {UNSAFE_SWITCH} is set, unset it"
    return None
