"""Check of the dtypes that Thinc's optimizers can update."""

from typing import Any

import numpy
from thinc.api import Optimizer

from ..schedules.learn_rate import current_value
from ..types import Array, KeyT

FLOAT32 = numpy.dtype("float32")
FLOAT16 = numpy.dtype("float16")


def check_dtypes(optimizer: Any, key: KeyT, weights: Array, gradient: Array) -> None:
    """Check that an optimizer of Thinc can update weights of this dtype. Its Adam is a kernel
    for float32, and on a GPU it cannot clip the norm of float16 gradients. It fails with an
    error of Cython or CuPy then, after it has counted the update.

    optimizer (Optimizer): The innermost optimizer. One that overrides Thinc's methods passes.
    key (KeyT): The parameter.
    weights (FloatsXd): Its weights.
    gradient (FloatsXd): The gradient.
    RAISES: ValueError if it cannot.
    """
    if weights.dtype == FLOAT32 and gradient.dtype == FLOAT32:
        return
    cls = type(optimizer)
    if cls.__call__ is not Optimizer.__call__ or cls._adam is not Optimizer._adam:
        return
    other = weights if weights.dtype != FLOAT32 else gradient
    what = "weights" if other is weights else "a gradient"
    if (
        not optimizer.use_radam
        and current_value(optimizer, "b1", key) > 0.0
        and current_value(optimizer, "b2", key) > 0.0
    ):
        raise ValueError(
            f"Parameter {key} has {what} of the dtype {other.dtype}, but Thinc's Adam can only "
            "update float32: keep the weights in float32 (mixed_precision = True lets a "
            "PyTorch layer compute in half precision then), or use SGD or RAdam"
        )
    is_on_gpu = not isinstance(gradient, numpy.ndarray)
    if (
        is_on_gpu
        and gradient.dtype == FLOAT16
        and current_value(optimizer, "grad_clip", key) != 0.0
    ):
        raise ValueError(
            f"Parameter {key} has a float16 gradient, but Thinc cannot clip the norm of "
            "float16 gradients on a GPU: set grad_clip = 0.0, or keep the weights in float32"
        )
