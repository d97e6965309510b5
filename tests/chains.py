"""Stress test: trainings are killed at random moments and resumed until they end. The results
must be bit-identical to those of an uninterrupted training.

    python tests/chains.py 150 chain-folder               # 150 kills, over all configs
    python tests/chains.py 60 chain-folder 0 spacy        # 60 kills of spaCy configs, seed 0

Moments are drawn from the whole life of the process: imports, start-up, the first files, steps,
evaluations, saving, deletion of earlier checkpoints, and the end.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from thinc.api import Config
from tiny import SWA, write_config

from thinc_swa.training.output_folder import MARKER

CODE = Path(__file__).with_name("torch_layers.py")
LAYER = {
    "@layers": "tests.batch_norm.v1",
    "n_inputs": 3,
    "n_outputs": 8,
    "width": 8,
    "dropout": 0.3,
}
EMA = SWA.replace("SWA.v1", "EMA.v1")
STEPS = 150


def write_configs(folder):
    """Configs of a Thinc model, and of PyTorch models with BatchNorm for two optimizers."""
    paths = [write_config(folder, "thinc", max_steps=STEPS)]
    for name, optimizer in (("torch_swa", SWA), ("torch_ema", EMA)):
        path = write_config(folder, name, optimizer, max_steps=STEPS)
        config = Config().from_disk(path)
        config["model"]["*"]["hidden"] = LAYER
        config["model"]["*"]["output"]["nI"] = 8
        config.to_disk(path)
        paths.append(path)
    return paths


def write_spacy_configs(folder):
    """Configs for spaCy: a corpus in memory with shared layers, and a stream with an augmenter
    and growing batches."""
    import spacy_config_cases as cases

    steps = {"training__max_steps": STEPS, "training__eval_frequency": 15}
    paths = []
    for name in ("spacy_memory", "spacy_stream"):
        data = folder / f"{name}-data"
        data.mkdir(exist_ok=True)
        if name == "spacy_memory":
            cases.half_tagged(data, optimizer="Lookahead in SWA", **steps)
        else:
            cases.stream(data, **steps)
        paths.append(folder / f"{name}.cfg")
        shutil.copy(data / "config.cfg", paths[-1])
    return paths


def start(folder, config, output, *arguments):
    command = [sys.executable, "-m", "thinc_swa", "train", config, "-o", output]
    if "torch" in config.name:
        command += ["--code", CODE]
    return subprocess.Popen(
        [str(part) for part in (*command, *arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=300)
    if process.returncode != 0:
        raise RuntimeError(errors)


def results_of(folder):
    """Models, weights of the last checkpoint, and the log without times and restarts."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("seconds", None)
        record.get("other_scores", {}).pop("speed", None)
    kept = [record for record in records if record["type"] in ("step", "evaluation")]
    last = max(folder.glob("step-*"))
    models = [folder / "model-best", folder / "model-last", last / "model"]
    # spaCy's pipelines are folders.
    files = [path for model in models for path in (model, *sorted(model.rglob("*")))]
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.is_file()
    }
    return kept, contents, last.name


def run_chain(folder, config, n_kills, draw):
    """Kill and resume a training, and compare its results.

    n_kills (int): Number of kills.
    draw (random.Random): Generator for the moments.
    RETURNS (Counter): Number of kills by state of the folder.
    """
    whole, output = folder / f"{config.stem}-whole", folder / f"{config.stem}-output"
    if not whole.exists():
        begin = time.monotonic()
        finish(start(folder, config, whole))
        (whole / "seconds").write_text(str(time.monotonic() - begin))
    length = float((whole / "seconds").read_text())
    moments: Counter = Counter()
    n_done = 0
    while n_done < n_kills:
        if is_over(output):
            compare(whole, output, moments)
            # Start again in the same folder, or in a new one.
            if draw.random() < 0.5:
                shutil.rmtree(output)
            options = ["--overwrite"] if output.exists() else []
            process = start(folder, config, output, *options)
        else:
            process = start(folder, config, output, "--resume")
        delay = draw.uniform(0, 1.1 * length)
        if draw.random() < 0.5:
            # Shortly after a file appears or disappears, where errors are most likely.
            wait_for_change(output, process, length)
            delay = draw.uniform(0, 0.05)
        time.sleep(delay)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            n_done += 1
            moments[describe(output)] += 1
        else:
            finish(process)
    finish(start(folder, config, output, "--resume"))
    compare(whole, output, moments)
    return moments


def wait_for_change(output, process, seconds):
    before = stamp(output)
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and stamp(output) == before:
        time.sleep(0.0005)


def stamp(output):
    try:
        return sorted(entry.name for entry in os.scandir(output) if "lock" not in entry.name)
    except FileNotFoundError:
        return None


def is_over(output):
    try:
        first_line = (output / "config.cfg").read_text().partition("\n")[0]
        lines = (output / "log.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return False
    return first_line == MARKER and bool(lines) and lines[-1].startswith('{"type": "end"')


def describe(output):
    names = stamp(output) or []
    if any(name.startswith(".step-") for name in names):
        return "while a checkpoint was saved or deleted"
    if any(name.endswith(".tmp") for name in names):
        return "while a file was saved"
    if any(name.startswith("step-") for name in names):
        return "with a checkpoint"
    return "before the first checkpoint" if "config.cfg" in names else "before the first file"


def compare(whole, output, moments):
    if results_of(output) != results_of(whole):
        raise RuntimeError(f"{output} differs from {whole}")
    left = [name for name in stamp(output) if name.startswith((".step-", ".model-"))]
    if left:
        raise RuntimeError(f"{output} has {left}")
    moments["compared with an uninterrupted training: the same"] += 1


def main():
    n_kills, folder = int(sys.argv[1]), Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    is_spacy = sys.argv[4:5] == ["spacy"]
    configs = write_spacy_configs(folder) if is_spacy else write_configs(folder)
    # Only those with these names, if any are given.
    configs = [path for path in configs if path.stem in sys.argv[5:]] or configs
    draw = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    total: Counter = Counter()
    for config in configs:
        moments = run_chain(folder, config, -(-n_kills // len(configs)), draw)
        sys.stdout.write(f"{config.stem}: {dict(moments)}\n")
        sys.stdout.flush()
        total += moments
    sys.stdout.write(f"all: {dict(total)}\n")


if __name__ == "__main__":
    main()
