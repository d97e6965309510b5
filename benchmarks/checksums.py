"""Measure the cost of the checksums when an optimizer's state is saved and loaded.

    python benchmarks/checksums.py [--parameters 10_000_000] [--rounds 15] [--folder .]

Each round saves and loads with and without checksums in alternating order, and reads the same
file with safetensors for comparison. This needs about 20 bytes of memory and 24 bytes of disk
space per parameter.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from safetensors.numpy import load_file
from save import make_state, print_machine, seconds
from thinc.api import Adam

from thinc_swa import SWA, load_optimizer, save_optimizer
from thinc_swa.serialization import state_file


class NoChecksum:
    """A replacement of the checksum that does nothing."""

    def update(self, data: object) -> None:
        pass

    def digest(self) -> str:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--folder", type=Path, default=None, help="Folder on the disk to measure."
    )
    arguments = parser.parse_args()
    model, optimizer, arrays = make_state(arguments.parameters)
    n_bytes = sum(array.nbytes for array in arrays)
    kinds = {"with": state_file._Checksum, "without": NoChecksum}
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        paths = {kind: Path(folder, kind) for kind in kinds}
        for number in range(-1, arguments.rounds):  # The first round warms up.
            round_times = {}
            for kind, checksum in list(kinds.items())[:: 1 if number % 2 else -1]:
                state_file._Checksum = checksum  # type: ignore[misc]
                path = paths[kind]
                path.unlink(missing_ok=True)
                round_times[f"save {kind}"] = seconds(save_optimizer, path, optimizer, model)
                other = SWA(Adam(0.001, use_averages=False), start_step=1)
                round_times[f"load {kind}"] = seconds(load_optimizer, path, other, model)
            round_times["safetensors.numpy.load_file"] = seconds(load_file, paths["with"])
            for name, value in round_times.items() if number >= 0 else ():
                times.setdefault(name, []).append(value)
    for name in ("save", "load"):
        pairs = zip(times[f"{name} with"], times[f"{name} without"], strict=True)
        times[f"{name}: ratio, round by round"] = [a / b for a, b in pairs]
    pairs = zip(times["load with"], times["safetensors.numpy.load_file"], strict=True)
    times["load to load_file, round by round"] = [a / b for a, b in pairs]
    print("# Cost of the checksums of a state\n")
    print(f"    python benchmarks/checksums.py --parameters {arguments.parameters}\n")
    print_machine()
    print(f"A state of {n_bytes / 2**20:.0f} MiB. Seconds, {arguments.rounds} rounds:\n")
    print("| | median | minimum | maximum |\n|---|---|---|---|")
    for name, values in sorted(times.items()):
        columns = [name, *(f"{f(values):.4f}" for f in (statistics.median, min, max))]
        print(f"| {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
