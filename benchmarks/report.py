"""Report of a benchmark run in Markdown."""

from rows import describe_ratio, select
from updates import KINDS


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
            for row in select(rows, kind=kind)
            if row["layout"] == layouts[0]
        ]
        lines += ["", f"### {kind}", "", *_table(["", *layouts], table)]
    yardsticks = {
        layout: select(rows, layout=layout, kind="yardstick", library="numpy")[0]
        for layout in layouts
    }
    table = [
        ["ms", *map(_milliseconds, yardsticks.values())],
        ["ratio to itself", *(describe_ratio(row["ratio"]) for row in yardsticks.values())],
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
            (yardstick,) = select(
                rows,
                layout=layout,
                kind="yardstick",
                library=row["library"],
                n_threads=row["n_threads"],
            )
            yardsticks = own["seconds"]["median"] / yardstick["seconds"]["median"]
            cells.append(f"{describe_ratio(own['ratio'])} ({yardsticks:.1f})")
        table.append([_name(row), *cells])
    return lines + ["", *_table(["", *layouts], table), *_missing(rows)]


def _paragraphs(texts):
    return [line for text in texts for line in (text, "")]


def _calls_section(rows):
    table = []
    for row in select(rows, kind="call"):
        (step,) = select(rows, kind="step", name=row["name"])
        bare_call = select(rows, kind="call", name="Adam")[0]["seconds"]["median"]
        bare_step = select(rows, kind="step", name="Adam")[0]["seconds"]["median"]
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


def _same(rows, row, layout):
    """The row of the same implementation in another layout."""
    keys = ("name", "kind", "library", "n_threads")
    (same,) = select(rows, layout=layout, **{key: row[key] for key in keys})
    return same


def _missing(rows):
    names = {
        f"{row['name']}: not installed ({row['missing']})" for row in rows if "missing" in row
    }
    return [line for name in sorted(names) for line in ("", name + ".")]


def _name(row):
    return row["name"] + (", all cores" if row["n_threads"] == 0 else "")


def _ratio_cell(row):
    return "not installed" if "missing" in row else describe_ratio(row["ratio"])


def _milliseconds(row):
    return f"{row['seconds']['median'] * 1e3:.4g}"


def _table(header, rows):
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
