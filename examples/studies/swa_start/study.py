"""When should SWA start, and how often should it take a snapshot?

    python examples/studies/swa_start/study.py

The digits, Adam at two constant learning rates: `start_step` from a quarter of the training to
nine tenths, `freq` 1, 10 and 50. It writes results.md and start.png beside this file.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure
from thinc.api import Config

from thinc_swa.comparison.entries import Entry
from thinc_swa.comparison.results import describe_failures, final_scores, interval, to_markdown
from thinc_swa.comparison.runs import make_runs, train_runs

HERE = Path(__file__).parent
CONFIG = HERE.parents[2] / "configs" / "digits" / "adam.cfg"
RATES = (0.005, 0.001)
STARTS = (0.25, 0.5, 0.75, 0.9)
FREQS = (1, 10, 50)


def make_entry(rate, start, freq):
    optimizer = {"@optimizers": "Adam.v1", "learn_rate": rate, "use_averages": False}
    config = Config().from_disk(CONFIG)
    if start is None:
        name = f"Adam {rate:g}"
    else:
        name = f"SWA {rate:g} start {start:g} freq {freq}"
        optimizer = {
            "@optimizers": "SWA.v1",
            "start_step": start,
            "freq": freq,
            "total_steps": config["training"]["max_steps"],
            "optimizer": optimizer,
        }
    config["optimizer"] = optimizer
    return Entry(name, config)


def make_keys():
    return [
        (rate, start, freq)
        for rate in RATES
        for start, freq in [(None, None), *((s, f) for s in STARTS for f in FREQS)]
    ]


def rows_of(rate, scores):
    alone = scores[rate, None, None]
    rows = [["start_step", *(f"freq {freq}" for freq in FREQS), "freq 10 to Adam"]]
    for start in STARTS:
        cells = [
            f"{mean(values):.2f} ± {stdev(values):.2f}"
            for values in (scores[rate, start, freq] for freq in FREQS)
        ]
        differences = [
            swa - adam for swa, adam in zip(scores[rate, start, 10], alone, strict=True)
        ]
        low, high = interval(differences)
        cells.append(f"{mean(differences):+.2f} ({low:+.2f} to {high:+.2f})")
        rows.append([f"{start:g}", *cells])
    return rows


def draw(scores):
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    panels = figure.subplots(1, len(RATES), sharey=True)
    styles = {1: ("#0072B2", "o"), 10: ("#D55E00", "s"), 50: ("#009E73", "^")}
    for panel, rate in zip(panels, RATES, strict=True):
        alone = scores[rate, None, None]
        low, high = mean(alone) - stdev(alone), mean(alone) + stdev(alone)
        panel.axhspan(low, high, color="#8C8C8C", alpha=0.2, linewidth=0)
        panel.axhline(mean(alone), color="#8C8C8C", linewidth=1.2, label="Adam alone, ± sd")
        for i, freq in enumerate(FREQS):
            color, marker = styles[freq]
            values = [scores[rate, start, freq] for start in STARTS]
            panel.errorbar(
                [start + 0.008 * (i - 1) for start in STARTS],
                [mean(row) for row in values],
                yerr=[stdev(row) for row in values],
                color=color,
                marker=marker,
                markersize=5,
                linewidth=1.4,
                capsize=2,
                label=f"SWA, freq {freq}",
            )
        panel.set_title(f"learning rate {rate:g}", loc="left", fontsize=10)
        panel.set_xticks(STARTS)
        panel.set_xlabel("start_step")
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy in %, mean ± sd")
    panels[-1].legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "start.png", dpi=130)


def main(n_seeds, n_jobs, output):
    entries = {key: make_entry(*key) for key in make_keys()}
    runs = make_runs(list(entries.values()), n_seeds=n_seeds, output=output)
    train_runs(runs, n_jobs=n_jobs)
    for failure in describe_failures(runs):
        raise RuntimeError(failure)
    scores = {
        key: [100 * value for value in final_scores(runs, entry.name, "score")]
        for key, entry in entries.items()
    }
    blocks = [
        "# SWA's start and frequency",
        f"Accuracy of the averages on the digits in %, mean ± standard deviation of {n_seeds} "
        "seeds; 2,000 steps of 32 images, Adam at a constant rate. The last column is the mean "
        "difference to Adam alone, seed by seed, with its 95 % interval.",
    ]
    for rate in RATES:
        alone = scores[rate, None, None]
        blocks += [
            f"## Learning rate {rate:g}: Adam alone {mean(alone):.2f} ± {stdev(alone):.2f}",
            to_markdown(rows_of(rate, scores)).rstrip(),
        ]
    blocks += [
        "![Accuracy over the start](start.png)",
        f"`python examples/studies/swa_start/study.py`, {len(runs)} trainings.",
    ]
    (HERE / "results.md").write_text("\n\n".join(blocks) + "\n", encoding="utf8")
    draw(scores)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("swa_study"), help="for logs")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.jobs, arguments.output)
