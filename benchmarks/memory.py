"""How much memory averaging needs: NumPy tells to the byte, others only what the whole process
needs, so that each is measured in a fresh one."""

import importlib
import tracemalloc

from measure import PeakMemory, in_own_process
from shapes import count
from steps import PERIOD


def measure_updates(shapes, libraries):
    """RETURNS (list[dict]): For every implementation the most memory that it needs beyond
    the weights, from the start through three updates, in copies of the parameters."""
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
    module = importlib.import_module(f"updates_{library}")
    peer = module.PEERS[i]
    row = {"name": peer.name, "kind": peer.kind, "library": library}
    weights = module.make_weights(shapes)
    try:
        # What is compiled or allocated only once is not counted.
        _run_thrice(peer, weights)
    except ImportError as error:
        return {**row, "missing": str(error)}
    if library == "numpy":
        tracemalloc.start()
        _run_thrice(peer, weights)
        extra = tracemalloc.get_traced_memory()[1]
    else:
        with PeakMemory() as memory:
            _run_thrice(peer, weights)
        extra = memory.extra
    copies = extra / (4 * count(shapes)) - peer.copies_weights
    return {**row, "extra_bytes": extra, "copies": copies}


def _run_thrice(peer, weights):
    run = peer.build(weights)
    for _ in range(3):
        run()


def peers(library):
    """The indices of those to be measured."""
    module = importlib.import_module(f"updates_{library}")
    return [i for i, peer in enumerate(module.PEERS) if peer.memory]


def measure_optimizers(layouts):
    """What an optimizer needs beyond the bare one. RETURNS (list[dict]): In bytes, "held"
    between steps, and at the "peak" of any step, the first one left out and included."""
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
