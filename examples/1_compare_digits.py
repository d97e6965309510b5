"""Train the same network with several optimizers, and show which does best.

    python examples/1_compare_digits.py
    python examples/1_compare_digits.py configs/digits/adam.cfg my.cfg --seeds 20

Every config of configs/digits, or every one that is given, trains a small network on
scikit-learn's handwritten digits, with several seeds. For one seed, all start from the same
weights and see the same batches with the same dropout. What differs is the `[optimizer]`.

The accuracy with the plain weights is that of the network as training leaves it. The
accuracy with the averages is that of the same network with `optimizer.averages` in it.
"""

import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import mean, stdev
from typing import List, NamedTuple, Optional

from digits import Digits, accuracy, initialize, load_digits, training_steps
from thinc.api import Config, registry
from wasabi import table

from thinc_swa import use_averages

CONFIGS = Path(__file__).parent.parent / "configs" / "digits"


class Result(NamedTuple):
    """What came out of one training. None stands for what the optimizer does not have."""

    plain: float
    averaged: Optional[float]
    snapshots: Optional[int]
    seconds: float


def main(paths: List[Path], n_seeds: int) -> None:
    for path in paths:
        if not path.is_file():
            sys.exit(f"There is no such config: {path}")
    digits = load_digits()
    results: List[List[Result]] = [[] for _ in paths]
    # All optimizers take turns, so that a busy moment of the machine hits them alike.
    for i in range(n_seeds):
        for path, path_results in zip(paths, results, strict=True):
            show_progress(f"Seed {i + 1} of {n_seeds}: {path.stem}")
            path_results.append(train(path, i, digits))
    show_progress("")
    what = "one seed" if n_seeds == 1 else f"mean ± standard deviation of {n_seeds} seeds"
    print(f"Accuracy on {len(digits.test_images)} test images in %: {what}.")
    print("Snapshots and seconds are those of one training.")
    print_table([path.stem for path in paths], results)


def train(path: Path, i: int, digits: Digits) -> Result:
    """Train as the config says, but with the i-th seed from its own on."""
    resolved = registry.resolve(Config().from_disk(path))
    model, optimizer, training = (resolved[name] for name in ("model", "optimizer", "training"))
    initialize(model, digits, training["seed"] + i)
    start = time.perf_counter()
    for _ in training_steps(
        model,
        optimizer,
        digits,
        max_steps=training["max_steps"],
        batch_size=training["batch_size"],
    ):
        pass
    seconds = time.perf_counter() - start
    plain = accuracy(model, digits.test_images, digits.test_labels)
    averaged = None
    if optimizer.averages:
        with use_averages(model, optimizer):
            averaged = accuracy(model, digits.test_images, digits.test_labels)
    return Result(plain, averaged, getattr(optimizer, "n_averaged", None), seconds)


def print_table(names: List[str], results: List[List[Result]]) -> None:
    rows = []
    for name, path_results in zip(names, results, strict=True):
        plain = [result.plain for result in path_results]
        averaged = [result.averaged for result in path_results if result.averaged is not None]
        snapshots = path_results[0].snapshots
        rows.append(
            (
                name,
                mean_and_spread(plain),
                mean_and_spread(averaged) if averaged else "-",
                "-" if snapshots is None else snapshots,
                f"{mean(result.seconds for result in path_results):.2f}",
            )
        )
    header = ("optimizer", "plain weights", "averages", "snapshots", "seconds")
    print(table(rows, header=header, divider=True, aligns=("l", "r", "r", "r", "r")))


def mean_and_spread(values: List[float]) -> str:
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


def show_progress(text: str) -> None:
    """One line that is overwritten, for people only: not in a file or a pipe."""
    if sys.stderr.isatty():
        print(f"\r{text:<60}\r{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = ArgumentParser(description="Compare optimizers on handwritten digits.")
    parser.add_argument(
        "configs",
        type=Path,
        nargs="*",
        default=sorted(CONFIGS.glob("*.cfg")),
        help="configs to compare; if none is given, those in configs/digits",
    )
    parser.add_argument(
        "--seeds", type=int, default=8, help="trainings for each config (default: 8)"
    )
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds must be at least 1, but was {arguments.seeds}")
    main(arguments.configs, arguments.seeds)
