"""Measure the memory and time of saving an optimizer's state, compared with plain file writes.

    python benchmarks/save.py [--parameters 100_000_000] [--rounds 5] [--folder .]

Each round writes the same bytes to the same disk with `save_optimizer` and with plain writes
and fsync, in alternating order. Memory is the peak growth of the process during a save. This
needs about 20 bytes of memory and 32 bytes of disk space per parameter, and Linux.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy
from thinc.api import Adam, Linear, Model, chain

from thinc_swa import SWA, save_optimizer

N_LAYERS = 10


def make_state(n_parameters: int) -> tuple[Model, SWA, list[numpy.ndarray]]:
    """Make a model of a few large layers, SWA around Adam, and a list of the arrays of the
    state: two moments and the average."""
    width = round((n_parameters / N_LAYERS) ** 0.5)
    model = chain(*[Linear(width, width) for _ in range(N_LAYERS)])
    model.initialize()
    adam = Adam(0.001, use_averages=False)
    optimizer = SWA(adam, start_step=1)
    for node in model.layers:
        for name in node.param_names:
            weights = node.get_param(name)
            optimizer((node.id, name), weights, numpy.full_like(weights, 0.1))
    optimizer.step_schedules()
    arrays = [*adam.mom1.values(), *adam.mom2.values(), *optimizer._average.totals.values()]
    return model, optimizer, arrays


def write_with_fsync(path: Path, arrays: list[numpy.ndarray]) -> None:
    with path.open("wb") as file:
        for array in arrays:
            file.write(memoryview(array).cast("B"))
        file.flush()
        os.fsync(file.fileno())


def memory(name: str) -> int:
    """The memory of this process in bytes: VmRSS is the current one, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def describe(name: str, values: list[float]) -> str:
    return (
        f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=None, help="Folder on the disk to measure."
    )
    arguments = parser.parse_args()
    model, optimizer, arrays = make_state(arguments.parameters)
    n_bytes = sum(array.nbytes for array in arrays)
    save_times, plain_times = [], []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        saved, plain = Path(folder, "optimizer"), Path(folder, "raw")
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # Reset the recorded peak.
        save_optimizer(saved, optimizer, model)
        extra = memory("VmHWM") - before
        for number in range(arguments.rounds):
            # The order alternates, and both write new files.
            turns = [
                (save_times, save_optimizer, saved, optimizer, model),
                (plain_times, write_with_fsync, plain, arrays),
            ]
            for times, function, path, *rest in turns[:: 1 if number % 2 else -1]:
                path.unlink(missing_ok=True)
                times.append(seconds(function, path, *rest))
        file_size = saved.stat().st_size
    ratios = [save / plain for save, plain in zip(save_times, plain_times, strict=True)]
    n_parameters = n_bytes // 12
    print("# Saving an optimizer's state\n")
    print(f"    python benchmarks/save.py --parameters {arguments.parameters}\n")
    print_machine()
    print(
        f"SWA around Adam, {n_parameters / 1e6:.0f} million parameters: a state of "
        f"{n_bytes / 2**20:.0f} MiB in a file of {file_size / 2**20:.0f} MiB.\n"
    )
    print(
        f"Peak of extra memory while saving: {extra / 2**20:.1f} MiB, {extra / n_bytes:.3f} of "
        "the state (target: at most 0.2).\n"
    )
    print(f"Seconds, {arguments.rounds} interleaved rounds (target: a ratio of at most 2):\n")
    print("| | median | minimum | maximum |\n|---|---|---|---|")
    print(describe("save_optimizer", save_times))
    print(describe("plain writes and fsync", plain_times))
    print(describe("ratio, round by round", ratios))


def print_machine() -> None:
    print(
        f"{date.today()}, {os.cpu_count()} cores, {cpu()}, "
        f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB, "
        f"Python {platform.python_version()}, Thinc {version('thinc')}, "
        f"NumPy {version('numpy')}, safetensors {version('safetensors')}.\n"
    )


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
