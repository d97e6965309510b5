"""Train all runs of the plan that are not complete, several at a time.

    python scripts/train_all.py --corpus corpus --output runs --jobs 2

The runs are ordered such that complete ones are balanced at any time: first all tasks with the
first seed, then with the next one; ScheduleFree after the averages, and the later questions
after both. A run that is interrupted leaves nothing behind, and is trained again.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from train import STEPS, STUDY, Run

SEEDS = range(5)
# Settings and optimizers of the first questions, and those of the later ones.
FIRST = (("quickstart", "averages"), ("quickstart", "schedule_free"))
LATER = (
    ("rate_3", "recommended"),
    ("decayed", "recommended"),
    ("quarter", "recommended"),
    ("corrupted", "recommended"),
    ("quickstart", "lookahead"),
    ("rate_3", "lookahead"),
    ("rate_0.3", "recommended"),
)


def planned(n_later_seeds: int = 1) -> Iterator[Run]:
    """All runs in their order.

    n_later_seeds (int): Number of seeds of the later questions.
    """
    for setting, group in FIRST:
        for seed in SEEDS:
            for task in STEPS:
                yield Run(setting, task, group, seed)
    for seed in SEEDS[:n_later_seeds]:
        for setting, group in LATER:
            for task in STEPS:
                yield Run(setting, task, group, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=STUDY / "corpus")
    parser.add_argument("--output", type=Path, default=STUDY / "runs")
    parser.add_argument("--later-seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    script = str(Path(__file__).with_name("train.py"))

    def train(run: Run) -> None:
        if (arguments.output / run.file_name).exists():
            return
        words = [run.setting, run.task, run.group, str(run.seed)]
        print("starts", *words, flush=True)
        command = [sys.executable, script, *words]
        command += ["--corpus", str(arguments.corpus), "--output", str(arguments.output)]
        code = subprocess.run(command, check=False).returncode
        print("ends" if code == 0 else f"fails ({code})", *words, flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(train, planned(arguments.later_seeds)))


if __name__ == "__main__":
    main()
