"""Measure how long trainings on two workers take to reach a score, over several links.

    python benchmarks/time_to_score.py BRANDS [--seeds 3] [--score 0.55] [--unshaped]

BRANDS is the folder of brands that examples/studies/workers/study.py describes. A pipeline for
named entities with the settings of spaCy's quickstart, but for the optimizer, is trained and
evaluated until its F-score is reached. The links are those of workers.py, and need root. It
writes time_to_score.md and time_to_score.json to `results`.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import warnings
from contextlib import ExitStack
from pathlib import Path

from save import cpu
from workers import FREQ, GRADIENTS, LOCAL, Network, choose_links, exit_on_sigterm, train_on

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MAX_STEPS = 2000
ONE = "one worker"


def measure(brands, n_seeds, score, links):
    """Train in every case with every seed, all cases of a seed in random order.

    brands (Path): Folder with train.jsonl and dev.jsonl.
    RETURNS (list[dict]): A row per training, without "seconds" if the score was not reached.
    """
    sys.path.append(str(HERE.parent / "tests"))
    import corpus

    def get_records(name, _):
        lines = (brands / f"{name}.jsonl").read_text(encoding="utf8").splitlines()
        return [json.loads(line) for line in lines]

    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        train_path, dev_path = corpus.write_corpus(Path(folder), get_records=get_records)
        cases = [(ONE, None, None)]
        for name, rate in links.items():
            network = stack.enter_context(Network(rate).up())
            cases.append((f"LocalSGD, {name}", LOCAL, network))
            cases.append((f"gradients of every step, {name}", GRADIENTS, network))
        for seed in range(n_seeds):
            random.Random(seed).shuffle(cases)
            for case, method, network in cases:
                # Two workers have twice the words in a step.
                freq = 2 * FREQ if network is None else FREQ
                settings = {
                    "train": str(train_path),
                    "dev": str(dev_path),
                    "seed": seed,
                    "words_per_batch": None,
                    "training": {"max_steps": MAX_STEPS, "eval_frequency": freq},
                    "local_sgd": method,
                    "score": score,
                }
                found = train_on(network, settings)[0]
                rows.append({"case": case, "seed": seed, **found})
                seconds = f"{found['seconds']:.1f} s" if found else "not reached"
                print(f"seed {seed}, {case}: {seconds}", flush=True)
    return rows


def to_text(results):
    rows, score = results["rows"], results["score"]
    one = {row["seed"]: row for row in rows if row["case"] == ONE}
    lines = [
        "# Time to score, two workers\n",
        "    python benchmarks/time_to_score.py fashion_brands\n",
        "Named entities in comments, the settings of `spacy init config` for a CPU but for the "
        f"optimizer, until an evaluation has an F-score of {100 * score:g} % or more; "
        f"{results['cores']} cores, {results['processor']}. Seconds from the first step, with "
        "evaluations. Medians of "
        f"{len(one)} seeds; ratios with minimum and maximum over the seeds.\n",
        "| | thousand words | seconds | times as fast as one worker | seconds without "
        "evaluations | times as fast |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in sorted({row["case"] for row in rows}):
        own = [row for row in rows if row["case"] == case]
        if not all("seconds" in row for row in [*own, *one.values()]):
            lines.append(f"| {case} | not always reached | | | | |")
            continue
        cells = [f"{statistics.median(row['words'] for row in own) / 1000:.0f}"]
        for name in ("seconds", "seconds_in_steps"):
            ratios = [one[row["seed"]][name] / row[name] for row in own]
            cells += [
                f"{statistics.median(row[name] for row in own):.1f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += [
        f"\nTwo workers are evaluated every {FREQ} steps, one worker every {2 * FREQ}: the "
        "averages on rank 0 while rank 1 evaluates its own weights or waits. The first "
        "evaluation at the score can be early or late by chance.",
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("brands", type=Path, help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--score", type=float, default=0.55, help="F-score, a fraction")
    parser.add_argument("--unshaped", action="store_true", help="no slow links")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    exit_on_sigterm()
    links = choose_links(unshaped=arguments.unshaped)
    results = {
        "score": arguments.score,
        "cores": os.cpu_count(),
        "processor": cpu(),
        "rows": measure(arguments.brands, arguments.seeds, arguments.score, links),
    }
    RESULTS.joinpath("time_to_score.json").write_text(json.dumps(results, indent=1) + "\n")
    RESULTS.joinpath("time_to_score.md").write_text(to_text(results), encoding="utf8")
    print(to_text(results))


if __name__ == "__main__":
    main()
