"""Measurement of time and memory.

All candidates run in every round, in shuffled order, and each is measured directly before or
after the yardstick. A disturbance of the machine then affects both, and their ratio is stable.
The results are medians and quartiles over the rounds.
"""

import gc
import importlib.util
import os
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy


@dataclass
class Candidate:
    """A function to measure.

    name (str): The name of the implementation.
    kind (str): The kind of work. Only candidates of the same kind are compared.
    run (Callable): Does the work once.
    prepare (Callable): Is called before every sample, and is not timed.
    """

    name: str
    kind: str
    run: Callable
    prepare: Callable = lambda: None


YARDSTICK = "numpy.add(average, weights, out=average)"


def yardstick(shapes):
    """The reference for all ratios: it reads two arrays and writes one, with little
    arithmetic."""
    generator = numpy.random.default_rng(0)
    pairs = [
        (numpy.zeros(shape, dtype="f"), generator.standard_normal(shape, dtype="f"))
        for shape in shapes
    ]

    def run():
        for average, weights in pairs:
            numpy.add(average, weights, out=average)

    return Candidate(YARDSTICK, "yardstick", run)


@dataclass
class Budget:
    """The time budget of a measurement.

    seconds (float): The time after which no new round starts.
    min_rounds (int): The minimum number of rounds, also if the time is over.
    max_rounds (int): The maximum number of rounds.
    sample_seconds (float): The minimum duration of a sample, so that the overhead of the clock
        is negligible.
    """

    seconds: float = 5.0
    min_rounds: int = 9
    max_rounds: int = 200
    sample_seconds: float = 0.004


QUICK = Budget(seconds=0.5, min_rounds=3, max_rounds=10, sample_seconds=0.001)


def in_own_process(module, function, *args):
    """Call a function in a new process, because the threads and the memory of a library affect
    measurements of other libraries.

    module (str): The name of the module, which only the new process imports.
    function (str): The name of the function.
    args (Any): The arguments.
    RETURNS (Any): What the function returns.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_call, module, function, args).result()


def _call(module, function, args):
    return getattr(importlib.import_module(module), function)(*args)


def measure_libraries(module, layouts, budget, runs):
    """Call `measure_library` of a module for every library, each in a new process.

    module (str): The name of the module.
    layouts (dict[str, list]): The shapes of the arrays by the name of the layout.
    budget (Budget): The time budget.
    runs (list[tuple[str, int]]): The libraries and their numbers of threads, 0 for all cores.
    RETURNS (list[dict]): One entry per layout and implementation.
    """
    results = []
    for layout, shapes in layouts.items():
        for library, n_threads in runs:
            print(f"  {layout}: {library}, {n_threads or 'all'} thread(s)", flush=True)
            rows = in_own_process(module, "measure_library", library, n_threads, shapes, budget)
            results += [{"layout": layout, **row} for row in rows]
    return results


def set_threads(library, n_threads):
    """Set the number of threads of a library, 0 for all cores. Call it before the first
    operation."""
    if library == "optax" and n_threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    elif importlib.util.find_spec("torch"):
        # Also for other libraries, because thinc_swa uses PyTorch for large arrays.
        import torch

        torch.set_num_threads(n_threads or os.cpu_count())


def interleave(candidates, budget):
    """Measure candidates in interleaved rounds.

    candidates (list[Candidate]): The candidates. The first is the yardstick of the others.
    budget (Budget): The time budget.
    RETURNS (list[dict]): The name and kind of each candidate, and the seconds per run and the
        ratio to the yardstick as dicts of median, low and high (the quartiles). The ratio of
        the yardstick to itself shows the noise.
    """
    repeats = [_warm_up(candidate, budget) for candidate in candidates]
    samples = [[] for _ in candidates]
    neighbours = [[] for _ in candidates]
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    n_rounds = 0
    while n_rounds < budget.max_rounds and (
        n_rounds < budget.min_rounds or time.perf_counter() - start < budget.seconds
    ):
        for i in shuffled(range(len(candidates)), n_rounds):
            # The yardstick is measured directly before or after, alternating.
            pair = [(neighbours[i], 0), (samples[i], i)]
            for results, which in pair if n_rounds % 2 else reversed(pair):
                results.append(_sample(candidates[which], repeats[which]))
        n_rounds += 1
    gc.enable()
    return [
        {"name": candidate.name, "kind": candidate.kind, **compare(own, other)}
        for candidate, own, other in zip(candidates, samples, neighbours, strict=True)
    ]


def compare(samples, yardstick):
    """Summarize samples and their pairwise ratios to the samples of a yardstick."""
    ratios = [own / other for own, other in zip(samples, yardstick, strict=True)]
    return {"seconds": summary(samples), "ratio": summary(ratios), "rounds": len(samples)}


def summary(values):
    """The median and the quartiles ("low", "high") of values."""
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def shuffled(values, n_round):
    """The values in random order, so that no candidate is always first or always follows the
    same other candidate.

    n_round (int): The seed.
    """
    values = list(values)
    random.Random(n_round).shuffle(values)
    return values


def _warm_up(candidate, budget):
    """Run a candidate until it has compiled and allocated.

    RETURNS (int): The number of runs per sample.
    """
    candidate.prepare()
    candidate.run()
    seconds = min(_sample(candidate, 1) for _ in range(3))
    return max(1, round(budget.sample_seconds / seconds))


def _sample(candidate, n_runs):
    candidate.prepare()
    run = candidate.run
    start = time.perf_counter()
    for _ in range(n_runs):
        run()
    return (time.perf_counter() - start) / n_runs


class PeakMemory:
    """A context that measures the peak growth of the memory of this process.

    The attribute `extra` is the result in bytes, after the context. On Linux it is exact to the
    page. Elsewhere it is 0 if the process had a higher peak before.
    """

    def __enter__(self):
        gc.collect()
        try:
            # Reset the recorded peak.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass
        self._before = peak_memory()
        return self

    def __exit__(self, *_):
        self.extra = peak_memory() - self._before


def peak_memory():
    """The peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss includes the memory of the parent process at the start.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
