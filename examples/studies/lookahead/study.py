"""How much does Lookahead make the learning rate matter less?

    python examples/studies/lookahead/study.py

After the figures of the paper (arXiv:1907.08610) on robustness: the digits, with SGD and with
Adam, learning rates over two decades, with and without Lookahead, and what becomes of the
moments at a pullback. It writes results.md and robustness.png beside this file.
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure
from thinc.api import Config

from thinc_swa.comparison.entries import Entry
from thinc_swa.comparison.results import describe_failures, final_scores, to_markdown
from thinc_swa.comparison.runs import make_runs, train_runs

HERE = Path(__file__).parent
CONFIG = HERE.parents[2] / "configs" / "digits" / "adam.cfg"
RATES = {
    "SGD": (0.01, 0.03, 0.1, 0.3, 1.0),
    "Adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
# freq, pullback, inner_state
PLAIN = None
LOOKAHEADS = [(freq, pullback, "keep") for freq in (5, 10) for pullback in (0.2, 0.5, 0.8)]
INNER_STATES = [(5, 0.5, "reset"), (5, 0.5, "pullback")]


def make_entry(name, rate, settings):
    optimizer = {"@optimizers": f"{name}.v1", "learn_rate": rate, "use_averages": False}
    if settings is not PLAIN:
        freq, pullback, inner_state = settings
        optimizer = {
            "@optimizers": "Lookahead.v1",
            "freq": freq,
            "pullback": pullback,
            "inner_state": inner_state,
            "optimizer": optimizer,
        }
    config = Config().from_disk(CONFIG)
    config["optimizer"] = optimizer
    return Entry(f"{name} {rate:g} {describe(settings)}", config)


def describe(settings):
    if settings is PLAIN:
        return "alone"
    freq, pullback, inner_state = settings
    return f"{freq}, {pullback}" + ("" if inner_state == "keep" else f", {inner_state}")


def grid(name):
    # Plain SGD has no moments.
    inner_states = INNER_STATES if name == "Adam" else []
    return [PLAIN, *LOOKAHEADS, *inner_states]


def make_keys():
    return [(name, rate, how) for name in RATES for rate in RATES[name] for how in grid(name)]


def rows_of(name, scores):
    """A row for each setting: the scores at each rate, the lowest of them, and by how much they
    differ."""
    rates = RATES[name]
    rows = [[f"Lookahead around {name}", *(f"{rate:g}" for rate in rates), "lowest", "range"]]
    for settings in grid(name):
        cells, means = [], []
        for rate in rates:
            values = scores[name, rate, settings]
            means.append(mean(values))
            cells.append(f"{means[-1]:.2f} ± {stdev(values):.2f}")
        rows.append(
            [describe(settings), *cells, f"{min(means):.2f}", f"{max(means) - min(means):.2f}"]
        )
    return rows


def draw(scores):
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    styles = {
        PLAIN: ("#000000", "-", "o"),
        (5, 0.5, "keep"): ("#0072B2", "-", "s"),
        (5, 0.2, "keep"): ("#56B4E9", "--", "v"),
        (5, 0.8, "keep"): ("#009E73", "--", "^"),
        (5, 0.5, "reset"): ("#D55E00", ":", "D"),
        (5, 0.5, "pullback"): ("#CC79A7", ":", "X"),
    }
    for panel, (name, rates) in zip(panels, RATES.items(), strict=True):
        for settings, (color, line, marker) in styles.items():
            if settings not in grid(name):
                continue
            values = [scores[name, rate, settings] for rate in rates]
            panel.errorbar(
                rates,
                [100 - mean(row) for row in values],
                yerr=[stdev(row) for row in values],
                color=color,
                linestyle=line,
                marker=marker,
                markersize=5,
                linewidth=1.4,
                capsize=2,
                label=f"{name} {describe(settings)}".replace(f"{name} 5", "Lookahead 5"),
            )
        # Errors, on a logarithmic scale: between 97 and 98 % right is as much as between
        # 70 and 80.
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(rates, [f"{rate:g}" for rate in rates])
        panel.set_yticks([2, 3, 5, 10, 20, 50], ["2", "3", "5", "10", "20", "50"])
        panel.minorticks_off()
        panel.set_xlabel(f"learning rate of {name}")
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8, loc="upper right")
    panels[0].set_ylabel("errors in %, mean ± sd")
    figure.savefig(HERE / "robustness.png", dpi=130)


def main(n_seeds, n_jobs, output):
    entries = {key: make_entry(*key) for key in make_keys()}
    runs = make_runs(list(entries.values()), n_seeds=n_seeds, output=output)
    train_runs(runs, n_jobs=n_jobs)
    for failure in describe_failures(runs):
        raise RuntimeError(failure)
    # Of the fast weights: it is training that is compared here, not averaging.
    scores = {
        key: [100 * value for value in final_scores(runs, entry.name, "raw")]
        for key, entry in entries.items()
    }
    blocks = [
        "# Lookahead and the learning rate",
        f"Accuracy on the digits in %, mean ± standard deviation of {n_seeds} seeds, with the "
        "weights as training leaves them; 2,000 steps of 32 images. Rows: Lookahead's `freq` "
        "and `pullback`, and `inner_state` where it is not `keep`. Columns: the learning rate. "
        "Lowest, and range from lowest to highest, of the means over the rates.",
        *(to_markdown(rows_of(name, scores)).rstrip() for name in RATES),
        "![Errors over the learning rate](robustness.png)",
        f"`python examples/studies/lookahead/study.py`, {len(runs)} trainings.",
    ]
    (HERE / "results.md").write_text("\n\n".join(blocks) + "\n", encoding="utf8")
    draw(scores)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("lookahead_study"), help="for logs")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.jobs, arguments.output)
