"""Treatment of the wrapped optimizer's moments where a wrapper moves the weights.

`inner_state` is one of `INNER_STATES`. "keep" leaves the moments alone. "reset" sets the
moments and the update count of the parameter to zero. "pullback" interpolates the moments with
slow moments of their own.
"""

from collections.abc import Iterator

from thinc.api import Optimizer

from ..averaging.cpu_kernels import is_finite, pull_back, zeros_like
from ..types import Array, KeyT

INNER_STATES = ("keep", "reset", "pullback")
SlowMoments = dict[str, dict[KeyT, Array]]


def initial_slow_moments(optimizer: Optimizer, inner_state: str) -> SlowMoments:
    """Copy the moments of an optimizer that has been trained. Those of other parameters start
    from zero, as Thinc's do.

    RETURNS (SlowMoments): By the names of Thinc's attributes; empty dicts without "pullback".
    """
    slow: SlowMoments = {"mom1": {}, "mom2": {}}
    if inner_state == "pullback":
        for key in optimizer.mom1:
            for name, moment in _moments_of(optimizer, key):
                slow[name][key] = moment.copy()
    return slow


def update_inner_state(
    optimizer: Optimizer,
    key: KeyT,
    inner_state: str,
    slow_moments: SlowMoments,
    pullback: float,
    *,
    check_finite: bool = True,
) -> None:
    """Treat the moments of a parameter whose weights have been moved.

    optimizer (Optimizer): The wrapped optimizer.
    key (KeyT): The parameter.
    inner_state (str): One of `INNER_STATES`.
    slow_moments (SlowMoments): The slow moments, changed in place.
    pullback (float): The factor of the interpolation, in (0, 1].
    check_finite (bool): Whether to leave moments alone that are NaN or infinite.
    """
    if inner_state == "reset":
        for _, moment in _moments_of(optimizer, key):
            moment[...] = 0
        optimizer.nr_update[key] = 0
    elif inner_state == "pullback":
        for name, moment in _moments_of(optimizer, key):
            slow = slow_moments[name]
            if key not in slow:
                slow[key] = zeros_like(moment)
            if not check_finite or is_finite(moment):
                pull_back(slow[key], moment, pullback)


def _moments_of(optimizer: Optimizer, key: KeyT) -> Iterator[tuple[str, Array]]:
    """The moments of a parameter by name. Plain SGD has none."""
    for name, moments in (("mom1", optimizer.mom1), ("mom2", optimizer.mom2)):
        if key in moments:
            yield name, moments[key]
