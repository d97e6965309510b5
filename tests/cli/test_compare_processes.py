"""`thinc-swa compare` in a process of its own: signals, locks, terminals, and unusual names."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers import require, run_command
from processes import IS_LINUX, assert_end, descendants, is_alive, wait_for_files
from terminals import environment, read_terminal
from thinc.api import Config
from tiny import ADAM, SWA, write_config

for package in ("typer", "rich", "matplotlib", "scipy", "filelock"):
    require(package)
if not IS_LINUX:
    pytest.skip("processes are looked up in /proc", allow_module_level=True)

# Many real processes.
pytestmark = pytest.mark.slow

# A dataset whose loader starts processes and then sleeps.
CODE = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
from thinc.api import registry

@registry.datasets("slow.v1")
def make(folder):
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,))
    process.start()
    Path(folder, "child").write_text(str(process.pid))
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    Path(folder, "grandchild").write_text(str(process.pid))
    Path(folder, "run").write_text(str(os.getpid()))
    time.sleep(100)
"""


def start(folder, *arguments, **settings):
    """Start the command in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "thinc_swa", *map(str, arguments)],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings},
    )


def make_slow(folder):
    config = Config().from_disk(write_config(folder, "adam", ADAM))
    config["dataset"] = {"@datasets": "slow.v1", "folder": str(folder)}
    config.to_disk(folder / "slow.cfg")
    (folder / "code.py").write_text(CODE)
    return ("compare", "adam.cfg", "slow.cfg", "-c", "code.py", "--seeds", "1", "-o", "output")


@pytest.fixture
def slow(tmp_path):
    """A comparison with a complete run and one with subprocesses, and all process ids."""
    process = start(tmp_path, *make_slow(tmp_path))
    names = ("child", "grandchild", "run")
    try:
        pids = wait_for_files(*(tmp_path / name for name in names))
        yield process, sorted({*pids, *descendants(process.pid)} - {process.pid})
    finally:
        process.kill()
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)],
)
def test_all_processes_end_with_the_command(tmp_path, interruptible, slow, number, code):
    process, pids = slow
    assert len(pids) >= 4  # Three, and the server that they are forked from.
    process.send_signal(number)
    assert_end(pids, seconds=2.0)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    results = tmp_path / "output" / "results.json"
    if number == signal.SIGKILL:
        assert not results.exists()
        return
    # The complete run is summarized.
    content = json.loads(results.read_text())
    assert [summary["n_runs"] for summary in content["summaries"]] == [1, 0]
    assert [run["state"] for run in content["runs"]] == ["done", "waiting"]
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    assert stderr == f"Error: Stopped{name}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_all_processes_end_with_the_command_during_startup(tmp_path, number, interruptible):
    """While subprocesses import their libraries."""
    arguments = make_slow(tmp_path)
    process = start(tmp_path, *arguments)
    try:
        end = time.monotonic() + 60
        while len(pids := descendants(process.pid)) < 2:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert_end(pids[1:], seconds=2.0)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate(timeout=20)
    assert stdout == "" and "Traceback" not in stderr and len(stderr.splitlines()) <= 1


def test_an_ignored_signal_stays_ignored(tmp_path):
    """As with `nohup`."""
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", ignoring, "-m", "thinc_swa", *make_slow(tmp_path)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for_files(tmp_path / "run")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None and is_alive(int((tmp_path / "run").read_text()))
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 143


# Concurrent comparisons


def test_two_comparisons_in_one_folder_are_refused(tmp_path, slow):
    process, pids = slow
    second = start(tmp_path, "compare", "adam.cfg", "--seeds", "1", "-o", "output")
    _, stderr = second.communicate(timeout=60)
    assert second.returncode == 1
    assert stderr.startswith(
        f"Error: output is in use by another thinc-swa process (pid {process.pid} on "
    )
    assert len(stderr.splitlines()) == 1
    # The first one is unaffected, and releases its lock when it is killed.
    assert is_alive(pids[-1])
    process.kill()
    process.communicate(timeout=20)
    result = run_command(tmp_path, "compare", "adam.cfg", "--seeds", "1", "-o", "output")
    assert result.returncode == 0, result.stderr


# Streams and terminals


def test_closed_streams_are_supported(tmp_path):
    write_config(tmp_path, "adam", ADAM)
    command = '"$0" -m thinc_swa compare adam.cfg --seeds 2 <&- >&- 2>&-'
    result = subprocess.run(
        ["bash", "-c", command, sys.executable],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 0
    output = tmp_path / "comparison"
    content = json.loads((output / "results.json").read_text())
    assert content["summaries"][0]["n_runs"] == 2
    # No file has got the descriptor of a stream.
    for path in (output / "runs").rglob("output.txt"):
        assert path.read_bytes() == b""


def test_an_ascii_terminal_is_supported(tmp_path):
    write_config(tmp_path, "adam", ADAM)
    write_config(tmp_path, "größe", SWA)
    result = run_command(
        tmp_path,
        *("compare", "adam.cfg", "größe.cfg", "--seeds", "2"),
        PYTHONIOENCODING="ascii",
    )
    assert result.returncode == 0, result.stderr
    assert "+/-" in result.stdout and "gr\\xf6\\xdfe" in result.stdout
    lines = [line for line in result.stdout.splitlines() if "+/-" in line]
    assert lines[0].index("+/-") == lines[1].index("+/-")
    assert "±" in (tmp_path / "comparison" / "results.md").read_text(encoding="utf8")


def test_a_terminal_shows_a_live_table(tmp_path):
    write_config(tmp_path, "adam", ADAM)
    write_config(tmp_path, "[red]", SWA)
    command = ("compare", "adam.cfg", "[red].cfg", "--seeds", "2")
    text, code = read_terminal(tmp_path, *command)
    assert code == 0
    # A live table, which is removed at the end.
    assert "■" in text and "mean of completed" in text and "\x1b[2K" in text
    last = text.replace("\r\n", "\n").rpartition("\x1b")[2].splitlines()
    assert max(map(len, last)) <= 80
    assert any(line.startswith("[red]") for line in last)
    # A dumb terminal has no cursor movements.
    text, code = read_terminal(tmp_path, *command, "--overwrite", TERM="dumb")
    assert code == 0 and "\x1b" not in text and "[red], seed 1: " in text


def test_a_closed_terminal_ends_the_comparison(tmp_path):
    text, code = read_terminal(tmp_path, *make_slow(tmp_path), hang_up_at=tmp_path / "run")
    assert code == 129
    pids = [int((tmp_path / name).read_text()) for name in ("child", "grandchild", "run")]
    assert_end(pids)
    content = json.loads((tmp_path / "output" / "results.json").read_text())
    assert [summary["n_runs"] for summary in content["summaries"]] == [1, 0]


# Names and messages

ODD_NAMES = ["$x^2_{$", "[bold]", "a|b", "_under_", "..", "`tick`", "Adam", ":cat:"]
RAISES = """
import os
from thinc.api import registry

