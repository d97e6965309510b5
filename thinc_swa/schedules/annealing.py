"""Linear and cosine annealing between two values."""

import math

ANNEAL_STRATEGIES = ("linear", "cosine")


def anneal(start: float, end: float, progress: float, strategy: str) -> float:
    """Interpolate between two values.

    start (float): The value at progress 0.
    end (float): The value at progress 1 and beyond.
    progress (float): The elapsed fraction, at least 0.
    strategy (str): "linear", or "cosine" for half a period of a cosine, which is flat at both
        ends.
    RETURNS (float): The interpolated value.
    """
    if progress >= 1.0:
        return end
    if strategy == "cosine":
        progress = (1.0 - math.cos(math.pi * progress)) / 2.0
    return start + progress * (end - start)
