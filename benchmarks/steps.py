"""A whole optimizer step, bare and with averages.

As in updates.py, each library is a module, `steps_<library>`, whose `make_contestants(shapes)`
gives the optimizers, the bare one first.
"""

import gc
import importlib
import time

from measure import compare, in_turns, measure_libraries, set_threads, yardstick

# One period of the wrappers with freq = 10: one of so many steps takes a snapshot.
PERIOD = 10

# As in updates.py. Thinc's Adam has one thread only.
RUNS = [("thinc", 1), ("torch", 1), ("torch", 0)]


def measure(layouts, effort, runs):
    """RETURNS (list[dict]): One entry per layout and optimizer."""
    return measure_libraries("steps", layouts, effort, runs)


def measure_library(library, n_threads, shapes, effort):
    label = {"library": library, "n_threads": n_threads}
    try:
        contestants = importlib.import_module(f"steps_{library}").make_contestants(shapes)
    except ImportError as error:
        return [{"name": library, "kind": "step", "missing": str(error), **label}]
    set_threads(library, n_threads)
    rows = _measure_periods([*contestants, yardstick(shapes)], effort)
    return [{**row, **label} for row in rows]


def _measure_periods(contestants, effort):
    """As `interleave`, but what is summed up and compared are whole periods: the contestants
    still take turns step by step."""
    for contestant in contestants:
        # A period each, so that all averages exist and their memory has been touched.
        for _ in range(PERIOD):
            contestant.prepare()
            contestant.run()
    samples = [[] for _ in contestants]
    gc.disable()
    start = time.perf_counter()
    while len(samples[0]) < effort.max_rounds and (
        len(samples[0]) < effort.min_rounds or time.perf_counter() - start < effort.seconds
    ):
        sums = [0.0] * len(contestants)
        for step in range(PERIOD):
            for i in in_turns(range(len(contestants)), step):
                contestants[i].prepare()
                before = time.perf_counter()
                contestants[i].run()
                sums[i] += time.perf_counter() - before
        for own, total in zip(samples, sums, strict=True):
            own.append(total / PERIOD)
    gc.enable()
    return [
        {"name": contestant.name, "kind": contestant.kind, **compare(own, samples[0])}
        for contestant, own in zip(contestants, samples, strict=True)
    ]
