"""The examples run as their readers run them, and print what is right."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import require
from thinc.api import Config

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
COMPARE = ROOT / "examples" / "1_compare_digits.py"
CONFIGS = sorted((ROOT / "configs" / "digits").glob("*.cfg"))

# What an example needs beside the package itself.
NEEDS = {
    "1_compare_digits": ["sklearn"],
    "2_thinc_loop": ["sklearn"],
    "3_lookahead_then_swa": ["sklearn"],
    "4_from_config": ["sklearn"],
    "5_spacy_pipeline": ["spacy"],
    "6_batch_norm": ["sklearn", "torch"],
    "7_save_and_resume": ["sklearn"],
    "9_plot_schedules": ["matplotlib"],
    "8_parameter_groups": ["sklearn"],
}

# For the tests a shorter run will do.
ARGUMENTS = {"1_compare_digits": ["--seeds", "2"]}


def run(path, *arguments, folder, **environment):
    """Run an example in a process of its own, and from another folder than its own."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",
        **environment,
    }
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf8",
        timeout=600,
    )


def read_table(output):
    """The rows of the table by the name of the config, each a list of cells."""
    lines = output.splitlines()
    divider = next(i for i, line in enumerate(lines) if line.startswith("----"))
    rows = [re.split(r" {2,}", line.strip()) for line in lines[divider + 1 :] if line.strip()]
    assert all(len(row) == 5 for row in rows)
    return {row[0]: row[1:] for row in rows}


def read_accuracy(cell):
    """Mean and spread."""
    mean, spread = re.fullmatch(r"(\d+\.\d+) ± (\d+\.\d+)", cell).groups()
    assert float(spread) < 5
    return float(mean)


def n_snapshots(path):
    """How many snapshots a whole training with this config takes, or None."""
    config = Config().from_disk(path)
    max_steps, settings = config["training"]["max_steps"], config["optimizer"]
    if settings["@optimizers"] == "EMA.v1":
        return max_steps
    if settings["@optimizers"] == "SWA.v1":
        start_step = round(settings["start_step"] * max_steps)
        return len(range(start_step, max_steps + 1, settings["freq"]))
    return None


def assert_good(plain, averaged):
    assert 90 < plain <= 100
    assert 90 < averaged <= 100
    assert averaged > plain - 1


def check_compare_digits(output):
    rows = read_table(output)
    assert list(rows) == [path.stem for path in CONFIGS]
    for path in CONFIGS:
        plain, averaged, snapshots, seconds = rows[path.stem]
        if path.stem == "adam":
            assert averaged == "-"
            assert read_accuracy(plain) > 90
        else:
            assert_good(read_accuracy(plain), read_accuracy(averaged))
        expected = n_snapshots(path)
        assert snapshots == ("-" if expected is None else str(expected))
        assert float(seconds) > 0
    # These two change nothing in the training.
    assert rows["swa"][0] == rows["ema"][0] == rows["adam"][0]


def check_thinc_loop(output):
    rows = dict(re.findall(r"^(\w+) +plain weights +(\d+\.\d+)", output, re.MULTILINE))
    assert list(rows) == ["Adam", "SWA", "EMA", "Lookahead"]
    assert rows["Adam"] == rows["SWA"] == rows["EMA"]
    averages = dict(re.findall(r"^(\w+) .* averages +(\d+\.\d+)$", output, re.MULTILINE))
    assert list(averages) == ["SWA", "EMA", "Lookahead"]
    for name, averaged in averages.items():
        assert_good(float(rows[name]), float(averaged))


