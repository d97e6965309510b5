"""Report of the benchmark in workers.py, and a model of many workers on paper."""

import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
SIZES = [2**i for i in range(1, 11)]
SPEEDS = {"100 Mbit/s": 1e8, "1 Gbit/s": 1e9, "10 Gbit/s": 1e10, "100 Gbit/s": 1e11}
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
LOCAL, GRADIENTS = "LocalSGD", "gradients of every step"


def median_of(rows, case, name):
    values = [row[name] for row in rows if row["case"] == case]
    return statistics.median(values)


def constants(results):
    """The constants of the model on paper.

    RETURNS (dict): "words" per batch, "step": seconds of a step of a worker beside another
        one, "exchange": seconds of an exchange without a slow link, "latency": seconds of an
        all-reduce of one number between two hosts, "n_parameters", and "efficiency": the part
        of the bits per second of a slow link that a synchronisation uses.
    """
    rows = results["rows"]
    beside = [row for row in rows if row["case"] == "two trainings at the same time"]
    step = statistics.median(row["seconds"] / row["n_steps"] for row in beside)
    words = statistics.median(row["words"] / row["n_steps"] for row in beside)

    def seconds_per_exchange(method, link):
        """The exchanges are after every step for gradients, and after `freq` for LocalSGD."""
        case = f"{method}, {link}"
        total = median_of(rows, case, "seconds") / median_of(rows, case, "n_steps")
        return (total - step) * (results["freq"] if method == LOCAL else 1)

    n_parameters = rows[0]["n_parameters"]
    # Of the gradients there are more exchanges, so their time is measured more precisely.
    exchange = max(0.0, seconds_per_exchange(GRADIENTS, "unshaped"))
    found = {"words": words, "step": step, "exchange": exchange, "n_parameters": n_parameters}
    slow = "100 Mbit/s"
    if slow in results["links"]:
        transfer = seconds_per_exchange(GRADIENTS, slow) - exchange
        found["efficiency"] = 4 * n_parameters * 8 / results["links"][slow] / transfer
        found["latency"] = median_of(rows, f"{GRADIENTS}, {slow}", "latency")
    return found


def words_per_second(found, n_workers, bits_per_second, freq):
    """The model on paper: every worker takes the same time for a step, then one all-reduce by
    the ring algorithm follows, whose messages go around it twice.

    found (dict): What `constants` returns.
    freq (int): The number of steps between exchanges.
    """
    n_bits = 2 * (n_workers - 1) / n_workers * 4 * found["n_parameters"] * 8
    transfer = n_bits / (found["efficiency"] * bits_per_second)
    # Two workers need one message in each direction twice.
    latency = found["latency"] * (n_workers - 1)
    seconds = freq * found["step"] + found["exchange"] + transfer + latency
    return n_workers * freq * found["words"] / seconds


def to_text(results):
    rows = results["rows"]
    found = constants(results)
    one = {row["round"]: row["words_per_second"] for row in rows if row["case"] == "one worker"}
    lines = [
        "# Two workers\n",
        "    python benchmarks/workers.py\n",
        f"A spaCy pipeline for named entities (`spacy init config`, CPU, "
        f"{found['n_parameters']:,} parameters), batches of "
        f"{results['words_per_batch']} words, "
        f"{results['corpus']}, without evaluations; {results['cores']} cores, "
        f"{results['processor']}. Medians of the rounds, with minimum and maximum of the ratio "
        "in the same round.\n",
        "| | words per second | ratio to one worker | MB sent per exchange | to the formula |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for case in dict.fromkeys(row["case"] for row in sorted(rows, key=lambda row: row["case"])):
        own = [row for row in rows if row["case"] == case]
        ratios = [row["words_per_second"] / one[row["round"]] for row in own]
        speed = median_of(rows, case, "words_per_second")
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        sent, excess = "", ""
        if own[0]["link_bytes"]:
            n_exchanges = own[0]["n_steps"] / (results["freq"] if LOCAL in case else 1)
            n_bytes = median_of(rows, case, "link_bytes") / n_exchanges
            expected = (2 if "float16" in case else 4) * found["n_parameters"]
            sent = f"{n_bytes / 1e6:.2f}"
            excess = f"{100 * (n_bytes / expected - 1):+.1f} %"
        lines.append(f"| {case} | {speed:,.0f} | {ratio} | {sent} | {excess} |")
    lines += [
        "\n- `two trainings at the same time` are not connected: what two cores can do.",
        "- MB sent by the network interface of one worker, with the headers of TCP/IP. The "
        "formula is 4 bytes per parameter, 2 in float16.",
    ]
    if "efficiency" in found:
        lines += ["\n## Many workers, on paper\n", *_model_lines(results, found)]
    return "\n".join(lines) + "\n"


def _model_lines(results, found):
    freq = results["freq"]
    yield (
        f"From the medians above: a step takes {1000 * found['step']:.0f} ms for "
        f"{found['words']:.0f} words, an exchange {1000 * found['exchange']:.0f} ms without a "
        f"slow link, a link of 100 Mbit/s is used to {100 * found['efficiency']:.0f} %, and "
        f"the latency is {1000 * found['latency']:.2f} ms. The model: "
        "`N · H · words / (H · step + exchange + 2 (N − 1) / N · 32 · parameters / speed + "
        "(N − 1) · latency)`, with H = "
        f"{freq} for LocalSGD and 1 for gradients. It leaves out evaluations, workers of "
        "different speed and the memory bandwidth of other machines. Words per second:\n"
    )
    yield "| workers | method | " + " | ".join(SPEEDS) + " |"
    yield "| ---: | --- |" + " ---: |" * len(SPEEDS)
    for n_workers in (2, 8, 64, 1024):
        for method, steps in ((LOCAL, freq), (GRADIENTS, 1)):
            cells = [
                f"{words_per_second(found, n_workers, speed, steps):,.0f}"
                for speed in SPEEDS.values()
            ]
            yield f"| {n_workers:,} | {method} | {' | '.join(cells)} |"
    yield "\n![The speed of each worker by the number of workers, in percent of that without"
    yield "exchanges](workers.png)"


def draw(results, path):
    """Draw the speed of each worker, relative to one that exchanges nothing."""
    found = constants(results)
    alone = found["words"] / found["step"]
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    panel = figure.subplots()
    for colour, (name, speed) in zip(COLOURS, SPEEDS.items(), strict=True):
        for steps, style in ((results["freq"], "-"), (1, ":")):
            values = [
                100 * words_per_second(found, n, speed, steps) / (n * alone) for n in SIZES
            ]
            label = name if style == "-" else None
            panel.plot(SIZES, values, style, color=colour, linewidth=1.6, label=label)
    panel.plot([], [], "-", color="black", label=f"LocalSGD, freq = {results['freq']}")
    panel.plot([], [], ":", color="black", label=GRADIENTS)
    panel.set_xscale("log", base=2)
    panel.set_ylim(0, 102)
    panel.set_xticks(SIZES, [f"{n:,}" for n in SIZES])
    panel.set_xlabel("workers")
    panel.set_ylabel("speed of each worker in % (model)")
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=110)


def write(results):
    RESULTS.joinpath("workers.json").write_text(json.dumps(results, indent=1) + "\n")
    RESULTS.joinpath("workers.md").write_text(to_text(results), encoding="utf8")
    if "efficiency" in constants(results):
        draw(results, RESULTS / "workers.png")
