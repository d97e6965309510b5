"""Train all runs of the plan that are not complete, several at a time.

    python scripts/train_all.py --corpus corpus --output runs --jobs 2

The runs are ordered such that complete ones are balanced at any time: first all tasks with the
first seed, then with the next one; ScheduleFree after the averages. A run that is interrupted
leaves nothing behind, and is trained again.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from train import GROUPS, STEPS, STUDY

SEEDS = range(5)


def planned() -> Iterator[tuple[str, str, int]]:
    """All runs in their order: task, group and seed."""
    for group in GROUPS:
        for seed in SEEDS:
            for task in STEPS:
                yield task, group, seed


def run_path(folder: Path, task: str, group: str, seed: int) -> Path:
    return folder / f"{task}-{group}-{seed}.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=STUDY / "corpus")
    parser.add_argument("--output", type=Path, default=STUDY / "runs")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    script = str(Path(__file__).with_name("train.py"))

    def train(run: tuple[str, str, int]) -> None:
        if run_path(arguments.output, *run).exists():
            return
        print("starts", *run, flush=True)
        command = [sys.executable, script, *map(str, run)]
        command += ["--corpus", str(arguments.corpus), "--output", str(arguments.output)]
        code = subprocess.run(command, check=False).returncode
        print("ends" if code == 0 else f"fails ({code})", *run, flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(train, planned()))


if __name__ == "__main__":
    main()