def check_lookahead_then_swa(output):
    assert "SWA(Lookahead(" in output
    rows = re.findall(
        r"step +(\d+) +plain weights +([\d.]+) +averages +([\d.]+) +snapshots +(\d+)", output
    )
    before, after = output.split("start_swa()")
    assert before.count("step ") == after.count("step ") == len(rows) / 2 == 4
    # The weights at step 1000 are the first snapshot, and then there is one in 10 steps.
    for step, _, _, snapshots in rows:
        is_started = int(step) > 1000
        assert int(snapshots) == (1 + (int(step) - 1000) // 10 if is_started else 0)
    assert_good(float(rows[-1][1]), float(rows[-1][2]))


def check_from_config(output):
    assert "SWA(Optimizer(" in output
    plain = re.search(r"^Plain weights: +([\d.]+) %", output, re.MULTILINE).group(1)
    averaged, snapshots = re.search(
        r"^Averages: +([\d.]+) % \((\d+) snapshots\)", output, re.MULTILINE
    ).groups()
    assert_good(float(plain), float(averaged))
    assert int(snapshots) == 101


def check_save_and_resume(output):
    rows = re.findall(r"^(.+): +accuracy ([\d.]+) % +fingerprint (\w+)$", output, re.MULTILINE)
    names, accuracies, fingerprints = zip(*rows, strict=True)
    assert names == (
        "Saved after 13 epochs",
        "Loaded in a new process",
        "With the break",
        "Without a break",
    )
    assert fingerprints[0] == fingerprints[1] != fingerprints[2] == fingerprints[3]
    assert min(map(float, accuracies)) > 90


def check_plot_schedules(output):
    assert output == "6 panels in schedules.png\n"


def check_parameter_groups(output):
    rows = re.findall(
        r"^((?:relu-.|softmax)/.) +\(.*?\) +(\S+) +(\S+) +(.*)$", output, re.MULTILINE
    )
    layers = [f"{layer}/{name}" for layer in ("relu-0", "relu-1", "softmax") for name in "Wb"]
    first, second = rows[:6], rows[6:]
    assert [row[0] for row in first] == [row[0] for row in second] == layers
    assert [row[2] for row in first] == ["0.25", "0.25", "0.5", "0.5", "1", "1"]
    assert [row[1::2] for row in first] == [("-", ""), ("no_decay", "L2 = 0.0")] * 3
    assert [row[2] for row in second] == ["frozen"] * 4 + ["1"] * 2
    accuracies = re.findall(r"^Accuracy on the test images: ([\d.]+) %", output, re.MULTILINE)
    assert len(accuracies) == 2 and min(map(float, accuracies)) > 90
    assert output.endswith("The frozen weights are the same: True. Averages: 2\n")


CHECKS = {
    "1_compare_digits": check_compare_digits,
    "2_thinc_loop": check_thinc_loop,
    "3_lookahead_then_swa": check_lookahead_then_swa,
    "4_from_config": check_from_config,
    "7_save_and_resume": check_save_and_resume,
    "9_plot_schedules": check_plot_schedules,
    "8_parameter_groups": check_parameter_groups,
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    require(*NEEDS.get(path.stem, []))
    result = run(path, *ARGUMENTS.get(path.stem, []), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert result.stdout.strip()
    if path.stem in CHECKS:
        CHECKS[path.stem](result.stdout)


def test_every_check_belongs_to_an_example():
    assert {*ARGUMENTS, *CHECKS} <= {path.stem for path in EXAMPLES}


def test_configs_of_the_reader_are_compared(tmp_path):
    require("sklearn")
    text = next(path for path in CONFIGS if path.stem == "swa").read_text(encoding="utf8")
    (tmp_path / "mine.cfg").write_text(text.replace("max_steps = 2000", "max_steps = 400"))
    result = run(COMPARE, "mine.cfg", "--seeds", "1", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = read_table(result.stdout)
    assert list(rows) == ["mine"]
    plain, averaged, snapshots, _ = rows["mine"]
    assert_good(float(plain), float(averaged))
    assert snapshots == "11"


def test_missing_config_is_one_line(tmp_path):
    result = run(COMPARE, "none.cfg", folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines() == ["There is no such config: none.cfg"]


def test_schedules_are_drawn(tmp_path):
    """The picture of the README is that of the example."""
    require("matplotlib")
    from matplotlib.image import imread

    result = run(ROOT / "examples" / "9_plot_schedules.py", "a.png", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    drawn, shown = imread(tmp_path / "a.png"), imread(ROOT / "docs" / "schedules.png")
    # Another version of matplotlib may place a letter elsewhere.
    assert abs(drawn.shape[0] - shown.shape[0]) + abs(drawn.shape[1] - shown.shape[1]) < 20
    ink = [(picture[..., :3].min(axis=2) < 0.9).mean() for picture in (drawn, shown)]
    assert 0.01 < ink[0] < 0.2 and abs(ink[0] - ink[1]) < 0.005


def test_missing_matplotlib_is_one_line(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not installed')")
    path = ROOT / "examples" / "9_plot_schedules.py"
    result = run(path, folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == "This example draws with matplotlib: pip install matplotlib\n"


@pytest.mark.parametrize(
    "path",
    [path for path in EXAMPLES if NEEDS.get(path.stem) == ["sklearn"]],
    ids=lambda path: path.stem,
)
def test_missing_scikit_learn_is_one_line(path, tmp_path):
    (tmp_path / "sklearn.py").write_text("raise ImportError('not installed')")
    result = run(path, folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert 'pip install "thinc-swa[examples]"' in result.stderr
    assert len(result.stderr.splitlines()) == 1
