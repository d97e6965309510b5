"""Report of a benchmark run in Markdown, and checks of the performance targets."""

from updates import KINDS

OURS = "thinc_swa"
THINC = "Thinc NumpyOps.update_averages"
# Entries of the tables that are not other implementations.
NOT_PEERS = (
    OURS,
    f"{OURS}, NumPy alone",
    f"{OURS}, check_finite=False",
    "compiled loop (Numba)",
    "compiled loop (Numba), checked",
)

# The maximum ratios to the yardstick.
LIMITS = {
    "30 million": {"SWA": 1.15, "EMA": 1.6, "Lookahead": 2.0},
    "1 million": {"SWA": 1.3, "EMA": 2.0, "Lookahead": 2.5},
}
MIN_FASTER_THAN_THINC = 3.0
CALL_MICROSECONDS, CALL_SHARE = 3.0, 0.10
GROUPS_MICROSECONDS = 2.0
EXTRA_MEMORY = 2**20
TRAIN_RATIO = 1.02
SHARE_OF_COPY = 0.70


def check_targets(results):
    """Check the performance targets.

    results (dict): The results of a run.
    RETURNS (list[dict]): "target", "measured" and "verdict" (str) of each target.
    """
    targets = []
    if "updates" in results:
        targets += _update_targets(results["updates"])
    if "calls" in results:
        targets += _call_targets(results["calls"])
    if "memory" in results:
        targets += _memory_targets(results["memory"]["optimizers"])
    if "train" in results:
        targets.append(_train_target(results["train"]))
    if "gpu" in results:
        targets += _gpu_targets(results["gpu"])
    return targets


def _target(target, measured, met):
    return {"target": target, "measured": measured, "verdict": "met" if met else "NOT met"}


def _update_targets(rows):
    targets = []
    for layout, limits in LIMITS.items():
        for kind, limit in limits.items():
            for row in _select(rows, layout=layout, kind=kind, name=OURS):
                ratio = row["ratio"]["median"]
                targets.append(
                    _target(
                        f"{kind}, {layout}: at most {limit} times the yardstick",
                        f"{_range(row['ratio'])}",
                        ratio <= limit,
                    )
                )
    for layout in LIMITS:
        for kind in KINDS:
            targets += _peer_target(rows, layout, kind)
    layout = "30 million"
    for thinc in _select(rows, layout=layout, name=THINC):
        for kind in KINDS:
            for row in _select(rows, layout=layout, kind=kind, name=OURS):
                times = thinc["ratio"]["median"] / row["ratio"]["median"]
                targets.append(
                    _target(
                        f"{kind}, {layout}: at least {MIN_FASTER_THAN_THINC:g} times as fast "
                        "as Thinc's averaging",
                        f"{times:.2f} times as fast",
                        times >= MIN_FASTER_THAN_THINC,
                    )
                )
    return targets


def _peer_target(rows, layout, kind):
    ours = _select(rows, layout=layout, kind=kind, name=OURS)
    peers = [
        row
        for row in _select(rows, layout=layout, kind=kind, n_threads=1)
        if row["name"] not in NOT_PEERS and "missing" not in row
    ]
    if not ours or not peers:
        return []
    own, best = ours[0]["ratio"], min(peers, key=lambda row: row["ratio"]["median"])
    target = _target(
        f"{kind}, {layout}: no slower than the fastest peer on one thread",
        f"{own['median'] / best['ratio']['median']:.2f} times the time of {best['name']} "
        f"({own['median']:.2f} to {best['ratio']['median']:.2f} yardsticks)",
        own["median"] <= best["ratio"]["median"],
    )
    if target["verdict"] != "met" and own["low"] <= best["ratio"]["high"]:
        target["verdict"] = "within the noise"
    return [target]


