"""Differences with intervals and corrected *p* values, and how they are written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import numpy
from scipy import stats
from statsmodels.stats.multitest import multipletests

ALL = "all tasks"
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Mean difference, with its 95 % interval.

    name (str): What differs: an optimizer, from the baseline.
    task (str): A task, or `ALL` for the pooled difference.
    p (float): Uncorrected *p* value.
    p_holm (float): The same, corrected within its family.
    """

    name: str
    task: str
    mean: float
    low: float
    high: float
    p: float
    p_holm: float = math.nan

    @property
    def is_significant(self) -> bool:
        return self.p_holm < LEVEL


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """95 % *t* interval of a mean, and the *p* value of its difference to zero."""
    if len(set(values)) == 1:
        # Equal differences: zero if an average never started.
        return values[0], values[0], 0.0 if values[0] else 1.0
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(1 - LEVEL)
    return float(low), float(high), float(test.pvalue)


def pool(values: Mapping[str, Sequence[float]], name: str) -> Difference:
    """Pooled difference over tasks: random effects by DerSimonian and Laird (1986), with the
    interval of Hartung and Knapp (2001), whose variance is never lower than without it (Röver,
    Knapp and Friede 2015).

    values (Mapping[str, Sequence[float]]): Differences of the seeds by task.
    """
    effects = numpy.array([mean(found) for found in values.values()])
    variances = numpy.array([stdev(found) ** 2 / len(found) for found in values.values()])
    if not variances.any():
        return Difference(name, ALL, float(effects.mean()), *interval(list(effects)))
    # Without a variance a task would have all the weight.
    variances[variances == 0.0] = variances[variances > 0.0].mean()
    # statsmodels' `combine_effects` allows a negative variance between the tasks.
    n_free = len(effects) - 1
    weights = 1 / variances
    fixed = numpy.average(effects, weights=weights)
    heterogeneity = weights @ (effects - fixed) ** 2 - n_free
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    weights = 1 / (variances + max(0.0, heterogeneity / scale))
    centre = numpy.average(effects, weights=weights)
    factor = weights @ (effects - centre) ** 2 / n_free
    error = math.sqrt(max(1.0, factor) / weights.sum())
    low, high = stats.t.interval(1 - LEVEL, n_free, centre, error)
    p = 2 * stats.t.sf(abs(centre) / error, n_free)
    return Difference(name, ALL, float(centre), float(low), float(high), float(p))


def correct(family: Sequence[Difference], n_tests: int) -> list[Difference]:
    """Correct the *p* values of a family of tests by Holm's method (1979).

    n_tests (int): The size of the family. Tests that are still missing count as those with the
        highest *p* values.
    """
    if not family:
        return []
    p_values = [found.p for found in family] + [1.0] * (n_tests - len(family))
    corrected = multipletests(p_values, method="holm")[1]
    return [replace(x, p_holm=float(p)) for x, p in zip(family, corrected, strict=False)]


def points(found: Difference) -> str:
    """A difference in points, with its interval, and a star if it is significant."""
    values = [100 * value for value in (found.mean, found.low, found.high)]
    star = " *" if found.is_significant else ""
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(*values) + star


def to_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table: the first row is the header, the first column has names."""
    header, *body = rows
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
