"""One update of an average, or one synchronisation of slow weights: how long it takes in
each library, and how much memory.

A library is a module `updates_<library>` with two names: `make_weights(shapes)`, and
`PEERS`, a list of `Peer`. Each library is measured in a process of its own, next to the
yardstick, so that the ratios compare across processes.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from measure import Contestant, interleave, measure_libraries, set_threads, yardstick
from shapes import count

KINDS = ["SWA", "EMA", "Lookahead"]

# The library, and on how many threads: 0 stands for as many as there are cores.
RUNS = [("numpy", 1), ("torch", 1), ("torch", 0), ("optax", 1), ("optax", 0)]


@dataclass
class Peer:
    """One implementation.

    name (str): The name for the tables.
    kind (str): "SWA", "EMA" or "Lookahead".
    build (Callable): Takes the weights, returns a function that makes one update. Raises
        an ImportError if a library is missing.
    memory (bool): Whether its memory is worth a line.
    copies_weights (bool): Whether it copies the weights only to leave them to the others:
        that does not count as memory that it needs.
    """

    name: str
    kind: str
    build: Callable
    memory: bool = True
    copies_weights: bool = False


def measure(layouts, effort, runs):
    """RETURNS (list[dict]): One entry per layout and implementation."""
    rows = measure_libraries("updates", layouts, effort, runs)
    return [{**row, "n_parameters": count(layouts[row["layout"]])} for row in rows]


def measure_library(library, n_threads, shapes, effort):
    label = {"library": library, "n_threads": n_threads}
    try:
        module = importlib.import_module(f"updates_{library}")
    except ImportError as error:
        return [{"name": library, "kind": "", "missing": str(error), **label}]
    set_threads(library, n_threads)
    contestants, rows = [yardstick(shapes)], []
    weights = module.make_weights(shapes)
    for peer in module.PEERS:
        try:
            contestants.append(Contestant(peer.name, peer.kind, peer.build(weights)))
        except ImportError as error:
            rows.append({"name": peer.name, "kind": peer.kind, "missing": str(error)})
    rows = interleave(contestants, effort) + rows
    return [{**row, **label} for row in rows]
