"""The updates on a GPU, as a share of the bandwidth that a copy on the device reaches."""

import numpy
from measure import compare
from shapes import count

# Arrays that an update reads or writes.
TRAFFIC = {"device copy": 2, "SWA": 3, "EMA": 3, "Lookahead": 4}


def measure(shapes, n_rounds):
    """RETURNS (dict): "missing" says why there is nothing; else "device", and "rows" with
    seconds and gigabytes per second."""
    try:
        import cupy

        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception as error:  # No CuPy, or no driver, or no device: each says it differently.
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

    # One array, as large as all of them: what the memory can do, without any launches.
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
        # The first rounds compile and warm up.
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
