"""The examples run as their readers run them, and print what is right."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import require

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))

# What an example needs beside the package itself.
NEEDS = {
    "1_thinc_loop": ["sklearn"],
    "2_lookahead_then_swa": ["sklearn"],
    "3_from_config": ["sklearn"],
    "4_spacy_pipeline": ["spacy"],
    "5_batch_norm": ["sklearn", "torch"],
    "6_save_and_resume": ["sklearn"],
    "8_plot_schedules": ["matplotlib"],
    "7_parameter_groups": ["sklearn"],
    "9_callback": ["sklearn"],
    "10_ema_width": ["sklearn"],
}


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


def assert_good(plain, averaged):
    assert 90 < plain <= 100
    assert 90 < averaged <= 100
    assert averaged > plain - 1


def check_thinc_loop(output):
    rows = dict(re.findall(r"^(\w+) +raw weights +(\d+\.\d+)", output, re.MULTILINE))
    assert list(rows) == ["Adam", "SWA", "EMA", "Lookahead"]
    assert rows["Adam"] == rows["SWA"] == rows["EMA"]
    averages = dict(re.findall(r"^(\w+) .* averages +(\d+\.\d+)$", output, re.MULTILINE))
    assert list(averages) == ["SWA", "EMA", "Lookahead"]
    for name, averaged in averages.items():
        assert_good(float(rows[name]), float(averaged))


def check_lookahead_then_swa(output):
    assert "SWA(Lookahead(" in output
    rows = re.findall(
        r"step +(\d+) +raw weights +([\d.]+) +averages +([\d.]+) +snapshots +(\d+)", output
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
    plain = re.search(r"^Raw weights: +([\d.]+) %", output, re.MULTILINE).group(1)
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


def check_callback(output):
    before, after = output.split("start_swa()\n")
    assert "averages 9" not in before
    # The weights at the start are the first snapshot.
    averages = re.findall(r"averages (\d+\.\d+)", after)
    assert len(averages) == after.count("step") > 3
    assert all(float(score) > 95 for score in averages)


def check_ema_width(output):
    assert float(re.search(r"^raw weights +([\d.]+)$", output, re.MULTILINE)[1]) > 95
    scores = re.findall(r"^sigma_rel ([\d.]+) +([\d.]+)$", output, re.MULTILINE)
    assert [width for width, _ in scores] == ["0.03", "0.05", "0.08", "0.1", "0.15", "0.2"]
    assert all(float(score) > 95 for _, score in scores)
    assert 0 < float(re.search(r"^error at 0.15: ([\d.]+) %", output, re.MULTILINE)[1]) < 1


CHECKS = {
    "1_thinc_loop": check_thinc_loop,
    "2_lookahead_then_swa": check_lookahead_then_swa,
    "3_from_config": check_from_config,
    "6_save_and_resume": check_save_and_resume,
    "8_plot_schedules": check_plot_schedules,
    "7_parameter_groups": check_parameter_groups,
    "9_callback": check_callback,
    "10_ema_width": check_ema_width,
}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    require(*NEEDS.get(path.stem, []))
    result = run(path, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert result.stdout.strip()
    if path.stem in CHECKS:
        CHECKS[path.stem](result.stdout)


def test_every_check_belongs_to_an_example():
    assert set(CHECKS) <= {path.stem for path in EXAMPLES}


def test_schedules_are_drawn(tmp_path):
    """The picture of the README is that of the example."""
    require("matplotlib")
    from matplotlib.image import imread

    result = run(ROOT / "examples" / "8_plot_schedules.py", "a.png", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    drawn, shown = imread(tmp_path / "a.png"), imread(ROOT / "docs" / "schedules.png")
    # Another version of matplotlib may place a letter elsewhere.
    assert abs(drawn.shape[0] - shown.shape[0]) + abs(drawn.shape[1] - shown.shape[1]) < 20
    ink = [(picture[..., :3].min(axis=2) < 0.9).mean() for picture in (drawn, shown)]
    assert 0.01 < ink[0] < 0.2 and abs(ink[0] - ink[1]) < 0.005


def test_missing_matplotlib_is_one_line(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not installed')")
    path = ROOT / "examples" / "8_plot_schedules.py"
    result = run(path, folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == "This example draws with matplotlib: pip install matplotlib\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in EXAMPLES if NEEDS.get(path.stem) == ["sklearn"]],
    ids=lambda path: path.stem,
)
def test_missing_scikit_learn_is_one_line(path, tmp_path):
    (tmp_path / "sklearn.py").write_text("raise ImportError('not installed')")
    result = run(path, folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert 'pip install "thinc-swa[cli]"' in result.stderr
    assert len(result.stderr.splitlines()) == 1
