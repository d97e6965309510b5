"""Measure the cost of averaging, compared with other libraries. See README.md.

python benchmarks/run.py [--quick] [--only NAME] [--output FOLDER]
"""

import argparse
import json
import os
import platform
import sys
import time
from datetime import date
from importlib import metadata
from pathlib import Path

import memory
import report
import shapes
import steps
import targets
import updates
from measure import QUICK, Budget, in_own_process

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "thinc-swa thinc spacy numpy torch timm torch-ema ema-pytorch pytorch-optimizer "
    "jax optax numba cupy"
).split()


def measure_updates(quick):
    if quick:
        layouts = {name: shapes.LAYOUTS[name] for name in ("10 thousand", "1 million")}
        return updates.measure(layouts, QUICK, [("numpy", 1), ("torch", 1), ("optax", 1)])
    return updates.measure(shapes.LAYOUTS, Budget(), updates.RUNS)


def measure_growth(quick):
    """Vary the number of parameters in one array, and the number of arrays of a million
    parameters."""
    n_parameters = shapes.N_PARAMETERS[: 3 if quick else None]
    n_arrays = shapes.N_ARRAYS[: 3 if quick else None]
    layouts = {f"{n:,} x 1": shapes.split(n, 1) for n in n_parameters}
    layouts.update({f"1,000,000 / {n:,}": shapes.split(1_000_000, n) for n in n_arrays})
    budget = QUICK if quick else Budget(seconds=1.5, min_rounds=5)
    return updates.measure(layouts, budget, [("numpy", 1), ("torch", 1)])


def measure_steps(quick):
    names = ["spaCy pipeline"] if quick else ["1 million", "30 million", "spaCy pipeline"]
    layouts = {name: shapes.LAYOUTS[name] for name in names}
    if quick:
        return steps.measure(layouts, QUICK, [("thinc", 1), ("torch", 1)])
    return steps.measure(layouts, Budget(seconds=15, min_rounds=4), steps.RUNS)


def measure_calls(quick):
    return in_own_process("calls", "measure", QUICK if quick else Budget())


def measure_memory(quick):
    name = "1 million" if quick else "30 million"
    layouts = {key: shapes.LAYOUTS[key] for key in (name, "spaCy pipeline")}
    return {
        "layout": name,
        "updates": memory.measure_updates(
            shapes.LAYOUTS[name], ["numpy"] if quick else ["numpy", "torch", "optax"]
        ),
        "optimizers": in_own_process("memory", "measure_optimizers", layouts),
    }


def measure_train(quick):
    try:
        return in_own_process("train", "measure", 20 if quick else 800)
    except ImportError as error:
        return {"missing": str(error)}


def measure_gpu(quick):
    layout = "spaCy pipeline" if quick else "transformer"
    return in_own_process("gpu", "measure", shapes.LAYOUTS[layout], 5 if quick else 50)


PARTS = {
    "updates": measure_updates,
    "steps": measure_steps,
    "calls": measure_calls,
    "memory": measure_memory,
    "train": measure_train,
    "growth": measure_growth,
    "gpu": measure_gpu,
}


def describe_machine():
    versions = {}
    distributions = metadata.packages_distributions()
    for package in PACKAGES:
        try:
            # The names of CuPy's distributions vary, for example cupy-cuda12x.
            name = distributions.get(package, [package])[0]
            versions[package] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "date": date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory() / 2**30),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor():
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="Small sizes and few rounds, for a test."
    )
    parser.add_argument(
        "--only", choices=list(PARTS), action="append", help="Measure only this part."
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="Output folder of benchmark.md, .json and .png. Default: results/ for a full run, "
        "none for a quick or partial one.",
    )
    parser.add_argument(
        "--redraw", type=Path, metavar="JSON", help="Only write the report of an earlier run."
    )
    arguments = parser.parse_args()
    output = arguments.output
    if arguments.redraw:
        results = json.loads(arguments.redraw.read_text(encoding="utf8"))
        output = output or arguments.redraw.parent
    else:
        results = {"machine": describe_machine(), "quick": arguments.quick}
        start = time.perf_counter()
        for name, measure in PARTS.items():
            if not arguments.only or name in arguments.only:
                print(f"{name} ...", flush=True)
                results[name] = measure(arguments.quick)
        results["minutes"] = (time.perf_counter() - start) / 60
        if not arguments.quick and not arguments.only:
            output = output or RESULTS
    results["targets"] = targets.check_targets(results)
    text = report.to_markdown(results)
    print("\n" + text)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "benchmark.md").write_text(text, encoding="utf8")
        (output / "benchmark.json").write_text(json.dumps(results, indent=1), encoding="utf8")
        try:
            import plot
        except ImportError as error:
            print(f"No plot: {error}", file=sys.stderr)
        else:
            plot.draw(results, output / "benchmark.png")


if __name__ == "__main__":
    main()
