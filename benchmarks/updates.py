"""Time of one update of an average, or of one synchronisation of slow weights, in each library.

Each library has a module `updates_<library>` with a function `make_weights(shapes)` and a list
`PEERS` of `Peer`. Each library is measured in a new process together with the yardstick, so
that ratios can be compared across processes.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from measure import Candidate, interleave, measure_libraries, set_threads, yardstick
from shapes import count

KINDS = ["SWA", "EMA", "Lookahead"]

# Libraries and numbers of threads, 0 for all cores.
RUNS = [("numpy", 1), ("torch", 1), ("torch", 0), ("optax", 1), ("optax", 0)]


@dataclass
class Peer:
    """One implementation.

    name (str): The name for the tables.
    kind (str): "SWA", "EMA" or "Lookahead".
    build (Callable): Takes the weights and returns a function that makes one update. Raises an
        ImportError if a library is not installed.
    memory (bool): Whether to measure its memory.
    copies_weights (bool): Whether `build` copies the weights only because it would change them
        in place. This copy is not counted.
    """

    name: str
    kind: str
    build: Callable
    memory: bool = True
    copies_weights: bool = False


def measure(layouts, budget, runs):
    """Measure all implementations. See `measure_libraries`.

    RETURNS (list[dict]): One entry per layout and implementation.
    """
    rows = measure_libraries("updates", layouts, budget, runs)
    return [{**row, "n_parameters": count(layouts[row["layout"]])} for row in rows]


def measure_library(library, n_threads, shapes, budget):
    label = {"library": library, "n_threads": n_threads}
    try:
        module = importlib.import_module(f"updates_{library}")
    except ImportError as error:
        return [{"name": library, "kind": "", "missing": str(error), **label}]
    set_threads(library, n_threads)
    candidates, rows = [yardstick(shapes)], []
    weights = module.make_weights(shapes)
    for peer in module.PEERS:
        try:
            candidates.append(Candidate(peer.name, peer.kind, peer.build(weights)))
        except ImportError as error:
            rows.append({"name": peer.name, "kind": peer.kind, "missing": str(error)})
    rows = interleave(candidates, budget) + rows
    return [{**row, **label} for row in rows]
