"""Slow weights that follow weights which were overwritten from outside."""

from collections.abc import Collection

from ..types import Array, KeyT


def overwrite_slow_weights(
    slow: dict[KeyT, Array], weights: dict[KeyT, Array], keys: Collection[KeyT]
) -> None:
    """Let the slow weights of overwritten parameters follow, in place.

    slow (dict[KeyT, Array]): The slow weights.
    weights (dict[KeyT, Array]): The weights, as they are now. A parameter that is not among
        them loses its slow weights: its next update begins at the overwritten weights.
    keys (Collection[KeyT]): The parameters that were overwritten.
    """
    for key in slow.keys() & keys:
        if key in weights:
            slow[key][...] = weights[key]
        else:
            del slow[key]