@registry.datasets("odd.v1")
def make():
    raise ValueError(os.fsdecode(b"byte \\xff, [/red], $x^2_{$ | \\x1b[31m"))
"""


def test_unusual_names_and_messages_are_escaped(tmp_path):
    paths = [os.fsencode(write_config(tmp_path, "adam", ADAM))]
    for name in ODD_NAMES:
        paths.append(os.fsencode(write_config(tmp_path, name, ADAM)))
    odd = os.fsencode(tmp_path) + b"/byte\xff.cfg"
    os.rename(paths[0], odd)
    config = Config().from_disk(os.fsdecode(paths[1]))
    config["dataset"] = {"@datasets": "odd.v1"}
    config.to_disk(tmp_path / "raises.cfg")
    (tmp_path / "code.py").write_text(RAISES)
    command = ["compare", odd, *paths[1:], "raises.cfg", "-c", "code.py", "--seeds", "1"]
    process = subprocess.run(
        [sys.executable, "-m", "thinc_swa", *command, "--training.max_steps", "10"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=120,
    )
    stderr = process.stderr.decode()
    error = "raises failed with seed 1: byte \\xff, [/red], $x^2_{$ | \\x1b[31m (details in "
    assert stderr.startswith(f"Error: {error}") and len(stderr.splitlines()) == 1
    names = ["byte\\xff", *ODD_NAMES, "raises"]
    output = tmp_path / "comparison"
    lines = process.stdout.decode().splitlines()
    for name in names:
        assert any(line.startswith(f"{name}, seed 1: ") for line in lines)
        assert any(line.startswith(f"{name}  ") for line in lines)
    with (output / "results.csv").open(encoding="utf8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names
    content = json.loads((output / "results.json").read_text(encoding="utf8"))
    assert [summary["name"] for summary in content["summaries"]] == names
    text = (output / "results.md").read_text(encoding="utf8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # All rows have the same number of cells.
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert len(rows) == len(names) + 2
    for name in ("learning_curves", "final_scores"):
        assert (output / f"{name}.png").stat().st_size > 5000
    # Each entry has a folder in the output folder.
    folders = [path.name for path in (output / "runs").iterdir()]
    assert len(folders) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) for name in folders)