def _call_targets(rows):
    bare = _select(rows, name="Adam", kind="call")[0]["seconds"]["median"] * 1e6
    extra = {
        row["name"]: row["seconds"]["median"] * 1e6 - bare for row in _select(rows, kind="call")
    }
    average = max((name for name in extra if "freq 10" in name), key=extra.get)
    groups = max((name for name in extra if "ParamGroups" in name), key=extra.get)
    return [
        _target(
            f"A wrapped call for a tiny parameter: at most {CALL_MICROSECONDS:g} µs more, or "
            f"{CALL_SHARE:.0%}",
            f"{extra[average]:.2f} µs more than {bare:.2f} µs ({average})",
            extra[average] <= max(CALL_MICROSECONDS, CALL_SHARE * bare),
        ),
        _target(
            f"The same with parameter groups: at most {GROUPS_MICROSECONDS:g} µs more",
            f"{extra[groups]:.2f} µs more than {bare:.2f} µs ({groups})",
            extra[groups] <= GROUPS_MICROSECONDS,
        ),
    ]


def _memory_targets(rows):
    targets = []
    for when, label in (("peak", "between evaluations"), ("peak_with_first_step", "ever")):
        ours = [row for row in rows if row["name"].startswith(("SWA", "EMA", "Lookahead"))]
        worst = max(ours, key=lambda row: row[when] - row["weights_bytes"])
        beyond = worst[when] - worst["weights_bytes"]
        targets.append(
            _target(
                f"Extra memory {label}: one copy of the parameters and 1 MiB",
                f"one copy and {beyond / 2**20:.2f} MiB ({worst['name']}, {worst['layout']})",
                beyond <= EXTRA_MEMORY,
            )
        )
    return targets


def _train_target(result):
    text = "spacy train with SWA.v1 at freq 10: within 2 % of bare Adam"
    if "missing" in result:
        return {"target": text, "measured": result["missing"], "verdict": "not measured"}
    rows = result["rows"]
    row = _select(rows, name="SWA.v1, freq 10")[0]
    again = _select(rows, name="Adam, again")[0]
    return _target(
        text,
        f"{row['ratio']['median']:.4f} ± {row['error']:.4f}, where Adam against itself is "
        f"{again['ratio']['median']:.4f} ± {again['error']:.4f}",
        row["ratio"]["median"] <= TRAIN_RATIO,
    )


def _gpu_targets(result):
    text = f"GPU, SWA and EMA: at least {SHARE_OF_COPY:.0%} of the copy bandwidth"
    if "missing" in result:
        return [{"target": text, "measured": result["missing"], "verdict": "not measured"}]
    return [
        _target(
            f"{text} ({row['kind']})",
            f"{row['share_of_copy']:.0%}",
            row["share_of_copy"] >= SHARE_OF_COPY,
        )
        for row in result["rows"]
        if row["kind"] in ("SWA", "EMA")
    ]


def to_markdown(results):
    """Make the report of a run.

    results (dict): The results of a run.
    RETURNS (str): The report in Markdown.
    """
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# Cost of averaging",
        "",
        f"Written by `python benchmarks/run.py` on {machine['date']}"
        + (" (quick run with low precision)" if results["quick"] else "")
        + f". {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}; load average at the start "
        f"{machine['load']}. {versions}.",
        "",
        *_paragraphs(results.get("notes", [])),
        "All numbers are medians over interleaved rounds, with quartiles in square brackets. "
        "The speed of the machine may vary between rounds, so compare ratios, which are "
        "computed within rounds, rather than milliseconds. The method is described in the "
        "[README](../README.md). All numbers are in benchmark.json.",
        "",
        "![Plots of these results](benchmark.png)",
    ]
    for part, write in SECTIONS.items():
        if results.get(part):
            lines += ["", *write(results[part])]
    return "\n".join(lines) + "\n"


def _targets_section(targets):
    rows = [[row["target"], row["measured"], row["verdict"]] for row in targets]
    n_met = sum(row["verdict"] == "met" for row in targets)
    lines = ["## Targets", "", f"{n_met} of {len(targets)} are met."]
    return [*lines, "", *_table(["Target", "Measured", ""], rows)]


