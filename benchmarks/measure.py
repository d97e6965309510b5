"""How time and memory are measured.

The machine is never quiet. So whatever is compared runs in turns, round after round, and
every round gives a ratio to the yardstick, measured right beside it: a disturbance that lasts
longer hits both. Reported are the medians over the rounds and the quartiles.
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
class Contestant:
    """Something to measure.

    name (str): Who it is.
    kind (str): What it does. Only the same kind of work compares.
    run (Callable): Does it once.
    prepare (Callable): Called before every sample, and not timed.
    """

    name: str
    kind: str
    run: Callable
    prepare: Callable = lambda: None


YARDSTICK = "numpy.add(average, weights, out=average)"


def yardstick(shapes):
    """What everything is compared with: it reads two arrays and writes one, and does next to
    nothing else."""
    generator = numpy.random.default_rng(0)
    pairs = [
        (numpy.zeros(shape, dtype="f"), generator.standard_normal(shape, dtype="f"))
        for shape in shapes
    ]

    def run():
        for average, weights in pairs:
            numpy.add(average, weights, out=average)

    return Contestant(YARDSTICK, "yardstick", run)


@dataclass
class Effort:
    """How long to measure: at least so many rounds, then until the time is up.

    sample_seconds (float): Below this, the clock and its call would count.
    """

    seconds: float = 5.0
    min_rounds: int = 9
    max_rounds: int = 200
    sample_seconds: float = 0.004


QUICK = Effort(seconds=0.5, min_rounds=3, max_rounds=10, sample_seconds=0.001)


def in_own_process(module, function, *args):
    """Call a function in a fresh process, as libraries disturb each other: by their threads,
    and by the memory that they do not give back.

    module, function (str): By name, so that only the fresh process imports the module.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_call, module, function, args).result()


def _call(module, function, args):
    return getattr(importlib.import_module(module), function)(*args)


def measure_libraries(module, layouts, effort, runs):
    """What `measure_library` of a module gives, each library in a process of its own.

    runs (list[tuple[str, int]]): The library, and on how many threads.
    RETURNS (list[dict]): One entry per layout and whatever the library has to be measured.
    """
    results = []
    for layout, shapes in layouts.items():
        for library, n_threads in runs:
            print(f"  {layout}: {library}, {n_threads or 'all'} thread(s)", flush=True)
            rows = in_own_process(module, "measure_library", library, n_threads, shapes, effort)
            results += [{"layout": layout, **row} for row in rows]
    return results


def set_threads(library, n_threads):
    """Before the library has begun to calculate. 0 stands for as many as there are cores."""
    if library == "optax" and n_threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    elif importlib.util.find_spec("torch"):
        # Not only for PyTorch's own processes: thinc_swa uses it for large arrays.
        import torch

        torch.set_num_threads(n_threads or os.cpu_count())


def interleave(contestants, effort):
    """Measure contestants in turns.

    contestants (list[Contestant]): The first is the yardstick of the others.
    RETURNS (list[dict]): For each its name and kind, the seconds per run and the ratio to
        the yardstick, as a dict of median, low and high (the quartiles). That of the
        yardstick is to itself: how far it is from 1 is noise.
    """
    repeats = [_warm_up(contestant, effort) for contestant in contestants]
    samples = [[] for _ in contestants]
    neighbours = [[] for _ in contestants]
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    n_rounds = 0
    while n_rounds < effort.max_rounds and (
        n_rounds < effort.min_rounds or time.perf_counter() - start < effort.seconds
    ):
        for i in in_turns(range(len(contestants)), n_rounds):
            # Each has the yardstick right beside it, once before and once after.
            pair = [(neighbours[i], 0), (samples[i], i)]
            for results, which in pair if n_rounds % 2 else reversed(pair):
                results.append(_sample(contestants[which], repeats[which]))
        n_rounds += 1
    gc.enable()
    return [
        {"name": contestant.name, "kind": contestant.kind, **compare(own, other)}
        for contestant, own, other in zip(contestants, samples, neighbours, strict=True)
    ]


def compare(samples, yardstick):
    """Summaries of samples and of their ratios to those of a yardstick, one by one."""
    ratios = [own / other for own, other in zip(samples, yardstick, strict=True)]
    return {"seconds": summary(samples), "ratio": summary(ratios), "rounds": len(samples)}


def summary(values):
    if len(values) == 1:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def in_turns(values, n_round):
    """The values in an order that differs from round to round, so that nobody always comes
    first, nor always after the same one."""
    values = list(values)
    random.Random(n_round).shuffle(values)
    return values


def _warm_up(contestant, effort):
    """Let it compile, allocate and touch its memory. RETURNS (int): Runs per sample."""
    contestant.prepare()
    contestant.run()
    seconds = min(_sample(contestant, 1) for _ in range(3))
    return max(1, round(effort.sample_seconds / seconds))


def _sample(contestant, n_runs):
    contestant.prepare()
    run = contestant.run
    start = time.perf_counter()
    for _ in range(n_runs):
        run()
    return (time.perf_counter() - start) / n_runs


class PeakMemory:
    """A context that measures how much the memory of this process grows at most.

    Its attribute `extra`, in bytes, is there afterwards. On Linux it is exact to the page,
    elsewhere 0 as long as the process had needed more before.
    """

    def __enter__(self):
        gc.collect()
        try:
            # Starts the record of the peak afresh.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass
        self._before = peak_memory()
        return self

    def __exit__(self, *_):
        self.extra = peak_memory() - self._before


def peak_memory():
    """The most memory that this process has had so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux it also counts what the parent process had at the start.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
