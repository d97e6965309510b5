"""Averages of NumPy arrays: this package, the naive formula, Thinc, and compiled loops.

The loops are compiled by Numba. They are not part of the package, and show the speed of a fused
kernel.
"""

import numpy
from thinc.api import NumpyOps
from updates import Peer

from thinc_swa.averaging import cpu_kernels
from thinc_swa.averaging.cpu_kernels import pull_back
from thinc_swa.averaging.finite import SkipCount, pull_back_finite
from thinc_swa.averaging.running_average import N_SUMMED, RunningAverage

UNCHECKED = "thinc_swa, check_finite=False"

DECAY = 0.999
PULLBACK = 0.5


def make_weights(shapes):
    random = numpy.random.default_rng(0)
    return {
        (i, "W"): random.standard_normal(shape, dtype="f") for i, shape in enumerate(shapes)
    }


def _copies(weights):
    return [(array.copy(), array) for array in weights.values()]


def _ours(decay, **settings):
    """Snapshots late in a training, because the first ones cost less."""

    def build(weights):
        average = RunningAverage(**settings)
        for _ in range(N_SUMMED + 1):
            average.add_snapshot(weights, decay)
        return lambda: average.add_snapshot(weights, decay)

    return build


def _our_lookahead(weights):
    pairs = _copies(weights)
    skipped = SkipCount()

    def run():
        for slow, fast in pairs:
            pull_back_finite(None, slow, fast, PULLBACK, skipped)

    return run


def _our_lookahead_unchecked(weights):
    pairs = _copies(weights)

    def run():
        for slow, fast in pairs:
            pull_back(slow, fast, PULLBACK)

    return run


def _without_torch(build):
    """This package without PyTorch."""

    def build_without(weights):
        run = build(weights)

        def run_without():
            torch, cpu_kernels.torch = cpu_kernels.torch, None
            try:
                run()
            finally:
                cpu_kernels.torch = torch

        return run_without

    return build_without


def _naive_swa(weights):
    pairs = _copies(weights)
    n_averaged = 1

    def run():
        nonlocal n_averaged
        n_averaged += 1
        for average, array in pairs:
            average -= (average - array) / n_averaged

    return run


def _naive_ema(weights):
    pairs = _copies(weights)

    def run():
        for average, array in pairs:
            average -= (1 - DECAY) * (average - array)

    return run


def _naive_lookahead(weights):
    pairs = _copies(weights)

    def run():
        for slow, fast in pairs:
            slow += PULLBACK * (fast - slow)
            fast[...] = slow

    return run


def _thinc(weights):
    pairs = _copies(weights)
    ops = NumpyOps()
    # The number of updates at which Thinc's decay has reached its maximum, 0.9999.
    n_updates = 1_000_000

    def run():
        for average, array in pairs:
            ops.update_averages(average, array, n_updates)

    return run


def _numba(loop, *args, fastmath=True):
    import numba

    compiled = numba.njit(fastmath=fastmath)(loop)

    def build(weights):
        pairs = [(first.reshape(-1), second.reshape(-1)) for first, second in _copies(weights)]

        def run():
            for first, second in pairs:
                compiled(first, second, *args)

        return run

    return build


def _mean_loop(average, array, factor):
    for i in range(average.size):
        average[i] += factor * (array[i] - average[i])


def _checked_mean_loop(average, array, factor):
    # x - x is 0 if x is finite, else NaN.
    total = numpy.float32(0)
    for i in range(average.size):
        value = array[i]
        total += value - value
        average[i] += factor * (value - average[i])
    return total == 0


def _pull_back_loop(slow, fast, pullback):
    for i in range(slow.size):
        value = slow[i] + pullback * (fast[i] - slow[i])
        slow[i] = value
        fast[i] = value


def _numba_mean(weights):
    return _numba(_mean_loop, numpy.float32(1 - DECAY))(weights)


def _numba_checked_mean(weights):
    # Without the flags that allow the compiler to assume finite numbers.
    fast = {"reassoc", "contract", "nsz", "arcp"}
    return _numba(_checked_mean_loop, numpy.float32(1 - DECAY), fastmath=fast)(weights)


def _numba_lookahead(weights):
    return _numba(_pull_back_loop, numpy.float32(PULLBACK))(weights)


PEERS = [
    Peer("thinc_swa", "SWA", _ours(None)),
    Peer(UNCHECKED, "SWA", _ours(None, check_finite=False), memory=False),
    Peer("thinc_swa, NumPy alone", "SWA", _without_torch(_ours(None))),
    Peer("naive formula", "SWA", _naive_swa),
    Peer("compiled loop (Numba)", "SWA", _numba_mean, memory=False),
    Peer("compiled loop (Numba), checked", "SWA", _numba_checked_mean, memory=False),
    Peer("thinc_swa", "EMA", _ours(DECAY)),
    Peer(UNCHECKED, "EMA", _ours(DECAY, check_finite=False), memory=False),
    Peer("thinc_swa, NumPy alone", "EMA", _without_torch(_ours(DECAY))),
    Peer("naive formula", "EMA", _naive_ema),
    Peer("Thinc NumpyOps.update_averages", "EMA", _thinc),
    Peer("compiled loop (Numba)", "EMA", _numba_mean, memory=False),
    Peer("thinc_swa", "Lookahead", _our_lookahead),
    Peer(UNCHECKED, "Lookahead", _our_lookahead_unchecked, memory=False),
    Peer("thinc_swa, NumPy alone", "Lookahead", _without_torch(_our_lookahead)),
    Peer("naive formula", "Lookahead", _naive_lookahead),
    Peer("compiled loop (Numba)", "Lookahead", _numba_lookahead, memory=False),
]
