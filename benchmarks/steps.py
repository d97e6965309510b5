"""Whole optimizer steps, bare and with averages.

Each library has a module `steps_<library>`, whose `make_candidates(shapes)` returns the
optimizers, the bare one first.
"""

import gc
import importlib
import time

from measure import compare, measure_libraries, set_threads, shuffled, yardstick

# The number of steps of a period: wrappers with freq = 10 take one snapshot per period.
PERIOD = 10

# Libraries and numbers of threads, as in updates.py. Thinc's Adam has only one thread.
RUNS = [("thinc", 1), ("torch", 1), ("torch", 0)]


def measure(layouts, budget, runs):
    """Measure all optimizers. See `measure_libraries`.

    RETURNS (list[dict]): One entry per layout and optimizer.
    """
    return measure_libraries("steps", layouts, budget, runs)


def measure_library(library, n_threads, shapes, budget):
    label = {"library": library, "n_threads": n_threads}
    try:
        candidates = importlib.import_module(f"steps_{library}").make_candidates(shapes)
    except ImportError as error:
        return [{"name": library, "kind": "step", "missing": str(error), **label}]
    set_threads(library, n_threads)
    rows = _measure_periods([*candidates, yardstick(shapes)], budget)
    return [{**row, **label} for row in rows]


def _measure_periods(candidates, budget):
    """Like `interleave`, with whole periods as samples. The candidates are still interleaved
    step by step."""
    for candidate in candidates:
        # Warmup of one period, after which all averages exist.
        for _ in range(PERIOD):
            candidate.prepare()
            candidate.run()
    samples = [[] for _ in candidates]
    gc.disable()
    start = time.perf_counter()
    while len(samples[0]) < budget.max_rounds and (
        len(samples[0]) < budget.min_rounds or time.perf_counter() - start < budget.seconds
    ):
        sums = [0.0] * len(candidates)
        for step in range(PERIOD):
            for i in shuffled(range(len(candidates)), step):
                candidates[i].prepare()
                before = time.perf_counter()
                candidates[i].run()
                sums[i] += time.perf_counter() - before
        for own, total in zip(samples, sums, strict=True):
            own.append(total / PERIOD)
    gc.enable()
    return [
        {"name": candidate.name, "kind": candidate.kind, **compare(own, samples[0])}
        for candidate, own in zip(candidates, samples, strict=True)
    ]
