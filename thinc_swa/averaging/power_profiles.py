"""Power-function averages: their weights by time, and least squares over several of them.

Source: Karras et al. 2024, arXiv:2312.02696, sections 3.1 and 3.2.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy

from ..types import Array

# The width of the arithmetic mean, gamma = 0. A wider average would prefer early weights.
MAX_SIGMA_REL = 1 / math.sqrt(12)
# Up to this number of averages, profiles are compared step by step; then steps are merged into
# cells, which are still short compared with any profile.
N_CELLS = 8192


def power_exponent(sigma_rel: float) -> float:
    """The exponent gamma of the power-function average with a relative width.

    sigma_rel (float): The width, in (0, 12 ** -0.5].
    RETURNS (float): gamma >= 0, from arXiv:2312.02696, section 3.1, solved for gamma.
    """
    inverse = sigma_rel**-2
    roots = numpy.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    gamma = float(roots.real.max())
    # The roots are exact to about 1e-15: exactly 0 is the arithmetic mean.
    return gamma if gamma > 1e-9 else 0.0


class Profile(NamedTuple):
    """A power-function average that was taken.

    n_averaged (int): The number T of weights in the average, at least 1.
    gamma (float): The exponent.
    """

    n_averaged: int
    gamma: float

    def shares(self, boundaries: Array) -> Array:
        """The share of the average that falls into each cell of a partition of the time. The
        t-th weights have the share (t ** (gamma + 1) - (t - 1) ** (gamma + 1)) /
        T ** (gamma + 1), which is exactly how `EMA` weighs them.

        boundaries (Floats1d | Ints1d): The numbers of averages at the n + 1 ends of the cells,
            ascending.
        RETURNS (Floats1d): The n shares, float64. They add up to 1 if the cells cover the
            whole average.
        """
        times = numpy.minimum(boundaries / self.n_averaged, 1.0)
        shares: Array = numpy.diff(times ** (self.gamma + 1.0))
        return shares


class Combination(NamedTuple):
    """A linear combination of averages that approximates another average.

    coefficients (Floats1d): A coefficient per average, float64. They add up to 1, so what is
        constant over the training is reproduced exactly.
    error (float): The norm of the difference of the two profiles, relative to the norm of the
        wanted one: 0 is exact.
    """

    coefficients: Array
    error: float


def combine_profiles(
    stored: Sequence[Profile],
    targets: Sequence[Profile],
    *,
    precision: float | Sequence[float],
) -> list[Combination]:
    """Approximate averages by linear combinations of stored ones: least squares over their
    shares of each step (arXiv:2312.02696, section 3.2).

    The paper integrates profiles over continuous time. Here the shares are those of the steps,
    so the result is exact where the stored averages determine the wanted one, also after few
    steps. The errors of rounded averages are taken into account: large coefficients of
    opposite signs, which would amplify them, are avoided.

    stored (Sequence[Profile]): The stored averages. Those that were taken after all targets
        have no influence.
    targets (Sequence[Profile]): The wanted averages.
    precision (float | Sequence[float]): The relative rounding error of the stored averages, or
        of each of them.
    RETURNS (list[Combination]): One for each target.
    RAISES: ValueError if there are no stored averages.
    """
    if not stored:
        raise ValueError("There are no stored averages to combine")
    boundaries = _make_cells(max(target.n_averaged for target in targets), stored)
    scale = 1.0 / numpy.sqrt(numpy.diff(boundaries))
    columns = numpy.stack([scale * profile.shares(boundaries) for profile in stored], axis=1)
    wanted = numpy.stack([scale * profile.shares(boundaries) for profile in targets], axis=1)
    # Rounding errors are as independent of each other as noise in single steps is. With a row
    # for each, the sum of squares is the expected error for weights that fluctuate by their
    # own size.
    noise = numpy.diag(numpy.broadcast_to(numpy.asarray(precision, dtype="f8"), len(stored)))
    rows = numpy.concatenate([columns, noise])
    right = numpy.concatenate([wanted, numpy.zeros((len(stored), len(targets)))])
    # The coefficients add up to 1: the last one is 1 minus the others.
    last = rows[:, -1:]
    others, *_ = numpy.linalg.lstsq(rows[:, :-1] - last, right - last, rcond=None)
    coefficients = numpy.concatenate([others, 1.0 - others.sum(axis=0, keepdims=True)])
    differences = numpy.linalg.norm(columns @ coefficients - wanted, axis=0)
    errors = differences / numpy.linalg.norm(wanted, axis=0)
    return [Combination(coefficients[:, i], float(errors[i])) for i in range(len(targets))]


def _make_cells(n_averaged: int, stored: Sequence[Profile]) -> Array:
    """Boundaries of cells: all steps, or N_CELLS cells, and the ends of all averages, where
    their profiles drop to zero."""
    boundaries = numpy.unique(
        numpy.round(numpy.linspace(0, n_averaged, min(n_averaged, N_CELLS) + 1))
    )
    ends = [profile.n_averaged for profile in stored if profile.n_averaged < n_averaged]
    cells: Array = numpy.union1d(boundaries, numpy.array(ends, dtype="f8"))
    return cells
