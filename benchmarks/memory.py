"""Memory use of averaging. NumPy is measured with tracemalloc, other libraries by the growth of
a new process."""

import importlib
import tracemalloc

from measure import PeakMemory, in_own_process
from shapes import count
from steps import PERIOD


def measure_updates(shapes, libraries):
    """Measure the peak memory of every implementation beyond the weights, from the start
    through three updates.

    shapes (list[tuple[int, ...]]): The shapes of the parameters.
    libraries (list[str]): The names of the libraries.
    RETURNS (list[dict]): One entry per implementation, with "extra_bytes" (int), and "copies"
        (float) in units of all parameters.
    """
    results = []
    for library in libraries:
        try:
            indices = in_own_process("memory", "peers", library)
        except ImportError as error:
            results.append({"name": library, "kind": "", "missing": str(error)})
            continue
        print(f"  {library}: {len(indices)} implementations", flush=True)
        for i in indices:
            results.append(in_own_process("memory", "measure_update", library, i, shapes))
    return results


def measure_update(library, i, shapes):
    """Measure the implementation of index i in `PEERS` of a library."""
    module = importlib.import_module(f"updates_{library}")
    peer = module.PEERS[i]
    row = {"name": peer.name, "kind": peer.kind, "library": library}
    weights = module.make_weights(shapes)
    try:
        # One-time compilation and allocation is not counted.
        _run_three_times(peer, weights)
    except ImportError as error:
        return {**row, "missing": str(error)}
    if library == "numpy":
        tracemalloc.start()
        _run_three_times(peer, weights)
        extra = tracemalloc.get_traced_memory()[1]
    else:
        with PeakMemory() as memory:
            _run_three_times(peer, weights)
        extra = memory.extra
    copies = extra / (4 * count(shapes)) - peer.copies_weights
    return {**row, "extra_bytes": extra, "copies": copies}


def _run_three_times(peer, weights):
    run = peer.build(weights)
    for _ in range(3):
        run()


def peers(library):
    """The indices of the implementations to measure."""
    module = importlib.import_module(f"updates_{library}")
    return [i for i, peer in enumerate(module.PEERS) if peer.memory]


def measure_optimizers(layouts):
    """Measure the memory of each optimizer beyond that of the bare one.

    layouts (dict[str, list]): The shapes of the parameters by the name of the layout.
    RETURNS (list[dict]): One entry per layout and optimizer, in bytes: "held" between steps,
        "peak" in any step but the first, and "peak_with_first_step".
    """
    from steps_thinc import BARE, OPTIMIZERS

    results = []
    for layout, shapes in layouts.items():
        bare = _measure_optimizer(BARE, shapes)
        for name in OPTIMIZERS:
            if name == BARE:
                continue
            own = _measure_optimizer(name, shapes)
            extra = {key: own[key] - bare[key] for key in own}
            size = 4 * count(shapes)
            results.append({"layout": layout, "name": name, "weights_bytes": size, **extra})
    return results


def _measure_optimizer(name, shapes):
    from steps_thinc import OPTIMIZERS, make_step, random_arrays

    weights = random_arrays(shapes)
    gradient = random_arrays(shapes)
    tracemalloc.start()
    optimizer = OPTIMIZERS[name]()
    step = make_step(optimizer, weights, gradient)
    step()
    first_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    for _ in range(2 * PERIOD):
        step()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"held": held, "peak": peak, "peak_with_first_step": max(peak, first_peak)}
