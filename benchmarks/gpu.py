"""Updates on a GPU, with their bandwidth relative to that of a copy on the device."""

import numpy
from measure import compare
from shapes import count

# The number of arrays that an update reads or writes.
TRAFFIC = {"device copy": 2, "SWA": 3, "EMA": 3, "Lookahead": 4}


def measure(shapes, n_rounds):
    """Measure updates of arrays on the first GPU.

    shapes (list[tuple[int, ...]]): The shapes of the arrays.
    n_rounds (int): The number of rounds.
    RETURNS (dict): "device" (str) and "rows" (list[dict]) with seconds and gigabytes per
        second, or "missing" (str) with the reason if there is no GPU.
    """
    try:
        import cupy

        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception as error:  # A missing CuPy, driver or device raises different errors.
        return {"missing": f"no GPU: {error}"}
    from thinc_swa.averaging.cpu_kernels import pull_back
    from thinc_swa.averaging.running_average import RunningAverage

    random = numpy.random.default_rng(0)
    weights = {
        (i, "W"): cupy.asarray(random.standard_normal(shape, dtype="f"))
        for i, shape in enumerate(shapes)
    }
    slow = {key: array.copy() for key, array in weights.items()}
    swa, ema = RunningAverage(), RunningAverage()
    swa.add_snapshot(weights)
    ema.add_snapshot(weights)

    # One array of the same total size, to measure the bandwidth with a single operation.
    source = cupy.zeros(count(shapes), dtype="f")
    target = cupy.empty_like(source)

    def copy():
        cupy.cuda.runtime.memcpyAsync(
            target.data.ptr,
            source.data.ptr,
            source.nbytes,
            cupy.cuda.runtime.memcpyDeviceToDevice,
            cupy.cuda.get_current_stream().ptr,
        )

    def synchronise():
        for key, array in weights.items():
            pull_back(slow[key], array, 0.5)

    runs = {
        "device copy": copy,
        "SWA": lambda: swa.add_snapshot(weights),
        "EMA": lambda: ema.add_snapshot(weights, 0.999),
        "Lookahead": synchronise,
    }
    samples = {kind: [] for kind in runs}
    for _ in range(3 + n_rounds):
        for kind, run in runs.items():
            samples[kind].append(_seconds(run, cupy))
    rows = []
    for kind, values in samples.items():
        # The first three rounds are for compilation and warmup.
        row = {"kind": kind, **compare(values[3:], samples["device copy"][3:])}
        n_bytes = TRAFFIC[kind] * 4 * count(shapes)
        row["gigabytes_per_second"] = n_bytes / row["seconds"]["median"] / 1e9
        row["share_of_copy"] = row["gigabytes_per_second"] / (
            rows[0]["gigabytes_per_second"] if rows else row["gigabytes_per_second"]
        )
        rows.append(row)
    return {"device": name, "rows": rows}


def _seconds(run, cupy):
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(start, end) / 1000
