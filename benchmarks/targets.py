"""Performance targets, and whether the results of a benchmark run meet them."""

from rows import OURS, THINC, describe_ratio, select
from updates import KINDS

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
            for row in select(rows, layout=layout, kind=kind, name=OURS):
                ratio = row["ratio"]["median"]
                targets.append(
                    _target(
                        f"{kind}, {layout}: at most {limit} times the yardstick",
                        f"{describe_ratio(row['ratio'])}",
                        ratio <= limit,
                    )
                )
    for layout in LIMITS:
        for kind in KINDS:
            targets += _peer_target(rows, layout, kind)
    layout = "30 million"
    for thinc in select(rows, layout=layout, name=THINC):
        for kind in KINDS:
            for row in select(rows, layout=layout, kind=kind, name=OURS):
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
    ours = select(rows, layout=layout, kind=kind, name=OURS)
    peers = [
        row
        for row in select(rows, layout=layout, kind=kind, n_threads=1)
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
    bare = select(rows, name="Adam", kind="call")[0]["seconds"]["median"] * 1e6
    extra = {
        row["name"]: row["seconds"]["median"] * 1e6 - bare for row in select(rows, kind="call")
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
    row = select(rows, name="SWA.v1, freq 10")[0]
    again = select(rows, name="Adam, again")[0]
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
