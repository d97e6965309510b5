"""Output folders with logs that are written by hand, and a browser that shows their report."""

import json

ADAM = """
[training]
seed = {seed}
max_steps = 40

[optimizer]
@optimizers = "Adam.v1"
learn_rate = {rate}
"""

SWA = """
[training]
seed = {seed}
max_steps = 40

[optimizer]
@optimizers = "SWA.v1"
start_step = 20

[optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = {rate}
"""


def write_log(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) for record in records]
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf8")


def start(step=0, **values):
    return {"type": "start", "run": "a", "step": step, "seed": 3, "optimizer": "Adam", **values}


def evaluation(step, raw=0.5, averages=None, **values):
    return {
        "type": "evaluation",
        "step": step,
        "n_averaged": None,
        "raw": raw,
        "averages": averages,
        "is_best": False,
        "other_scores": {},
        "all_averages": {},
        "losses": {"loss": 1.0},
        "seconds": 0.1 * step,
        **values,
    }


def end(step, reason="max_steps", error=None):
    return {"type": "end", "step": step, "reason": reason, "error": error}


def write_training(
    folder, *, n_evaluations=4, interval=10, names=("SWA",), seed=0, config=None, scores=()
):
    """A training whose raw scores are 0.5, 0.51, 0.52 …, and whose averages are 0.1 higher, and
    another 0.1 for each further name."""
    records = [start(seed=seed)]
    for i in range(n_evaluations):
        raw = 0.5 + 0.01 * i
        averages = {name: raw + 0.1 * (k + 1) for k, name in enumerate(names)}
        records += [
            {"type": "step", "step": step, "learn_rate": 0.001 / step}
            for step in range(i * interval + 1, (i + 1) * interval + 1)
        ]
        records.append(
            evaluation(
                (i + 1) * interval,
                raw,
                averages[names[0]] if names else None,
                n_averaged=i + 1 if names else None,
                is_best=True,
                all_averages=averages,
                losses={"tok2vec": 10.0 / (i + 1), "ner": 20.0 / (i + 1)},
                other_scores={name: 0.25 for name in scores},
            )
        )
    write_log(folder, [*records, end(n_evaluations * interval)])
    if config is not None:
        (folder / "config.cfg").write_text(config, encoding="utf8")


def run_records(scores, *, averages=0.0, config=ADAM, seed=0, rate=0.1, reason="max_steps"):
    """The log of a complete run with an evaluation every 10 steps.

    averages (float): How much higher than the raw weights' the scores of the averages are; 0
        for no averages.
    """
    records = [
        {"type": "start", "config": config.format(seed=seed, rate=rate), "inputs": {}},
        *(
            {
                "type": "evaluation",
                "step": 10 * (i + 1),
                "loss": 1.0,
                "learn_rate": rate,
                "n_averaged": None,
                "raw": score,
                "averages": score + averages if averages else None,
                "score": score + averages,
            }
            for i, score in enumerate(scores)
        ),
    ]
    return [*records, run_end(len(records), 10 * len(scores), reason)]


def run_end(n_records, n_steps, reason="max_steps"):
    return {
        "type": "end",
        "n_records": n_records,
        "reason": reason,
        "n_steps": n_steps,
        "seconds_per_step": 0.002,
        "n_shared": 1,
    }


def write_comparison(folder, entries, *, results=True):
    """A comparison.

    entries (dict[str, list]): The records of each seed, from 0 on, by entry; None for a run
        that has not started.
    """
    found = []
    for name, logs in entries.items():
        for seed, records in enumerate(logs):
            found.append((seed, name))
            if records is not None:
                write_log(folder / "runs" / name / f"seed-{seed}", records)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".thinc-swa-comparison").touch()
    if results:
        # Ordered by seed.
        found.sort(key=lambda pair: pair[0])
        runs = [{"name": name, "seed": seed} for seed, name in found]
        (folder / "results.json").write_text(json.dumps({"runs": runs}), encoding="utf8")