def _updates_section(rows):
    lines = [
        "## One update",
        "",
        "As multiples of the yardstick, `numpy.add(average, weights, out=average)`, on the "
        "same shapes in the same process, with one thread unless all cores are mentioned. An "
        "update of Lookahead is a synchronisation, which writes two arrays. For arrays of more "
        'than 32 thousand values thinc_swa uses PyTorch if it is installed; "NumPy alone" is '
        "without PyTorch. The compiled loops are not part of the package; they show the speed "
        "of a fused kernel.",
    ]
    layouts = list(dict.fromkeys(row["layout"] for row in rows))
    for kind in KINDS:
        table = [
            [_name(row), *(_ratio_cell(_same(rows, row, layout)) for layout in layouts)]
            for row in _select(rows, kind=kind)
            if row["layout"] == layouts[0]
        ]
        lines += ["", f"### {kind}", "", *_table(["", *layouts], table)]
    yardsticks = {
        layout: _select(rows, layout=layout, kind="yardstick", library="numpy")[0]
        for layout in layouts
    }
    table = [
        ["ms", *map(_milliseconds, yardsticks.values())],
        ["ratio to itself", *(_range(row["ratio"]) for row in yardsticks.values())],
    ]
    lines += ["", "### The yardstick itself", "", *_table(["", *layouts], table)]
    return lines + _missing([row for row in rows if row["layout"] == layouts[0]])


def _steps_section(rows):
    lines = [
        "## A whole optimizer step",
        "",
        "As multiples of the bare optimizer; in parentheses as multiples of the yardstick. "
        "Each sample is a period of 10 steps, so freq 10 has one snapshot per sample. "
        '"Adam, again" is a second copy of Adam, and its difference from Adam is noise.',
    ]
    layouts = list(dict.fromkeys(row["layout"] for row in rows))
    table = []
    for row in rows:
        if row["layout"] != layouts[0] or row["kind"] == "yardstick" or "missing" in row:
            continue
        cells = []
        for layout in layouts:
            own = _same(rows, row, layout)
            (yardstick,) = _select(
                rows,
                layout=layout,
                kind="yardstick",
                library=row["library"],
                n_threads=row["n_threads"],
            )
            yardsticks = own["seconds"]["median"] / yardstick["seconds"]["median"]
            cells.append(f"{_range(own['ratio'])} ({yardsticks:.1f})")
        table.append([_name(row), *cells])
    return lines + ["", *_table(["", *layouts], table), *_missing(rows)]


def _paragraphs(texts):
    return [line for text in texts for line in (text, "")]


def _calls_section(rows):
    table = []
    for row in _select(rows, kind="call"):
        (step,) = _select(rows, kind="step", name=row["name"])
        bare_call = _select(rows, kind="call", name="Adam")[0]["seconds"]["median"]
        bare_step = _select(rows, kind="step", name="Adam")[0]["seconds"]["median"]
        table.append(
            [
                row["name"],
                f"{row['seconds']['median'] * 1e6:.2f}",
                f"{(row['seconds']['median'] - bare_call) * 1e6:+.2f}",
                f"{step['seconds']['median'] * 1e6:.2f}",
                f"{(step['seconds']['median'] - bare_step) * 1e6:+.2f}",
            ]
        )
    return [
        "## A call for a tiny parameter",
        "",
        "In µs per parameter, for 20 parameters of 10 values: the call only, and including the "
        "share of `step_schedules()`, where SWA and EMA take their snapshots. Each sample is a "
        "period of 10 steps.",
        "",
        *_table(["", "call", "difference to Adam", "whole step", "difference to Adam"], table),
    ]


def _memory_section(result):
    table = [
        [row["name"], row["kind"], f"{row['copies']:.2f}"]
        for row in result["updates"]
        if "missing" not in row
    ]
    lines = [
        "## Memory",
        "",
        f"The peak memory of an average beyond the weights, from its creation through three "
        f"updates, in copies of the parameters ({result['layout']}, one array).",
        "",
        *_table(["", "", "copies"], table),
        *_missing(result["updates"]),
        "",
        "The memory of an optimizer beyond that of bare Adam and one copy of the parameters, "
        "in MiB.",
    ]
    table = [
        [
            row["name"],
            row["layout"],
            *(
                f"{(row[when] - row['weights_bytes']) / 2**20:+.2f}"
                for when in ("held", "peak", "peak_with_first_step")
            ),
        ]
        for row in result["optimizers"]
        if row["name"] != "Adam, again"
    ]
    header = ["", "", "between steps", "peak", "peak with the first step"]
    return [*lines, "", *_table(header, table)]


def _train_section(result):
    if "missing" in result:
        return ["## A whole spaCy training", "", f"Not measured: {result['missing']}."]
    table = [
        [
            row["name"],
            _milliseconds(row),
            f"{row['evaluation']['median'] * 1e3:.0f}",
            f"{row['ratio']['median']:.4f} ± {row['error']:.4f}",
            f"{row['total_ratio']:.4f}",
        ]
        for row in result["rows"]
    ]
    header = ["", "ms per step", "ms per evaluation", "blocks of 10 steps", "total"]
    return [
        "## A whole spaCy training",
        "",
        f"The pipeline of configs/spacy/swa.cfg on {result['corpus']}: {result['n_steps']} "
        f"steps of {result['words_per_step']:.0f} words with every optimizer, interleaved, "
        "with averaging from the first step on. The ratios to bare Adam include the "
        "evaluations of the averages, but no writes to the disk: the median over "
        "blocks of 10 steps with its standard error, and the ratio of the total times. "
        '"Adam, again" shows the noise.',
        "",
        *_table(header, table),
    ]


def _growth_section(rows):
    lines = ["## Growth"]
    layouts = list(dict.fromkeys(row["layout"] for row in rows))
    for title, mark in (
        ("With the number of parameters, in one array: ms", " x 1"),
        ("With the number of arrays, for one million parameters: ms", "1,000,000 / "),
    ):
        columns = [layout for layout in layouts if mark in layout]
        table = [
            [f"{_name(row)}, {row['kind']}"]
            + [_milliseconds(_same(rows, row, layout)) for layout in columns]
            for row in rows
            if row["layout"] == columns[0]
            and "missing" not in row
            and (row["kind"] != "yardstick" or row["library"] == "numpy")
        ]
        header = ["", *(column.replace(mark, "") for column in columns)]
        lines += ["", f"### {title}", "", *_table(header, table)]
    return lines


def _gpu_section(result):
    if "missing" in result:
        return ["## GPU", "", f"Not measured: {result['missing']}."]
    table = [
        [
            row["kind"],
            f"{row['seconds']['median'] * 1e3:.3f}",
            f"{row['gigabytes_per_second']:.0f}",
            f"{row['share_of_copy']:.0%}",
        ]
        for row in result["rows"]
    ]
    header = ["", "ms", "GB/s", "relative to the copy"]
    return ["## GPU", "", result["device"], "", *_table(header, table)]


SECTIONS = {
    "targets": _targets_section,
    "updates": _updates_section,
    "steps": _steps_section,
    "calls": _calls_section,
    "memory": _memory_section,
    "train": _train_section,
    "growth": _growth_section,
    "gpu": _gpu_section,
}


def _select(rows, **wanted):
    return [row for row in rows if all(row.get(key) == wanted[key] for key in wanted)]


def _same(rows, row, layout):
    """The row of the same implementation in another layout."""
    keys = ("name", "kind", "library", "n_threads")
    (same,) = _select(rows, layout=layout, **{key: row[key] for key in keys})
    return same


def _missing(rows):
    names = {
        f"{row['name']}: not installed ({row['missing']})" for row in rows if "missing" in row
    }
    return [line for name in sorted(names) for line in ("", name + ".")]


def _name(row):
    return row["name"] + (", all cores" if row["n_threads"] == 0 else "")


def _ratio_cell(row):
    return "not installed" if "missing" in row else _range(row["ratio"])


def _range(ratio):
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _milliseconds(row):
    return f"{row['seconds']['median'] * 1e3:.4g}"


def _table(header, rows):
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
